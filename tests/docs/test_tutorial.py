"""The tutorial's service, worker, commands and test behave as its page shows."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_services import SERVERS, serving

from helpers import PYTHON, ROOT, code_of, run_program

pytestmark = pytest.mark.programs

PAGE = "docs/tutorial.md"


def files() -> dict[str, str]:
    """Map the file names in the first lines of the page's code blocks to the code."""
    return {code.partition("\n")[0].removeprefix("# "): code for code in code_of(PAGE)}


def test_the_service_and_its_worker(tmp_path: Path, empty_url: str) -> None:
    code = files()
    (tmp_path / "generation.py").write_text(code["generation.py"], "utf-8")
    with serving(tmp_path, code["service.py"], empty_url, *SERVERS[1]) as client:
        assert client.post("/users").json() == {"user": 1}

        def served(topic: str) -> str:
            return str(client.get(f"/users/1/lessons/{topic}").json()["served"])

        assert [served("tea"), served("tea")] == ["generated", "stored"]
        with ThreadPoolExecutor(20) as pool:
            assert Counter(pool.map(served, ["rain"] * 20))["generated"] == 1
        asked = client.post("/users/1/drills/market")
        assert (asked.status_code, asked.json()["status"]) == (202, "pending")

        text = (ROOT / PAGE).read_text("utf-8")
        work, *jobs = re.findall(r"^\$ aicontent (.*) -d sqlite:///lessons.db$", text, re.M)
        status, out, err = run_program(*work.split(), "-d", empty_url, cwd=tmp_path)
        assert (status, out) == (0, b"completed 1, failed 0, retried 0, released 0\n"), err
        drills = client.get("/users/1/content", params={"kind": "vocabulary_drill"}).json()
        assert [drill["content"]["title"] for drill in drills] == ["All about market"]
        assert [job.split()[0] for job in jobs] == ["stats", "cleanup", "cleanup"]
        for job in [*jobs, "check"]:
            status, _, err = run_program(*job.split(), "-d", empty_url, cwd=tmp_path)
            assert status == 0, err


def test_its_test(tmp_path: Path) -> None:
    for name, code in files().items():
        (tmp_path / name).write_text(code, "utf-8")
    command = [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp=temporary"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr
