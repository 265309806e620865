"""Test the migrations: up, down, concurrent, interrupted, and in a host's database."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import peewee
import pytest
from peewee_migrate import Router as HostRouter

import aicontent
from aicontent.database.supported import backend_of
from aicontent.schema.history import MIGRATIONS, applied, available
from aicontent.table import TABLE
from helpers import ROOT, plain, run_here, run_python, run_together

NAMES = available()
ALL = len(NAMES)


def is_sqlite(database):
    return isinstance(database, peewee.SqliteDatabase)


def everything(database):
    """Return the database's schema and rows as comparable values."""
    if is_sqlite(database):
        schema = database.execute_sql(
            "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"
        ).fetchall()
    else:
        schema = database.execute_sql(
            """
            SELECT 'relation', relname, relkind::text FROM pg_class
            WHERE relnamespace = 'public'::regnamespace
            UNION ALL SELECT 'function', proname, prosrc FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace
            UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger
            WHERE NOT tgisinternal
            UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace
            ORDER BY 1, 2, 3
            """
        ).fetchall()
    tables = database.get_tables()
    rows = {t: sorted(map(repr, database.execute_sql(f'SELECT * FROM "{t}"'))) for t in tables}
    return schema, rows


def without_history(state):
    """Return the state without our history table, which stays after a rollback."""
    schema, rows = state
    kept = [item for item in schema if "aicontent_migratehistory" not in item[1]]
    return kept, {t: r for t, r in rows.items() if t != "aicontent_migratehistory"}


@pytest.fixture
def host(empty, tmp_path):
    """A host application's database with its users, rows, history and trigger."""
    migrations = tmp_path / "host_migrations"
    migrations.mkdir()
    key = "INTEGER PRIMARY KEY" if is_sqlite(empty) else "serial PRIMARY KEY"
    (migrations / "001_host.py").write_text(
        f"def migrate(migrator, database, *, fake=False):\n"
        f"    migrator.sql('CREATE TABLE users (id {key}, name text NOT NULL)')\n"
        f"    migrator.sql('CREATE TABLE notes (id {key}, \"updatedAt\" text)')\n"
    )
    HostRouter(empty, migrate_dir=migrations).run()
    empty.execute_sql("INSERT INTO users (name) VALUES ('Ada'), ('Blaise')")
    empty.execute_sql("""INSERT INTO notes ("updatedAt") VALUES ('never')""")
    if is_sqlite(empty):
        empty.execute_sql(
            "CREATE TRIGGER notes_touched AFTER UPDATE ON notes FOR EACH ROW "
            "WHEN NEW.\"updatedAt\" <> 'by the host' BEGIN "
            "UPDATE notes SET \"updatedAt\" = 'by the host' WHERE id = NEW.id; END"
        )
    else:
        # The host has another function with the name from the specification.
        empty.execute_sql(
            "CREATE FUNCTION update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN NEW.\"updatedAt\" = 'by the host'; RETURN NEW; END; $$"
        )
        empty.execute_sql(
            "CREATE TRIGGER notes_touched BEFORE UPDATE ON notes FOR EACH ROW "
            "EXECUTE FUNCTION update_updated_at_column()"
        )
    return empty


def host_trigger_works(database):
    database.execute_sql("""UPDATE notes SET "updatedAt" = 'reset'""")
    return database.execute_sql('SELECT "updatedAt" FROM notes').fetchall() == [("by the host",)]


def test_up_down_and_up_again_leaves_the_host_as_it_was(host):
    assert host_trigger_works(host)
    before = everything(host)
    assert aicontent.migrate(host) == NAMES
    assert host_trigger_works(host)
    between = everything(host)
    assert aicontent.migrate(host) == []
    assert aicontent.check(host) == []
    assert everything(host) == between
    assert aicontent.rollback(host, ALL) == NAMES[::-1]
    assert host_trigger_works(host)
    assert without_history(everything(host)) == before
    assert aicontent.rollback(host) == []
    assert aicontent.migrate(host) == NAMES
    again, rows = without_history(everything(host))
    assert (again, rows) == without_history(between)
    assert host_trigger_works(host)
    assert [row[0] for row in host.execute_sql("SELECT name FROM migratehistory")] == ["001_host"]


def test_two_routers_in_one_process_keep_their_histories_apart(host, make_url, kind):
    other = aicontent.connect(make_url(kind))
    aicontent.migrate(other, create_users=True)
    aicontent.migrate(host)
    for database in (host, other):
        assert applied(database) == NAMES
    assert not other.table_exists("migratehistory")
    other.close()


def test_create_users_makes_a_minimal_table_that_outlives_a_rollback(empty):
    aicontent.migrate(empty, create_users=True)
    assert [column.name for column in empty.get_columns("users")] == ["id"]
    model = aicontent.for_database(empty)
    assert model.user.rel_model.create().id == 1
    aicontent.rollback(empty, ALL)
    assert empty.execute_sql("SELECT id FROM users").fetchall() == [(1,)]


def test_create_users_leaves_the_hosts_table_alone(host):
    aicontent.migrate(host, create_users=True)
    assert len(host.execute_sql("SELECT name FROM users").fetchall()) == 2


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ([], "there is no users table.*create_users=True"),
        (["CREATE TABLE users (name text)"], "no column id"),
        (["CREATE TABLE users (id numeric PRIMARY KEY)"], "users.id is .*must be an integer"),
        (["CREATE TABLE users (id integer)"], "not unique.*primary key"),
        (
            ["CREATE TABLE people (id integer PRIMARY KEY)", "CREATE VIEW users AS TABLE_people"],
            "users is a view",
        ),
    ],
    ids=["missing", "no id", "numeric id", "not unique", "view"],
)
def test_a_users_table_that_cannot_be_referenced(empty, statements, message):
    for statement in statements:
        empty.execute_sql(statement.replace("TABLE_people", "SELECT * FROM people"))
    before = everything(empty)
    with pytest.raises(aicontent.UsersTableError, match=message):
        aicontent.migrate(empty)
    assert everything(empty) == before


@pytest.mark.parametrize("id_type", ["bigint", "smallint", "integer"])
def test_any_integer_id_that_is_unique_can_be_referenced(empty, id_type):
    empty.execute_sql(f"CREATE TABLE users (id {id_type} NOT NULL UNIQUE, name text)")
    empty.execute_sql("INSERT INTO users (id) VALUES (5)")
    aicontent.migrate(empty)
    aicontent.for_database(empty).create(user=5, type="lesson", request_payload={})


def test_a_table_of_our_name_that_someone_else_made(host):
    host.execute_sql(f'CREATE TABLE "{TABLE}" (id integer PRIMARY KEY, mine text)')
    host.execute_sql(f"INSERT INTO \"{TABLE}\" VALUES (1, 'precious')")
    before = everything(host)
    with pytest.raises(aicontent.TableConflictError, match="rename it"):
        aicontent.migrate(host)
    assert everything(host) == before
    assert aicontent.check(host) == [
        f"aicontent did not create {TABLE}: see docs/guides/migrating.md"
    ]


@pytest.fixture
def broken(tmp_path):
    """The package's migrations and one more that fails after its first statement."""
    directory = tmp_path / "broken"
    shutil.copytree(MIGRATIONS, directory, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "900_broken.py").write_text(
        "def migrate(migrator, database, *, fake=False):\n"
        "    migrator.sql('CREATE TABLE half_way (id integer)')\n"
        "    migrator.sql('CREATE TABLE half_way (id integer)')\n"
        "def rollback(migrator, database, *, fake=False):\n"
        "    migrator.sql('DROP TABLE half_way')\n"
        "    migrator.sql('DROP TABLE half_way')\n"
    )
    return directory


def test_a_migration_that_fails_half_way_leaves_nothing(host, broken):
    before = everything(host)
    with pytest.raises(aicontent.MigrationError, match="nothing was changed.*half_way"):
        aicontent.migrate(host, directory=broken)
    assert everything(host) == before
    assert not host.in_transaction()
    assert aicontent.migrate(host) == NAMES


def test_a_rollback_that_fails_half_way_leaves_all(host, broken):
    text = (broken / "900_broken.py").read_text()
    (broken / "900_broken.py").write_text(
        text.replace("half_way (id", "IF NOT EXISTS half_way (id")
    )
    aicontent.migrate(host, directory=broken)
    before = everything(host)
    with pytest.raises(aicontent.MigrationError, match="nothing was changed.*half_way"):
        aicontent.rollback(host, 1 + ALL, directory=broken)
    assert everything(host) == before


def test_a_migration_that_is_no_python_is_reported_as_it_is(host, broken):
    (broken / "900_broken.py").write_text("def migrate(:")
    before = everything(host)
    with pytest.raises(SyntaxError):
        aicontent.migrate(host, directory=broken)
    assert everything(host) == before


def test_a_migration_of_a_newer_version(host, tmp_path):
    newer = tmp_path / "newer"
    shutil.copytree(MIGRATIONS, newer, ignore=shutil.ignore_patterns("__pycache__"))
    (newer / "999_newer.py").write_text("def migrate(migrator, database, *, fake=False): pass\n")
    aicontent.migrate(host, directory=newer)
    with pytest.raises(aicontent.MigrationError, match="999_newer.*upgrade"):
        aicontent.rollback(host, ALL)
    assert aicontent.check(host) == [
        "migration 999_newer comes from a newer aicontent: upgrade the package"
    ]


def test_a_directory_that_is_not_there(host, tmp_path):
    for change in (aicontent.migrate, aicontent.rollback):
        with pytest.raises(aicontent.MigrationError, match="no folder .*missing with"):
            change(host, directory=tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_the_takeover_that_the_documents_describe(host):
    """Take over a table with the names that the specification's migration uses."""
    aicontent.migrate(host)
    aicontent.rollback(host, ALL - 1)  # only the first migration is in the specification
    host.execute_sql("DROP TABLE aicontent_migratehistory")
    if not is_sqlite(host):
        function = "ai_generated_content_set_updated_at"
        host.execute_sql(f"ALTER FUNCTION {function} RENAME TO update_updated_at")
    host.execute_sql(
        f'INSERT INTO {TABLE} ("id", "userId", "type", "level", "requestPayload") '
        "VALUES ('one', 1, 'lesson', 'A1', '{}')"
    )
    (row,) = host.execute_sql(f"SELECT * FROM {TABLE}").fetchall()
    text = (ROOT / "docs/guides/migrating.md").read_text("utf-8")
    (sql,) = re.findall(r"^```sql\n(.*?)^```", text, re.M | re.S)
    others = "PostgreSQL only" if is_sqlite(host) else "SQLite only"
    for line in sql.splitlines():
        if line.startswith("-- now run"):
            assert aicontent.migrate(host) == NAMES
        elif not line.startswith("--") and others not in line:
            host.execute_sql(line)
    (kept,) = host.execute_sql(f"SELECT * FROM {TABLE}").fetchall()
    assert kept == (*row, None, 0, None, 0, None, None, True)
    assert aicontent.check(host) == []


def test_steps(host):
    for steps in (0, -1, True, "1", 1.0):
        with pytest.raises(aicontent.MigrationError, match="steps must be"):
            aicontent.rollback(host, steps)
    aicontent.migrate(host)
    assert aicontent.rollback(host, steps=99) == NAMES[::-1]


def test_a_transaction_of_the_callers_is_refused(host):
    with host.atomic(), pytest.raises(aicontent.MigrationError, match="outside atomic"):
        aicontent.migrate(host)


def test_the_connection_is_left_as_it_was_found(host):
    host.close()
    aicontent.migrate(host)
    assert host.is_closed()
    host.connect()
    aicontent.rollback(host, ALL)
    assert not host.is_closed()


MIGRATE = """
import sys, aicontent
database = aicontent.connect(sys.argv[1], timeout=30)
sys.stdin.read()
print(aicontent.migrate(database, create_users=True))
"""


def test_eight_processes_at_once(empty_url):
    outputs = run_together(MIGRATE, empty_url)
    assert [error for _, error in outputs if error] == []
    assert sorted(out for out, _ in outputs) == [f"{NAMES}\n"] + ["[]\n"] * 7
    database = aicontent.connect(empty_url)
    assert applied(database) == NAMES
    database.close()


def test_other_threads_writes_during_a_migration_all_arrive(host):
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        with host.connection_context():
            while not stop.is_set():
                host.execute_sql("INSERT INTO notes DEFAULT VALUES")
                written.append(1)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            aicontent.migrate(host)
            aicontent.rollback(host, ALL)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    (count,) = host.execute_sql("SELECT count(*) FROM notes").fetchone()
    assert count == len(written) + 1


def test_a_locked_database(host, empty_url):
    blocker = aicontent.connect(empty_url)
    impatient = aicontent.connect(empty_url, timeout=0.1)
    before = everything(host)
    with blocker.transaction():
        if not is_sqlite(blocker):
            blocker.execute_sql("LOCK TABLE users")
        with pytest.raises(aicontent.DatabaseUnavailableError, match="holds a lock.*again later"):
            aicontent.migrate(impatient, lock_timeout=0.1)
    assert everything(host) == before
    assert aicontent.migrate(impatient) == NAMES
    blocker.close()
    impatient.close()


def test_a_read_only_database(host):
    if is_sqlite(host):
        host.close()
        read_only = peewee.SqliteDatabase(
            f"file:{host.database}?mode=ro", uri=True, pragmas={"foreign_keys": 1}
        )
    else:
        read_only = peewee.PostgresqlDatabase(
            host.database, options="-c default_transaction_read_only=on"
        )
    with pytest.raises(aicontent.DatabaseUnavailableError, match="read-only"):
        aicontent.migrate(read_only)
    assert aicontent.check(read_only) == [f"there is no table {TABLE}: run `aicontent migrate`"]
    read_only.close()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_role_that_may_not_create_tables(host):
    host.execute_sql("DROP ROLE IF EXISTS aicontent_reader")
    host.execute_sql("CREATE ROLE aicontent_reader")
    limited = peewee.PostgresqlDatabase(host.database, options="-c role=aicontent_reader")
    with pytest.raises(aicontent.DatabaseUnavailableError, match="may not change the schema"):
        aicontent.migrate(limited)
    limited.close()
    host.execute_sql("DROP ROLE aicontent_reader")


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # SQLite allows dangling views
def test_what_depends_on_the_table_stops_a_rollback(host):
    aicontent.migrate(host)
    host.execute_sql(f'CREATE VIEW report AS SELECT id FROM "{TABLE}"')
    with pytest.raises(aicontent.MigrationError, match="report"):
        aicontent.rollback(host, ALL)
    assert aicontent.check(host) == []


def test_pw_migrate_runs_the_same_files_into_the_same_history(empty_url):
    """The conf.py next to the migrations names the history table."""
    database = aicontent.connect(empty_url)
    aicontent.migrate(database, create_users=True)
    aicontent.rollback(database, ALL)

    # Peewee's URL parser requires a host, but the host in the options takes precedence.
    pw_url = re.sub(r"^(postgresql://\w+):?@/", r"\1@localhost/", plain(empty_url))

    def pw_migrate(command: str) -> None:
        program = Path(sys.executable).parent / "pw_migrate"
        options = ["--directory", MIGRATIONS, "--database", pw_url]
        subprocess.run([program, command, *options], capture_output=True, check=True)

    pw_migrate("migrate")
    assert applied(database) == NAMES
    assert aicontent.check(database) == []
    assert aicontent.migrate(database) == []
    for _ in NAMES:
        pw_migrate("rollback")
    assert applied(database) == []
    assert aicontent.migrate(database) == NAMES
    database.close()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_eight_processes_whose_sessions_default_to_repeatable_read(empty_url, empty):
    name = empty.execute_sql("SELECT current_database()").fetchone()[0]
    empty.execute_sql(
        f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'"
    )
    outputs = run_together(MIGRATE, empty_url)
    assert [error for _, error in outputs if error] == []


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_schema_for_each_tenant(host):
    aicontent.migrate(host)
    host.execute_sql("CREATE SCHEMA tenant")
    tenant = peewee.PostgresqlDatabase(host.database, options="-c search_path=tenant,public")
    (problem,) = aicontent.check(tenant)
    assert problem.startswith(f"the table {TABLE} is not in the schema tenant but in public:")
    with pytest.raises(aicontent.MigrationError, match="in tenant would hide it: put public first"):
        aicontent.migrate(tenant)
    with pytest.raises(aicontent.MigrationError, match="in schema tenant, not in public"):
        aicontent.migrate(tenant, schema="public")
    assert aicontent.migrate(tenant, schema="tenant") == NAMES
    assert aicontent.migrate(tenant) == []
    assert aicontent.check(tenant) == aicontent.check(host) == []
    aicontent.for_database(tenant).create(user=1, type="lesson", request_payload={})
    assert aicontent.for_database(host).select().count() == 0
    assert aicontent.rollback(tenant, ALL) == NAMES[::-1]
    assert aicontent.check(host) == []
    tenant.close()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_schema_that_appears_hides_no_content(host, empty_url):
    """PostgreSQL's search path starts with a schema of the role's name, if it exists."""
    aicontent.migrate(host)
    Content = aicontent.for_database(host)  # noqa: N806
    Content.create(user=1, type="lesson", request_payload={})
    host.execute_sql("CREATE SCHEMA postgres")
    with pytest.raises(aicontent.MigrationError, match="public, and a new table in postgres"):
        aicontent.migrate(host)
    status, _, err = run_here("migrate", "--database", empty_url)
    assert (status, "--schema postgres" in err) == (1, True)
    assert run_here("check", "--database", empty_url)[0] == 1
    assert Content.select().count() == 1
    host.execute_sql("CREATE TABLE postgres.users (id integer PRIMARY KEY)")
    assert run_here("migrate", "--schema", "postgres", "--database", empty_url)[0] == 0
    host.execute_sql("DROP SCHEMA postgres CASCADE")
    assert aicontent.check(host) == []


def test_a_schema_is_refused_where_there_are_none(host, kind):
    if kind == "sqlite":
        with pytest.raises(
            aicontent.MigrationError, match="schema app: this database has no schemas"
        ):
            aicontent.migrate(host, schema="app")


def test_a_rollback_deletes_no_row_of_the_hosts(host):
    """SQLite's DROP TABLE first deletes the rows, and foreign keys of other tables cascade."""
    aicontent.migrate(host)
    content = aicontent.for_database(host).create(user=1, type="lesson", request_payload={})
    host.execute_sql(
        f'CREATE TABLE marks (content varchar(36) REFERENCES "{TABLE}" (id) ON DELETE CASCADE)'
    )
    host.execute_sql(f"INSERT INTO marks VALUES ('{content.id}')")
    before = everything(host)
    with pytest.raises(aicontent.MigrationError, match="marks"):
        aicontent.rollback(host, ALL)
    assert everything(host) == before


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_server_that_ends_the_connection(host, empty_url, broken):
    (broken / "900_broken.py").write_text(
        "def migrate(migrator, database, *, fake=False):\n"
        "    migrator.sql('SELECT pg_terminate_backend(pg_backend_pid())')\n"
    )
    before = everything(host)
    victim = aicontent.connect(empty_url)
    with pytest.raises(aicontent.DatabaseUnavailableError, match="cannot be reached"):
        aicontent.migrate(victim, directory=broken)
    assert everything(host) == before


def test_users_and_its_id_may_be_written_in_capitals_on_sqlite():
    database = peewee.SqliteDatabase(":memory:", pragmas={"foreign_keys": 1})
    database.execute_sql("CREATE TABLE Users (ID INTEGER PRIMARY KEY)")
    assert aicontent.migrate(database) == NAMES


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_an_id_of_a_domain_over_an_integer(empty):
    empty.execute_sql("CREATE DOMAIN user_id AS integer")
    empty.execute_sql("CREATE TABLE users (id user_id PRIMARY KEY)")
    assert aicontent.migrate(empty) == NAMES


def test_a_current_directory_that_was_removed(tmp_path):
    code = (
        "import os, sys, aicontent\n"
        "os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])\n"
        "database = aicontent.connect('sqlite:///:memory:')\n"
        "print(aicontent.check(database))\n"
        "try: aicontent.migrate(database)\n"
        "except aicontent.MigrationError as error: print(error)\n"
    )
    folder = tmp_path / "gone"
    folder.mkdir()
    ran = run_python(code, str(folder))
    assert ran.stderr == ""
    assert "run `aicontent migrate`" in ran.stdout
    assert "current directory was removed" in ran.stdout


def test_migrating_loads_peewee_migrate_and_importing_does_not():
    code = (
        "import sys, aicontent\n"
        "assert 'peewee_migrate' not in sys.modules\n"
        "database = aicontent.connect('sqlite:///:memory:')\n"
        "print(len(aicontent.migrate(database, create_users=True)))\n"
    )
    assert run_python(code).stdout == f"{ALL}\n"


@pytest.mark.parametrize("done", [0, 3])
def test_a_dry_run_prints_sql_that_migrates(empty_url, kind, done):
    """On PostgreSQL, another tool can run the printed SQL."""
    database = aicontent.connect(empty_url)
    before = backend_of(database).catalog(database).definitions(TABLE)
    if done:
        aicontent.migrate(database, create_users=True)
        aicontent.rollback(database, len(available()) - done)
        before = backend_of(database).catalog(database).definitions(TABLE)
    dry_run = ("migrate", "--create-users", "--dry-run", "--database", empty_url)
    status, script, _ = run_here(*dry_run)
    assert status == 0
    assert re.findall(r"^-- (\d.*)", script, re.M) == available()[done:]
    assert len(applied(database)) == done
    assert backend_of(database).catalog(database).definitions(TABLE) == before
    if kind == "postgresql":
        with database.atomic():
            database.execute_sql(script.replace("%", "%%"))
        assert aicontent.check(database) == []
        assert run_here(*dry_run)[1] == "-- up to date\n"
        aicontent.rollback(database, 99)
    else:
        assert "on SQLite this migration needs Python" in script


def test_a_dry_run_refuses_what_a_migration_refuses(empty_url):
    aicontent.connect(empty_url)
    status, out, err = run_here("migrate", "--dry-run", "--database", empty_url)
    assert (status, out) == (1, "")
    assert "there is no users table" in err
