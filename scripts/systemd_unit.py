"""The `aicontent systemd-unit` command."""

import re
import sys
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import click

_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - none is used
"""What ProtectHome=yes and PrivateTmp=yes hide from a service (systemd.exec(5))."""

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?")

_PLAIN = re.compile(r"[\w./-]+")

_SQLITE = """
[Service]
# The owner of the SQLite database. SQLite writes its log beside the file.
DynamicUser=no
User={user}
PrivateUsers=no
ReadWritePaths={folder}
Environment={variable}
"""


@click.command("systemd-unit")
@click.argument("job", type=click.Choice(["cleanup", "worker"]))
@click.option("--timer", is_flag=True, help="The timer of the cleanup instead of its service.")
@click.option("--sqlite", metavar="PATH", help="The SQLite database that the service uses.")
@click.option("--user", metavar="NAME", help="The system user who owns that database.")
def systemd_unit(job: str, timer: bool, sqlite: str | None, user: str | None) -> None:
    """Print a systemd unit for a job.

    The unit starts the program that prints it. Without --sqlite it reads the database's URL from
    a file in /etc/aicontent that only root can read.
    """
    if timer and (job != "cleanup" or sqlite or user):
        raise click.UsageError("--timer applies to the cleanup alone, and needs no other option")
    if (sqlite is None) != (user is None):
        raise click.UsageError("--sqlite and --user belong together: name the file and its owner")
    suffix = "timer" if timer else "service"
    text = files(__package__).joinpath("systemd", f"aicontent-{job}.{suffix}").read_text("utf-8")
    program = Path(sys.executable).parent / "aicontent"
    if sqlite is not None and user is not None:
        text += _settings(job, sqlite, user)
    start = str(program) if _PLAIN.fullmatch(str(program)) else _quoted(str(program))
    click.echo(text.replace("/opt/aicontent/bin/aicontent", start), nl=False)
    used = [program, Path(sys.executable).resolve(), *([Path(sqlite)] if sqlite else [])]
    for path in () if timer else dict.fromkeys(used):
        if any(path.is_relative_to(folder) for folder in _HIDDEN):
            click.echo(
                f"warning: ProtectHome=yes and PrivateTmp=yes hide {path} from the service: keep "
                "it elsewhere, and make the virtual environment by the system's Python",
                err=True,
            )


def _settings(job: str, sqlite: str, user: str) -> str:
    path = Path(sqlite)
    if not path.is_absolute() or path.is_dir() or not sqlite.isprintable():
        rule = f"{sqlite!r} is not the absolute path of a file"
        raise click.BadParameter(rule, param_hint="--sqlite")
    if not _USER.fullmatch(user):
        raise click.BadParameter(f"{user!r} cannot be a user's name", param_hint="--user")
    variable = _quoted(f"AICONTENT_DATABASE_URL=sqlite:///{quote(sqlite)}")
    text = _SQLITE.format(user=user, folder=_quoted(str(path.parent)), variable=variable)
    # The worker's file has the key of the AI service too.
    return text + ("EnvironmentFile=\n" if job == "cleanup" else "")


def _quoted(text: str) -> str:
    """Quote a word of a unit (systemd.syntax(7)); % begins a specifier."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
