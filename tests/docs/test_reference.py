"""The reference lists every exported name and every object that the migrations create."""

from __future__ import annotations

import re

import peewee

import aicontent
from aicontent import AIGeneratedContent
from aicontent.database.supported import backend_of
from aicontent.schema.history import expected_definitions
from aicontent.table import TABLE, user_id_type
from helpers import ROOT

COLUMNS = [field.column_name for field in AIGeneratedContent._meta.sorted_fields]


def test_the_diagram_names_every_column():
    diagram = (ROOT / "docs/reference/database_schema.mermaid").read_text("utf-8")
    body = re.search(rf"{TABLE} {{\n(.*?)\n    }}", diagram, re.S)
    assert body is not None
    assert [line.split()[1] for line in body[1].splitlines()] == COLUMNS
    assert f"users ||--o{{ {TABLE}" in diagram


def test_the_schema_document_names_everything(database):
    text = (ROOT / "docs/reference/schema.md").read_text("utf-8")
    made = [
        name.split()[1]
        for name in expected_definitions(backend_of(database).name, user_id_type(database))
        if name.startswith(("index", "trig"))
    ]
    for name in [*COLUMNS, *made[-12:], *aicontent.ContentType, *aicontent.ContentStatus]:
        assert name in text, name


def test_what_the_migrations_make_is_what_the_model_says(database):
    table = backend_of(database).catalog(database).relation(TABLE)
    assert list(table.columns) == COLUMNS
    sqlite = isinstance(database, peewee.SqliteDatabase)
    nullable = {column.name: column.null for column in database.get_columns(TABLE)}
    for field in AIGeneratedContent._meta.sorted_fields:
        assert nullable[field.column_name] is field.null, field
        kind = table.columns[field.column_name].lower()
        if isinstance(field, peewee.CharField):
            assert f"({field.max_length})" in kind
        elif isinstance(field, peewee.JSONField):
            assert kind == ("text" if sqlite else "jsonb")
        elif isinstance(field, peewee.DateTimeField):
            assert kind == ("text" if sqlite else "timestamp with time zone")
    (key,) = database.get_foreign_keys(TABLE)
    assert (key.column, key.dest_table, key.dest_column) == ("userId", "users", "id")
    assert AIGeneratedContent.user.on_delete == key.on_delete == "CASCADE"


def test_the_reference_has_every_name_and_the_table_every_error():
    page = (ROOT / "docs/reference/api.md").read_text("utf-8")
    named = set(re.findall(r"^\.\. (?:auto)?\w+:: aicontent\.(\w+)$", page, re.M))
    assert named - {"testing"} == set(aicontent.__all__)
    errors = {
        name
        for name in aicontent.__all__
        if isinstance(getattr(aicontent, name), type)
        and issubclass(getattr(aicontent, name), aicontent.AIContentError)
    }
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \| \d{3} \|$", page, re.M)
    assert sorted(rows) == sorted(errors - {"AIContentError"})
    members = re.search(r"AIGeneratedContent\n   :members: (.*?)\n   :exclude", page, re.S)
    assert members is not None
    public = {
        name
        for name, value in vars(AIGeneratedContent).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, classmethod))
    }
    assert set(re.findall(r"\w+", members[1])) == public - {"DoesNotExist"}
