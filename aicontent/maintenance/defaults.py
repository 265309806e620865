"""Define the defaults of the cleanup. `model.py` imports them without the cleanup itself."""

from datetime import timedelta

FAILED_AFTER = timedelta(hours=24)
"""The age at which a failed row is deleted: the specification says 24 hours."""

BATCH_SIZE = 5000
"""The most rows of one DELETE."""
