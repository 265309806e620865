"""Convert durations, which callers pass as seconds or as a timedelta."""

import random
from datetime import timedelta

from ..errors import ValidationError, kind_of

Duration = float | timedelta
"""Seconds, or a timedelta."""

_LONGEST_BACKOFF = 300.0

LONGEST = timedelta(days=36_525)
"""A hundred years: longer than any use, and within the years of both databases."""


def seconds_of(duration: Duration, field: str, *, may_be_zero: bool = False) -> float:
    """Return a duration in seconds.

    Args:
        duration: seconds, or a timedelta.
        field: the argument's name, for the message.
        may_be_zero: whether zero is valid here.

    Raises:
        ValidationError: it is neither, is negative, or is longer than a hundred years.
    """
    value = duration.total_seconds() if isinstance(duration, timedelta) else duration
    least = "0 or more" if may_be_zero else "more than 0"
    rule = f"must be a timedelta or a number of seconds, {least}, at most a hundred years"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # NaN fails each comparison.
    if not (
        is_number
        and (value > 0 or (may_be_zero and value == 0))
        and value <= LONGEST.total_seconds()
    ):
        raise ValidationError(field, rule, kind_of(value))
    return float(value)


def backoff(failures: int) -> float:
    """Return the seconds to wait after a failure: from one to 300, doubled for each before it.

    Jitter of up to a half keeps rows that failed together from being retried together.
    """
    jitter = random.uniform(1, 1.5)  # noqa: S311 - no secret
    return min(_LONGEST_BACKOFF / 1.5, 2.0 ** min(failures, 10)) * jitter
