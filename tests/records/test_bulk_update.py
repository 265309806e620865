"""bulk_update() changes all instances or none, in batches, without side effects."""

from __future__ import annotations

from datetime import UTC, datetime

import peewee
import pytest

from aicontent import UnknownUserError, ValidationError
from helpers import on_statement


def test_instances_are_clean_and_current_afterwards(store, Content):
    """A later save() must not overwrite another writer's changes."""
    content = store(level="A1", metadata={"n": 1})
    content.level = "A2"
    content.metadata["n"] = 2
    assert Content.bulk_update([content], ["level", "metadata"]) == 1
    assert content.dirty_fields == []
    assert content.updated_at == Content.get_by_id(content.id).updated_at
    Content.update(level="B2", metadata={"n": 3}).where(Content.id == content.id).execute()
    content.topics = ["tea"]
    content.save()
    stored = Content.get_by_id(content.id)
    assert (stored.level, stored.metadata, stored.topics) == ("B2", {"n": 3}, ["tea"])


def test_nothing_to_write(store, Content):
    assert Content.bulk_update([], ["level"]) == 0
    assert Content.bulk_update([store()], []) == 0
    gone = store()
    gone.delete_instance()
    assert Content.bulk_update([gone, store()], ["level"]) == 1


def test_an_instance_that_is_not_stored(store, Content, user):
    new = Content(user=user, type="lesson", request_payload={}, level="A1")
    with pytest.raises(ValidationError, match="^row 2: id: must be of a stored row"):
        Content.bulk_update([store(), new], ["level"])
    gone = store(level="A1")
    gone.delete_instance()
    gone.level = "A2"
    assert Content.bulk_update([gone], ["level"]) == 0
    assert gone.is_dirty()
    assert new.save() == 1
    assert Content.get_by_id(new.id).level == "A1"


def test_an_expression_is_read_back(store, Content):
    content, other = store(usage_count=5), store(usage_count=1)
    content.usage_count = Content.usage_count + 1
    other.usage_count = 7
    assert Content.bulk_update([content, other], ["usage_count"]) == 2
    assert (content.usage_count, other.usage_count) == (6, 7)
    assert not content.is_dirty()
    assert Content.get_by_id(content.id).usage_count == 6


@pytest.mark.parametrize("batch_size", [0, -1, True, 1.5, "2"])
def test_a_batch_size_that_is_none(store, Content, batch_size):
    with pytest.raises(ValidationError, match="^batch_size: must be an int of at least 1"):
        Content.bulk_update([store()], ["level"], batch_size)


def test_batches_are_bounded(fill, Content):
    fill(450)
    contents = list(Content.select())
    for content in contents:
        content.level = "A1"
    updates = []
    with on_statement(lambda s: updates.append(s) if s[0].startswith("UPDATE") else None):
        assert Content.bulk_update(contents, ["level"]) == 450
        assert len(updates) == 3
        assert Content.bulk_update(contents, ["level"], 300) == 450
        assert len(updates) == 5
    assert {c.level for c in Content.select()} == {"A1"}


@pytest.mark.parametrize("is_nested", [False, True])
def test_all_or_nothing_with_the_row_at_fault(fill, Content, database, is_nested):
    fill(30)
    contents = list(Content.select().order_by(Content.id))
    for content in contents:
        content.level = "A1"
    contents[24].user = 999_999

    def update():
        with pytest.raises(UnknownUserError, match="^row 25: ") as caught:
            Content.bulk_update(contents, ["level", "user"], 10)
        assert caught.value.row == 25

    if is_nested:
        with database.atomic():
            update()
            assert Content.update(model_used="m").execute() == 30  # the transaction is still usable
    else:
        update()
    assert {(c.level, c.user_id) for c in Content.select()} == {(None, contents[0].user_id)}
    assert contents[0].dirty_fields == [Content.level]


@pytest.mark.plain  # each unique key of a partitioned table includes the user
def test_a_hosts_own_constraint_keeps_its_error(store, Content, database):
    database.execute_sql("CREATE UNIQUE INDEX one_level ON ai_generated_content (level)")
    contents = [store(), store()]
    for content in contents:
        content.level = "A1"
    with pytest.raises(peewee.IntegrityError) as caught:
        Content.bulk_update(contents, ["level"])
    assert caught.value.__notes__ == ["row 2"]
    assert {c.level for c in Content.select()} == {None}


def test_partly_selected_instances(store, Content):
    content = store()
    for columns, missing in (((Content.id,), "level"), ((Content.level,), "id")):
        partial = Content.select(*columns).where(Content.id == content.id).get()
        with pytest.raises(ValidationError, match=f"^row 1: {missing}: must be selected by"):
            Content.bulk_update([partial], ["level"])
    partial = Content.select(Content.id).where(Content.id == content.id).get()
    partial.level = "C1"
    assert Content.bulk_update([partial], ["level"]) == 1
    assert Content.get_by_id(content.id).level == "C1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("expires_at", datetime(2030, 1, 1, tzinfo=UTC)),
        ("metadata", {"n": 1}),
        ("token_usage", 5),
        ("validation_score", 0.5),
        ("level", "A1"),
    ],
)
def test_a_column_can_be_emptied(store, Content, name, value):
    contents = [store(**{name: value}) for _ in range(2)]
    for content in contents:
        setattr(content, name, None)
        content.usage_count = 3
    assert Content.bulk_update(contents, [name, "usage_count"]) == 2
    assert [(getattr(c, name), c.usage_count) for c in Content.select()] == [(None, 3)] * 2


@pytest.mark.parametrize("name", ["created_at", "updated_at"])
def test_a_time_of_the_database_cannot_be_emptied(store, Content, name):
    content = store()
    setattr(content, name, None)
    with pytest.raises(ValidationError, match=f"^{name}: must be a time in a stored row"):
        content.save()
    with pytest.raises(ValidationError, match=f"^row 1: {name}: must be a time"):
        Content.bulk_update([content], [name])
