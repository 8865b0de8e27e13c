"""Order-independent fingerprints of tables, computed on the server in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from ..database.session import Session
from ..database.target import Table

# Each row's md5 is cut into two signed 64-bit halves that are summed as numeric (no overflow, no order) and
# folded to 64 bits each: 128 bits in all. A NULL row text cannot occur: ROW(...)::text is never NULL.
_FINGERPRINT = sql.SQL("""
SELECT count(*) AS rows,
       lpad(to_hex(mod(coalesce(sum(('x' || substr(h, 1, 16))::bit(64)::bigint), 0), 9223372036854775808)::bigint), 16, '0')
    || lpad(to_hex(mod(coalesce(sum(('x' || substr(h, 17, 16))::bit(64)::bigint), 0), 9223372036854775808)::bigint), 16, '0') AS digest
FROM (SELECT md5(ROW({columns})::text) AS h FROM {table}) AS hashed
""")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`rows` and a `digest` of 32 hex digits over `columns` of every row."""

    table: Table
    columns: tuple[str, ...]
    rows: int
    digest: str


def columns_of(session: Session, table: Table) -> tuple[str, ...]:
    """The table's column names in catalogue order; empty when there is no such table."""
    return tuple(
        row["attname"]
        for row in session.rows(
            "SELECT a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            (table.schema, table.name),
        )
    )


def fingerprint(
    session: Session,
    table: Table,
    columns: Sequence[str],
    expressions: Mapping[str, str] | None = None,
    source: str = "",
) -> Fingerprint:
    """Fingerprint `columns` of every row of `table` in the session's current snapshot; columns are taken in name order.

    `expressions` gives the SQL text that stands for a column where that is not its name, `source` the FROM item that they
    are over where that is not the table.
    """
    ordered = tuple(sorted(columns))
    texts: Mapping[str, str] = expressions or {}
    terms = [sql.SQL(texts[name]) if name in texts else sql.Identifier(name) for name in ordered]
    row = session.row(
        _FINGERPRINT.format(columns=sql.SQL(", ").join(terms), table=sql.SQL(source) if source else table.identifier)
    )
    assert row is not None
    return Fingerprint(table, ordered, int(row["rows"]), str(row["digest"]))
