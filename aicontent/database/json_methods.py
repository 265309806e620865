"""Build the SQL of JSON queries, with jsonb's results on both databases.

`fields.document` calls these methods for each path, comparison and change. Peewee's own methods
compare text on SQLite, which gives other results.
"""

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partialmethod
from typing import Any

import peewee

_NAME = "aicontent_json"

_PLAIN = r"(?!\s*[+-]?[0-9]+$)[ !#-\[\]-~]+"
"""A key that the operator -> finds in every version of SQLite, and that is not an index."""


class _Prepared(peewee.SQL):
    """SQL that needs the collation or the function to be registered on the connection."""

    def __init__(self, methods: "SqliteMethods", sql: str) -> None:
        super().__init__(sql)
        self.methods = methods

    def __sql__(self, ctx: Any) -> Any:
        self.methods.register_functions()
        return super().__sql__(ctx)  # type: ignore[no-untyped-call]


class SqliteMethods(peewee.SqliteJSONMethods):  # type: ignore[name-defined,misc]
    """SQLite's methods: a Python function reads and changes documents, a collation compares them.

    Args:
        database: the database for which to register the two.
        compare: the collation.
        run: the function.
    """

    def __init__(
        self, database: Any, compare: Callable[[str, str], int], run: Callable[..., Any]
    ) -> None:
        super().__init__(database)
        self.compare, self.run = compare, run
        # For connections that are opened from now on.
        database._collations[_NAME] = compare
        database._functions[_NAME] = (run, -1, True)

    def register_functions(self) -> None:
        """Register the two on this thread's connection, which may be older than the model."""
        database = self.database
        if database.is_closed():
            # The query may get an old connection from a pool, so take that connection now.
            if not (database.autoconnect and getattr(database, "_connections", None)):
                return
            database.connect()
        state = database._state
        if not hasattr(state.conn, "create_collation"):
            return  # Peewee's asyncio databases register both on new connections
        if getattr(state, _NAME, None) is not state.conn:
            # SQLite refuses this while a statement uses them; then both are already registered.
            with suppress(peewee.OperationalError, sqlite3.OperationalError):
                state.conn.create_collation(_NAME, self.compare)
                state.conn.create_function(_NAME, -1, self.run, deterministic=True)
            setattr(state, _NAME, state.conn)

    def _call(self, operation: str, document: Any, *arguments: object) -> Any:
        texts = (peewee.Value(json.dumps(each), converter=False) for each in arguments)
        return getattr(peewee.fn, _NAME)(_Prepared(self, f"'{operation}'"), document, *texts)

    def compare_value(self, field: Any, value: object) -> Any:
        return None if value is None else peewee.Value(field._dumps(value), converter=False)

    def _json(self, field: Any, keys: Any) -> Any:
        if all(isinstance(key, str) and re.fullmatch(_PLAIN, key) for key in keys) and keys:
            return peewee.Expression(field, "->", self._path(keys), flat=True)
        # With json(), a document that another process has compressed raises "malformed JSON".
        document = peewee.fn.json(field) if field.is_compressible else field
        return self._call("get", document, keys) if keys else document

    def extract(self, field: Any, keys: Any) -> Any:
        # The collation is set only here, because a function's result inherits it from an argument.
        collation = _Prepared(self, f"COLLATE {_NAME}")
        return peewee.NodeList((self._json(field, keys), collation), parens=True)

    def extract_text(self, field: Any, keys: Any) -> Any:
        return self._call("text", self._json(field, keys))

    def number(self, field: Any, keys: Any, kind: str) -> Any:
        """Return the number at a path; NULL if there is none, or none of this size."""
        return self._call(kind, self._json(field, keys))

    def length(self, field: Any, keys: Any) -> Any:
        array = self._json(field, keys)
        is_array = peewee.fn.json_type(array) == peewee.SQL("'array'")
        return peewee.Case(None, [(is_array, peewee.fn.json_array_length(array))])

    def _has(self, how: str, field: Any, keys: Any, names: Any) -> Any:
        result = self._call("has", self._json(field, keys), list(names), how)
        return peewee.Expression(result, peewee.OP.EQ, 1)

    has_keys, has_any_keys = partialmethod(_has, "all"), partialmethod(_has, "any")

    def has_key(self, field: Any, keys: Any, key: str) -> Any:
        return self._has("all", field, keys, [key])

    def _is(self, relation: str, field: Any, keys: Any, value: object) -> Any:
        result = self._call(relation, self._json(field, keys), value)
        return peewee.Expression(result, peewee.OP.EQ, 1)

    contains, contained_by = partialmethod(_is, "contains"), partialmethod(_is, "contained_by")

    def _change(self, operation: str, field: Any, keys: Any, *value: object) -> Any:
        return self._call(operation, self._json(field, ()), keys, *value)

    set, insert = partialmethod(_change, "set"), partialmethod(_change, "insert")
    replace, append = partialmethod(_change, "replace"), partialmethod(_change, "append")
    remove = partialmethod(_change, "remove")

    def update(self, field: Any, value: object) -> Any:
        return self._change("update", field, (), value)


_RANGES = {
    "int": ("BIGINT", f"@ > {-(2**63) - 1} && @ < {2**63}"),
    "float": ("DOUBLE PRECISION", "@ >= -1.7976931348623157e308 && @ <= 1.7976931348623157e308"),
}


class PostgresqlMethods(peewee.PostgresqlJSONMethods):  # type: ignore[name-defined,misc]
    """Peewee's methods, but keys may have any characters, and values of other types give NULL."""

    def __init__(self, database: Any, *_: object) -> None:
        super().__init__(database)

    def _path_array(self, keys: Any) -> Any:
        # Inline, because psycopg 3 sends two parameters for one in both SELECT and GROUP BY, which
        # PostgreSQL does not see as the same expression.
        quoted = (str(key).replace("\\", r"\\").replace('"', r"\"") for key in keys)
        array = "{" + ",".join(f'"{key}"' for key in quoted) + "}"
        # In an E'' string a % can be escaped, so that no driver reads it as a placeholder.
        text = array.replace("\\", r"\\").replace("'", "''").replace("%", r"\x25")
        return peewee.SQL(f"E'{text}'::text[]")

    def number(self, field: Any, keys: Any, kind: str) -> Any:
        """Return the number at a path; NULL if there is none, or none of this size."""
        target, condition = _RANGES[kind]
        path = peewee.SQL(f"'strict $ ? ({condition})'")
        number = peewee.fn.jsonb_path_query_first(self.extract(field, keys), path)
        if kind == "int":
            number = peewee.fn.trunc(peewee.Cast(number, "NUMERIC"))
        return peewee.Cast(number, target)

    def length(self, field: Any, keys: Any) -> Any:
        is_array, length = self._is_array(field, keys), super().length(field, keys)
        return peewee.Case(None, [(is_array, length)])

    def append(self, field: Any, keys: Any, value: object) -> Any:
        longer = super().append(field, keys, value)
        return peewee.Case(None, [(self._is_array(field, keys), longer)], field)

    def _is_array(self, field: Any, keys: Any) -> Any:
        kind = peewee.fn.jsonb_typeof(self.extract(field, keys))
        return kind == peewee.SQL("'array'")
