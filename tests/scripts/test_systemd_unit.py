"""Test the units that the command prints: systemd accepts them, and they start this program."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from helpers import PROGRAM, run_here

HAS_SYSTEMD = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
SQLITE = ("--sqlite", '/var/lib/a "b"/50% é?.db', "--user", "root")


def unit(*args):
    status, out, err = run_here("systemd-unit", *args)
    assert status == 0, err
    return out


@HAS_SYSTEMD
def test_systemd_takes_the_units(tmp_path):
    for job in ("cleanup", "worker"):
        (tmp_path / f"aicontent-{job}.service").write_text(unit(job))
        (tmp_path / f"sqlite-{job}.service").write_text(unit(job, *SQLITE))
    (tmp_path / "aicontent-cleanup.timer").write_text(unit("cleanup", "--timer"))
    units = sorted(tmp_path.iterdir())
    verified = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert (len(units), verified.returncode, verified.stderr) == (5, 0, "")
    for service in tmp_path.glob("aicontent-*.service"):
        rate = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", service]
        rated = subprocess.run(rate, capture_output=True, text=True)
        assert rated.returncode == 0, rated.stdout


def test_the_units_start_this_program_without_a_password():
    for job, command in (("cleanup", "cleanup"), ("worker", "work")):
        text = unit(job)
        assert f"\nExecStart={PROGRAM} {command} " in text
        assert "\nEnvironmentFile=/etc/aicontent/" in text
        assert "--database" not in text


def test_a_sqlite_database():
    text = unit("cleanup", *SQLITE)
    assert text.endswith(
        """
[Service]
# The owner of the SQLite database. SQLite writes its log next to the file.
DynamicUser=no
User=root
PrivateUsers=no
ReadWritePaths="/var/lib/a \\"b\\""
Environment="AICONTENT_DATABASE_URL=sqlite:////var/lib/a%%20%%22b%%22/50%%25%%20%%C3%%A9%%3F.db"
EnvironmentFile=
"""
    )
    # The worker's environment file holds the key of the AI service.
    assert not unit("worker", *SQLITE).endswith("EnvironmentFile=\n")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "JOB|cleanup"),
        (("vacuum",), "'cleanup', 'worker'"),
        (("worker", "--timer"), "--timer applies to the cleanup"),
        (("cleanup", "--sqlite", "/a.db"), "belong together"),
        (("cleanup", "--user", "a"), "belong together"),
        (("cleanup", "--sqlite", "a.db", "--user", "a"), "'a.db' is not the absolute path"),
        (("cleanup", "--sqlite", "/", "--user", "a"), "'/' is not the absolute path"),
        (("cleanup", "--sqlite", "/a\n[Service]", "--user", "a"), "is not the absolute path"),
        (("cleanup", "--sqlite", "/a.db", "--user", "a b"), "'a b' cannot be a user's name"),
    ],
)
def test_usage_mistakes(args, says):
    status, out, err = run_here("systemd-unit", *args)
    assert (status, out) == (2, "")
    assert any(each in err for each in says.split("|"))


def test_what_the_service_cannot_see_is_named():
    for path, is_hidden in (("/home/a/c.db", True), ("/tmp/c.db", True), ("/var/lib/c.db", False)):
        _, _, err = run_here("systemd-unit", "cleanup", "--sqlite", path, "--user", "a")
        assert (f"hide {path} from the service" in err) == is_hidden
