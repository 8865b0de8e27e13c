"""Making a database empty again of what a restore that failed has put there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import psycopg
from psycopg import sql

from ..database.session import Session
from ..plan import Statement
from .inventory import inventory

# Everything else (columns, keys, indexes, triggers, policies, grants, comments) goes with what it is part of.
_DROPPED = (
    "view",
    "materialized view",
    "foreign table",
    "table",
    "sequence",
    "function",
    "procedure",
    "aggregate",
    "operator",
    "type",
    "composite type",
    "statistics object",
    "text search configuration",
    "text search dictionary",
)


def clear(
    session: Session, schemas: Sequence[str], restored: Collection[tuple[str, str]], undo: Sequence[Statement]
) -> list[str]:
    """Drop the `restored` objects (kind and name) that are there, then run `undo`; what could not be dropped, in words.

    Nothing is dropped with CASCADE: what something else leans on stays, and so does whatever was not restored.
    """
    with session.transaction():
        left = _left(session, schemas, restored)
        before = len(left) + 1
        while len(left) < before:
            before = len(left)
            for kind in _DROPPED:
                names = [name for each, name in left if each == kind]
                if names and not _dropped(session, kind, names):
                    for name in names:
                        _dropped(session, kind, [name])
            left = _left(session, schemas, restored)
        return [
            *(f"{kind} {name}" for kind, name in left),
            *(statement.object for statement in undo if not _tried(session, sql.SQL(statement.sql))),
        ]


def _left(session: Session, schemas: Sequence[str], restored: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(item for item in inventory(session, schemas) if item in restored and item[0] in _DROPPED)


def _dropped(session: Session, kind: str, names: Sequence[str]) -> bool:
    """Drop them in one statement, so that they may lean on each other. The names are the server's own, quoted by it."""
    word = "STATISTICS" if kind == "statistics object" else "TYPE" if kind == "composite type" else kind.upper()
    return _tried(session, sql.SQL("DROP {} {}").format(sql.SQL(word), sql.SQL(", ").join(map(sql.SQL, names))))


def _tried(session: Session, statement: sql.Composable) -> bool:
    session.execute("SAVEPOINT clearing")
    try:
        session.execute(statement)
    except psycopg.DatabaseError:
        session.execute("ROLLBACK TO SAVEPOINT clearing")
        return False
    session.execute("RELEASE SAVEPOINT clearing")
    return True
