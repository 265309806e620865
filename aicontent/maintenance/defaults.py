"""The defaults of the cleanup, apart from its code so that `model.py` loads little."""

from datetime import timedelta

FAILED_AFTER = timedelta(hours=24)
"""The age since `createdAt` at which a failed row is deleted: the specification's 24 hours."""

BATCH_SIZE = 5000
"""The most rows of one DELETE."""
