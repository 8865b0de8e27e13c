"""Undoing vectors that a run filled in or replaced, as far as nobody has written those rows since."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import batched, dropwhile
from typing import Any

from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..database.transaction import LockMode
from ..plan import Statement
from . import former
from .former import Chunk, LoadFormer
from .ledger import Entry, Ledger
from .stored import low, shape_of
from .undo import Kept, Request, Undo

# A statement that a person can still look at, and that takes no long time.
_IDS_PER_STATEMENT = 10_000
_NAMED = 1_000
_ASIDE = "archon_align_former"
_STATES = (
    "SELECT page.id, page.xmin::text::bigint, {vector} IS NULL FROM {table} AS page WHERE page.id = ANY (%s::bigint[])"
)
_DIGESTS = "SELECT page.id, pg_catalog.sha256({send}({vector})) FROM {table} AS page WHERE page.id = ANY (%s::bigint[])"
_TYPE = """
SELECT n.nspname AS schema, a.atttypmod AS dimensions
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace s ON s.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE s.nspname = %s AND c.relname = %s AND a.attname = %s AND NOT a.attisdropped AND t.typname = 'vector'
"""


def payload(table: Table, column: str, ids: Iterable[int], kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a restore point holds of rows that get a vector: their ids, as first and last of each range, and where the
    former vectors are of those that had one (see former.keep)."""
    found = {"schema": table.schema, "table": table.name, "column": column, "ids": former.ranges(sorted(ids))}
    return found | ({"former": kept} if kept else {})


def record(
    session: Session,
    ledger: Ledger,
    table: Table,
    column: str,
    ids: Iterable[int],
    replaced: Sequence[former.Former] = (),
) -> int:
    """Write down that the open transaction gives the rows `ids` a vector, in place of those that were `replaced`; its full
    transaction id. Raises AlignError."""
    kept = former.keep(ledger, replaced) if replaced else None
    return ledger.record(session, "vectors", payload(table, column, ids, kept))


@dataclass(slots=True)
class _Done:
    """What all transactions together did to one column: the ids, and by the low 32 bits of a transaction's id, oldest first,
    the ranges of its ids and what it replaced.

    `undoing` are those of all transactions that are undone, whatever they did, or that undid something since.
    """

    undoing: frozenset[int]
    ids: set[int] = field(default_factory=set)
    wrote: dict[int, Sequence[int]] = field(default_factory=dict)
    replaced: dict[int, Chunk] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        xid = low(entry.xid)
        self.ids.update(former.ids_of(entry.payload["ids"]))
        self.wrote[xid] = entry.payload["ids"]
        if told := entry.payload.get("former"):
            self.replaced[xid] = former.decode(told)

    def last(self, one: int, before: int | None = None) -> int | None:
        """The last transaction that wrote the row, of those before another. Where none replaced anything, it does not matter."""
        if not self.replaced:
            return None
        xids = reversed(self.wrote)
        if before is not None:
            xids = dropwhile(lambda xid: xid != before, xids)
        return next((xid for xid in xids if xid != before and _within(self.wrote[xid], one)), None)

    def first(self, one: int, xid: int | None) -> int | None:
        """Which of the transactions replaced the vector that the row `one` had before any of them wrote it, when `xid` was the
        last that did; None: it had no vector."""
        for _ in self.wrote:
            chunk = None if xid is None else self.replaced.get(xid)
            if chunk is None or one not in chunk.rows:
                return None
            before: int | None = chunk.rows[one][0]
            if before not in self.undoing:
                return xid
            if before not in self.wrote:
                # A rollback put it back: it was as the run before that had left it.
                before = self.last(one, xid)
                if before is None:
                    return xid
            xid = before
        return None


def _within(ranges: Sequence[int], one: int) -> bool:
    place = bisect_left(ranges, one)
    return place % 2 == 1 or (place < len(ranges) and ranges[place] == one)


@dataclass(slots=True)
class _Rows:
    """How the rows are now: `ours` are as one of the transactions left them, `others` users have written since, each with
    the last of the transactions that did; of `deleted` only the number is known. `bare` are those of `others` without vector."""

    ours: dict[int, int | None] = field(default_factory=dict)
    others: dict[int, int | None] = field(default_factory=dict)
    bare: set[int] = field(default_factory=set)
    deleted: int = 0


def plan_vectors(session: Session, entries: Sequence[Entry], request: Request) -> Undo:
    """What takes the vectors of `entries` (of one database, oldest first) out again and puts those back that they took the
    place of, and which rows are kept. Reads only.

    A column that is gone, since other vectors took their place, needs nothing.
    """
    undoing = frozenset(low(xid) for xid in request.xids)
    done: dict[tuple[Table, str], _Done] = {}
    for entry in entries:
        table = Table(entry.payload["schema"], entry.payload["table"])
        done.setdefault((table, entry.payload["column"]), _Done(undoing)).add(entry)
    parts = []
    for (table, column), one in sorted(done.items()):
        shape = shape_of(session, table)
        if shape is not None and {"id", column} <= set(shape.columns):
            parts.append(_Column(session, table, column, one).plan(request))
    return Undo(
        statements=[statement for part in parts for statement in part.statements],
        locks={table: mode for part in parts for table, mode in part.locks.items()},
        kept=[kept for part in parts for kept in part.kept],
        emptied={place: count for part in parts for place, count in part.emptied.items()},
        diff=[one for part in parts for one in part.diff],
    )


class _Column:
    def __init__(self, session: Session, table: Table, column: str, done: _Done) -> None:
        self.session = session
        self.table = table
        self.column = column
        self.done = done
        # A chunk that is not what was written is met before anything is planned.
        self.paths = {xid: former.path_of(session.context, chunk) for xid, chunk in done.replaced.items()}
        self.type = session.row(_TYPE, (table.schema, table.name, column))

    def plan(self, request: Request) -> Undo:
        rows = self._told_apart()
        wanted = {
            one: xid
            for one, xid in rows.others.items()
            if request.wants(self._name(one)) or request.wants(self._name("*"))
        }
        cleared: list[int] = []
        back: dict[int, list[int]] = {}
        unfit: list[int] = []
        for one, last in sorted((rows.ours | wanted).items()):
            xid = self.done.first(one, last)
            if xid is None:
                cleared.append(one)
            elif self._fits(self.done.replaced[xid].rows[one][1]):
                back.setdefault(xid, []).append(one)
            else:
                unfit.append(one)
        return Undo(
            statements=[*self._clearing(cleared), *self._putting_back(back)],
            locks={self.table: LockMode.WRITE},
            kept=[*self._kept(sorted(rows.others.keys() - wanted.keys()), rows), *self._lost(unfit)],
            emptied={(self.table, self.column): len(cleared)} if cleared else {},
            diff=[
                *self._diff(len(cleared), "vectors that the run filled in", ""),
                *self._diff(
                    sum(map(len, back.values())), "vectors that the run put in the place of others", "former vectors"
                ),
            ],
        )

    def _told_apart(self) -> _Rows:
        rows = _Rows()
        query = sql.SQL(_STATES).format(table=self.table.identifier, vector=sql.Identifier("page", self.column))
        found = 0
        for ids in batched(sorted(self.done.ids), _IDS_PER_STATEMENT):
            for one, xmin, bare in self.session.tuples(query, (list(ids),)):
                found += 1
                if bare:
                    # No vector is what it had before, unless the run replaced one.
                    last = self.done.last(one)
                    if self.done.first(one, last) is not None:
                        rows.others[one] = last
                        rows.bare.add(one)
                elif xmin in self.done.wrote:
                    rows.ours[one] = xmin
                else:
                    # An earlier rollback leaves a row as the run before left it.
                    some = rows.ours if xmin in self.done.undoing else rows.others
                    some[one] = self.done.last(one)
        rows.deleted = len(self.done.ids) - found
        for some in (rows.ours, rows.others):
            for one in [*self._as_before(some)]:
                del some[one]
        return rows

    def _as_before(self, rows: Mapping[int, int | None]) -> Iterator[int]:
        """Those of `rows` that have their former vector again."""
        if self.type is None:
            return
        sought: dict[int, list[int]] = {}
        for one, last in rows.items():
            if (xid := self.done.first(one, last)) is not None:
                sought.setdefault(xid, []).append(one)
        query = sql.SQL(_DIGESTS).format(
            table=self.table.identifier,
            vector=sql.Identifier("page", self.column),
            send=sql.Identifier(self.type["schema"], "vector_send"),
        )
        for xid, ids in sought.items():
            was = former.digests(self.paths[xid], self.done.replaced[xid])
            for one, digest in self.session.tuples(query, (ids,)):
                if digest == was[one]:
                    yield one

    def _fits(self, dimensions: int) -> bool:
        return self.type is not None and self.type["dimensions"] in (-1, dimensions)

    def _clearing(self, ids: Sequence[int]) -> Iterator[Statement]:
        for some in batched(ids, _IDS_PER_STATEMENT):
            query = sql.SQL("UPDATE {} SET {} = NULL WHERE id = ANY ({}::bigint[])").format(
                self.table.identifier, sql.Identifier(self.column), sql.Literal(f"{{{','.join(map(str, some))}}}")
            )
            yield self._statement(query, f"Take {len(some)} vectors out again, which the run filled in")

    def _putting_back(self, back: Mapping[int, Sequence[int]]) -> Iterator[Statement]:
        """By way of a table of their own: no statement holds a vector. `back` are ids by the transaction that replaced them."""
        if not back:
            return
        assert self.type is not None  # nothing would fit
        aside = sql.Identifier("pg_temp", _ASIDE)
        make = sql.SQL("CREATE TEMPORARY TABLE {} (id bigint PRIMARY KEY, vector {})").format(
            aside, sql.Identifier(self.type["schema"], "vector")
        )
        yield self._statement(make, "A place for the former vectors")
        ids = sorted(one for some in back.values() for one in some)
        files = ", ".join(sorted({self.paths[xid].name for xid in back}))
        yield LoadFormer(
            sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(aside).as_string(None),
            str(self.table),
            f"The {len(ids)} former vectors, from {files}",
            chunks=tuple((self.paths[xid], self.done.replaced[xid], frozenset(some)) for xid, some in back.items()),
        )
        for some in batched(ids, _IDS_PER_STATEMENT):
            query = sql.SQL(
                "UPDATE {} AS page SET {} = former.vector FROM {} AS former"
                " WHERE former.id = page.id AND page.id BETWEEN {} AND {}"
            ).format(self.table.identifier, sql.Identifier(self.column), aside, some[0], some[-1])
            yield self._statement(query, f"Put {len(some)} vectors back, which the run replaced")
        yield self._statement(sql.SQL("DROP TABLE {}").format(aside), "The place of the former vectors")

    def _statement(self, query: sql.Composable, summary: str) -> Statement:
        return Statement(query.as_string(None), str(self.table), summary)

    def _diff(self, count: int, before: str, after: str) -> Iterator[dict[str, str]]:
        if count:
            header = f"{self.table}.{self.column}"
            sides = {"before": f"{count} {before}\n", "after": f"{count} {after}\n" if after else ""}
            yield {"before_header": header, "after_header": header} | sides

    def _name(self, one: int | str) -> str:
        return f"{self.table} id={one}"

    def _kept(self, others: Sequence[int], rows: _Rows) -> Iterator[Kept]:
        """Row by row, as far as anybody would read it."""
        for one in others[:_NAMED]:
            was = "no vector" if self.done.first(one, rows.others[one]) is None else "another vector"
            found = "no vector" if one in rows.bare else "a vector"
            yield Kept(self._name(one), "it was written since, by users or with its whole table", found, was)
        if (more := len(others) - _NAMED) > 0:
            why = f"{more:,} more rows were written since, the first of them id={others[_NAMED]}; the name stands for all rows"
            yield Kept(self._name("*"), why, "vectors", "no vectors, or others")
        if rows.deleted:
            why = f"users deleted {rows.deleted:,} rows since, which the run had given a vector"
            yield Kept(str(self.table), why, "no such rows", "rows without vector, or with another", on_request=False)

    def _lost(self, unfit: Sequence[int]) -> Iterator[Kept]:
        """The former vectors that the column cannot take any more."""
        if unfit:
            shown = ", ".join(map(str, unfit[:20])) + (" …" if len(unfit) > 20 else "")
            why = f"{len(unfit):,} former vectors have other dimensions than the column has now: id {shown}"
            name = f"{self.table}.{self.column}"
            yield Kept(name, why, "the run's vectors", "others", on_request=False, lost=True)
