"""The wheel, the source distribution and the editable install contain every required file."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable
from configparser import ConfigParser
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

import aicontent
from helpers import PYTHON, ROOT, code_of, run_script

LEFT_OUT = shutil.ignore_patterns(
    *(".git", ".tox", ".venv", ".lock", ".hypothesis", ".*_cache"),
    *("node_modules", "__pycache__", "_build", "*.egg-info", "build", "dist"),
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the checkout, so that a build can write to it."""
    copy = tmp_path_factory.mktemp("packaging") / "checkout"
    copy_checkout(copy)
    return copy


def copy_checkout(copy: Path) -> None:
    """Copy the checkout. The copy can be written, even if the checkout is read-only."""
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def build(hook: str, checkout: Path, folder: Path) -> Path:
    """Call a hook of the build backend, as pip does, and return the built file."""
    code = f"import sys, setuptools.build_meta as b; b.build_{hook}(sys.argv[1])"
    command = [*PYTHON, "-c", code, str(folder)]
    ran = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    (file,) = folder.iterdir()
    return file


def expected_files() -> set[str]:
    """Return the package's files under the paths at which a wheel installs them."""
    names = set()
    sources = {"aicontent": "aicontent", "migrations": "aicontent/migrations"}
    for source, target in (sources | {"scripts": "aicontent/scripts"}).items():
        for path in (ROOT / source).rglob("*"):
            if path.suffix in (".py", ".json", ".jsonl", ".typed", ".service", ".timer"):
                names.add(f"{target}/{path.relative_to(ROOT / source).as_posix()}")
    return names


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel", checkout, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    """Return the wheel's metadata, as a package index reads it."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_string(wheel.read(name).decode())


def test_the_wheel_has_every_module_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == expected_files()
    description = {name.partition(".dist-info/")[2] for name in wheel.namelist()} - {""}
    assert description == {
        *("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
    }


def test_the_metadata(metadata):
    assert metadata["Name"] == "aicontent"
    assert metadata["Author"] == "The aicontent authors"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License"] is None
    assert metadata["Version"] == settings("setup.cfg")["metadata"]["version"]
    assert metadata["Version"] == aicontent.__version__  # the installed version
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_page_of_the_package_index(metadata, tmp_path, empty_url):
    """The page has no relative links, which a package index cannot resolve, and its code runs."""
    text = metadata.get_payload()
    assert "get_or_generate" in text
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert [target for target in targets if not target.startswith("https://")] == []
    (code,) = code_of("docs/pypi.md")
    assert code in text
    code = code.replace("sqlite:///content.db", empty_url)
    assert run_script(code, tmp_path) == "About ordering in a café generated\n"


def settings(name: str) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT / name, "utf-8")
    return parser


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


def test_all_is_the_sum_of_the_extras_of_a_host():
    extras = dict(settings("setup.cfg")["options.extras_require"])
    everything = lines(extras.pop("all"))
    development = {name: lines(extras.pop(name)) for name in ("test", "docs", "benchmark")}
    assert sorted(everything) == sorted(line for text in extras.values() for line in lines(text))
    # tox.ini installs psycopg 3 for the tests, and runs them once with each driver.
    assert {line for line in everything if "psycopg[" not in line} <= set(development["test"])


def test_tox_tests_the_oldest_versions_of_the_dependencies():
    required = lines(settings("setup.cfg")["options"]["install_requires"])
    oldest = lines(settings("tox.ini")["testenv:oldest"]["deps"])
    assert [re.sub(r", < \d+", "", line).replace(">=", "==") for line in required] == oldest


def test_the_pythons_of_tox_are_those_of_the_classifiers():
    setup, tox = settings("setup.cfg"), settings("tox.ini")
    named = re.findall(r":: (3\.\d+)$", setup["metadata"]["classifiers"], re.M)
    listed = re.search(r"py\{([\d,]+)\}", tox["tox"]["env_list"])
    assert listed
    first = tox["testenv:partitioned"]["base_python"].split(", ")
    assert specs(named) == [f"py{number}" for number in listed[1].split(",")] == first
    assert setup["options"]["python_requires"] == f">={named[0]}"


def specs(versions: Iterable[str]) -> list[str]:
    return [f"py{version.replace('.', '')}" for version in versions]


def test_the_source_distribution_makes_the_same_wheel(checkout, tmp_path):
    (tmp_path / "sdist").mkdir()
    sdist = build("sdist", checkout, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        # Pythons before 3.11.4 have no filter.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path / "source")
    assert source_files(checkout) <= names
    assert not any("node_modules" in name for name in names)
    (source,) = (tmp_path / "source").iterdir()
    (tmp_path / "wheel").mkdir()
    wheel = build("wheel", source, tmp_path / "wheel")
    modules = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert modules == expected_files()


def source_files(checkout: Path) -> set[str]:
    """Return the files that are needed to test the package and to build the docs."""
    names = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "tox.ini", ".ci/run"}
    for folder in ("aicontent", "benchmarks", "docs", "migrations", "scripts", "tests"):
        files = (path for path in (checkout / folder).rglob("*") if path.is_file())
        names |= {path.relative_to(checkout).as_posix() for path in files}
    return names


def test_an_editable_install_finds_the_three_source_folders(checkout, tmp_path):
    wheel = zipfile.ZipFile(build("editable", checkout, tmp_path))
    (finder,) = (name for name in wheel.namelist() if name.endswith("_finder.py"))
    text = wheel.read(finder).decode()
    for package, folder in {
        "aicontent": "aicontent",
        "aicontent.migrations": "migrations",
        "aicontent.scripts": "scripts",
    }.items():
        assert f"{package!r}: {str(checkout / folder)!r}" in text
