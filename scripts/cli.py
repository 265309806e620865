"""Define the `aicontent` command. It parses and prints; the library does the work."""

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
from .options import Group, Number, database_option, json_option, open_database, type_option
from .quickstart import run as run_quickstart
from .requeue import requeue
from .stats import stats
from .systemd_unit import systemd_unit
from .transfer import export_command, import_command
from .work import work


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aicontent")
def main() -> None:
    """Keep AI-generated content for reuse, in one table of SQLite or PostgreSQL.

    \b
    See how it works           aicontent quickstart
    Create the table           aicontent migrate --create-users
    Generate requested rows    aicontent work MODULE:FUNCTION
    Delete expired rows        aicontent cleanup
    Report problems            aicontent check

    Every command except systemd-unit takes the database from --database URL, or else from the
    environment variable AICONTENT_DATABASE_URL, or else uses the SQLite file aicontent.db in the
    current directory. `aicontent COMMAND --help` explains a command.

    The exit status is 0 for success, 1 for an error, and 2 for a wrong argument or option. The
    help of cleanup, export and import lists their other statuses.
    """


@main.command()
@database_option
@click.option("--create-users", is_flag=True, help="Create a users table if there is none.")
@click.option(
    "--partitions",
    type=Number(1, MOST),
    help="Create the table in this number of partitions by user id. PostgreSQL only.",
)
@click.option(
    "--schema",
    metavar="NAME",
    help="Create a second table in this schema, the first of the search path. PostgreSQL only.",
)
@click.option("--dry-run", is_flag=True, help="Print the SQL and change nothing.")
@json_option
def migrate(
    url: str,
    create_users: bool,
    partitions: int | None,
    schema: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Create the table, or bring it up to date after an upgrade.

    Each row belongs to a user, so the database needs a users table: your own, or the one that
    --create-users creates, which has only ids. A SQLite file that does not exist is created with
    --create-users only.

    On PostgreSQL another tool can run the SQL of --dry-run, in one transaction.

    \b
    Example:
        aicontent migrate --create-users --database sqlite:///content.db
    """
    for name, value in (("partitions", partitions), ("schema", schema)):
        if value is not None and url.lower().startswith("sqlite:"):
            raise click.UsageError(f"--{name} is for PostgreSQL; SQLite has none: leave it out")
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
    text = "\n".join(f"migrated {name}" for name in names) or "up to date"
    click.echo(json.dumps({"migrated": names}) if as_json else text)


@main.command()
@database_option
@click.option(
    "--steps",
    type=Number(min=1),
    default=1,
    show_default=True,
    help="How many migrations to roll back, starting with the latest.",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def rollback(url: str, steps: int, yes: bool) -> None:
    """Roll back the latest migrations, after a confirmation.

    Rolling back 001 deletes the table with all content, 003 deletes the columns for claims, and
    006 those for retries. The others delete no data. On SQLite, 005 is refused while documents
    are compressed.

    The exit status is 1 if the confirmation is denied.
    """
    database = open_database(url)
    if not yes:
        click.confirm(_question(database, steps), abort=True)
    names = aicontent.rollback(database, steps)
    click.echo("\n".join(f"rolled back {name}" for name in names) or "nothing to roll back")


@main.command()
@click.argument("file", type=click.File("rb"), required=False)
@database_option
@type_option("The type of lines of FILE without one; personalized_exercise by default.")
def quickstart(file: IO[bytes] | None, url: str, content_type: str | None) -> None:
    """Show how content is generated once, reused and deleted.

    The tour takes a few seconds and needs no AI model. It creates the table, and on SQLite the
    file, if there is none, stores samples for a new user, and leaves them there for you to
    explore. It refuses a database whose users table belongs to an application.

    FILE has your own content instead of the samples: one JSON object per line with the table's
    column names as keys, as for `aicontent import`. Each line gets a new id and the tour's user.
    The tour lists the lines that it cannot store, and stores the others; the exit status is 1 if
    it can store none.

    \b
    Example:
        aicontent quickstart content.jsonl --type lesson --database sqlite:///tour.db
    """
    if content_type is not None and file is None:
        raise click.UsageError("--type needs a FILE: the samples have types")
    kind = content_type or ContentType.PERSONALIZED_EXERCISE
    run_quickstart(open_database(url, must_exist=False), redact(url), file, kind)


for command in (check, cleanup, export_command, import_command, requeue, stats, systemd_unit, work):
    main.add_command(command)


def _question(database: peewee.Database, steps: int) -> str:
    with database.connection_context():
        names = applied(database)[::-1][:steps]
        rows = peewee.Table(TABLE).bind(database).select().count() if names else 0
    content = counted(rows, "row")
    lost = next((text.format(content) for name, text in _LOST.items() if name in names), "no data")
    return f"This rolls back {', '.join(names) or 'nothing'}, and deletes {lost}. Continue?"


_LOST = {
    "001_create_ai_generated_content": "the table with {} of content",
    "003_add_claims": "the claims of {}: fingerprints, attempts and leases",
    "006_retry_claims": "the failures, limits and retry times of {}",
}
"""The data that rolling back a migration deletes. The earliest migration deletes the most."""
