"""The benchmark runs; how fast anything is, is no matter here."""

from __future__ import annotations

import subprocess

import pytest

from helpers import PYTHON


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_it_runs(kind, request, tmp_path):
    command = [
        *PYTHON,
        "-m",
        "aicontent.scripts.benchmark",
        "--only",
        kind,
        "--directory",
        tmp_path,
    ]
    sizes = ["--rows", "300", "--size", "400", "--due", "50", "--imported", "100"]
    if kind == "postgresql":
        sizes += ["--postgresql", request.getfixturevalue("postgres_url")]
    ran = subprocess.run([*command, *sizes], capture_output=True, text=True, timeout=100)
    assert (ran.returncode, ran.stderr) == (0, "")
    measured = [line[2:28].strip() for line in ran.stdout.splitlines()[2:]]
    assert measured[:5] == [
        "stats",
        "rows exported a second",
        "rows imported a second",
        "idle run",
        "rows deleted a second",
    ]
    assert ran.stdout.count(" gone, left: False") == 2
    assert list(tmp_path.iterdir()) == []
