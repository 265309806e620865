"""Define the contestants of the load: aicontent, and the driver with hand-written SQL.

`load_worker` calls them in its threads.
"""

from __future__ import annotations

import json
from typing import Any

import peewee

from .contestants import FIELDS, AIContent, Driver
from .tables import TABLE

DOCUMENT = {"title": "done"}
"""The answer that completes a claimed row."""

_LEASE = 300
"""Seconds; the default of `claim()`."""


class AIContentWithClaims(AIContent):
    """aicontent. All threads use one model, and Peewee opens a connection for each."""

    def claim_and_complete(self) -> Any:
        """Claim and complete a row; return None if none is pending."""
        content = self._model.claim()
        if content is not None:
            content.complete(DOCUMENT)
        return content


class DriverWithClaims(Driver):
    """The database driver alone, with one connection. It uses aicontent's indexes."""

    def __init__(self, database: peewee.Database) -> None:
        super().__init__(database)
        placeholder = "?" if self._is_sqlite else "%s"
        columns = ", ".join(f'"{field.column_name}"' for field in FIELDS)
        if self._is_sqlite:
            now, lock = "strftime('%Y-%m-%d %H:%M:%f000', 'now')", ""
            lease = f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '+{_LEASE} seconds')"
            updated_at = f', "updatedAt" = {now}'
        else:
            now, lock = "statement_timestamp()", "FOR NO KEY UPDATE SKIP LOCKED"
            updated_at = ""
            lease = f"{now} + interval '{_LEASE} seconds'"
        unexpired = f'("expiresAt" IS NULL OR "expiresAt" > {now})'
        is_pending = "COALESCE(status, '') = 'pending'"
        self._claim = f"""
            UPDATE {TABLE} SET status = 'generating', attempts = attempts + 1,
                "leaseExpiresAt" = {lease}{updated_at}
            WHERE id = (
                SELECT id FROM {TABLE} WHERE {is_pending} AND "retryAt" IS NULL AND {unexpired}
                ORDER BY "createdAt", id LIMIT 1 {lock}
            ) AND {is_pending} RETURNING {columns}
        """
        self._complete = f"""
            UPDATE {TABLE} SET status = 'completed', "generatedData" = {placeholder},
                "leaseExpiresAt" = NULL, "retryAt" = NULL{updated_at}
            WHERE id = {placeholder}
                AND (status = 'pending' OR status = 'generating' OR status = 'failed')
            RETURNING "updatedAt"
        """

    def claim_and_complete(self) -> Any:
        """Claim and complete a row; return None if none is pending."""
        row = self._fetch(self._claim, [])
        if row is not None:
            cursor = self._connection.cursor()
            document = json.dumps(DOCUMENT, separators=(",", ":"))
            cursor.execute(self._complete, (document, row[0]))
            cursor.fetchall()
        return row
