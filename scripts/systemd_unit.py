"""Define the `aicontent systemd-unit` command."""

import re
import sys
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import click

_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - none is used
"""Folders that ProtectHome=yes and PrivateTmp=yes hide from a service (systemd.exec(5))."""

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?")

_PLAIN = re.compile(r"[\w./-]+")

_SQLITE = """
[Service]
# The owner of the SQLite database. SQLite writes its log next to the file.
DynamicUser=no
User={user}
PrivateUsers=no
ReadWritePaths={folder}
Environment={variable}
"""


@click.command("systemd-unit")
@click.argument("job", type=click.Choice(["cleanup", "worker"]))
@click.option("--timer", is_flag=True, help="Print the cleanup's timer instead of its service.")
@click.option("--sqlite", metavar="PATH", help="Absolute path of a SQLite database; needs --user.")
@click.option("--user", metavar="NAME", help="The system user who owns the SQLite database.")
def systemd_unit(job: str, timer: bool, sqlite: str | None, user: str | None) -> None:
    """Print a systemd unit that runs the cleanup or a worker.

    Save it in /etc/systemd/system. The unit starts this installation of aicontent. Without
    --sqlite it reads AICONTENT_DATABASE_URL from a file in /etc/aicontent, which only root should
    be able to read; the unit names the file. The worker's unit needs a drop-in that names your
    function.

    \b
    Example, for an hourly cleanup:
        aicontent systemd-unit cleanup > /etc/systemd/system/aicontent-cleanup.service
        aicontent systemd-unit cleanup --timer > /etc/systemd/system/aicontent-cleanup.timer
        systemctl enable --now aicontent-cleanup.timer
    """
    if timer and (job != "cleanup" or sqlite or user):
        raise click.UsageError("--timer applies to the cleanup: leave out --sqlite and --user")
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
                f"warning: ProtectHome=yes and PrivateTmp=yes hide {path} from the service: move "
                "it, or create the virtual environment elsewhere with the system's Python",
                err=True,
            )


def _settings(job: str, sqlite: str, user: str) -> str:
    path = Path(sqlite)
    if not path.is_absolute() or path.is_dir() or not sqlite.isprintable():
        rule = f"{sqlite!r} is not the absolute path of a file, such as /srv/content.db"
        raise click.BadParameter(rule, param_hint="--sqlite")
    if not _USER.fullmatch(user):
        raise click.BadParameter(f"{user!r} cannot be a user's name", param_hint="--user")
    variable = _quoted(f"AICONTENT_DATABASE_URL=sqlite:///{quote(sqlite)}")
    text = _SQLITE.format(user=user, folder=_quoted(str(path.parent)), variable=variable)
    # The worker keeps its EnvironmentFile, which also has the key of the AI service.
    return text + ("EnvironmentFile=\n" if job == "cleanup" else "")


def _quoted(text: str) -> str:
    """Quote a word for a unit (systemd.syntax(7)), and escape %, which begins a specifier."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
