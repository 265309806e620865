"""The pictures match docs/pictures.py, and name all columns."""

from __future__ import annotations

import runpy

from aicontent import AIGeneratedContent
from helpers import ROOT

DRAWN = runpy.run_path(str(ROOT / "docs/pictures.py"))


def test_the_files_are_as_drawn():
    for path, picture in DRAWN["PICTURES"].items():
        assert path.read_text("utf-8") == picture, f"{path}: run python docs/pictures.py"


def test_the_table_has_every_column_once():
    drawn = [column for columns in DRAWN["GROUPS"].values() for column in columns.split()]
    assert sorted(drawn) == sorted(f.column_name for f in AIGeneratedContent._meta.sorted_fields)
