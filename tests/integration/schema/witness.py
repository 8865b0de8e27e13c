"""Every value of a schema as text, asked by a superuser: the witness that owes nothing to our own code."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import psycopg
from psycopg import sql
from schema_worlds import Side

_COMPUTED = "SELECT attname::text, attgenerated::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
TABLES = "SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%s))::oid AND relkind = 'r' ORDER BY 1"


def values(side: Side, schema: str) -> dict[tuple[str, str], tuple[bool, list[str]]]:
    """Every column's values as text (and whether the server computes them), asked by a superuser."""
    found = {}
    with psycopg.connect(side.server.dsn(side.database), autocommit=True) as admin:
        for (table,) in admin.execute(TABLES, (schema,)).fetchall():
            place = sql.Identifier(schema, table)
            for column, generated in admin.execute(_COMPUTED, (place.as_string(),)).fetchall():
                rows = admin.execute(
                    sql.SQL("SELECT {}::text FROM {}").format(sql.Identifier(column), place)
                ).fetchall()
                found[table, column] = (generated != "", sorted(same(row[0]) for row in rows))
    return found


def same(value: str | None) -> str:
    """A value's text, equal for equal values of the types among which one may become the other."""
    if value in ("true", "false"):
        return "1" if value == "true" else "0"
    text = (
        "NULL" if value is None else value.removesuffix(" 00:00:00").removesuffix("/32").rstrip(" ").removeprefix("$")
    )
    try:
        return str(Decimal(text).normalize())
    except InvalidOperation:
        return text
