"""PostgreSQL's catalog: its system tables and statistics views."""

import re
from typing import Any

from .catalog import Catalog, IndexUsage, IndexUse, Partition, Relation, Totals, one_line

# Where a CREATE would put the name: with a schema for each tenant, each holds its own table.
_OURS = "to_regclass(format('%%I.%%I', current_schema(), %s::text))"

# All of them where partitions are partitioned again.
_PARTITIONS = f"SELECT relid FROM pg_partition_tree({_OURS}) WHERE level > 0"

# pg_partition_tree returns nothing of a table that is not partitioned.
_STORED = f"SELECT {_OURS} UNION {_PARTITIONS}"

_PARTITIONS_SINCE = 130000

_BOUND = re.compile(r"modulus (\d+), remainder (\d+)")

_DEFINITIONS = f"""
    SELECT 'column ' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attnotnull THEN 'NOT NULL' END,
        'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attribute a
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = {_OURS} AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'partition key', pg_get_partkeydef(partrelid)
    FROM pg_partitioned_table WHERE partrelid = {_OURS}
    UNION ALL
    SELECT 'constraint ' || conname, pg_get_constraintdef(oid, true)
    FROM pg_constraint WHERE conrelid = {_OURS} AND contype <> 'n'
    UNION ALL
    SELECT 'index ' || i.relname, pg_get_indexdef(x.indexrelid, 0, true)
        || CASE WHEN x.indisvalid THEN '' ELSE ' INVALID' END
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = {_OURS}
    UNION ALL
    SELECT 'trigger ' || t.tgname, pg_get_triggerdef(t.oid, true)
        || CASE WHEN EXISTS (
            SELECT 1 FROM pg_trigger each WHERE each.tgname = t.tgname
            AND (each.oid = t.oid OR each.tgrelid IN ({_PARTITIONS}))
            AND each.tgenabled NOT IN ('O', 'A')
        ) THEN ' DISABLED' ELSE '' END || ' ' || p.prosrc
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE t.tgrelid = {_OURS} AND NOT t.tgisinternal
"""

_INDEXES = f"""
    SELECT coalesce(whole.relname, s.indexrelname), sum(pg_relation_size(s.indexrelid))::bigint,
        sum(s.idx_scan)::bigint, bool_or(x.indisunique)
    FROM pg_stat_user_indexes s JOIN pg_index x ON x.indexrelid = s.indexrelid
    LEFT JOIN pg_inherits i ON i.inhrelid = s.indexrelid
    LEFT JOIN pg_class whole ON whole.oid = i.inhparent
    WHERE s.relid IN ({_STORED}) GROUP BY 1 ORDER BY 1
"""

_WRITES = f"""
    SELECT sum(t.n_tup_ins + t.n_tup_upd - t.n_tup_hot_upd), min(d.stats_reset)
    FROM pg_stat_user_tables t, pg_stat_database d
    WHERE t.relid IN ({_STORED}) AND d.datname = current_database()
"""

_SIZE = f"SELECT sum(pg_total_relation_size(relid)) FROM ({_STORED}) AS stored(relid)"


class PostgresqlCatalog(Catalog):
    """PostgreSQL's system catalogs and statistics views."""

    def relation(self, name: str, *, anywhere: bool = False) -> Relation | None:
        place = "to_regclass(quote_ident(%s))" if anywhere else _OURS
        rows = self._all(f"SELECT oid, relkind FROM pg_class WHERE oid = {place}", (name,))
        if not rows:
            return None
        oid, relkind = rows[0]
        columns = self._all(
            "SELECT a.attname, CASE WHEN t.typbasetype = 0 THEN format_type(t.oid, a.atttypmod) "
            "ELSE format_type(t.typbasetype, t.typtypmod) END "
            "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
            "WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            (oid,),
        )
        unique = self._all(
            "SELECT a.attname FROM pg_index x JOIN pg_attribute a "
            "ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0] "
            "WHERE x.indrelid = %s AND x.indisunique AND x.indimmediate AND x.indisvalid "
            "AND x.indnkeyatts = 1 AND x.indpred IS NULL AND x.indexprs IS NULL",
            (oid,),
        )
        kind = "table" if relkind in ("r", "p", b"r", b"p") else "view"
        return Relation(kind, dict(columns), frozenset(row[0] for row in unique))

    def definitions(self, table: str) -> dict[str, str]:
        quotes = "quote_all_identifiers"  # which changes how the server writes a definition
        (before,) = self._all(f"SELECT current_setting('{quotes}')")
        if before[0] == "off":
            return one_line(dict(self._all(_DEFINITIONS, (table,) * 6)))
        self._all(f"SELECT set_config('{quotes}', 'off', false)")
        try:
            return self.definitions(table)
        finally:
            self._all(f"SELECT set_config('{quotes}', %s, false)", before)

    def schema(self) -> str | None:
        schema: str | None = self._all("SELECT current_schema()")[0][0]
        return schema

    def hidden_in(self, name: str) -> str | None:
        rows = self._all(
            "SELECT schema FROM unnest(current_schemas(false)) WITH ORDINALITY AS s(schema, place) "
            "WHERE schema <> current_schema() "
            "AND to_regclass(format('%%I.%%I', schema, %s::text)) IS NOT NULL "
            "ORDER BY place LIMIT 1",
            (name,),
        )
        return rows[0][0] if rows else None

    def partitioning_problem(self) -> str | None:
        if int(self._all("SHOW server_version_num")[0][0]) >= _PARTITIONS_SINCE:
            return None
        return "partitions: PostgreSQL has triggers on them since version 13: upgrade the server"

    def is_partitioned(self, schema: str | None, table: str) -> bool | None:
        name = ".".join(f'"{part}"' for part in (schema, table) if part)
        sql = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(%s)"
        rows = self._all(sql, (name,))
        return bool(rows[0][0]) if rows else None

    def partitions(self, table: str) -> list[Partition] | None:
        if not self._all(f"SELECT 1 FROM pg_partitioned_table WHERE partrelid = {_OURS}", (table,)):
            return None
        rows = self._all(
            "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) "
            "FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            f"WHERE i.inhparent = {_OURS} ORDER BY c.relname",
            (table,),
        )
        bounds = [(name, _BOUND.search(bound)) for name, bound in rows]
        return [Partition(name, int(b[1]), int(b[2])) for name, b in bounds if b is not None]

    def server_time(self) -> Any:
        return self._all("SELECT clock_timestamp()")[0][0]

    def totals(self, table: str, largest: int) -> Totals:
        columns = ("usageCount", "tokenUsage", "generationTimeMs")
        uses, tokens, ms = (f'coalesce("{name}", 0)::bigint' for name in columns)
        sums = f"sum({uses}), sum({tokens}), sum({tokens} * {uses}), sum({ms}), sum({ms} * {uses})"
        rows = self._all(
            f'SELECT type, status, count(*), {sums}, min("createdAt") FROM {table} GROUP BY 1, 2'
        )
        size = 'pg_column_size("generatedData")'  # the stored size: the server reads no document
        documents = self._all(
            f'SELECT id, {size} FROM {table} WHERE "generatedData" IS NOT NULL '
            f"ORDER BY {size} DESC, id DESC LIMIT {largest}"
        )
        pending = (row[-1] for row in rows if row[1] == "pending")
        groups = [(*row[:2], *map(int, row[2:-1])) for row in rows]
        return Totals(groups, documents, min(pending, default=None))

    def sizes(self, table: str) -> tuple[int, int]:
        return int(self._all(_SIZE, (table,) * 2)[0][0]), 0

    def index_usage(self, table: str) -> IndexUsage | None:
        indexes = [IndexUse(*row) for row in self._all(_INDEXES, (table,) * 2)]
        ((writes, since),) = self._all(_WRITES, (table,) * 2)
        return IndexUsage(indexes, int(writes or 0), since)
