"""Storage of documents: the size limit, and compression on SQLite."""

from __future__ import annotations

import sys

import peewee
import pytest

import aicontent
from aicontent.fields.compression import storage_of
from helpers import run_here, run_python

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BIG = {"title": "En la cafetería", "sections": [{"body": "¿Me trae la cuenta? " * 20}] * 50}
SMALL = {"title": "no"}

on_sqlite = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)


@pytest.fixture
def compressing(database):
    aicontent.configure(database, compress_over=500)
    return database


def stored(database, column="generatedData"):
    rows = database.execute_sql(
        f'SELECT typeof("{column}"), length("{column}") FROM ai_generated_content ORDER BY id'
    )
    return rows.fetchall()


def test_compression_cannot_be_told_by_its_reader(compressing, Content, store, user, kind):
    content = store(generated_data=BIG, metadata={"version": 1})
    store(generated_data=SMALL)
    if kind == "sqlite":
        (big, small) = stored(compressing)
        assert (big[0], small[0]) == ("blob", "text")
        assert big[1] < len(str(BIG)) / 10
    for found in (
        Content.get_by_id(content.id),
        Content.get(Content.id == content.id),
        Content.reuse(user, "lesson"),
        Content.select().where(Content.metadata["version"] == 1).get(),
    ):
        assert found.generated_data in (BIG, SMALL)
        assert not found.is_dirty()
    found = Content.get_by_id(content.id)
    found.generated_data["sections"].pop()
    assert [field.name for field in found.dirty_fields] == ["generated_data"]
    found.save()
    assert len(Content.get_by_id(content.id).generated_data["sections"]) == 49
    found.generated_data = SMALL
    found.save()
    assert Content.get_by_id(content.id).generated_data == SMALL
    assert aicontent.check(compressing) == []


@on_sqlite
def test_every_way_in_compresses(compressing, Content, user):
    row = {"user": user, "type": "lesson", "request_payload": BIG, "generated_data": BIG}
    Content.create_many([row])
    Content.bulk_create([Content(**row)])
    Content.insert(row | {"id": "plain"}).execute()
    Content.create(user=user, type="lesson", request_payload={})
    Content.update(generated_data=BIG).where(Content.generated_data.is_null()).execute()
    Content.request(user, "lesson", BIG)
    Content.claim().complete(BIG)
    stored_one = Content.get_by_id("plain")
    stored_one.validation_results = BIG
    Content.bulk_update([stored_one], ["validation_results"])
    assert Content.get_by_id("plain").validation_results == BIG
    Content.get_or_generate(user, "lesson", {"n": 1}, lambda content: BIG)
    assert [kind for kind, _ in stored(compressing)].count("blob") >= 5
    for content in Content.select():
        assert content.generated_data in (BIG, None)


LOOKS = {
    "path": lambda field: field["title"] == "x",
    "path_of_null": lambda field: field["title"].is_null(),
    "whole": lambda field: field == BIG,
    "not_whole": lambda field: field != BIG,
    "in": lambda field: field.in_([BIG]),
    "not_in": lambda field: field.not_in([BIG]),
    "among": lambda field: field << [BIG],
    "contains": lambda field: field.contains(SMALL),
    "has_key": lambda field: field.has_key("title"),
    "length": lambda field: field.length() == 2,
    "text": lambda field: field["title"].as_text().startswith("x"),
}


@on_sqlite
@pytest.mark.parametrize("name", LOOKS)
def test_a_query_into_what_may_be_compressed_is_refused(compressing, Content, store, name):
    store(generated_data=BIG)
    with pytest.raises(aicontent.AIContentError, match=r"generated_data may be compressed.*metad"):
        Content.select().where(LOOKS[name](Content.generated_data)).count()
    path = Content.generated_data["title"]
    with pytest.raises(aicontent.AIContentError, match="generated_data may be compressed"):
        Content.update(generated_data=path.set("x")).execute()
    assert Content.select().where(Content.topics == ["x"]).count() == 0
    assert Content.select().where(Content.generated_data.is_null()).count() == 0
    aicontent.configure(compressing, compress_over=None)
    assert Content.update(generated_data=SMALL).execute() == 1
    assert Content.select().where(Content.generated_data["title"] == "no").count() == 1


@on_sqlite
@pytest.mark.parametrize("name", LOOKS)
def test_a_process_that_does_not_compress_reads_and_gets_no_wrong_answer(
    url, store, database, name
):
    aicontent.configure(database, compress_over=500)
    content = store(generated_data=BIG)
    other = aicontent.connect(url)
    model = aicontent.for_database(other)
    assert model.get_by_id(content.id).generated_data == BIG
    with pytest.raises(peewee.OperationalError, match="malformed JSON"):
        model.select().where(LOOKS[name](model.generated_data)).count()
    other.close()


def test_the_option_of_the_url(tmp_path):
    url = f"sqlite:///{tmp_path}/content.db?compress_over=100"
    database = aicontent.connect(url)
    aicontent.migrate(database, create_users=True)
    model = aicontent.for_database(database)
    user = model.user.rel_model.create()
    content = model.create(user=user, type="lesson", request_payload=BIG)
    assert stored(database, "requestPayload")[0][0] == "blob"
    status, lines, _ = run_here("export", "--database", url)
    assert (status, lines.count("cuenta") > 0) == (0, True)
    (tmp_path / "lines.jsonl").write_text(lines)
    other = f"sqlite:///{tmp_path}/other.db?compress_over=100"
    assert run_here("migrate", "--create-users", "--database", other)[0] == 0
    assert run_here("import", str(tmp_path / "lines.jsonl"), "--database", other)[0] == 0
    moved = aicontent.connect(other)
    assert stored(moved, "requestPayload")[0][0] == "blob"
    assert aicontent.for_database(moved).get_by_id(content.id).request_payload == BIG
    for wrong in ("compress_over=x", "compress_over=", "compress=1", "compress_over=1&x=2"):
        with pytest.raises(aicontent.DatabaseURLError, match="compress_over=CHARACTERS"):
            aicontent.connect(f"sqlite:///{tmp_path}/content.db?{wrong}")
    database.close()
    moved.close()


def test_without_zstd_it_is_told_what_to_install(tmp_path):
    url = f"sqlite:///{tmp_path}/content.db"
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("backports.zstd", "compression.zstd")))
import aicontent
database = aicontent.connect({url!r})
try:
    {{}}
except aicontent.AIContentError as error:
    print(error)
"""
    database = aicontent.connect(url + "?compress_over=100")
    aicontent.migrate(database, create_users=True)
    model = aicontent.for_database(database)
    model.create(user=model.user.rel_model.create(), type="lesson", request_payload=BIG)
    database.close()
    for call in (
        "aicontent.configure(database, compress_over=100)",
        "aicontent.for_database(database).get()",
        "list(aicontent.export_lines(database))",
    ):
        ran = run_python(code.format(call))
        assert "pip install 'aicontent[compress]'" in ran.stdout, ran.stderr


CLAIM = """
import sys
import aicontent
model = aicontent.for_database(aicontent.connect(sys.argv[1]))
sys.modules.update(dict.fromkeys(("backports.zstd", "compression.zstd")))
for _ in range(4):
    try:
        model.claim()
    except aicontent.AIContentError as error:
        print(error)
"""


CHECK = """
import sys
sys.modules.update(dict.fromkeys(("backports.zstd", "compression.zstd")))
import aicontent
print(aicontent.check(aicontent.connect(sys.argv[1])))
"""


@on_sqlite
def test_a_worker_without_zstd_uses_up_no_attempts(compressing, Content, url, user):
    Content.request(user, "lesson", BIG)
    ran = run_python(CLAIM, url)
    assert ran.stdout.count("need zstd") == 4, ran.stderr
    assert "need zstd" in run_python(CHECK, url).stdout
    claimed = Content.claim()
    assert (claimed.attempts, claimed.failures, claimed.request_payload) == (5, 0, BIG)


def test_settings_that_are_not_named_stay(database):
    aicontent.configure(database, compress_over=100)
    aicontent.configure(database, max_document_bytes=50)
    assert vars(storage_of(database)) == {"compress_over": 100, "max_document_bytes": 50}
    with pytest.raises(aicontent.ValidationError, match="compress: is not a setting; the"):
        aicontent.configure(database, compress=True)
    proxy = peewee.DatabaseProxy()
    for nothing in (proxy, "sqlite:///x.db", None):
        with pytest.raises(aicontent.UnsupportedDatabaseError):
            aicontent.configure(nothing, compress_over=1)
    proxy.initialize(database)
    aicontent.configure(proxy, compress_over=None)
    assert storage_of(database).compress_over is None


def test_a_query_by_an_alias_looks_into_documents_too(database, Content, store, kind):
    content = store(metadata={"k": 1}, generated_data=SMALL)
    other = Content.alias()
    query = Content.select().join(other, on=(Content.id == other.id))
    for condition in (
        other.metadata["k"] == 1,
        other.metadata.has_key("k"),
        other.generated_data == SMALL,
        other.generated_data.in_([SMALL]),
    ):
        assert [each.id for each in query.where(condition)] == [content.id]
    if kind == "sqlite":
        aicontent.configure(database, compress_over=500)
        with pytest.raises(aicontent.AIContentError, match="may be compressed"):
            query.where(other.generated_data == BIG).count()


DEFENSIVE = """
import sqlite3, sys
import peewee, aicontent
database = aicontent.connect(sys.argv[1])
connection = database.connection()
connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
database.execute_sql("PRAGMA foreign_keys = 1")
try:
    print(len(aicontent.migrate(database)), aicontent.check(database))
except aicontent.MigrationError as error:
    print(error)
print(*database.execute_sql("PRAGMA foreign_key_check").fetchall())
"""


@on_sqlite
@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 cannot set this before")
def test_a_defensive_sqlite_gets_a_copy_of_the_table(url, database, Content, store):
    content = store()
    aicontent.rollback(database, 2)
    database.execute_sql(
        "CREATE TABLE o (id TEXT REFERENCES ai_generated_content ON DELETE CASCADE)"
    )
    database.execute_sql("INSERT INTO o VALUES (?)", (content.id,))
    assert "but other tables reference it (o)" in run_python(DEFENSIVE, url).stdout
    assert database.execute_sql("SELECT count(*) FROM o").fetchone() == (1,)
    database.execute_sql("DROP TABLE o")
    ran = run_python(DEFENSIVE, url)
    assert ran.stdout == "2 []\n\n", ran.stderr
    assert Content.get_by_id(content.id) == content


@on_sqlite
def test_what_only_looks_compressed(database, Content, store):
    content = store()
    database.execute_sql("UPDATE ai_generated_content SET \"generatedData\" = x'28b52ffd00'")
    with pytest.raises(aicontent.CorruptDocumentError, match="compressed document cannot be read"):
        Content.get_by_id(content.id)
    with pytest.raises(aicontent.AIContentError, match=f"content {content.id} cannot be read"):
        list(aicontent.export_lines(database))
    none = zstd.compress(b"no JSON")
    database.execute_sql('UPDATE ai_generated_content SET "generatedData" = ?', (none,))
    with pytest.raises(aicontent.CorruptDocumentError, match="is not JSON"):
        Content.get_by_id(content.id)
    for value in ("x'00'", "x'28b52ffe'", "'{'"):
        with pytest.raises(peewee.IntegrityError):
            database.execute_sql(f'UPDATE ai_generated_content SET "generatedData" = {value}')
    with pytest.raises(peewee.IntegrityError):
        database.execute_sql("UPDATE ai_generated_content SET metadata = x'28b52ffd00'")


@on_sqlite
def test_the_checks_are_widened_for_connections_that_are_open(url, database, store):
    """A rollback narrows the checks again, but only if no document is compressed."""
    store()
    aicontent.rollback(database, 2)
    assert database.execute_sql("PRAGMA integrity_check").fetchall() == [("ok",)]
    with pytest.raises(peewee.IntegrityError):
        database.execute_sql("UPDATE ai_generated_content SET \"generatedData\" = x'28b52ffd00'")
    migrate = "import sys, aicontent; aicontent.migrate(aicontent.connect(sys.argv[1]))"
    assert run_python(migrate, url).returncode == 0
    aicontent.configure(database, compress_over=500)
    content = store(generated_data=BIG)
    with pytest.raises(aicontent.MigrationError, match="export the content"):
        aicontent.rollback(database, 2)
    assert aicontent.check(database) == []
    content.generated_data = SMALL
    content.save()
    aicontent.rollback(database, 2)
    assert database.execute_sql("PRAGMA integrity_check").fetchall() == [("ok",)]


@on_postgresql
def test_lz4_is_chosen_where_the_server_has_it(database):
    sql = "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'"
    has_it = "lz4" in database.execute_sql(sql).fetchone()[0]
    chosen = (
        "SELECT DISTINCT attcompression FROM pg_attribute WHERE NOT attisdropped "
        "AND attrelid = 'ai_generated_content'::regclass AND atttypid = 'jsonb'::regtype"
    )
    assert database.execute_sql(chosen).fetchall() == [("l" if has_it else "",)]
    aicontent.rollback(database, 2)
    assert database.execute_sql(chosen).fetchall() == [("",)]


def test_a_document_that_is_too_large(database, Content, store, user):
    content = store(generated_data=SMALL)
    lines = list(aicontent.export_lines(database))
    aicontent.configure(database, max_document_bytes=100)
    too_large = {"text": "é" * 60}  # the limit counts bytes, not characters
    rule = (
        r"must be at most 100 bytes as JSON \(to allow more, use aicontent.configure or "
        r"aicontent import --max-document-bytes\); got 131 bytes"
    )
    row = {"user": user, "type": "lesson", "request_payload": {}}
    content.metadata = too_large
    for write in (
        lambda: Content.create(**row | {"generated_data": too_large}),
        lambda: Content.create_many([row, row | {"generated_data": too_large}]),
        lambda: Content.insert(row | {"id": "x", "generated_data": too_large}).execute(),
        content.save,
    ):
        with pytest.raises(aicontent.ValidationError, match=rule):
            write()
    refused = []
    line = lines[0].replace(b"no", b"no" * 60)
    aicontent.import_lines(database, [line], on_conflict="replace", refused=refused.append)
    assert [each.reason.split(";")[0] for each in refused] == [
        "generatedData: must be at most 100 bytes as JSON (to allow more, use aicontent.configure "
        "or aicontent import --max-document-bytes)"
    ]
    assert Content.select().count() == 1
    assert Content.get_by_id(content.id).generated_data == SMALL
    aicontent.configure(database, max_document_bytes=131)
    assert Content.create(**row | {"generated_data": too_large}).generated_data == too_large


def test_the_default_cap_is_that_of_a_mistake(database, Content, user):
    with pytest.raises(aicontent.ValidationError, match="must be at most 16,000,000 bytes"):
        Content.create(user=user, type="lesson", request_payload={"text": "x" * 16_000_000})
    large = {"text": "x" * 5_000_000}
    assert Content.create(user=user, type="lesson", request_payload=large).request_payload == large


@pytest.mark.parametrize("value", [-1, True, "1", 1.5])
@pytest.mark.parametrize("name", ["max_document_bytes", "compress_over"])
def test_settings_that_cannot_be(database, name, value):
    with pytest.raises(aicontent.ValidationError, match=f"{name}: must be an int of at least 0"):
        aicontent.configure(database, **{name: value})


def test_a_model_of_a_compressing_database_can_be_bound_and_subclassed(make_url):
    compressing = aicontent.connect(f"{make_url('sqlite', True)}?compress_over=10")
    other = aicontent.connect(make_url("sqlite", True))
    for database in (compressing, compressing, other, compressing):
        aicontent.bind(database)
    own = aicontent.for_database(compressing)
    type("Sub", (own,), {"Meta": type("Meta", (), {"table_name": own._meta.table_name})})
    own.alias()
    with aicontent.AIGeneratedContent.bind_ctx(other, bind_refs=False, bind_backrefs=False):
        assert aicontent.AIGeneratedContent.select().count() == 0
    aicontent.bind(other)
