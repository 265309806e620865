"""The `aicontent` command. It parses and prints; the library does the work."""

import json
from typing import IO

import click
import peewee

import aicontent
from aicontent import ContentType
from aicontent.connection import redact
from aicontent.errors import counted
from aicontent.schema.history import applied
from aicontent.schema.migrate import migration_sql
from aicontent.schema.partitions import MOST
from aicontent.table import TABLE

from .check import check
from .cleanup import cleanup
from .options import Group, database_option, json_option, open_database, type_option
from .quickstart import run as run_quickstart
from .requeue import requeue
from .stats import stats
from .systemd_unit import systemd_unit
from .transfer import export_command, import_command
from .work import work


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aicontent")
def main() -> None:
    """Keep AI-generated content for reuse, in SQLite or PostgreSQL."""


@main.command()
@database_option
@click.option("--create-users", is_flag=True, help="Create a minimal users table if there is none.")
@click.option(
    "--partitions",
    type=click.IntRange(1, MOST),
    help="On PostgreSQL, create the table in this number of partitions by the user.",
)
@click.option(
    "--schema",
    metavar="NAME",
    help="The first schema of PostgreSQL's search path, to create a second table there.",
)
@click.option("--dry-run", is_flag=True, help="Print the SQL, and change nothing.")
@json_option
def migrate(
    url: str,
    create_users: bool,
    partitions: int | None,
    schema: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring the schema up to date.

    A SQLite file that does not exist is created only with --create-users: without a users table
    nothing could be stored in it.

    On PostgreSQL, what --dry-run prints can be run by other tools, in one transaction.
    """
    if partitions is not None and url.startswith("sqlite:"):
        raise click.UsageError("--partitions: SQLite has none; see docs/guides/scaling.md")
    database = open_database(url, must_exist=dry_run or not create_users, reads=dry_run)
    if dry_run:
        sql = migration_sql(database, create_users, partitions=partitions, schema=schema)
        if as_json:
            click.echo(json.dumps({"migrated": [], "sql": sql}))
        else:
            lines = (each if each.startswith("--") else f"{each};" for each in sql)
            click.echo("\n".join(lines) or "-- up to date")
        return
    names = aicontent.migrate(database, create_users, partitions=partitions, schema=schema)
    if as_json:
        click.echo(json.dumps({"migrated": names}))
    else:
        click.echo("\n".join(f"migrated {name}" for name in names) or "up to date")


@main.command()
@database_option
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many migrations to roll back, the latest first.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def rollback(url: str, steps: int, yes: bool) -> None:
    """Roll the latest migrations back.

    Rolling 001 back deletes the table with all content, 003 the columns of claims, and 006 those
    of retries. The others delete no data; 005 is refused on SQLite while documents are compressed.
    """
    database = open_database(url)
    if not yes:
        click.confirm(_question(database, steps), abort=True)
    names = aicontent.rollback(database, steps)
    for name in names:
        click.echo(f"rolled back {name}")
    if not names:
        click.echo("nothing to roll back")


@main.command()
@click.argument("file", type=click.File("rb"), required=False)
@database_option
@type_option("The type of FILE's lines that have none; personalized_exercise by default.")
def quickstart(file: IO[bytes] | None, url: str, content_type: str | None) -> None:
    """Show content stored, reused and expired.

    The content stays in the database, for you to explore. FILE holds your own content as JSON
    lines by the table's column names, as `aicontent import` takes them; the tour's user becomes
    their owner, and each gets a new id. Lines that cannot be stored are listed, and the others
    are stored. Without FILE the content is a sample of each type.
    """
    if content_type is not None and file is None:
        raise click.UsageError("--type applies only to FILE: the samples have their own types")
    kind = content_type or ContentType.PERSONALIZED_EXERCISE
    run_quickstart(open_database(url, must_exist=False), redact(url), file, kind)


for command in (check, cleanup, export_command, import_command, requeue, stats, systemd_unit, work):
    main.add_command(command)


def _question(database: peewee.Database, steps: int) -> str:
    with database.connection_context():
        names = applied(database)[::-1][:steps]
        rows = peewee.Table(TABLE).bind(database).select().count() if names else 0
    content = counted(rows, "row")
    goes = next((text.format(content) for name, text in _GOES.items() if name in names), "no data")
    return f"This rolls back {', '.join(names) or 'nothing'}, and deletes {goes}. Continue?"


_GOES = {
    "001_create_ai_generated_content": "the table with {} of content",
    "003_add_claims": "the claims of {}: fingerprints, attempts and leases",
    "006_retry_claims": "the failures, limits and retry times of {}",
}
