"""Define what several commands use: options, one-line errors, signals, opening the database."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import peewee

import aicontent
from aicontent import AIContentError, ContentType
from aicontent.database.constraints import reason_of_error, remedy
from aicontent.fields.scalars import MAX_INTEGER
from aicontent.generation.arguments import LONGEST
from aicontent.generation.defaults import MAX_ATTEMPTS
from aicontent.table import TABLE


class Group(click.Group):
    """The group of all commands: it shows errors as one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AIContentError as error:
            raise click.ClickException(str(error)) from error
        except (peewee.PeeweeException, *_driver_errors()) as error:
            text, known = reason_of_error(error), remedy(error)
            if "no such column" in text or ("column" in text and "does not exist" in text):
                text = f"{TABLE} is not up to date: run `aicontent migrate`"
            elif TABLE in text and ("no such table" in text or "does not exist" in text):
                text = f"there is no table {TABLE}: run `aicontent migrate`"
            elif known:
                text = f"{text}: {known}"
            raise click.ClickException(text) from error
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "new thread" not in str(error):
                raise
            raise click.ClickException("there is not enough memory") from error
        except BrokenPipeError:  # the reader of a pipe has ended; click exits without a message
            raise
        except OSError as error:
            _discard_output()
            raise click.ClickException(str(error)) from error


def _driver_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the loaded drivers, some of which Peewee does not wrap."""
    names = ("sqlite3", "psycopg2", "psycopg")
    return tuple(sys.modules[name].Error for name in names if name in sys.modules)


def _discard_output() -> None:
    # Otherwise Python tries to write the rest when it exits, and fails again.
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


database_option = click.option(
    "-d",
    "--database",
    "url",
    metavar="URL",
    envvar="AICONTENT_DATABASE_URL",
    default="sqlite:///aicontent.db",
    show_default=True,
    show_envvar=True,
    help="sqlite:///file.db or postgresql://host/name. Set a password only in the environment.",
)


class Number(click.IntRange):
    """An integer in a range, which the help calls NUMBER."""

    name = "number"


class Duration(click.ParamType):
    """A number of seconds, or of another unit; at most a hundred years by default."""

    def __init__(
        self, unit: str = "seconds", most: float = LONGEST.total_seconds(), min_open: bool = False
    ) -> None:
        self.name, self._most, self._min_open = unit, most, min_open

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number: float = click.FLOAT.convert(value, param, ctx)
        if not 0 <= number <= self._most or (self._min_open and number == 0):  # NaN fails too
            range = "above 0 and at most" if self._min_open else "from 0 to"
            self.fail(f"must be {range} {self._most:,.0f} {self.name}; got {value}", param, ctx)
        return number


wait_option = click.option(
    "--wait",
    type=Duration(),
    default=30,
    show_default=True,
    help="How long to wait for a locked SQLite database, or for a connection to PostgreSQL.",
)


def max_attempts_option(other: str) -> Callable[[Any], Any]:
    """Return the option --max-attempts; `other` names the stored number that it does not change."""
    help = f"Failures after which a row is failed, unless its request or a claim set {other}."
    number, default = Number(min=1, max=MAX_INTEGER), str(MAX_ATTEMPTS)
    return click.option("--max-attempts", type=number, show_default=default, help=help)


def type_option(help: str, *names: str, multiple: bool = False) -> Callable[[Any], Any]:
    """Return an option for one type, or for several; without names, --type as `content_type`."""
    types = click.Choice([member.value for member in ContentType])
    names = names or ("--type", "content_type")
    help += f" Types: {', '.join(types.choices)}."
    return click.option(*names, type=types, metavar="TYPE", multiple=multiple, help=help)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json and --quiet, which cannot be combined."""

    def exclude(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
        if value and any(ctx.params.get(name) for name in ("as_json", "quiet")):
            raise click.UsageError("--json and --quiet cannot be combined: choose one", ctx)
        return value

    for name, dest, help in (
        ("--quiet", "quiet", "Print only errors."),
        ("--json", "as_json", "Print the report as one JSON object."),
    ):
        command = click.option(name, dest, is_flag=True, help=help, callback=exclude)(command)
    return command


@contextmanager
def handled(numbers: Iterable[int], handler: Callable[..., object]) -> Iterator[None]:
    """Handle signals, and restore their handlers afterwards."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def open_database(
    url: str, *, must_exist: bool = True, wait: float = 5.0, reads: bool = False
) -> peewee.Database:
    """Open the database, or raise a usage error.

    Args:
        url: the database's URL.
        must_exist: refuse to create a SQLite file.
        wait: seconds to wait for a locked SQLite database, or for a connection to PostgreSQL.
        reads: open a SQLite file read-only.
    """
    if reads and url.lower().startswith("sqlite:") and "mode=ro" not in url.partition("?")[2]:
        url += f"{'&' if '?' in url else '?'}mode=ro"
    try:
        return aicontent.connect(url, timeout=wait, must_exist=must_exist)
    except aicontent.DatabaseURLError as error:
        raise click.BadParameter(str(error), param_hint="--database") from error
