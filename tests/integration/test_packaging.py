"""The wheel, the source distribution and the editable install have all that is needed."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from helpers import PYTHON, ROOT

LEFT_OUT = shutil.ignore_patterns(
    ".*", "node_modules", "__pycache__", "*.egg-info", "build", "dist"
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, in which a build may write."""
    copy = tmp_path_factory.mktemp("packaging") / "checkout"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    return copy


def build(hook: str, checkout: Path, folder: Path) -> Path:
    """Call a hook of the build backend, as pip does, and return the file that it makes."""
    code = f"import sys, setuptools.build_meta as b; b.build_{hook}(sys.argv[1])"
    command = [*PYTHON, "-c", code, str(folder)]
    ran = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    (file,) = folder.iterdir()
    return file


def expected_files() -> set[str]:
    """The files of the package, by where a wheel installs them."""
    names = set()
    sources = {"aicontent": "aicontent", "migrations": "aicontent/migrations"}
    for source, target in (sources | {"scripts": "aicontent/scripts"}).items():
        for path in (ROOT / source).rglob("*"):
            if path.suffix in (".py", ".json", ".jsonl", ".typed", ".service", ".timer"):
                names.add(f"{target}/{path.relative_to(ROOT / source).as_posix()}")
    return names


def test_the_wheel_has_every_module_and_nothing_else(checkout, tmp_path):
    wheel = build("wheel", checkout, tmp_path)
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected_files()


def test_the_source_distribution_makes_the_same_wheel(checkout, tmp_path):
    (tmp_path / "sdist").mkdir()
    sdist = build("sdist", checkout, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path / "source", filter="data")
    for name in ("tox.ini", "CONTRIBUTING.md", "docs/reference/schema.md", "tests/conftest.py"):
        assert name in names
    assert "benchmarks/__main__.py" in names
    assert "tests/integration/node/service.js" in names
    assert not any("node_modules" in name for name in names)
    (source,) = (tmp_path / "source").iterdir()
    (tmp_path / "wheel").mkdir()
    wheel = build("wheel", source, tmp_path / "wheel")
    modules = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert modules == expected_files()


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
