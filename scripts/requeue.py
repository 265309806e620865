"""Define the `aicontent requeue` command, which a person runs after an outage."""

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
    help="`generating` is for rows without a lease whose program was lost.",
)
@type_option("Only rows of this type. Repeatable.", "--type", "types", multiple=True)
@click.option("--id", "ids", multiple=True, help="Only the row with this id. Repeatable.")
@click.option(
    "--within",
    type=Duration("hours", 876_600, min_open=True),
    help="Only rows whose last change is at most this many hours old.",
)
@click.option("--dry-run", is_flag=True, help="Count the rows and change nothing.")
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
    """Make failed rows pending, so that a worker retries them.

    Their count of failures starts at 0 again. Of several failed rows for one request, only the
    newest becomes pending. A row stays failed if it has expired, if its request is pending or
    generating, or if its request was answered after the row was created.

    The exit status is 1, and no row is changed, if an --id does not name a row with this status.

    \b
    Example, after an outage of the AI service:
        aicontent requeue --within 3 --dry-run
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
            reason = "expired, or the request is in flight, has a newer row or was answered since"
            click.echo(f"did not requeue {counted(left, 'row')}: {reason}", err=True)
