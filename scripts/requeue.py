"""The `aicontent requeue` command, for a person to run after an outage."""

import json

import click

import aicontent
from aicontent import ContentStatus
from aicontent.errors import counted
from aicontent.table import detected_model

from .options import Duration, database_option, json_option, open_database, type_option


@click.command()
@database_option
@click.option(
    "--status",
    type=click.Choice([ContentStatus.FAILED.value, ContentStatus.GENERATING.value]),
    default=ContentStatus.FAILED.value,
    show_default=True,
    help="`generating` is for rows without a lease, whose program was lost.",
)
@type_option("Only rows of this type; repeat it for several.", "--type", "types", multiple=True)
@click.option("--id", "ids", multiple=True, help="Only the row of this id; repeat it for several.")
@click.option(
    "--within",
    type=Duration(3600, min_open=True),
    metavar="HOURS",
    help="Only rows that were last changed within this number of hours.",
)
@click.option("--dry-run", is_flag=True, help="Count the rows, and change nothing.")
@json_option
def requeue(
    url: str,
    status: str,
    types: tuple[str, ...],
    ids: tuple[str, ...],
    within: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make failed rows pending again.

    Their failures are forgotten.

    Of several failed rows for one request it takes the newest. It leaves a row whose request is
    pending or generating, or was answered after the row was created.

    The exit status is 1, and no row is changed, if an --id is of no row with this status.
    """
    model = detected_model(aicontent.AIGeneratedContent, open_database(url, reads=dry_run))
    number = model.requeue(
        status=status,
        types=types or None,
        ids=ids or None,
        failed_within=None if within is None else within * 3600,
        dry_run=dry_run,
    )
    if as_json:
        click.echo(json.dumps({"requeued": number, "dry_run": dry_run}))
    else:
        click.echo(f"{'would requeue' if dry_run else 'requeued'} {counted(number, 'row')}")
        left = len(set(ids)) - number
        if ids and left:
            reason = "its request is in flight, was answered since, has a newer row, or has expired"
            click.echo(f"left {counted(left, 'row')}, as {reason}", err=True)
