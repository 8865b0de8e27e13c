"""From what is stored and what is wanted to the statements that make up the difference. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from psycopg import sql

from ..plan import Statement
from .store import CREDENTIALS, SETTINGS, Row, Store
from .wanted import CREDENTIALS_CATEGORY, FOUND_BY_KEY, SETTINGS_CATEGORY, Wanted, is_secret, shown


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs. `name` is `<database>:<table>:<category>/<key>`.

    A secret value is not in the statement but in `secret`: the custom setting the statement reads it from, and the
    value. So it reaches neither plan, diff and report nor, as a bound parameter, the server's pg_stat_activity.
    """

    name: str
    statement: Statement
    before: str | None
    after: str
    secret: tuple[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class DatabasePlan:
    """Everything to change in one database, in order; `stores` is what it was made from."""

    changes: tuple[Change, ...]
    stores: tuple[Store, ...]

    @property
    def statements(self) -> tuple[Statement, ...]:
        return tuple(change.statement for change in self.changes)


def _value(key: str, value: str, number: int) -> tuple[sql.Composable, tuple[str, str] | None]:
    if not is_secret(key, value):
        return sql.Literal(value), None
    name = f"archon_align.secret_{number}"
    return sql.SQL("pg_catalog.current_setting({})").format(sql.Literal(name)), (name, value)


def _assigned(values: Mapping[str, sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(column), value) for column, value in values.items()
    )


def _insert(table: sql.Identifier, values: Mapping[str, sql.Composable]) -> sql.Composed:
    return sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        table, sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(values.values())
    )


def _change(store: Store, row: Row | None, key: str, wanted: str, category: str, number: int) -> Change | None:
    """The change that gives `key` its value and category, or None when nothing differs or the row is encrypted."""
    moved = row is not None and row.category != category
    if row is not None and (row.encrypted or (row.value == wanted and not moved)):
        return None
    value, secret = _value(key, wanted, number)
    values: dict[str, sql.Composable] = {}
    if row is None:
        values |= {"category": sql.Literal(category), "key": sql.Literal(key), "value": value}
        if "is_encrypted" in store.columns:
            values["is_encrypted"] = sql.SQL("false")
        query = _insert(store.table.identifier, values)
    else:
        if row.value != wanted:
            values["value"] = value
        else:
            secret = None
        if moved:
            values["category"] = sql.Literal(category)
        if store.table.name == CREDENTIALS and "updated_at" in store.columns:
            values["updated_at"] = sql.SQL("pg_catalog.now()")  # the plan's table has no trigger that would do it
        query = sql.SQL("UPDATE {} SET {} WHERE key = {}").format(
            store.table.identifier, _assigned(values), sql.Literal(key)
        )
        if store.table.name == CREDENTIALS:
            query += sql.SQL(" AND category = {}").format(sql.Literal(category))
    name = f"{store.database.lower()}:{store.table.name}:{category}/{key}"
    verb = "Add" if row is None else "Move" if row.value == wanted else "Set"
    summary = f"{verb} {category}/{key} in {store.database}"
    before = None if row is None else f"{row.category or '(no category)'}/{key} = {shown(key, row.value)}"
    # Both databases have a table of this name, and a plan lists them together.
    text = query.as_string(None) if store.database == "PROD" else f"/* {store.database} */ {query.as_string(None)}"
    return Change(
        name,
        Statement(text, str(store), summary),
        before,
        f"{category}/{key} = {shown(key, wanted)}",
        secret,
    )


def _changes(store: Store, values: Mapping[str, str], *, first: int, overwrite: bool = True) -> Iterator[Change]:
    rows = {row.key: row for row in store.rows}
    for number, key in enumerate(values, first):
        row = rows.get(key)
        if row is not None and not overwrite:
            continue
        category = CREDENTIALS_CATEGORY
        if store.table.name == SETTINGS:
            kept = row.category if row is not None and key in FOUND_BY_KEY else None
            category = kept or SETTINGS_CATEGORY
        change = _change(store, row, key, values[key], category, number)
        if change is not None:
            yield change


def plan_prod(credentials: Store, settings: Store, wanted: Wanted) -> DatabasePlan:
    """What PROD needs in both tables."""
    changes = (
        *_changes(credentials, wanted.credentials, first=1),
        *_changes(settings, wanted.settings, first=1 + len(wanted.credentials)),
    )
    return DatabasePlan(changes, (credentials, settings))


def plan_dev(credentials: Store, wanted: Wanted) -> DatabasePlan:
    """What DEV lacks in archon_credentials; what it has is its own business."""
    return DatabasePlan(tuple(_changes(credentials, wanted.credentials, first=1, overwrite=False)), (credentials,))


def diff_of(changes: Iterable[Change]) -> list[dict[str, str]]:
    """Before and after of every table that changes, values that may be shown only."""
    by_table: dict[str, list[Change]] = {}
    for change in changes:
        database, table, _ = change.name.split(":", 2)
        by_table.setdefault(f"{database.upper()} {table}", []).append(change)
    return [
        {
            "before_header": table,
            "after_header": table,
            "before": "".join(f"{change.before}\n" for change in group if change.before is not None),
            "after": "".join(f"{change.after}\n" for change in group),
        }
        for table, group in by_table.items()
    ]
