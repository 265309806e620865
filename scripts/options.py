"""What the commands share: the option for the database, and opening it."""

from __future__ import annotations

import click
import peewee

import aicontent

database_option = click.option(
    "--database",
    "url",
    metavar="URL",
    envvar="AICONTENT_DATABASE_URL",
    default="sqlite:///aicontent.db",
    show_default=True,
    show_envvar=True,
    help="The database. A password is safer in the environment than on a command line.",
)


def open_database(url: str, *, must_exist: bool = True, wait: float = 5.0) -> peewee.Database:
    """Open the database, or tell of a usage error; `wait` is for locks, in seconds."""
    try:
        return aicontent.connect(url, timeout=wait, must_exist=must_exist)
    except aicontent.DatabaseURLError as error:
        raise click.BadParameter(str(error), param_hint="--database") from error
