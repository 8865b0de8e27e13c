"""Undoing rows that a run inserted or updated, as far as nobody has written them since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..database.transaction import LockMode
from ..plan import Statement
from .capture import read_payload
from .changing import Done, Row, walk
from .ledger import Entry
from .stored import Shape, shape_of, versions
from .surroundings import Around, around, settle
from .undo import Kept, Request, Undo


def plan_rows(session: Session, entries: Sequence[Entry], request: Request) -> Undo:
    """What brings the rows of `entries` (of one database, oldest first) back, and which are kept. Reads only."""
    done: dict[Table, list[Done]] = {}
    for entry in entries:
        for part in read_payload(entry.payload):
            done.setdefault(part.table, []).extend(Done(record, part) for record in part.rows)
    shapes: dict[Table, Shape] = {}
    rows: dict[Table, list[Row]] = {}
    kept: list[Kept] = []
    protected = {*session.context.protected, *session.context.watched}
    for table in sorted(done):
        shape = shape_of(session, table)
        if shape is None:
            kept += _without_table(done[table])
            continue
        unread = {column for one in done[table] for column in one.of.unread}
        shapes[table] = shape
        rows[table] = walk(shape, versions(session, shape, unread), done[table], request)
        for row in rows[table]:
            if table in protected and (row.deleted or row.changes):
                row.keep("its table is protected: no row of it is deleted or changed")
    there = {table: around(session, shape) for table, shape in shapes.items()}
    doomed = settle(session, shapes, rows, there)
    locks = dict.fromkeys(shapes, LockMode.WRITE)
    for link in (link for one in there.values() for link in one.inward):
        locks.setdefault(link.child, LockMode.PROVE)
    every = [row for some in rows.values() for row in some]
    return Undo(
        statements=[*_restoring(rows, there), *(_delete(row, table) for row, table in doomed)],
        locks=locks,
        kept=[*kept, *(one for row in every for one in row.kept)],
        deleted={table: count for table, some in rows.items() if (count := sum(row.deleted for row in some))},
        diff=[_diff(row) for row in every if row.deleted or row.changes],
    )


def _without_table(done: Sequence[Done]) -> list[Kept]:
    updated = {one.record.name for one in done if one.record.before is not None}
    return [Kept(name, "its table is not there any more", on_request=False) for name in sorted(updated)]


def _restoring(rows: Mapping[Table, Sequence[Row]], there: Mapping[Table, Around]) -> list[Statement]:
    """The INSERTs and UPDATEs, with triggers that would write other values out of the way."""
    found: list[Statement] = []
    for table, some in rows.items():
        inserts = [_insert(row, table) for row in some if row.changes and row.now is None]
        updates = [_update(row, table) for row in some if row.changes and row.now is not None]
        events = [event for event, statements in (("INSERT", inserts), ("UPDATE", updates)) if statements]
        off, on = there[table].silenced(events)
        found += [*off, *inserts, *updates, *on]
    return found


def _where(row: Row) -> sql.Composable:
    if row.key is None:
        assert row.now is not None  # it is found by where it is, or not at all
        assert row.now.place is not None
        return sql.SQL("ctid = {}").format(sql.Literal(row.now.place.tuple))
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(column), sql.Literal(text)) for column, text in row.key.items()
    )


def _delete(row: Row, table: Table) -> Statement:
    query = sql.SQL("DELETE FROM {} WHERE {}").format(table.identifier, _where(row))
    return Statement(query.as_string(None), row.name, f"Delete {row.name}, which the run inserted")


def _update(row: Row, table: Table) -> Statement:
    # Literals carry no cast: the server reads them by the column's own type.
    assigned = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(column), sql.Literal(text)) for column, text in row.changes.items()
    )
    query = sql.SQL("UPDATE {} SET {} WHERE {}").format(table.identifier, assigned, _where(row))
    return Statement(query.as_string(None), row.name, f"Set {row.name} back")


def _insert(row: Row, table: Table) -> Statement:
    query = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
        table.identifier,
        sql.SQL(", ").join(map(sql.Identifier, row.changes)),
        sql.SQL(", ").join(map(sql.Literal, row.changes.values())),
    )
    return Statement(query.as_string(None), row.name, f"Bring back {row.name}, as asked")


def _diff(row: Row) -> dict[str, str]:
    columns = list(row.changes or (row.now.values if row.now else ()))
    sides = {"before": row.now, "after": row.then}
    return {"before_header": row.name, "after_header": row.name} | {
        side: "".join(f"{row.words(version.values, [column])}\n" for column in columns if column in version.values)
        if version is not None
        else ""
        for side, version in sides.items()
    }
