"""rolled_back() rolls back the rows that a test stores, and every call works within it."""

from __future__ import annotations

import threading

import peewee
import pytest

import aicontent
from aicontent import ContentStatus, Served
from aicontent.database.supported import backend_of
from aicontent.testing import rolled_back
from helpers import on_statement

MADE = {"title": "En la cafetería"}


def make(content):
    return MADE


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
def kind(request):
    return request.param


@pytest.fixture
def database(kind, make_url):
    """A database like those of a host's tests."""
    database = aicontent.connect(
        "sqlite:///:memory:" if kind == "memory" else make_url(kind, migrated=True)
    )
    aicontent.migrate(database, create_users=True)
    yield database
    database.close()


@pytest.fixture
def ask(Content, user):
    def ask(number=0, **options):
        return Content.get_or_generate(user, "lesson", {"number": number}, make, **options)

    return ask


def test_what_a_test_stores_is_rolled_back(database, Content, user):
    for _ in range(2):
        with rolled_back(database):
            assert Content.select().count() == 0
            content = Content.get_or_generate(user, "lesson", {"topic": "tea"}, make)
            assert (content.served, content.generated_data) == (Served.GENERATED, MADE)
            again = Content.get_or_generate(user, "lesson", {"topic": "tea"}, make)
            assert (again, again.served) == (content, Served.STORED)
            asked = Content.request(user, "lesson", {"topic": "coffee"})
            claimed = Content.claim()
            assert claimed == asked
            claimed.extend_lease(60)
            claimed.complete(MADE)
            Content.request(user, "lesson", {"topic": "milk"})
            assert Content.work(make, until_empty=True).completed == 1
            Content.create_many([{"user": user, "type": "lesson", "request_payload": {}}] * 3)
            exported = list(aicontent.export_lines(database))
            assert list(aicontent.export_lines(database)) == exported
            assert len(exported) == 6
            Content.delete().execute()
            assert aicontent.import_lines(database, exported).stored == 6
            assert Content.cleanup().expired == 0
            assert aicontent.stats(database).by("status")[0].rows == 3
            assert not backend_of(database).in_transaction(database)
        assert Content.select().count() == 0
    assert not database.in_transaction()
    assert vars(database).keys().isdisjoint({"begin", "commit", "_aicontent_nested"})


def test_a_failed_test_is_rolled_back_too(database, Content, ask):
    def fail():
        with rolled_back(database):
            ask()
            database.atomic().__enter__()
            raise RuntimeError("the test failed")

    with pytest.raises(RuntimeError, match="the test failed"):
        fail()
    assert not backend_of(database).has_begun(database)
    assert Content.select().count() == 0


def test_atomic_works_as_without_it(database, Content, user, ask):
    row = {"user": user, "type": "lesson", "request_payload": {}}

    @database.atomic()
    def fail():
        Content.create(**row)
        raise ZeroDivisionError

    with rolled_back(database):
        with database.atomic():
            Content.create(**row)
            with pytest.raises(aicontent.OpenTransactionError, match=r"outside atomic\(\)"):
                ask()
            with pytest.raises(aicontent.OpenTransactionError):
                Content.work(make, until_empty=True)
        with pytest.raises(ZeroDivisionError):
            fail()
        with database.atomic() as transaction:
            Content.create(**row)
            transaction.rollback()
        database.begin()
        with pytest.raises(peewee.OperationalError, match="within a transaction"):
            database.begin()
        Content.create(**row)
        database.commit()
        database.commit()
        database.rollback()
        assert Content.select().count() == 2
        assert ask().served == Served.GENERATED


def test_generate_leaves_a_transaction_open(database, Content, user, ask):
    def leave_open(content):
        database.atomic().__enter__()
        Content.create(id="lost", user=user, type="lesson", request_payload={})
        return MADE

    with rolled_back(database):
        kept = ask()
        with pytest.raises(aicontent.OpenTransactionError, match=r"generate\(\) left"):
            Content.get_or_generate(user, "lesson", {"topic": "tea"}, leave_open)
        assert Content.select().where(Content.status == ContentStatus.COMPLETED).count() == 2
        assert Content.get_by_id(kept.id) == kept
        assert Content.get_or_none(id="lost") is None


def test_errors_of_the_database_do_not_end_the_test(database, Content, user, ask):
    def fail(content):
        database.execute_sql("SELECT nothing FROM nowhere")

    with rolled_back(database):
        kept = ask()
        with pytest.raises(aicontent.DuplicateIdError):
            Content.create(id=kept.id, user=user, type="lesson", request_payload={})
        with pytest.raises(peewee.DatabaseError) as told:
            Content.get_or_generate(user, "lesson", {"topic": "tea"}, fail)
        assert not hasattr(told.value, "__notes__")
        assert Content.get(Content.id != kept.id).status is ContentStatus.FAILED
        with pytest.raises(peewee.DatabaseError), database.atomic():
            database.execute_sql("SELECT nothing FROM nowhere")
        assert Content.select().count() == 2


def test_the_code_under_test_opens_and_closes_connections(database, Content, ask):
    with rolled_back(database):
        content = ask()
        database.close()
        database.connect()
        database.close()
        with database.connection_context():
            assert Content.get() == content
        with database.atomic(), pytest.raises(peewee.OperationalError, match="is open"):
            database.close()
        assert Content.get() == content
    assert Content.select().count() == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"], indirect=True)
def test_a_closed_connection_is_closed_again(database):
    database.close()
    with rolled_back(database):
        assert not database.is_closed()
    assert database.is_closed()


def test_no_lease_is_renewed(database, ask, Content, user):
    def generate(content):
        statements = []
        with on_statement(statements.append):
            threading.Event().wait(0.1)  # a worker would have renewed so short a lease
        assert statements == []
        return MADE

    with rolled_back(database):
        Content.get_or_generate(user, "lesson", {}, generate, lease=0.06)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"], indirect=True)
def test_other_threads_go_on_as_before(database, Content, ask):
    seen = []

    def other():
        with database.connection_context():
            seen.append(Content.select().count())
            seen.append(backend_of(database).has_begun(database))
        seen.append(database.is_closed())

    with rolled_back(database):
        ask()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [0, False, True]


def test_within_a_transaction_it_is_refused(database):
    with (
        database.atomic(),
        pytest.raises(aicontent.OpenTransactionError, match=r"outside atomic"),
        rolled_back(database),
    ):
        pass
    with (
        rolled_back(database),
        pytest.raises(aicontent.OpenTransactionError, match=r"another rolled_back"),
        rolled_back(database),
    ):
        pass


@pytest.mark.parametrize("by_driver", [True, False])
def test_a_test_that_ends_the_transaction_fails(database, Content, user, by_driver):
    def commit():
        with rolled_back(database):
            Content.create(user=user, type="lesson", request_payload={})
            if by_driver:
                database.connection().cursor().execute("COMMIT")
            else:
                database.execute_sql("COMMIT")
                database.execute_sql("SELECT 1")

    with pytest.raises(aicontent.OpenTransactionError, match="delete any rows of this test"):
        commit()
    assert Content.select().count() == 1
