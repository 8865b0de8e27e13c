"""What PROD's database tells about its services: the settings they read, and when anything that they keep in memory changed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..preservation.fingerprint import existing
from ..settings.store import SETTINGS
from ..settings.wanted import SETTINGS_CATEGORY, secret_name
from .effective import FLAGS, TO_ENVIRONMENT, Setting

TEMPLATES = ("archon_template_components", "archon_template_definitions")
UPDATED_AT = "updated_at"
_WANTED = ("key", "value", "category")
# A row's time may be this far ahead of the clock it was taken from, by rounding alone.
_AHEAD = "interval '1 second'"
_TRIGGERED = """
SELECT EXISTS (
  SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
  WHERE t.tgrelid = %s::oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
    AND t.tgtype & 1 = 1 AND t.tgtype & 2 = 2 AND t.tgtype & 16 = 16 AND p.prosrc ILIKE '%%updated_at%%')
"""

# How well a table tells when it was changed: by a trigger at every UPDATE, only where the writer gives the time, or not at all.
Measure = Literal["trigger", "writer", "none", "absent"]


@dataclass(frozen=True, slots=True)
class Changed:
    """The newest change of one table's rows that a server reads: None when none is known. `ahead` rows lie in the future."""

    table: str
    measure: Measure
    at: datetime | None = None
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """What was read. `now` is the database's clock at `read_at` of this process's monotonic one, true to `uncertainty` seconds."""

    settings: tuple[Setting, ...]
    changed: tuple[Changed, ...]
    now: datetime
    read_at: float
    uncertainty: float


def read(session: Session) -> Stored:
    """Read it all; secret and encrypted values are never selected. Missing tables are told, not an error."""
    schema = session.context.schemas[0]
    tables = [Table(schema, name) for name in (SETTINGS, *TEMPLATES)]
    columns = existing(session, tables)
    settings = _settings(session, tables[0], frozenset(columns.get(tables[0], ())))
    changed = [_changed(session, table, frozenset(columns.get(table, ()))) for table in tables]
    asked = time.monotonic()
    now: datetime = session.value("SELECT pg_catalog.clock_timestamp()")
    answered = time.monotonic()
    return Stored(settings, tuple(changed), now, (asked + answered) / 2, (answered - asked) / 2)


def _keys() -> list[str]:
    return sorted(TO_ENVIRONMENT | FLAGS)


def _settings(session: Session, table: Table, columns: frozenset[str]) -> tuple[Setting, ...]:
    if not columns.issuperset(_WANTED):
        return ()
    marks = [
        sql.SQL(text)
        for column, text in (("is_encrypted", "is_encrypted IS TRUE"), ("encrypted_value", "encrypted_value <> ''"))
        if column in columns
    ]
    rows = session.rows(
        sql.SQL(
            "SELECT key, category, encrypted, at,"
            " CASE WHEN NOT encrypted AND NOT key = ANY (%s) THEN value END AS value, value <> '' AS filled"
            " FROM (SELECT key::text, category::text, value::text, coalesce({encrypted}, false) AS encrypted, {at} AS at"
            " FROM {table}) AS marked WHERE category = %s OR key = ANY (%s) ORDER BY key, at NULLS FIRST"
        ).format(
            encrypted=sql.SQL(" OR ").join(marks) if marks else sql.SQL("false"),
            at=_time(columns),
            table=table.identifier,
        ),
        (_secret_keys(session, table), SETTINGS_CATEGORY, _keys()),
    )
    return tuple(
        Setting(
            row["key"],
            row["category"],
            row["value"],
            row["encrypted"] or bool(row["filled"] and row["value"] is None),
            row["at"],
        )
        for row in rows
    )


def _secret_keys(session: Session, table: Table) -> list[str]:
    rows = session.rows(sql.SQL("SELECT DISTINCT key::text AS key FROM {}").format(table.identifier))
    return [row["key"] for row in rows if row["key"] and secret_name(row["key"])]


def _time(columns: Iterable[str]) -> sql.Composable:
    # A column without a time zone holds UTC in Supabase, and in this session by its pinned TimeZone.
    return sql.SQL(f"{UPDATED_AT}::timestamptz" if UPDATED_AT in columns else "NULL::timestamptz")


def _changed(session: Session, table: Table, columns: frozenset[str]) -> Changed:
    if not columns:
        return Changed(str(table), "absent")
    if UPDATED_AT not in columns:
        return Changed(str(table), "none")
    read: sql.Composable = sql.SQL("true")
    if table.name == SETTINGS:
        read = sql.SQL("category::text = {} OR key::text = ANY ({})").format(
            sql.Literal(SETTINGS_CATEGORY), sql.Literal(_keys())
        )
    row = session.row(
        sql.SQL(
            "SELECT max(at) FILTER (WHERE at <= pg_catalog.clock_timestamp() + {ahead}) AS newest,"
            " count(*) FILTER (WHERE at > pg_catalog.clock_timestamp() + {ahead}) AS ahead"
            " FROM (SELECT {at} AS at FROM {table} WHERE {read}) AS times"
        ).format(ahead=sql.SQL(_AHEAD), at=_time(columns), table=table.identifier, read=read)
    )
    oid = session.value("SELECT pg_catalog.to_regclass(%s)::oid", (table.identifier.as_string(session.connection),))
    triggered = bool(session.value(_TRIGGERED, (oid,)))
    newest, ahead = (row["newest"], row["ahead"]) if row else (None, 0)
    return Changed(str(table), "trigger" if triggered else "writer", newest, ahead)
