"""Test the import: stored lines, refused lines with their reasons, and a restored export."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import peewee
import pytest

import aicontent
from helpers import lines


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
def test_a_service_moves_and_comes_out_the_same(varied, Content, database, make_url, target):
    other = aicontent.connect(make_url(target, True))
    exported = list(aicontent.export_lines(database))
    assert len(exported) == Content.select().count() == 13
    report = aicontent.import_lines(other, exported, refused=print)
    assert report == aicontent.ImportReport(stored=13)
    assert list(aicontent.export_lines(other)) == exported
    moved = aicontent.for_database(other)
    for content in Content.select():
        copy = moved.get_by_id(content.id)
        assert copy.__data__ == content.__data__
    # The import also stored the users, and the next user gets an unused id.
    assert moved.user.rel_model.create().id > Content.select(peewee.fn.MAX(Content.user)).scalar()
    other.close()


BAD = {
    b"{": "not JSON",
    b"[]": "each line must be one JSON object; got list",
    b'{"a":"\xff"}': "not UTF-8 at byte",
    b"[" * 100_000: "nested too deeply",
    b'{"a":' + b"9" * 5000 + b"}": "an integer is too long",
    b'{"id":"x"}': "userId: is required",
}


WRONG = {
    "colour": ("red", "colour: is not a column"),
    "id": (None, "id: is required"),
    "userId": ("7", "userId: must be an int"),
    "type": ("quiz", "type: must be one of"),
    "status": (None, "status: is required"),
    "requestPayload": ([], "requestPayload: must be a dict"),
    "generatedData": ({"a": ["\0"]}, "generatedData.a[0]: must not contain NUL"),
    "metadata": ({"a": "\ud800"}, "metadata.a: must be valid Unicode"),
    "topics": ([float("nan")], "topics[0]: must be a finite number"),
    "validationResults": (json.loads('{"a":' * 250 + "1" + "}" * 250), "levels deep"),
    "level": ("\0", "level: must not contain NUL"),
    "usageCount": (-1, "usageCount: must be at least 0"),
    "validationScore": (2, "validationScore: must be at most 1"),
    "expiresAt": ("soon", "expiresAt: must be an ISO 8601 time"),
    "createdAt": ("2026-01-01T00:00:00", "createdAt: must be an aware datetime"),
    "lastAccessedAt": (7, "lastAccessedAt: must be an ISO 8601 time"),
}


def test_bad_lines_are_named_and_the_good_go_in(database, Content):
    given = [
        *BAD,
        b"",
        *(line.rstrip() for line in lines(*({k: v} for k, (v, _) in WRONG.items()))),
    ]
    given = [b"\xef\xbb\xbf" + lines({})[0], *given, lines({"id": "z"})[0]]
    reasons = [*BAD.values(), *(reason for _, reason in WRONG.values())]
    refused = []
    report = aicontent.import_lines(database, given, refused=refused.append)
    assert (report.stored, report.refused) == (2, len(reasons))
    numbers = [*range(2, 2 + len(BAD)), *range(3 + len(BAD), 3 + len(reasons))]
    assert [line.line for line in refused] == numbers
    for line, reason in zip(refused, reasons, strict=True):
        assert reason in line.reason, line
    assert {content.id for content in Content.select()} == {"a", "z"}


def test_what_a_line_leaves_out_gets_the_tables_default(database, Content):
    aicontent.import_lines(
        database, lines({}, {"id": "b", "createdAt": "2026-01-01T01:00:00+01:00"})
    )
    first, second = Content.get_by_id("a"), Content.get_by_id("b")
    assert (first.status, first.usage_count, first.metadata) == ("pending", 0, None)
    assert abs((datetime.now(UTC) - first.created_at).total_seconds()) < 60
    assert second.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert second.updated_at >= first.updated_at


@pytest.mark.parametrize(
    ("on_conflict", "counts", "topic"),
    [
        ("error", (1, 0, 0, 2), "tea"),
        ("skip", (1, 0, 2, 0), "tea"),
        ("replace", (1, 1, 1, 0), "rum"),
    ],
)
def test_an_id_that_is_stored(database, Content, on_conflict, counts, topic):
    aicontent.import_lines(database, lines({}, {"id": "b"}))
    before = Content.get_by_id("b").updated_at
    again = lines({"requestPayload": {"topic": "rum"}}, {"id": "b"}, {"id": "c"})
    refused = []
    report = aicontent.import_lines(
        database, again, on_conflict=on_conflict, refused=refused.append
    )
    assert (report.stored, report.replaced, report.skipped, report.refused) == counts
    assert [line.line for line in refused] == [1, 2][: counts[3]]
    assert Content.get_by_id("a").request_payload == {"topic": topic}
    assert Content.get_by_id("b").updated_at == before


@pytest.mark.parametrize("on_conflict", ["error", "skip", "replace"])
def test_a_request_that_is_in_flight_here_too(database, Content, on_conflict):
    """The unique index refuses only that line, and the import stores the others."""
    aicontent.import_lines(database, lines({}))  # creates the user
    content = Content.request(1, "lesson", {"number": 0})
    refused = []
    report = aicontent.import_lines(
        database,
        lines({"id": "x", "fingerprint": content.fingerprint}, {"id": "y"}),
        on_conflict=on_conflict,
        refused=refused.append,
    )
    assert (report.stored, report.refused) == (1, 1)
    assert refused[0].line == 1
    assert "already in flight" in refused[0].reason


def test_an_id_twice_in_one_file(database, Content):
    twice = lines({}, {"level": "A1"})
    assert aicontent.import_lines(database, twice).refused == 1
    assert Content.get().level is None
    assert aicontent.import_lines(database, twice, on_conflict="replace").replaced == 1
    assert Content.get().level == "A1"


def test_a_bad_way_to_treat_conflicts(database):
    with pytest.raises(aicontent.ValidationError, match="on_conflict"):
        aicontent.import_lines(database, [], on_conflict="ignore")


def test_lines_that_are_text(database):
    with pytest.raises(aicontent.ArgumentError, match="^lines: must be bytes: open .* 'rb'"):
        aicontent.import_lines(database, ['{"id": "1"}'])


def test_users_of_an_application_are_its_own(empty, kind):
    key = "INTEGER" if kind == "sqlite" else "integer GENERATED BY DEFAULT AS IDENTITY"
    empty.execute_sql(f"CREATE TABLE users (id {key} PRIMARY KEY, name text)")
    empty.execute_sql("INSERT INTO users (name) VALUES ('Ada')")
    aicontent.migrate(empty)
    refused = []
    report = aicontent.import_lines(
        empty, lines({}, {"id": "b", "userId": 2}, {"id": "c"}), refused=refused.append
    )
    assert (report.stored, report.refused) == (2, 1)
    assert (refused[0].line, refused[0].reason[:6]) == (2, "userId")
    assert empty.execute_sql("SELECT count(*) FROM users").fetchone() == (1,)


@pytest.mark.plain  # each unique key of a partitioned table includes the user
def test_a_rule_of_the_hosts_own_refuses_its_line_alone(database, Content):
    database.execute_sql('CREATE UNIQUE INDEX mine ON ai_generated_content ("level")')
    rows = [{"id": str(n), "level": "A1" if n in (3, 5) else str(n)} for n in range(9)]
    refused = []
    report = aicontent.import_lines(database, lines(*rows), refused=refused.append)
    assert (report.stored, report.refused) == (8, 1)
    assert refused[0].line == 6
    assert Content.select().count() == 8


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_the_settings_of_a_connection_are_given_back(database):
    names = ("cache_size", "wal_autocheckpoint")
    with database.connection_context():
        before = [database.pragma(name) for name in names]
        aicontent.import_lines(database, lines({}))
        assert [database.pragma(name) for name in names] == before


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_two_orders_do_not_deadlock(url, Content, user):
    rows = lines(*({"id": f"{n:05}", "userId": user} for n in range(500)))
    ready = threading.Barrier(2)
    failed = []

    def load(given, on_conflict):
        database = aicontent.connect(url)
        ready.wait()
        try:
            aicontent.import_lines(database, given, on_conflict=on_conflict)
        except peewee.PeeweeException as error:
            failed.append(error)
        database.close()

    for round in range(6):
        Content.delete().execute()
        way = ("skip", "replace")[round % 2]
        threads = [threading.Thread(target=load, args=(g, way)) for g in (rows, rows[::-1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    assert Content.select().count() == 500


def test_a_proxy(store, database):
    store(id="a")
    proxy = peewee.DatabaseProxy()
    proxy.initialize(database)
    exported = list(aicontent.export_lines(proxy))
    assert aicontent.import_lines(proxy, exported, on_conflict="skip").skipped == 1


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_row_level_security(database, url):
    """PostgreSQL refuses COPY to roles under row-level security; the owner is exempt."""
    role = f"r{uuid.uuid4().hex}"
    for sql in (
        f"CREATE ROLE {role}",
        f"GRANT ALL ON ai_generated_content, users TO {role}",
        "ALTER TABLE ai_generated_content ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY all_rows ON ai_generated_content USING (true) WITH CHECK (true)",
        "INSERT INTO users (id) VALUES (1)",
        f"SET ROLE {role}",
    ):
        database.execute_sql(sql)
    try:
        assert aicontent.import_lines(database, lines({}, {"id": "b"})).stored == 2
    finally:
        database.execute_sql("RESET ROLE")
        database.execute_sql(f"DROP OWNED BY {role}")
        database.execute_sql(f"DROP ROLE {role}")


def test_replacing_tells_numbers_apart(database):
    one = lines({"metadata": {"n": 1.0}})
    aicontent.import_lines(database, one)
    other = lines({"metadata": {"n": 1}})
    assert aicontent.import_lines(database, other, on_conflict="replace").replaced == 1
    (line,) = aicontent.export_lines(database)
    assert b'{"n":1}' in line


def test_many_bad_lines_do_not_pile_up(database):
    from aicontent.database.supported import backend_named
    from aicontent.transfer.json_lines import batches

    bad = iter([b"x\n"] * 5000)
    sizes = [len(batch.refused) for batch in batches(bad, backend_named("sqlite"))]
    assert max(sizes) <= 500
    assert sum(sizes) == 5000


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("on_conflict", ["error", "replace"])
def test_importing_beside_a_writer_on_a_database_of_the_hosts(url, store, on_conflict):
    """A deferred transaction that reads first cannot write after another connection has written."""
    store()
    path = url.removeprefix("sqlite:///")
    database = peewee.SqliteDatabase(path, pragmas={"foreign_keys": 1}, timeout=30)
    stop = threading.Event()

    def serve():
        other = peewee.SqliteDatabase(path, pragmas={"foreign_keys": 1}, timeout=30)
        model, served = aicontent.for_database(other), 0
        with other.connection_context():
            while not stop.is_set():
                served += model.reuse(1, "lesson") is not None
        return served

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve)
        try:
            rows = lines(*({"id": f"{n:05}"} for n in range(5000)))
            report = aicontent.import_lines(database, rows, on_conflict=on_conflict)
        finally:
            stop.set()
        assert serving.result(timeout=60) > 0
    assert report.stored == 5000
    database.close()


def test_requests_change_places(database, Content, user):
    """One line ends the row of a request in flight, and another starts a row for the request."""
    fingerprint = "a" * 64
    row = {"userId": user, "fingerprint": fingerprint}
    for ids in (("a", "b"), ("b", "a")):
        Content.delete().execute()
        ended, begun = ids
        first = lines({**row, "id": ended, "status": "pending"})
        aicontent.import_lines(database, first)
        data = lines(
            {**row, "id": begun, "status": "pending"}, {**row, "id": ended, "status": "completed"}
        )
        for order in (data, data[::-1]):
            # The lines are in one batch or in two.
            many = [*order[:1], *lines(*({"id": f"c{n}"} for n in range(600))), *order[1:]]
            for wanted in (order, many):
                refused = []
                report = aicontent.import_lines(
                    database, wanted, on_conflict="replace", refused=refused.append
                )
                assert refused == []
                assert report.refused == 0
                statuses = {c.id: c.status for c in Content.select().where(Content.id.in_(ids))}
                assert statuses == {ended: "completed", begun: "pending"}
                aicontent.import_lines(
                    database, lines({**row, "id": begun, "status": "failed"}), on_conflict="replace"
                )
                aicontent.import_lines(database, first, on_conflict="replace")


def test_requests_that_stay_in_flight_are_refused(database, Content, user):
    row = {"userId": user, "fingerprint": "a" * 64, "status": "pending"}
    aicontent.import_lines(database, lines({**row, "id": "a"}))
    refused = []
    data = lines({**row, "id": "b"}, {**row, "id": "c"})
    report = aicontent.import_lines(database, data, on_conflict="replace", refused=refused.append)
    assert (report.refused, report.stored, report.skipped) == (2, 0, 0)
    assert [line.line for line in refused] == [1, 2]
    assert "in flight" in refused[0].reason


def test_attempts_never_go_down(database, Content, user):
    """The attempt number identifies a worker's lease."""
    content = Content.create(user=user, type="lesson", request_payload={}, attempts=5)
    for attempts, expected in ((2, 5), (7, 7)):
        row = {"id": content.id, "userId": user, "attempts": attempts}
        aicontent.import_lines(database, lines(row), on_conflict="replace")
        assert Content.get_by_id(content.id).attempts == expected


def test_a_user_after_whom_none_could_be_made(database, Content):
    refused = []
    data = lines({"id": "a", "userId": 2**31 - 1}, {"id": "b", "userId": 2**31 - 2})
    report = aicontent.import_lines(database, data, refused=refused.append)
    assert (report.stored, [line.line for line in refused]) == (1, [1])
    assert refused[0].reason.startswith("userId: the users table has no such id")
    assert Content.user.rel_model.create().id == 2**31 - 1


def test_a_later_line_counts_more_than_a_deferred_one(database, Content, user):
    row = {"userId": user, "fingerprint": "a" * 64}
    aicontent.import_lines(database, lines({**row, "id": "x", "status": "pending"}))
    data = lines(
        {**row, "id": "a", "status": "pending", "level": "old"},
        {**row, "id": "a", "status": "completed", "level": "new"},
        {**row, "id": "x", "status": "completed"},
    )
    for between in (0, 600):
        Content.delete().where(Content.id == "a").execute()
        Content.update(status="pending").execute()
        others = lines(*({"id": f"c{n}"} for n in range(between)))
        report = aicontent.import_lines(
            database, [data[0], *others, *data[1:]], on_conflict="replace"
        )
        found = Content.get_by_id("a")
        assert (found.status, found.level) == ("completed", "new")
        assert report == aicontent.ImportReport(stored=1 + between, replaced=1, skipped=1)


def test_more_deferred_rows_than_one_statement_takes(database, Content, user):
    prints = [f"{n:064}" for n in range(1200)]
    stored = [{"id": f"x{n}", "fingerprint": p, "status": "pending"} for n, p in enumerate(prints)]
    aicontent.import_lines(database, lines(*stored))
    begun = [row | {"id": f"y{row['id']}"} for row in stored]
    ended = [row | {"status": "completed"} for row in stored]
    report = aicontent.import_lines(database, lines(*begun, *ended), on_conflict="replace")
    assert report == aicontent.ImportReport(stored=1200, replaced=1200)


KEEPS_OUT = {
    "raises": ("SELECT RAISE(ABORT, 'frozen')", "RAISE EXCEPTION 'frozen'"),
    "another code": (
        "SELECT RAISE(FAIL, 'frozen')",
        "RAISE EXCEPTION 'frozen' USING ERRCODE='AB001'",
    ),
    "ignores": ("SELECT RAISE(IGNORE)", "RETURN NULL"),
}


@pytest.mark.parametrize("on_conflict", ["error", "replace"])
@pytest.mark.parametrize("way", KEEPS_OUT)
def test_rows_that_a_trigger_keeps_out(database, kind, Content, way, on_conflict, user):
    keep_out(database, kind, KEEPS_OUT[way])
    data = lines(*({"id": f"{n:02}", "level": "no" if n == 7 else "A1"} for n in range(20)))
    refused = []
    report = aicontent.import_lines(database, data, on_conflict=on_conflict, refused=refused.append)
    assert Content.select().count() == 19
    assert report.stored == 19
    if way != "ignores" or on_conflict == "error":
        (line,) = refused
        assert line.line == 8
        assert "frozen" in line.reason or "suppressed the row" in line.reason
    row = {"user": user, "type": "lesson", "request_payload": {"text": "secret"}, "level": "no"}
    with pytest.raises(peewee.DatabaseError) as caught:
        Content.create_many([row])
    assert "secret" not in str(caught.value)
    assert Content.select().count() == 19


def keep_out(database, kind, ways):
    sqlite, postgresql = ways
    if kind == "sqlite":
        database.execute_sql(
            "CREATE TRIGGER keeps BEFORE INSERT ON ai_generated_content "
            f"WHEN NEW.level = 'no' BEGIN {sqlite}; END"
        )
        return
    quoted = postgresql.replace("'", "''")
    database.execute_sql(
        "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS "
        f"'BEGIN IF NEW.level = ''no'' THEN {quoted}; END IF; RETURN NEW; END'"
    )
    database.execute_sql(
        "CREATE TRIGGER keeps BEFORE INSERT ON ai_generated_content "
        "FOR EACH ROW EXECUTE FUNCTION keeps()"
    )


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_trigger_that_rolls_back(database, Content, kind):
    keep_out(database, kind, ("SELECT RAISE(ROLLBACK, 'frozen')", ""))
    data = lines({"id": "a"}, {"id": "b", "level": "no"})
    with pytest.raises(peewee.DatabaseError, match="frozen"):
        aicontent.import_lines(database, data)
    assert not database.in_transaction()
    assert Content.select().count() == 0


@pytest.mark.plain  # partitions do not change the columns
def test_an_attribute_in_the_place_of_a_column(database, user):
    line = json.dumps({"id": "1", "user": user, "type": "lesson", "requestPayload": {}}).encode()
    refused = []
    aicontent.import_lines(database, [line], refused=refused.append)
    assert [each.reason for each in refused] == [
        "userId: a line must use the column's name; got user"
    ]
