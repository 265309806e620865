"""The model, both databases and docs/reference/schema.md agree on the columns and their rules."""

from __future__ import annotations

import ast
import re

import peewee
import pytest

from aicontent.database.supported import backend_of
from aicontent.fields.document import DocumentField
from aicontent.fields.scalars import (
    CHECKED_BY_FIELD,
    CountField,
    EnumField,
    FractionField,
    ShortTextField,
    UTCDateTimeField,
)
from aicontent.fields.users import UserField
from aicontent.records.validation import Rules
from aicontent.table import RULES, TABLE, ContentTable
from helpers import ROOT

FIELDS = {field.column_name: field for field in ContentTable._meta.sorted_fields}

NULLABLE_IN_THE_DATABASE_ALONE = {"usageCount"}
"""The specification's column allows NULL, but its JSON Schema does not."""


def documented() -> dict[str, str]:
    """Return the type and rules of each column from the table in docs/reference/schema.md."""
    rows = {}
    for line in (ROOT / "docs/reference/schema.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and re.fullmatch(r"(`\w+`(, )?)+", cells[0]):
            for column in re.findall(r"`(\w+)`", cells[0]):
                rows[column] = f"{cells[1]} | {cells[2]} | {cells[3]}"
    return rows


def test_the_document_has_the_columns_in_their_order():
    assert list(documented()) == [*FIELDS]


@pytest.mark.parametrize("column", FIELDS)
def test_rules_columns_and_docs_agree(database, kind, column):
    field, rule = FIELDS[column], FIELDS[column].validation_rule
    table = backend_of(database).catalog(database).relation(TABLE)
    stored = {each.name: each for each in database.get_columns(TABLE)}[column]
    definitions = backend_of(database).catalog(database).definitions(TABLE)
    checks = " ".join(text for name, text in definitions.items() if name.startswith("constraint"))
    docs = documented()[column]
    assert stored.null is field.null
    assert ("null" in docs.split("|")[0]) is field.null
    if rule is CHECKED_BY_FIELD:
        assert isinstance(field, UTCDateTimeField)
        assert "timestamptz" in docs
        return
    if isinstance(field, UserField):
        assert (table.columns[column].lower(), docs.split(",")[0]) == ("integer", "integer")
        return
    kinds = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
    assert ("null" in kinds) is (field.null and column not in NULLABLE_IN_THE_DATABASE_ALONE)
    expected = {
        "string": ("character varying", "text", "varchar"),
        "integer": ("integer",),
        "boolean": ("boolean", "integer"),
        "number": ("real",),
        "object": ("jsonb", "text"),
        "array": ("jsonb", "text"),
    }
    assert table.columns[column].lower().startswith(expected[kinds[0]])
    if "maxLength" in rule:
        assert field.max_length == rule["maxLength"]
        assert f"({rule['maxLength']})" in table.columns[column]
        assert f"({rule['maxLength']})" in docs.lower()
    if isinstance(field, EnumField):
        for member in rule["enum"]:
            assert member in docs
            assert f"'{member}'" in checks
    if kinds[0] == "integer":
        least = rule["minimum"]
        assert ("not negative" if least == 0 else f"at least {least}") in docs
        assert re.search(rf'\b{column}"? (>= {least}|BETWEEN {least} AND)', checks), checks
    if kinds[0] in ("object", "array"):
        assert f"an {kinds[0]}" in docs
    if kinds[0] == "number":
        assert "0 to 1" in docs


def test_a_new_row_must_have_what_the_specification_requires():
    required = [column for column, field in FIELDS.items() if field.is_required]
    assert required == ["id", "userId", "type", "status", "requestPayload"]
    assert RULES.schema["required"] == required


def test_a_column_without_a_rule_cannot_be_declared():
    for kind in (ShortTextField, CountField, FractionField, DocumentField):
        with pytest.raises(TypeError, match="'rule'"):
            kind()
    with pytest.raises(TypeError, match="'rule'"):
        UserField(ContentTable)

    class Wider(ContentTable):
        language = peewee.TextField(null=True)

    with pytest.raises(TypeError, match="column language has no rule"):
        Rules(Wider._meta.sorted_fields)


def test_type_checkers_know_the_arguments_of_create():
    """create() accepts the columns that claims set, as it accepts a host's columns."""
    (table,) = (
        node
        for node in ast.walk(ast.parse((ROOT / "aicontent/table.py").read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and node.name == ContentTable.__name__
    )
    (create,) = (node for node in ast.walk(table) if getattr(node, "name", "") == "create")
    typed = [argument.arg for argument in create.args.kwonlyargs]
    names = [field.name for field in ContentTable._meta.sorted_fields]
    names.insert(names.index("user") + 1, "user_id")
    assert typed == names[: names.index("fingerprint")]
