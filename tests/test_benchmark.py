"""The benchmark runs; how fast anything is, is no matter here."""

from __future__ import annotations

import subprocess

from helpers import PYTHON


def test_it_runs(tmp_path):
    command = [*PYTHON, "-m", "aicontent.scripts.benchmark", "--only", "sqlite"]
    sizes = ["--rows", "300", "--size", "400", "--due", "50", "--imported", "100"]
    command += [*sizes, "--directory", tmp_path]
    command += ["--pending", "300", "--workers", "2", "--seconds", "0.1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100)
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
    assert ran.stdout.count("claimed a second by ") == 1
    assert list(tmp_path.iterdir()) == []
