"""What stands around rows that are to be undone: who refers to them, what they refer to, triggers that would interfere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..plan import Statement
from .changing import Row
from .stored import Place, Shape, Values

_LINKS = """
SELECT cn.nspname AS child_schema, c.relname AS child, pn.nspname AS parent_schema, p.relname AS parent,
  ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u (attnum, place)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum ORDER BY place) AS columns,
  ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u (attnum, place)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum ORDER BY place) AS names
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND %s::bigint::oid IN (k.conrelid, k.confrelid) ORDER BY 1, 2, k.conname
"""
# tgtype: 1 for each row, 2 before, 4 insert, 16 update.
_TRIGGERS = """
SELECT t.tgname AS name, t.tgenabled = 'A' AS always, t.tgtype & 4 <> 0 AS insert, t.tgtype & 16 <> 0 AS update
FROM pg_trigger t WHERE t.tgrelid = %s::bigint::oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 3 = 3
ORDER BY 1
"""
_DEFERRED = "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = %s::bigint::oid AND tginitdeferred)"


@dataclass(frozen=True, slots=True)
class Link:
    """A foreign key: `columns` of `child` refer to `names` of `parent`."""

    child: Table
    parent: Table
    columns: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger that may change a row before it is written, on one of `events`; it fires `always` or as usual."""

    name: str
    always: bool
    events: frozenset[str]


@dataclass(frozen=True, slots=True)
class Around:
    """`inward` are the foreign keys that refer to `table`, `outward` its own. `deferred`: some of its checks wait for COMMIT."""

    table: Table
    inward: tuple[Link, ...]
    outward: tuple[Link, ...]
    triggers: tuple[Trigger, ...]
    deferred: bool

    def silenced(self, events: Collection[str]) -> tuple[list[Statement], list[Statement]]:
        """The statements that keep triggers from writing other values on `events`, and those that let them again."""
        found = [trigger for trigger in self.triggers if not trigger.events.isdisjoint(events)]
        # A table with checks still to be made cannot be altered.
        checks = (
            [self._statement("SET CONSTRAINTS ALL IMMEDIATE", "Check what waits for COMMIT")] if self.deferred else []
        )
        off = [self._switch(trigger, "DISABLE TRIGGER") for trigger in found]
        on = [
            self._switch(trigger, "ENABLE ALWAYS TRIGGER" if trigger.always else "ENABLE TRIGGER") for trigger in found
        ]
        return off, [*checks, *on] if found else []

    def _switch(self, trigger: Trigger, how: str) -> Statement:
        query = sql.SQL("ALTER TABLE {} {} {}").format(
            self.table.identifier, sql.SQL(how), sql.Identifier(trigger.name)
        )
        off = how.startswith("DISABLE")
        words = "Keep {} from changing what comes back" if off else "Let {} fire again"
        return self._statement(query.as_string(None), words.format(trigger.name))

    def _statement(self, text: str, summary: str) -> Statement:
        return Statement(text, str(self.table), summary)


def around(session: Session, shape: Shape) -> Around:
    """What stands around the table now."""
    links = [
        Link(
            Table(row["child_schema"], row["child"]),
            Table(row["parent_schema"], row["parent"]),
            tuple(row["columns"]),
            tuple(row["names"]),
        )
        for row in session.rows(_LINKS, (shape.oid,))
    ]
    triggers = tuple(
        Trigger(row["name"], row["always"], frozenset(event.upper() for event in ("insert", "update") if row[event]))
        for row in session.rows(_TRIGGERS, (shape.oid,))
    )
    return Around(
        shape.table,
        tuple(link for link in links if link.parent == shape.table),
        tuple(link for link in links if link.child == shape.table),
        triggers,
        bool(session.value(_DEFERRED, (shape.oid,))),
    )


@dataclass(frozen=True, slots=True)
class _Reference:
    """`child` (a row of `link.child`) refers to `parent` now."""

    link: Link
    child: Place
    parent: Place


def settle(
    session: Session,
    shapes: Mapping[Table, Shape],
    rows: Mapping[Table, Sequence[Row]],
    surroundings: Mapping[Table, Around],
) -> list[tuple[Row, Table]]:
    """Keep the rows that cannot be undone without touching others; the rows to delete, children before their parents."""
    for table, of_table in rows.items():
        for row in of_table:
            if row.changes and (why := _hindered(session, shapes[table], surroundings[table], row)):
                row.keep(why)
    written = {row.now.place: row for some in rows.values() for row in some if row.now and row.now.place}
    doomed = {
        row.now.place: (row, table)
        for table, some in rows.items()
        for row in some
        if row.deleted and row.now and row.now.place
    }
    references = [
        reference
        for table in rows
        for link in surroundings[table].inward
        for reference in _references(session, link, [place for place, (_, of) in doomed.items() if of == table])
    ]
    while needed := [
        one
        for one in references
        if one.parent in doomed and one.child not in doomed and not _released(one, written.get(one.child))
    ]:
        for parent in dict.fromkeys(one.parent for one in needed):
            row, _ = doomed.pop(parent)
            children = [str(one.link.child) for one in needed if one.parent == parent]
            told = ", ".join(f"{children.count(child)} of {child}" for child in dict.fromkeys(children))
            row.keep(f"rows that stay refer to it: {told}")
    return _children_first(doomed, references)


def _released(reference: _Reference, child: Row | None) -> bool:
    """Whether the undoing gives the referring row another reference."""
    return child is not None and any(column in child.changes for column in reference.link.columns)


def _children_first(
    doomed: Mapping[Place, tuple[Row, Table]], references: Sequence[_Reference]
) -> list[tuple[Row, Table]]:
    children: dict[Place, list[Place]] = {}
    for one in references:
        children.setdefault(one.parent, []).append(one.child)
    order: dict[Place, None] = {}
    seen: set[Place] = set()

    def visit(place: Place) -> None:
        if place in seen or place not in doomed:
            return
        seen.add(place)
        for child in children.get(place, ()):
            visit(child)
        order[place] = None

    for place in reversed(list(doomed)):
        visit(place)
    return [doomed[place] for place in order]


def _references(session: Session, link: Link, places: Sequence[Place]) -> list[_Reference]:
    """The rows that refer to the rows at `places`."""
    if not places:
        return []
    joined = sql.SQL(" AND ").join(
        sql.SQL("c.{} = p.{}").format(sql.Identifier(column), sql.Identifier(name))
        for column, name in zip(link.columns, link.names, strict=True)
    )
    query = sql.SQL(
        "SELECT c.tableoid::bigint, c.ctid::text, p.tableoid::bigint, p.ctid::text FROM {child} c JOIN {parent} p ON {joined}"
        " WHERE p.ctid = ANY (%s::tid[])"
    ).format(child=link.child.identifier, parent=link.parent.identifier, joined=joined)
    found = session.tuples(query, ([place.tuple for place in places],))
    references = (_Reference(link, Place(*row[:2]), Place(*row[2:])) for row in found)
    return [one for one in references if one.parent in set(places)]


def _hindered(session: Session, shape: Shape, there: Around, row: Row) -> str:
    """Why the row cannot get its values back without a conflict with rows of users; '' when it can."""
    changes = row.changes
    values = {**(row.now.values if row.now else {}), **changes}
    for key in shape.unique:
        known = all(values.get(column) is not None for column in key)
        if known and not changes.keys().isdisjoint(key) and _others(session, shape.table, key, key, values, row):
            return f"another row has its former {', '.join(key)} now"
    for link in there.outward:
        known = all(values.get(column) is not None for column in link.columns)
        concerned = known and not changes.keys().isdisjoint(link.columns)
        if concerned and not _others(session, link.parent, link.names, link.columns, values, None):
            return f"the row of {link.parent} that it referred to is not there any more"
    return ""


def _others(
    session: Session, table: Table, names: Sequence[str], columns: Sequence[str], values: Values, besides: Row | None
) -> bool:
    """Whether a row of `table`, `besides` one, has the values of `columns` in `names`."""
    same = sql.SQL(" AND ").join(sql.SQL("t.{}::text = %s").format(sql.Identifier(name)) for name in names)
    query = sql.SQL("SELECT t.tableoid::bigint, t.ctid::text FROM {} t WHERE {}").format(table.identifier, same)
    found = {Place(*row) for row in session.tuples(query, [values[column] for column in columns])}
    if besides is not None and besides.now is not None and besides.now.place is not None:
        found.discard(besides.now.place)
    return bool(found)
