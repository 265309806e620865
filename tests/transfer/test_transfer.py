"""Export and import: what is moved arrives, whole and once, and comes out as the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path

import peewee
import pytest

import aicontent
from aicontent import ContentStatus, ContentType
from aicontent.scripts.reading import Ahead
from helpers import run_here

PROGRAM = Path(sys.executable).parent / "aicontent"
LINE = {"id": "a", "userId": 1, "type": "lesson", "requestPayload": {"topic": "tea"}}


def lines(*rows):
    return [json.dumps(LINE | row).encode() + b"\n" for row in rows]


def run(*args, stdin=b"", **options):
    ran = subprocess.run([PROGRAM, *args], input=stdin, capture_output=True, timeout=60, **options)
    assert b"Traceback" not in ran.stderr, ran.stderr
    return ran.returncode, ran.stdout, ran.stderr.decode()


@pytest.fixture
def varied(store, Content):
    """Rows with all that documents and columns can hold."""
    awkward = {
        "z": 'é \u2028 \U0001f600 \\ " \n \t',
        "a": [1, 1.0, -0.0, 1e16, 1e23, -1e300, 5e-324, 10**40, True, None, {}, []],
        "": {"ü": "x", "u": "e+ -0.0"},
    }
    for number, status in enumerate(ContentStatus):
        store(status=status, generated_data=awkward, metadata={"n": number}, type="lesson")
    for number, kind in enumerate(ContentType):
        store(
            id=f"{kind}-Ä {number}",
            type=kind,
            level="tab\t\\N",
            topics=["b", "a"],
            validation_score=0.1 * number,
            token_usage=number,
            last_accessed_at=datetime(2026, 1, 1, 0, 0, 0, 1, UTC),
            expires_at=datetime(9999, 1, 1, tzinfo=UTC),
            validation_results=awkward,
        )
    store().mark_accessed()
    Content.update(usage_count=None).where(Content.type == "lesson").execute()


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
    # The users came too, and the next one is new.
    assert moved.user.rel_model.create().id > Content.select(peewee.fn.MAX(Content.user)).scalar()
    other.close()


def test_what_a_line_looks_like(store, database):
    content = store(id="x", expires_at=datetime(2026, 5, 1, 12, tzinfo=UTC), topics=["b", "a"])
    (line,) = aicontent.export_lines(database)
    row = json.loads(line)
    assert set(row) == set(content._meta.columns)
    assert row["expiresAt"] == "2026-05-01T12:00:00.000000Z"
    assert row["topics"] == ["b", "a"]
    assert row["lastAccessedAt"] is None
    assert line.startswith(b'{"attempts":0,"createdAt":"20')
    assert line.endswith(b"}\n")


def test_the_order_is_that_of_the_bytes(store, database):
    ids = ["b", "B", "a-b", "ab", "a_b", "Z", "é", "z"]
    for id in ids:
        store(id=id)
    found = [json.loads(line)["id"] for line in aicontent.export_lines(database)]
    assert found == sorted(ids, key=str.encode)


def test_filters(store, database, Content):
    other = Content.user.rel_model.create().id
    store(id="a")
    store(id="b", type="vocabulary_drill")
    store(id="c", status="pending")
    store(id="d", user=other)

    def ids(**wanted):
        return [json.loads(line)["id"] for line in aicontent.export_lines(database, **wanted)]

    assert ids(type="lesson") == ["a", "c", "d"]
    assert ids(status="pending") == ["c"]
    assert ids(user=other, type="lesson", status="completed") == ["d"]
    assert ids(user=0) == []
    for wrong in ({"type": "quiz"}, {"status": "done"}, {"user": "7"}):
        with pytest.raises(aicontent.ValidationError):
            aicontent.export_lines(database, **wrong)


def test_an_export_is_of_one_moment_and_keeps_nobody_from_writing(store, database, Content, url):
    for number in range(500):
        store(id=f"{number:03}")
    reading = aicontent.export_lines(database)
    first = next(reading)
    writer = aicontent.connect(url)
    model = aicontent.for_database(writer)
    assert model.delete().where(model.id > "000").execute() == 499
    assert len([first, *reading]) == 500
    assert not database.in_transaction()
    assert len(list(aicontent.export_lines(database))) == 1
    writer.close()


def test_an_export_that_is_given_up_leaves_no_transaction(store, database):
    store(), store()
    reading = aicontent.export_lines(database)
    next(reading)
    reading.close()
    assert not database.in_transaction()


def test_a_row_of_another_program_that_cannot_be_read_is_named(store, database):
    store(id="bad")
    digits = "9" * 5000
    place = "%s" if "postgres" in type(database).__name__.lower() else "?"
    database.execute_sql(
        f'UPDATE ai_generated_content SET "metadata" = {place}', (f'{{"n":{digits}}}',)
    )
    with pytest.raises(aicontent.AIContentError, match="content bad cannot be read"):
        list(aicontent.export_lines(database))


BAD = {
    b"{": "not JSON",
    b"[]": "must be one JSON object a line; got list",
    b'{"a":"\xff"}': "not UTF-8 at byte",
    b"[" * 100_000: "nested too deeply",
    b'{"a":' + b"9" * 5000 + b"}": "an integer is too long",
    b'{"id":"x"}': "userId: is required",
}
WRONG = {
    "colour": ("red", "colour: is no column"),
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
    """The unique index refuses that one line; the others go in."""
    aicontent.import_lines(database, lines({}))  # which makes the user
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
    assert "in flight already" in refused[0].reason


def test_an_id_twice_in_one_file(database, Content):
    twice = lines({}, {"level": "A1"})
    assert aicontent.import_lines(database, twice).refused == 1
    assert Content.get().level is None
    assert aicontent.import_lines(database, twice, on_conflict="replace").replaced == 1
    assert Content.get().level == "A1"


def test_a_bad_way_to_treat_conflicts(database):
    with pytest.raises(aicontent.ValidationError, match="on_conflict"):
        aicontent.import_lines(database, [], on_conflict="ignore")


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


def test_the_commands_in_a_pipe(varied, url, make_url, tmp_path):
    to = make_url("postgresql" if url.startswith("sqlite") else "sqlite", True)
    status, data, err = run("export", "--database", url)
    assert (status, err) == (0, "exported 13 rows\n")
    status, out, err = run("import", "--database", to, stdin=data)
    assert (status, out, err) == (0, b"imported 13 new, replaced 0, skipped 0, refused 0\n", "")
    file = tmp_path / "out.jsonl"
    assert run("export", str(file), "--database", to)[:2] == (0, b"")
    assert file.read_bytes() == data
    assert list(tmp_path.glob(".out*")) == []
    assert run("import", str(file), "--database", to, "--on-conflict", "skip")[0] == 0
    status, out, err = run("import", "-", "--database", to, stdin=data)
    assert (status, out) == (1, b"imported 0 new, replaced 0, skipped 0, refused 13\n")
    assert err.startswith("line 1: id: a row with this id is stored already")
    status, data, _ = run("export", "--type", "lesson", "--status", "failed", "--database", url)
    assert (status, data.count(b"\n")) == (0, 1)


def test_mistakes(url, empty_url, tmp_path):
    assert run_here("export", "--type", "quiz")[0] == 2
    assert run_here("import", "missing.jsonl")[0] == 2
    assert run_here("import", "--on-conflict", "ignore")[0] == 2
    status, _, err = run("export", str(tmp_path / "no" / "where"), "--database", url)
    assert (status, "does not exist" in err) == (2, True)
    aicontent.connect(empty_url)
    for command in ("export", "import"):
        status, _, err = run(command, "--database", empty_url, stdin=lines({})[0])
        assert status == 1
        assert "run `aicontent migrate`" in err


def test_an_export_that_fails_leaves_the_file_as_it_was(empty_url, tmp_path):
    aicontent.connect(empty_url)
    file = tmp_path / "out.jsonl"
    file.write_text("before")
    assert run("export", str(file), "--database", empty_url)[0] == 1
    assert file.read_text() == "before"
    assert list(tmp_path.glob(".out*")) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_import_that_was_killed_goes_on(Content, url, number):
    """Nothing is lost, and nothing doubled."""
    rows = b"".join(lines(*({"id": f"{n:05}"} for n in range(3000))))
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([PROGRAM, "import", "--database", url], **pipes)
    process.stdin.write(rows[: len(rows) // 2])
    process.stdin.flush()
    while not Content.select().count():
        assert process.poll() is None
    os.kill(process.pid, number)
    _, err = process.communicate()
    before = Content.select().count()
    assert 0 < before < 3000
    assert b"Traceback" not in err
    assert (b"; to go on: --on-conflict skip" in err) is (number != signal.SIGKILL)
    status, out, _ = run("import", "--database", url, "--on-conflict", "skip", stdin=rows)
    assert status == 0
    assert (
        out.decode()
        == f"imported {3000 - before:,} new, replaced 0, skipped {before:,}, refused 0\n"
    )
    assert Content.select().count() == 3000


def test_a_signal_while_waiting_for_lines_is_all_that_is_raised():
    """It came as RuntimeError, or the wait for the reader's end never ended."""

    class Stopped(BaseException):
        pass

    def stop(*_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Stopped

    def wait_until_signalled():
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 6e-5), 0.01)
        while True:
            ahead.get()

    reads, writes = os.pipe()
    ahead = Ahead(lambda: os.read(reads, 1))
    chance = random.Random(1)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for _ in range(1000):
            with pytest.raises(Stopped):
                wait_until_signalled()
    finally:
        signal.signal(signal.SIGALRM, before)
    os.write(writes, b"x")
    assert ahead.get() == b"x"
    os.close(writes)
    assert ahead.get() == b""
    ahead.close()
    os.close(reads)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_locked_database_is_one_line(Content, url, database):
    with database.atomic():
        status, _, err = run("import", "--database", url, "--wait", "0.1", stdin=lines({})[0])
    assert status == 1
    assert err == "Error: database is locked\n"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_reader_that_ends_early_is_no_end_of_the_file(Content, url):
    """Else a part of the lines would pass for all of them."""
    process = subprocess.Popen(
        [PROGRAM, "import", "--database", url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(b"".join(lines(*({"id": f"{n:05}"} for n in range(1000)))))
    process.stdin.flush()
    while not Content.select().count():
        assert process.poll() is None
    (reader,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(reader), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.decode().endswith("Error: the reader of the lines ended early\n")


def test_importing_beside_another_import(url, Content, tmp_path):
    """Each row is stored by one of them; the other skips it, in whatever order they come."""
    rows = lines(*({"id": f"{n:05}"} for n in range(4000)))
    running = []
    for file, given in ((tmp_path / "up", rows), (tmp_path / "down", rows[::-1])):
        file.write_bytes(b"".join(given))
        command = [PROGRAM, "import", file, "--database", url, "--on-conflict", "skip"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(subprocess.Popen(command, **pipes))
    told = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    new = [int(out.split()[1].replace(b",", b"")) for out, _ in told]
    assert sum(new) == Content.select().count() == 4000


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_failing_import_does_not_wait_for_its_reader(url, database):
    """More is read ahead than there is room for."""
    rows = b"".join(lines(*({"id": f"{n:05}"} for n in range(20_000))))
    assert len(rows) < 2_000_000  # else a file of it would be read by another process anyway
    with database.atomic():
        status, _, err = run("import", "--database", url, "--wait", "0.1", stdin=rows)
    assert (status, "database is locked" in err) == (1, True)


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
    """COPY cannot be where it applies, which is to others than the owner."""
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


UNREADABLE = [
    ("postgresql", "\"expiresAt\" = 'infinity'"),
    ("postgresql", "\"expiresAt\" = '10000-01-01'"),
    ("sqlite", "\"level\" = CAST(x'ff' AS TEXT)"),
    ("sqlite", "\"updatedAt\" = 'soon'"),
]


@pytest.mark.parametrize(("kind", "change"), UNREADABLE, indirect=["kind"])
def test_values_of_another_program_that_cannot_be_read(store, database, change):
    store(id="bad")
    if "updatedAt" in change:
        database.execute_sql("DROP TRIGGER update_ai_generated_content_updated_at")
    database.execute_sql(f"UPDATE ai_generated_content SET {change}")
    with pytest.raises(aicontent.AIContentError, match="cannot be read"):
        list(aicontent.export_lines(database))


def test_a_pipe_a_link_and_a_mode_stay_what_they_are(store, url, tmp_path):
    store(id="a")
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    real.write_text("before")
    real.chmod(0o640)
    link.symlink_to(real)
    assert run("export", str(link), "--database", url)[0] == 0
    assert link.is_symlink()
    assert b'"id":"a"' in real.read_bytes()
    assert real.stat().st_mode & 0o777 == 0o640
    os.mkfifo(pipe)
    process = subprocess.Popen([PROGRAM, "export", pipe, "--database", url])
    assert b'"id":"a"' in pipe.read_bytes()
    assert process.wait(60) == 0
    assert pipe.is_fifo()


def test_no_standard_input_is_a_usage_error(url):
    ran = subprocess.run(
        f"{PROGRAM} import --database '{url}' <&-", shell=True, capture_output=True, text=True
    )
    assert (ran.returncode, "Traceback" in ran.stderr) == (2, False)


def test_a_name_cannot_pass_for_a_line_of_the_report(url):
    line = json.dumps({"x\nline 9: fake": 1}).encode()
    status, _, err = run("import", "--database", url, stdin=line)
    assert (status, err.count("\n")) == (1, 1)


def test_many_bad_lines_do_not_pile_up(database):
    from aicontent.database.supported import backend_named
    from aicontent.transfer.json_lines import batches

    sizes = [
        len(batch.refused) for batch in batches(iter([b"x\n"] * 5000), backend_named("sqlite"))
    ]
    assert max(sizes) <= 500
    assert sum(sizes) == 5000
