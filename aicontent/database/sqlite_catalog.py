"""Read SQLite's schema table, pragmas and file sizes."""

import heapq
import re
from collections.abc import Iterable, Iterator
from typing import Any

from .catalog import Catalog, Relation, Totals, file_size, one_line
from .internals import driver_errors


class SqliteCatalog(Catalog):
    """Reads SQLite's schema table, pragmas and file sizes."""

    identity_type = "INTEGER"

    def relation(self, name: str, *, anywhere: bool = False) -> Relation | None:
        kinds = self._all(
            "SELECT type FROM sqlite_master "
            "WHERE type IN ('table', 'view') AND lower(name) = lower(?)",
            (name,),
        )
        if not kinds:
            return None
        # Names are not case-sensitive: a foreign key to "id" may reference a column ID.
        same = "iif(lower(name) = 'id', 'id', name)"
        columns = self._all(f"SELECT {same}, type, pk FROM pragma_table_info(?)", (name,))
        keys = [column for column, _, position in columns if position]
        unique = set(keys if len(keys) == 1 else ())
        indexes = 'SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial'
        for index in self._all(indexes, (name,)):
            members = self._all(f"SELECT {same} FROM pragma_index_info(?)", index)
            if len(members) == 1:
                unique.add(members[0][0])
        return Relation(kinds[0][0], {row[0]: row[1] for row in columns}, frozenset(unique))

    def definitions(self, table: str) -> dict[str, str]:
        rows = self._all(
            "SELECT 'column ' || name, type || iif(\"notnull\", ' NOT NULL', '') "
            "|| iif(dflt_value IS NULL, '', ' DEFAULT ' || dflt_value) "
            "FROM pragma_table_info(?) "
            "UNION ALL SELECT type || ' ' || name, sql FROM sqlite_master "
            "WHERE tbl_name = ? AND sql IS NOT NULL",
            (table, table),
        )
        definitions = dict(rows)
        # Only the table's SQL has its constraints; the migrations write each on its own line.
        text = definitions.pop(f"table {table}", "")
        # A constraint of a column that was added later may share its line with the next column.
        constraint = r'^\s*(CONSTRAINT "(\w+)".*?)(?:, ["\w].*|,)?$'
        for line, name in re.findall(constraint, text, re.MULTILINE):
            definitions[f"constraint {name}"] = line
        return one_line(definitions)

    def orphans(self, table: str) -> int:
        return int(self._all("SELECT count(*) FROM pragma_foreign_key_check(?)", (table,))[0][0])

    def has_compressed(self, table: str, columns: Iterable[str]) -> bool:
        is_compressed = " OR ".join(f"typeof(\"{column}\") = 'blob'" for column in columns)
        newest = f'SELECT * FROM {table} ORDER BY "createdAt" DESC LIMIT 100'
        return bool(self._all(f"SELECT 1 FROM ({newest}) AS n WHERE {is_compressed} LIMIT 1"))

    def partitioning_problem(self) -> str | None:
        return (
            "partitions: SQLite has none: omit the number, use PostgreSQL, or use a file for each "
            "group of users (docs/guides/scaling.md)"
        )

    def totals(self, table: str, largest: int) -> Totals:
        # GROUP BY would sort all rows with the sizes of their documents. Adding up one pass over
        # the table in Python takes a quarter of the time.
        sql = (
            'SELECT type, status, coalesce("usageCount", 0), coalesce("tokenUsage", 0), '
            'coalesce("generationTimeMs", 0), length(CAST("generatedData" AS BLOB)), id, '
            f'"createdAt" FROM {table} NOT INDEXED'
        )
        sums: dict[tuple[str, str], list[int]] = {}
        top: list[tuple[int, str]] = []
        least, oldest = 0, None
        for kind, status, uses, tokens, ms, size, id, created in self._rows(sql):
            group = sums.get((kind, status))
            if group is None:
                group = sums[kind, status] = [0] * 6
            group[0] += 1
            group[1] += uses
            group[2] += tokens
            group[3] += tokens * uses
            group[4] += ms
            group[5] += ms * uses
            if size and size > least:
                heapq.heappush(top, (size, id))
                if len(top) > largest:
                    heapq.heappop(top)
                    least = top[0][0]
            if status == "pending" and (oldest is None or created < oldest):
                oldest = created
        documents = [(id, size) for size, id in sorted(top, reverse=True)]
        return Totals([(*names, *sums) for names, sums in sums.items()], documents, oldest)

    def _rows(self, sql: str) -> Iterator[Any]:
        with driver_errors:
            yield from self._database.execute_sql(sql)

    def sizes(self, table: str) -> tuple[int, int]:
        names = ("page_size", "page_count", "freelist_count")
        page, pages, free = (self._database.pragma(name) for name in names)
        return pages * page + file_size(f"{file_of(self._database)}-wal"), free * page


def file_of(database: Any) -> str:
    """Return the path of a database's file, even if its name is a URI; "" in memory."""
    sql = "SELECT file FROM pragma_database_list WHERE name = 'main'"
    return str(database.execute_sql(sql).fetchone()[0])
