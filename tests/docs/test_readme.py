"""The README's code runs, and CI runs the same commands as the README."""

from __future__ import annotations

import re

from helpers import ROOT, code_of, run_script


def test_the_readmes_code(tmp_path, empty_url):
    code = "\n".join(code_of("README.md"))
    assert code.count("sqlite:///content.db") == 1
    out = run_script(code.replace("sqlite:///content.db", empty_url), tmp_path)
    assert out.splitlines() == [
        "About ordering in a café generated",
        "0 0",
        "level: must have at most 10 characters; got str of 12 characters",
    ]


def test_the_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(r"^    (python3 -m venv .*)$", text, re.M)
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/aicontent quickstart",
        "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox",
    ]
    assert commands[1] in (ROOT / ".ci" / "run").read_text("utf-8")
