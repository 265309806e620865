"""The hot statements use their indexes, with and without the database's statistics."""

from __future__ import annotations

import re

import peewee
import pytest

from helpers import index_names, on_statement, partitions_in

KEY = "ai_generated_content_pkey"

OF_NOBODY = {"get_by_id", "claim", "claim_of_types", "rescue"}
"""Calls without a user, which read every partition."""


@pytest.fixture(params=["fresh", "analyzed", "outdated"])
def filled(request, Content, user, database):
    """Store 1,500 finished rows, 400 pending rows and one generating row.

    The outdated statistics know of no pending row.
    """
    row = {"user": user, "type": "lesson", "request_payload": {}, "generated_data": {"x": "y" * 99}}
    # Half of the rows belong to other users, so that their partitions are not empty.
    others = [Content.user.rel_model.create().id for _ in range(7)]
    Content.create_many(
        row
        | {
            "user": (user, others[number % 7])[number % 2],
            "status": ("completed", "completed", "failed")[number % 3],
            "level": ("A1", "A2", "B1")[number % 7 % 3],
            "fingerprint": f"{number:064}",
        }
        for number in range(1500)
    )
    if request.param == "outdated":
        database.execute_sql("ANALYZE")
    Content.create_many(
        row | {"type": "vocabulary_drill", "fingerprint": f"{number:064}"} for number in range(400)
    )
    Content.request(user, "lesson", {})
    Content.claim("lesson")
    if request.param == "analyzed":
        database.execute_sql("ANALYZE")
    return Content


def plan_of(database, statement):
    sql, parameters = statement
    explain = "EXPLAIN QUERY PLAN" if isinstance(database, peewee.SqliteDatabase) else "EXPLAIN"
    rows = database.execute_sql(f"{explain} {sql}", parameters).fetchall()
    return "\n".join(str(row[-1]) for row in rows)


def change(content):
    content.level = "C2"
    content.save()


HOT = {
    "reuse": (lambda model, user: model.reuse(user, "lesson"), "idx_ai_content_reuse"),
    "reuse_of_a_level": (
        lambda model, user: model.reuse(user, "lesson", "A1"),
        "idx_ai_content_reuse_level",
    ),
    "first_reusable": (
        lambda model, user: model.first_reusable(user, "lesson"),
        "idx_ai_content_reuse",
    ),
    "first_reusable_of_a_level": (
        lambda model, user: model.first_reusable(user, "lesson", "A1"),
        "idx_ai_content_reuse_level",
    ),
    "find_reusable_content": (
        lambda model, user: model.find_reusable_content(user, "lesson").first(),
        "idx_ai_content_reuse",
    ),
    "get_by_id": (
        lambda model, user: model.get_by_id(model.first_reusable(user, "lesson").id),
        KEY,
    ),
    "get_by_id_of_a_user": (
        lambda model, user: model.get_by_id(model.first_reusable(user, "lesson").id, user),
        KEY,
    ),
    "mark_accessed": (
        lambda model, user: model.first_reusable(user, "lesson").mark_accessed(),
        KEY,
    ),
    "save": (lambda model, user: change(model.first_reusable(user, "lesson")), KEY),
    "complete": (lambda model, user: model.claim("vocabulary_drill").complete({}), KEY),
    "fail": (lambda model, user: model.claim("vocabulary_drill").fail("no"), KEY),
    "release": (lambda model, user: model.claim("vocabulary_drill").release(), KEY),
    "extend_lease": (lambda model, user: model.claim("vocabulary_drill").extend_lease(60), KEY),
    "claim": (lambda model, user: model.claim(), "idx_ai_content_pending"),
    "claim_of_types": (
        lambda model, user: model.claim(["lesson", "cultural_content"]),
        "idx_ai_content_pending",
    ),
    "look_for_the_one_in_flight": (
        lambda model, user: [model.request(user, "vocabulary_drill", {"n": 1}) for _ in "12"],
        "idx_ai_content_in_flight",
    ),
    "rescue": (lambda model, user: model.rescue_stale(), "idx_ai_content_status"),
    "reuse_by_fingerprint": (
        lambda model, user: model.get_or_generate(user, "lesson", {"n": 1}, lambda content: {}),
        "idx_ai_content_fingerprint",
    ),
}


PLANNED_AGAIN = r"""["']status["'](, ''\))? (=|IN) \(?(\?|%s)"""
"""A status that is a parameter: it decides about partial indexes, so SQLite plans in each call."""

SLOW = ("Seq Scan", "SCAN", "Sort", "TEMP B-TREE")
NO_TABLE = "SCAN CONSTANT ROW"  # SQLite's plan of a SELECT without a table


def test_plans(filled, database, user):
    """One test checks all plans, because filling the table takes longer than reading the plans."""
    for name, (call, index) in HOT.items():
        check_plan(filled, database, user, name, call, index)


def is_hot(sql):
    return "SELECT" in sql and "relkind" not in sql


def check_plan(filled, database, user, name, call, index):
    found = []
    with on_statement(found.append):
        call(filled, user)
    for sql, _ in found:
        condition = sql.partition(" WHERE ")[2]
        assert not re.search(PLANNED_AGAIN, condition), f"{name}: {sql}"
    hot = found[-1] if index == KEY else next(each for each in found if is_hot(each[0]))
    plan = plan_of(database, hot).replace(NO_TABLE, "").replace("Sort Key", "Merge by")
    names = index_names(database, index)
    if index == KEY:
        names.append("sqlite_autoindex_ai_generated_content_1")
    assert any(re.search(rf"\b{each}\b", plan) for each in names), f"{name}: {plan}"
    if name not in OF_NOBODY:
        assert len(partitions_in(plan)) <= 1, f"{name}: {plan}"
    # A request has few rows, so sorting them is cheap.
    slow = SLOW[:2] if name == "reuse_by_fingerprint" else SLOW
    assert not any(word in plan for word in slow), f"{name}: {plan}"
