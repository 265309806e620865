"""The `aicontent` command. It parses and prints; what is done is the library's matter."""

from __future__ import annotations

from typing import IO, Any

import click
import peewee

import aicontent
from aicontent import AIContentError, ContentType
from aicontent.connection import redact

from .quickstart import run as run_quickstart


class ErrorsExplained(click.Group):
    """Shows what the library and the database refuse as one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AIContentError as error:
            raise click.ClickException(str(error)) from error
        except peewee.PeeweeException as error:
            raise click.ClickException(" ".join(str(error).split())) from error


class DatabaseURL(click.ParamType):
    """A database URL, opened; click shows the default and the environment's name, no value."""

    name = "url"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> peewee.Database:
        if isinstance(value, peewee.Database):
            return value
        try:
            database = aicontent.connect(value)
        except aicontent.DatabaseURLError as error:
            self.fail(str(error), param, ctx)
        if ctx is not None:
            ctx.meta["aicontent.url"] = redact(value)
        return database


database_option = click.option(
    "--database",
    type=DatabaseURL(),
    envvar="AICONTENT_DATABASE_URL",
    default="sqlite:///aicontent.db",
    show_default=True,
    show_envvar=True,
    help="The database. A password is safer in the environment than on a command line.",
)


@click.group(cls=ErrorsExplained, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aicontent")
def main() -> None:
    """Keep AI-generated content for reuse, in SQLite or PostgreSQL."""


@main.command()
@database_option
@click.option("--create-users", is_flag=True, help="Make a minimal users table if there is none.")
def migrate(database: peewee.Database, create_users: bool) -> None:
    """Bring the schema up to date."""
    names = aicontent.migrate(database, create_users)
    for name in names:
        click.echo(f"migrated {name}")
    if not names:
        click.echo("up to date")


@main.command()
@database_option
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many migrations to take back, the latest first.",
)
@click.confirmation_option(
    "--yes",
    prompt="This deletes what the rolled back migrations store, content included. Go on?",
    help="Do not ask.",
)
def rollback(database: peewee.Database, steps: int) -> None:
    """Take back the latest migrations, and the content with the table."""
    names = aicontent.rollback(database, steps)
    for name in names:
        click.echo(f"rolled back {name}")
    if not names:
        click.echo("nothing to roll back")


@main.command()
@database_option
@click.pass_context
def check(ctx: click.Context, database: peewee.Database) -> None:
    """Look for what is missing or wrong; exit status 1 if anything is."""
    problems = aicontent.check(database)
    for problem in problems:
        click.echo(problem)
    if problems:
        ctx.exit(1)
    click.echo("sound")


@main.command()
@click.argument("file", type=click.File("rb"), required=False)
@database_option
@click.option(
    "--type",
    "content_type",
    type=click.Choice([member.value for member in ContentType]),
    default=ContentType.PERSONALIZED_EXERCISE.value,
    show_default=True,
    help="The type of FILE's lines that do not name one.",
)
@click.pass_context
def quickstart(
    ctx: click.Context, file: IO[bytes] | None, database: peewee.Database, content_type: str
) -> None:
    """Show content stored, reused and expired, and leave a database to explore.

    FILE holds content of your own as JSON lines: with the table's column names, or with
    instruction, input, output, status and similarity. Lines that cannot be stored are named,
    the others go in. Without FILE the content is a sample of each type.
    """
    run_quickstart(database, ctx.meta["aicontent.url"], file, content_type, click.echo)
