"""Order-independent fingerprints of tables, computed on the server in one pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from psycopg import errors as pg
from psycopg import sql

from ..database.failures import server_error
from ..database.session import Session
from ..database.target import Table
from ..errors import AlignError

# Each row's md5 is cut into four numbers of 32 bits, summed apart: without an order, and unlike with XOR a row that is there twice
# counts twice. The sums are folded to 32 bits each: 128 bits in all. A NULL row text cannot occur: ROW(...)::text is never NULL.
# The clock is there because a subquery with something volatile in it is computed once a row; else each of the four sums would
# compute a hash of its own. (OFFSET 0 would do that, too, but keeps the server from reading a large table with several processes.)
_FINGERPRINT = sql.SQL("""
SELECT rows, lpad(to_hex(a & 4294967295), 8, '0') || lpad(to_hex(b & 4294967295), 8, '0')
          || lpad(to_hex(c & 4294967295), 8, '0') || lpad(to_hex(d & 4294967295), 8, '0') AS digest,
       current_setting('row_security') AS row_security
FROM (SELECT count(*) AS rows, coalesce(sum(substring(h, 1, 32)::int), 0) AS a, coalesce(sum(substring(h, 33, 32)::int), 0) AS b,
             coalesce(sum(substring(h, 65, 32)::int), 0) AS c, coalesce(sum(substring(h, 97, 32)::int), 0) AS d
      FROM (SELECT ('x' || md5(ROW({columns})::text))::bit(128) AS h, clock_timestamp() FROM {table}) AS hashed) AS summed
""")
_COLUMNS = """
SELECT t.schema, t.name, array_agg(a.attname::text ORDER BY a.attnum) AS columns
FROM unnest(%s::text[], %s::text[]) t (schema, name) JOIN pg_namespace n ON n.nspname = t.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name AND c.relkind IN ('r', 'p')
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`rows` and a `digest` of 32 hex digits over `columns` of every row."""

    table: Table
    columns: tuple[str, ...]
    rows: int
    digest: str


def columns_of(session: Session, table: Table) -> tuple[str, ...]:
    """The table's column names in catalogue order; empty when there is no such table."""
    return existing(session, (table,)).get(table, ())


def existing(session: Session, tables: Collection[Table]) -> dict[Table, tuple[str, ...]]:
    """The tables among `tables` that exist, in their order, with their column names in catalogue order."""
    rows = session.rows(_COLUMNS, ([table.schema for table in tables], [table.name for table in tables]))
    found = {Table(row["schema"], row["name"]): tuple(row["columns"]) for row in rows}
    return {table: found[table] for table in tables if table in found}


def fingerprint(
    session: Session,
    table: Table,
    columns: Sequence[str],
    expressions: Mapping[str, str] | None = None,
    source: str = "",
) -> Fingerprint:
    """Fingerprint `columns` of every row of `table` in the session's current snapshot; columns are taken in name order.

    `expressions` gives the SQL text that stands for a column where that is not its name, `source` the FROM item that they
    are over where that is not the table. Raises AlignError when this role may not see every row, or a
    setting hides some.
    """
    ordered = tuple(sorted(columns))
    texts: Mapping[str, str] = expressions or {}
    terms = [sql.SQL(texts[name]) if name in texts else sql.Identifier(name) for name in ordered]
    query = _FINGERPRINT.format(
        columns=sql.SQL(", ").join(terms), table=sql.SQL(source) if source else table.identifier
    )
    try:
        row = session.row(query)
    except pg.InsufficientPrivilege as error:
        raise server_error(session.target, error, doing=f"fingerprinting {table}", object_name=str(table)) from error
    assert row is not None
    if row["row_security"] != "off":
        raise AlignError(
            "A setting hides rows from the proof.",
            object_name=f"{session.target.name} {table}",
            expected="row_security = off, as this session has set it",
            found=f"{row['row_security']}, set since by a function or a trigger",
            remedy="Nothing is proved so. Find the function that sets row_security, and run again without it.",
            code="row_security",
        )
    return Fingerprint(table, ordered, int(row["rows"]), str(row["digest"]))
