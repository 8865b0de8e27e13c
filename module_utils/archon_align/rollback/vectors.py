"""Undoing vectors that a run filled in, as far as nobody has written those rows since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import batched
from typing import Any

from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..database.transaction import LockMode
from ..plan import Statement
from .ledger import Entry
from .stored import low, shape_of
from .undo import Kept, Request, Undo

# A statement that a person can still look at, and that takes no long time.
_IDS_PER_STATEMENT = 10_000
_NAMED = 1_000
# No vector: nothing to undo. Else whether the row is still as one of the transactions left it.
_STATES = (
    "SELECT page.id, CASE WHEN {vector} IS NOT NULL THEN page.xmin::text::bigint = ANY (%s::bigint[]) END"
    " FROM {table} AS page WHERE page.id = ANY (%s::bigint[])"
)


def payload(table: Table, column: str, ids: Iterable[int]) -> dict[str, Any]:
    """What a restore point holds of rows whose missing vector is filled in: their ids, as first and last of each range."""
    ranges: list[int] = []
    for one in sorted(ids):
        if ranges and one == ranges[-1] + 1:
            ranges[-1] = one
        else:
            ranges += (one, one)
    return {"schema": table.schema, "table": table.name, "column": column, "ids": ranges}


@dataclass(slots=True)
class _Filled:
    """What all transactions together did to one column: the ids, and the low 32 bits of their transaction ids."""

    ids: set[int] = field(default_factory=set)
    xids: set[int] = field(default_factory=set)


def plan_vectors(session: Session, entries: Sequence[Entry], request: Request) -> Undo:
    """What takes the vectors of `entries` (of one database) out again, and which rows are kept. Reads only.

    A column that is gone, since other vectors took their place, needs nothing.
    """
    done: dict[tuple[Table, str], _Filled] = {}
    for entry in entries:
        table = Table(entry.payload["schema"], entry.payload["table"])
        filled = done.setdefault((table, entry.payload["column"]), _Filled())
        filled.ids.update(_ids(entry.payload))
        filled.xids.add(low(entry.xid))
    statements: list[Statement] = []
    kept: list[Kept] = []
    diff: list[dict[str, str]] = []
    locks: dict[Table, LockMode] = {}
    emptied: dict[tuple[Table, str], int] = {}
    for (table, column), filled in sorted(done.items()):
        shape = shape_of(session, table)
        if shape is None or not {"id", column} <= set(shape.columns):
            continue
        locks[table] = LockMode.WRITE
        ours, others, deleted = _told_apart(session, table, column, filled)
        wanted = [one for one in others if request.wants(_name(table, one)) or request.wants(_name(table, "*"))]
        ours |= set(wanted)
        kept += _kept(table, sorted(set(others) - ours), deleted)
        statements += _clearing(table, column, sorted(ours))
        if ours:
            emptied[table, column] = len(ours)
            header, vectors = f"{table}.{column}", f"{len(ours)} vectors that the run filled in\n"
            diff.append({"before_header": header, "after_header": header, "before": vectors, "after": ""})
    return Undo(statements=statements, locks=locks, kept=kept, emptied=emptied, diff=diff)


def _ids(payload: Mapping[str, Any]) -> Iterator[int]:
    for first, last in batched(payload["ids"], 2):
        yield from range(first, last + 1)


def _told_apart(session: Session, table: Table, column: str, filled: _Filled) -> tuple[set[int], list[int], int]:
    """The ids of rows that nobody has written since, those of rows that users have, and how many rows are gone."""
    query = sql.SQL(_STATES).format(table=table.identifier, vector=sql.Identifier("page", column))
    ours: set[int] = set()
    others: list[int] = []
    found = 0
    for ids in batched(sorted(filled.ids), _IDS_PER_STATEMENT):
        for one, mine in session.tuples(query, (sorted(filled.xids), list(ids))):
            found += 1
            if mine:
                ours.add(one)
            elif mine is not None:
                others.append(one)
    return ours, others, len(filled.ids) - found


def _clearing(table: Table, column: str, ids: Sequence[int]) -> Iterator[Statement]:
    for some in batched(ids, _IDS_PER_STATEMENT):
        query = sql.SQL("UPDATE {} SET {} = NULL WHERE id = ANY ({}::bigint[])").format(
            table.identifier, sql.Identifier(column), sql.Literal(f"{{{','.join(map(str, some))}}}")
        )
        yield Statement(
            query.as_string(None), str(table), f"Take {len(some)} vectors out again, which the run filled in"
        )


def _name(table: Table, one: int | str) -> str:
    return f"{table} id={one}"


def _kept(table: Table, others: Sequence[int], deleted: int) -> Iterator[Kept]:
    """Row by row, as far as anybody would read it."""
    for one in others[:_NAMED]:
        yield Kept(_name(table, one), "it was written since, by users or with its whole table", "a vector", "no vector")
    if (more := len(others) - _NAMED) > 0:
        why = f"{more:,} more rows were written since, the first of them id={others[_NAMED]}; the name stands for all rows"
        yield Kept(_name(table, "*"), why, "vectors", "no vectors")
    if deleted:
        why = f"users deleted {deleted:,} rows since, for which the run had filled in a vector"
        yield Kept(str(table), why, "no such rows", "rows without vector", on_request=False)
