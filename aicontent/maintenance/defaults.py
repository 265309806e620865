"""Defaults of the cleanup, in a module of their own so that `model.py` imports little."""

from datetime import timedelta

FAILED_AFTER = timedelta(hours=24)
"""The age at which a failed row is deleted: the specification says 24 hours."""

BATCH_SIZE = 5000
"""The most rows of one DELETE."""
