"""A Node service (Knex, Objection.js) shares the PostgreSQL table with Python."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import aicontent

Catalog = dict[str, Any]
Content = type[aicontent.AIGeneratedContent]
Run = Callable[..., str]

NODE_FILES = Path(__file__).parent / "node"
OFFLINE = ("EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ENOTFOUND", "ETIMEDOUT")

DOCUMENTS = (
    "requestPayload",
    "generatedData",
    "validationResults",
    "metadata",
    "topics",
    "focusAreas",
)
TIMES = ("lastAccessedAt", "expiresAt", "createdAt", "updatedAt")
COUNTERS = ("estimatedCompletionTime", "generationTimeMs", "tokenUsage", "usageCount")
FOR_CLAIMS = (
    "fingerprint",
    "attempts",
    "leaseExpiresAt",
    "failures",
    "maxAttempts",
    "retryAt",
    "queued",
    "idx_ai_content_fingerprint",
    "idx_ai_content_in_flight",
    "idx_ai_content_pending",
    "idx_ai_content_retry",
)
PARTIAL_INDEXES = (
    ("idx_ai_content_failed", '"createdAt"', "failed"),
    ("idx_ai_content_reuse", '"userId", type, "usageCount", "createdAt" DESC', "completed"),
    (
        "idx_ai_content_reuse_level",
        '"userId", type, level, "usageCount", "createdAt" DESC',
        "completed",
    ),
)
TRIGGER = "update_ai_generated_content_updated_at"

# The first column names an object. Each other column is a property of the object.
CATALOG_QUERIES = {
    "column": """
        SELECT a.attname, a.attnum AS position, format_type(a.atttypid, a.atttypmod) AS type,
            a.attnotnull AS not_null, pg_get_expr(d.adbin, d.adrelid) AS default,
            col_description(a.attrelid, a.attnum) AS comment
        FROM pg_attribute a
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = 'ai_generated_content'::regclass AND a.attnum > 0
    """,
    "constraint": """
        SELECT conname, pg_get_constraintdef(oid) AS definition
        FROM pg_constraint WHERE conrelid = 'ai_generated_content'::regclass
    """,
    "index": """
        SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) AS definition
        FROM pg_index WHERE indrelid = 'ai_generated_content'::regclass
    """,
    "trigger": """
        SELECT t.tgname, t.tgenabled::text AS enabled, p.proname AS function,
            replace(pg_get_triggerdef(t.oid), p.proname, '...') AS definition,
            l.lanname AS language, btrim(regexp_replace(p.prosrc, '\\s+', ' ', 'g')) AS body
        FROM pg_trigger t
        JOIN pg_proc p ON p.oid = t.tgfoid
        JOIN pg_language l ON l.oid = p.prolang
        WHERE t.tgrelid = 'ai_generated_content'::regclass AND NOT t.tgisinternal
    """,
}


def read_catalog(url: str) -> Catalog:
    """Return the table's catalog entries from PostgreSQL, by object and property."""
    database = aicontent.connect(url)
    catalog: Catalog = {}
    with database.connection_context():
        for kind, sql in CATALOG_QUERIES.items():
            cursor = database.execute_sql(sql)
            properties = [column[0] for column in cursor.description[1:]]
            for name, *values in cursor.fetchall():
                for key, value in zip(properties, values, strict=True):
                    catalog[f"{kind} {name}: {key}"] = value
    return catalog


def make_users(url: str) -> None:
    """Create the host's users table."""
    database = aicontent.connect(url)
    with database.connection_context():
        database.execute_sql("CREATE TABLE users (id serial PRIMARY KEY)")


def differences(one: Catalog, other: Catalog) -> dict[str, tuple[Any, Any]]:
    pairs = {key: (one.get(key), other.get(key)) for key in one.keys() | other.keys()}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def deliberate_differences() -> dict[str, tuple[Any, Any]]:
    """Return the differences from the Knex migration that the docs list."""
    checks = {column: f'(("{column}" >= 0))' for column in COUNTERS}
    checks["validationScore"] = (
        '((("validationScore" >= (0)::double precision) AND '
        '("validationScore" <= (1)::double precision)))'
    )
    first, last = (
        f"to_timestamp(('{seconds}'::bigint)::double precision)"
        for seconds in (-62135510400, 253402214400)
    )
    ranges = {column: f'((("{column}" >= {first}) AND ("{column}" < {last})))' for column in TIMES}
    return {
        **{
            f"constraint ai_generated_content_{column}_range: definition": (None, f"CHECK {rule}")
            for column, rule in ranges.items()
        },
        **{f"column {column}: type": ("json", "jsonb") for column in DOCUMENTS},
        **{
            f"constraint ai_generated_content_{column}_check: definition": (None, f"CHECK {rule}")
            for column, rule in checks.items()
        },
        **{
            f"index {name}: definition": (
                None,
                f"CREATE INDEX {name} ON public.ai_generated_content "
                f"USING btree ({columns}) WHERE (status = '{status}'::text)",
            )
            for name, columns, status in PARTIAL_INDEXES
        },
        f"trigger {TRIGGER}: function": (
            "update_updated_at_column",
            "ai_generated_content_set_updated_at",
        ),
    }


def install(npm: str, folder: Path) -> None:
    """Install the packages of package.json unless they are up to date."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        install_locked(npm, folder)


def install_locked(npm: str, folder: Path) -> None:
    package = folder / "package.json"
    installed = folder / "node_modules" / ".package-lock.json"  # npm writes this file last
    if installed.exists() and installed.stat().st_mtime >= package.stat().st_mtime:
        return
    # Without a network, npm retries for minutes.
    patience = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000")
    done = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", *patience],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode and any(code in done.stderr for code in OFFLINE):
        pytest.skip("npm cannot reach its registry")
    assert done.returncode == 0, done.stderr
    installed.touch()


@pytest.fixture(scope="session")
def run_node(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs a file of tests/node: `run_node(file, *args)`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("needs node and npm")
    folder = NODE_FILES
    if not os.access(folder, os.W_OK):
        folder = tmp_path_factory.mktemp("node")
        shutil.copytree(NODE_FILES, folder, dirs_exist_ok=True)
    install(npm, folder)

    def run(file: str, *args: object) -> str:
        command = [node, file, *map(str, args)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def shared_url(make_url: Callable[..., str]) -> str:
    return make_url("postgresql", True)


@pytest.fixture
def shared(shared_url: str) -> Iterator[Content]:
    """Yield the Python model on the table that the Node service shares."""
    database = aicontent.connect(shared_url)
    yield aicontent.for_database(database)
    database.close()


@pytest.fixture
def owner(shared: Content) -> int:
    """Store the user who owns the content, and return the id."""
    return int(shared.user.rel_model.create().id)


@pytest.fixture
def from_python(shared: Content, owner: int) -> aicontent.AIGeneratedContent:
    """Store a row from Python before the service runs, with a value in every column."""
    content = shared.create(
        user=owner,
        type="lesson",
        status="completed",
        request_payload={"topic": "日本 🎓", "nested": [[], {}, [{"deep": [None, True]}]], "": 0},
        generated_data={"words": ['"quoted"', "back\\slash", "{a,b}"], "largest": 2**53 - 1},
        validation_results={"passed": True, "scores": [0.1, 1e-7, -2.5]},
        metadata={},
        level="A2",
        topics=["comida", "viajes"],
        focus_areas=[],
        estimated_completion_time=15,
        validation_score=0.87,
        generation_time_ms=2300,
        token_usage=1800,
        model_used="some-model",
        usage_count=1,
        last_accessed_at=datetime.now(UTC),
        expires_at=datetime.now(timezone(timedelta(hours=2))) + timedelta(hours=1),
    )
    return shared.get_by_id(content.id)


@pytest.fixture
def seen(
    run_node: Run,
    shared_url: str,
    owner: int,
    from_python: aicontent.AIGeneratedContent,
) -> dict[str, Any]:
    """Run the service to its end, and return its report."""
    report: dict[str, Any] = json.loads(run_node("service.js", shared_url, owner))
    return report


def as_node(content: aicontent.AIGeneratedContent) -> dict[str, Any]:
    """Return the row in the form that Objection.js prints; JavaScript's times have milliseconds."""
    row = {field.column_name: content.__data__[field.name] for field in content._meta.sorted_fields}
    return {
        name: value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if isinstance(value, datetime)
        else value
        for name, value in row.items()
    }


def moments(content: aicontent.AIGeneratedContent) -> list[datetime]:
    values = (content.created_at, content.updated_at, content.expires_at, content.last_accessed_at)
    return [value for value in values if value is not None]


def test_table_differs_from_the_knex_migration_only_as_documented(
    run_node: Run, make_url: Callable[..., str]
) -> None:
    """Columns, constraints, indexes and trigger match the specification, except the listed ones."""
    by_knex, by_us = make_url("postgresql"), make_url("postgresql")
    for url in (by_knex, by_us):
        make_users(url)
    run_node("migration.js", by_knex)
    aicontent.migrate(aicontent.connect(by_us))
    knex, ours = read_catalog(by_knex), read_catalog(by_us)
    found = differences(knex, ours)
    added = {key.split(":")[0] for key in found if any(name in key for name in FOR_CLAIMS)}
    added = {name for name in added if not name.endswith("_not_null")}  # listed since PostgreSQL 18
    assert added == {
        *(f"column {name}" for name in FOR_CLAIMS[:7]),
        *(f"index {name}" for name in FOR_CLAIMS[7:]),
        *(
            f"constraint ai_generated_content_{name}_check"
            for name in ("attempts", "failures", "maxAttempts")
        ),
        "constraint ai_generated_content_leaseExpiresAt_range",
        "constraint ai_generated_content_retryAt_range",
    }
    kept = {k: pair for k, pair in found.items() if not any(name in k for name in FOR_CLAIMS)}
    assert kept == deliberate_differences()


def test_python_reads_what_node_wrote(shared: Content, seen: dict[str, Any]) -> None:
    """Python reads the service's documents and values unchanged, and its times in UTC."""
    written = seen["written"]["full"]
    content = shared.get_by_id(written["id"])
    row = as_node(content)
    assert {name: row[name] for name in written} == written
    assert all(moment.tzinfo is UTC for moment in moments(content))
    assert content.expires_at == datetime.fromisoformat(written["expiresAt"])
    assert content.last_accessed_at == datetime.fromisoformat(written["lastAccessedAt"])


def test_node_reads_what_python_wrote(
    seen: dict[str, Any], owner: int, from_python: aicontent.AIGeneratedContent
) -> None:
    """The service received Python's row with every value before it wrote any row."""
    assert seen["received"] == [as_node(from_python)]
    assert seen["user"] == {"id": owner}


def test_both_sides_see_the_same_rows(shared: Content, seen: dict[str, Any]) -> None:
    """After the service's writes, both sides read the same values in every row."""
    assert [as_node(content) for content in shared.select().order_by(shared.id)] == seen["left"]


def test_node_queries_find_rows_of_both(
    shared: Content, seen: dict[str, Any], owner: int, from_python: aicontent.AIGeneratedContent
) -> None:
    """The model's static queries and helpers treat Python's rows like the service's rows."""
    ids = {name: row["id"] for name, row in seen["written"].items()}
    lessons = {ids[n] for n in ("lesson", "used", "otherLevel", "expired", "failed", "recent")}
    assert seen["reusableOfLevel"] == [ids["lesson"], from_python.id, ids["used"]]
    assert set(seen["reusable"]) == {*seen["reusableOfLevel"], ids["otherLevel"]}
    assert set(seen["ofType"]) == {*lessons, from_python.id}
    assert seen["ofType"][-1] == ids["failed"]
    assert seen["expired"] == [ids["expired"]]
    assert set(seen["unusable"]) == {ids[n] for n in ("expired", "failed", "recent", "patched")}


def test_trigger_sets_updated_at_on_a_node_patch(shared: Content, seen: dict[str, Any]) -> None:
    """A patch stores the database's time, although the model's hook sends Node's time."""
    assert seen["patched"] == {
        "count": 1,
        "status": "cached",
        "metadata": {"model": "another"},
        "setByTrigger": True,
    }
    content = shared.get_by_id(seen["written"]["patched"]["id"])
    assert content.status is aicontent.ContentStatus.CACHED
    assert content.metadata == {"model": "another"}


def test_node_marks_a_row_accessed(shared: Content, seen: dict[str, Any]) -> None:
    """Python reads the result of the model's markAccessed, which Objection.js stores."""
    content = shared.get_by_id(seen["written"]["used"]["id"])
    assert content.usage_count == seen["accessed"]["usageCount"] == 4
    assert content.last_accessed_at == datetime.fromisoformat(seen["accessed"]["lastAccessedAt"])


def test_node_cleanup_deletes_expired_and_failed(
    shared: Content, seen: dict[str, Any], from_python: aicontent.AIGeneratedContent
) -> None:
    """The cleanup deletes only the expired row and the row that failed 25 hours ago."""
    ids = {name: row["id"] for name, row in seen["written"].items()}
    gone = {ids.pop("expired"), ids.pop("failed")}
    assert seen["deleted"] == len(gone)
    assert seen["counted"] == len(gone) + len(ids) + 1
    assert {content.id for content in shared.select()} == {*ids.values(), from_python.id}


def test_python_reuses_what_node_wrote(shared: Content, seen: dict[str, Any], owner: int) -> None:
    """One reuse() of the service's row counts one use."""
    content = shared.reuse(owner, "vocabulary_drill", "A2")
    assert content is not None
    assert content.id == seen["written"]["full"]["id"]
    assert content.usage_count == shared.get_by_id(content.id).usage_count == 1
