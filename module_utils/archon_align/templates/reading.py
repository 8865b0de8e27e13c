"""Reading template tables: shapes from the catalogue, values as text so that nothing is altered on the way."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..errors import AlignError, GateRefused
from .model import Column, Kind, Row, TableState

_COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, pg_get_expr(d.adbin, d.adrelid) AS default,
       a.attgenerated <> '' OR a.attidentity <> '' AS fixed,
       EXISTS (SELECT FROM pg_constraint f WHERE f.conrelid = a.attrelid AND f.contype = 'f' AND a.attnum = ANY (f.conkey)) AS reference
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""


def read(session: Session, kind: Kind) -> TableState:
    """The table's columns and rows, in name order. Raises AlignError when it has no natural key column."""
    table = Table(session.context.schemas[0], kind.table)
    columns = {row["name"]: Column(**row) for row in session.rows(_COLUMNS, (table.schema, table.name))}
    state = TableState(session.target.name, kind, table, columns)
    if not columns:
        return state
    if kind.key not in columns:
        raise AlignError(
            "A template table lacks its natural key.",
            object_name=str(state),
            expected=f"a column {kind.key}",
            found=f"columns {', '.join(columns)}",
            remedy="Run the schema phase (--tags schema), or rename the table if it is not Archon's.",
            code="missing_column",
        )
    linked = kind.parent is not None and kind.parent in columns
    parent = (
        sql.SQL("parent.{name}::text AS parent, t.{column} IS NOT NULL AS linked").format(
            name=sql.Identifier(kind.key), column=sql.Identifier(kind.parent or "")
        )
        if linked
        else sql.SQL("NULL::text AS parent, false AS linked")
    )
    join = (
        sql.SQL("LEFT JOIN {table} parent ON parent.id = t.{column}").format(
            table=table.identifier, column=sql.Identifier(kind.parent or "")
        )
        if linked
        else sql.SQL("")
    )
    rows = session.rows(
        sql.SQL(
            "SELECT t.{name}::text AS name, {parent}, ARRAY[{values}] AS texts, t.xmin::text::bigint AS xmin FROM {table} t {join}"
        ).format(
            name=sql.Identifier(kind.key),
            parent=parent,
            values=sql.SQL(", ").join(sql.SQL("t.{}::text").format(sql.Identifier(column)) for column in columns),
            table=table.identifier,
            join=join,
        )
    )
    named = [
        Row(
            row["name"],
            dict(zip(columns, row["texts"], strict=True)),
            row["parent"],
            dangling=row["linked"] and row["parent"] is None,
            xmin=row["xmin"],
        )
        for row in rows
        if row["name"] is not None
    ]
    return TableState(
        state.database,
        kind,
        table,
        columns,
        tuple(sorted(named, key=lambda row: row.name)),
        unnamed=len(rows) - len(named),
    )


def default_texts(session: Session, columns: Iterable[Column]) -> dict[str, str | None]:
    """What existing rows will hold in a column once it has been added: its default, evaluated by the server, as text.

    A default that cannot be evaluated without writing (a sequence) counts as NULL; `session` must be read-only.
    """
    found: dict[str, str | None] = {}
    for column in columns:
        found[column.name] = None
        if column.default is not None:
            # Both texts are the catalogue's own and qualified by it; the session can only read.
            query = sql.SQL("SELECT CAST(({}) AS {})::text").format(sql.SQL(column.default), sql.SQL(column.type))
            try:
                found[column.name] = session.value(query)
            except (psycopg.Error, GateRefused):
                continue
    return found


def row_counts(session: Session, names: Iterable[str]) -> dict[Table, int]:
    """Rows of those among the named tables that exist and have any."""
    counts: dict[Table, int] = {}
    for name in names:
        table = Table(session.context.schemas[0], name)
        if session.rows(_COLUMNS, (table.schema, table.name)):
            counts[table] = int(session.value(sql.SQL("SELECT count(*) FROM {}").format(table.identifier)))
    return {table: count for table, count in counts.items() if count}
