"""Tables and row versions as a restore point's rows are told apart: read as text, with who wrote each version."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import orjson
from psycopg import sql

from ..database.session import Session
from ..database.target import Table

type Values = Mapping[str, str | None]
# Of a partitioned table the file is NULL: every change of its rows then counts as if the table had been rewritten.
_SHAPE = """
SELECT c.oid::bigint AS oid, pg_relation_filenode(c.oid)::bigint AS file,
  ARRAY(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""
_KEYS = """
SELECT i.indimmediate AND NOT EXISTS (SELECT FROM unnest(k.names) AS name JOIN pg_attribute a
         ON a.attrelid = i.indrelid AND a.attname = name AND NOT a.attnotnull) AS identifies, k.names
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
CROSS JOIN LATERAL (SELECT array_agg(a.attname::text ORDER BY p.place) AS names
  FROM unnest(i.indkey::int2[]) WITH ORDINALITY p (attnum, place)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = p.attnum WHERE p.place <= i.indnkeyatts) k
WHERE i.indrelid = %s::bigint::oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND 0 <> ALL (i.indkey::int2[])
ORDER BY i.indisprimary DESC, c.relname
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """A table: its stored columns, its unique keys (primary first; `identifying` are those no row can lack), its `file`, which
    is another one once the table was rewritten."""

    table: Table
    oid: int
    file: int | None
    columns: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...]
    identifying: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row version is: its table (or partition) and its tuple id."""

    table: int
    tuple: str


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a row, who wrote it (the low 32 bits of the transaction id), and the file it is in; no place: planned."""

    place: Place | None
    xmin: int | None
    file: int | None
    values: Values


def shape_of(session: Session, table: Table) -> Shape | None:
    """The table as it is now, or None."""
    row = session.row(_SHAPE, (table.schema, table.name))
    if row is None:
        return None
    keys = session.rows(_KEYS, (row["oid"],))
    return Shape(
        table,
        row["oid"],
        row["file"],
        tuple(row["columns"]),
        tuple(tuple(key["names"]) for key in keys),
        tuple(tuple(key["names"]) for key in keys if key["identifies"]),
    )


def versions(session: Session, shape: Shape, unread: Collection[str] = ()) -> list[Version]:
    """Every row as the session sees it now, values as texts; of `unread` columns only whether they hold something."""
    columns = shape.columns
    texts = sql.SQL(", ").join(
        sql.SQL("CASE WHEN t.{} IS NOT NULL THEN '*' END" if column in unread else "t.{}::text").format(
            sql.Identifier(column)
        )
        for column in columns
    )
    query = sql.SQL("SELECT t.tableoid::bigint, t.ctid::text, t.xmin::text::bigint, ARRAY[{}]::text[] FROM {} t")
    rows = session.tuples(query.format(texts, shape.table.identifier))
    return [
        Version(Place(oid, place), xmin, shape.file, dict(zip(columns, values, strict=True)))
        for oid, place, xmin, values in rows
    ]


def digest(values: Values, columns: Iterable[str]) -> str:
    """128 bits over the named values, in the order of their names."""
    told = orjson.dumps([[column, values[column]] for column in sorted(columns)])
    return hashlib.sha256(told).hexdigest()[:32]


def key_of(values: Values, columns: Collection[str]) -> tuple[str, ...] | None:
    """The values of a key; None when a column is missing or NULL."""
    found = tuple(values.get(column) for column in columns)
    return None if None in found else tuple(map(str, found))


def low(xid: int) -> int:
    """The part of a full transaction id that a row version holds."""
    return xid & 0xFFFFFFFF
