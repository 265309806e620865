"""Define the defaults of claims and waits. `model.py` imports them without the calls themselves."""

from datetime import timedelta

Duration = float | timedelta
"""Seconds, or a timedelta."""

WAIT = timedelta(minutes=1)
"""How long to wait for another caller that generates: as long as a learner may have to wait."""

LEASE = timedelta(minutes=5)
"""The default lease of a claim that is not renewed: several times longer than a model's longest
answer takes."""

MAX_ATTEMPTS = 3
"""Failures after which a row is failed, if no request or claim set another number."""
