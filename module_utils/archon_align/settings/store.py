"""Reading the two configuration tables. Encrypted values stay on the server: they are never selected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..errors import AlignError
from ..preservation.fingerprint import columns_of

CREDENTIALS = "archon_credentials"
SETTINGS = "archon_settings"
ENCRYPTED = "encrypted_value"
_NEEDED = ("category", "key", "value")


@dataclass(frozen=True, slots=True)
class Row:
    """One stored key. `value` is None when it is NULL and always when it is `encrypted`."""

    key: str
    category: str | None
    value: str | None = field(repr=False)
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """One configuration table of one database: its columns (none: there is no such table) and the rows asked for."""

    database: str
    table: Table
    columns: frozenset[str]
    rows: tuple[Row, ...] = ()

    def __str__(self) -> str:
        return f"{self.database} {self.table}"


def read(session: Session, name: str, keys: Iterable[str], *, category: str | None = None) -> Store:
    """The rows of `keys` (within `category` if given). Raises AlignError when a column that is needed is missing."""
    table = Table(session.context.schemas[0], name)
    columns = frozenset(columns_of(session, table))
    if not columns:
        return Store(session.target.name, table, columns)
    missing = [column for column in _NEEDED if column not in columns]
    if missing:
        raise AlignError(
            "A configuration table lacks a column.",
            object_name=f"{session.target.name} {table}",
            expected=f"columns {', '.join(_NEEDED)}",
            found=f"no {', '.join(missing)}",
            remedy="Run the schema phase (--tags schema), or rename the table if it is not Archon's.",
            code="missing_column",
        )
    marks = [
        sql.SQL(text)
        for column, text in (("is_encrypted", "is_encrypted IS TRUE"), ("encrypted_value", "encrypted_value <> ''"))
        if column in columns
    ]
    encrypted = sql.SQL(" OR ").join(marks) if marks else sql.SQL("false")
    rows = session.rows(
        sql.SQL(
            "SELECT key::text AS key, category::text AS category, coalesce(encrypted, false) AS encrypted,"
            " CASE WHEN NOT coalesce(encrypted, false) THEN value::text END AS value"
            " FROM (SELECT key, category, value, {encrypted} AS encrypted FROM {table}) AS marked"
            " WHERE key::text = ANY (%s) AND (%s::text IS NULL OR category::text = %s) ORDER BY 1, 2"
        ).format(encrypted=encrypted, table=table.identifier),
        (sorted(keys), category, category),
    )
    found = tuple(Row(row["key"], row["category"], row["value"], row["encrypted"]) for row in rows)
    double = sorted({row.key for row in found if sum(other.key == row.key for other in found) > 1})
    if double:
        raise AlignError(
            "A configuration key is stored more than once.",
            object_name=f"{session.target.name} {table}: {', '.join(double)}",
            expected="one row per key",
            found="several",
            remedy="Decide which row is right and remove the others, then run again.",
            code="duplicate_key",
        )
    return Store(session.target.name, table, columns, found)
