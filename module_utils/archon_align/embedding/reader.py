"""The keyset reader: rows to embed in id order, each table walked along once, in batches bounded by count and characters."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from ..database.session import Session
from ..database.tries import pause
from .ranges import BITS, Ranges, last_of
from .selection import Selection
from .tables import EmbeddedTable


@dataclass(frozen=True, slots=True)
class Row:
    """One row to embed, of the table with this number, with the hash of its text as it was read."""

    table: int
    id: int
    text: str
    text_hash: int
    blank: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold. A single text above `characters` travels alone."""

    texts: int = 64
    characters: int = 100_000


# Four batches per read keep the queue filled; the byte bound keeps memory flat however long the texts are.
_BATCHES_PER_READ = 4
# How often a row is read again that users keep editing.
_TRIES = 3
_WAIT = 0.2
_CANCEL_SECONDS = 1.0
# The server's table of locks is everybody's; by default it has room for some 6,400. Where ids are sparse a range holds one row.
_MOST_RANGES = 512


@dataclass(slots=True)
class _Walk:
    """One table, how far it was walked along, and what is left of it."""

    number: int
    found: EmbeddedTable
    selection: Selection
    ranges: Ranges
    last: int = -(2**63)
    end: int = 0
    # The ids between which ranges belonged to other workers when we came along; None when none did.
    others: tuple[int, int] | None = None
    seen: dict[int, int] = field(default_factory=dict)  # by range of others: rows that they have still to embed
    again: set[int] = field(default_factory=set)  # rows whose text had changed when their vector came
    tries: dict[int, int] = field(default_factory=dict)
    skip: set[int] = field(default_factory=set)


def patiently(session: Session, query: sql.Composable, params: Sequence[object] = ()) -> list[dict[str, Any]]:
    """The rows of a query, tried again while somebody has the table locked.

    Raises psycopg.Error, LockNotAvailable in the end.
    """
    for _ in range(session.context.lock_attempts - 1):
        try:
            return session.rows(query, params)
        except pg.LockNotAvailable:
            pause()
    return session.rows(query, params)


class Reader:
    """Reads what `selections` want of `tables`, on a session and in a thread of its own.

    Each read is one statement: no transaction stays open while a service works. What came of the rows is told by `written`
    and `set_aside`, from any thread; the reader is through when it knows that of every row. Rows that come in after it has
    begun are left to another walk: somebody who writes faster than the service embeds is not chased for ever.
    """

    def __init__(
        self, session: Session, tables: Sequence[EmbeddedTable], selections: Sequence[Selection], limits: Limits
    ) -> None:
        self._session = session
        self._limits = limits
        self._changed = threading.Condition()
        self._walks = [
            _Walk(number, found, selection, Ranges(session, found))
            for number, (found, selection) in enumerate(zip(tables, selections, strict=True))
        ]
        self._others_moved = False

    def written(self, table: int, ids: Iterable[int], unwanted: Collection[int]) -> None:
        """The vectors of these rows were written, but for those whose row was not as it was read; they are read again."""
        walk = self._walks[table]
        with self._changed:
            walk.again.update(unwanted)
            walk.ranges.settled(one for one in ids if one not in unwanted)
            self._changed.notify_all()

    def set_aside(self, table: int, one: int) -> None:
        """This row stays as it is in this run."""
        walk = self._walks[table]
        with self._changed:
            walk.skip.add(one)
            walk.ranges.settled([one])
            self._changed.notify_all()

    def others_go_on(self) -> bool:
        """Whether what is left is what other workers hold, and they have embedded some of it since this was asked last."""
        moved, self._others_moved = self._others_moved, False
        return moved and not any(walk.ranges.busy for walk in self._walks)

    def cancel(self) -> None:
        """Have the server give up the statement that the reader waits for, if it can be reached; from any thread."""
        with suppress(psycopg.Error):
            self._session.connection.cancel_safe(timeout=_CANCEL_SECONDS)

    def batches(self) -> Iterator[list[Row]]:
        """Rows up to the limits, in order; a blank row comes alone. An empty batch says that there is nothing at the moment.

        Raises psycopg.Error.
        """
        batch: list[Row] = []
        characters = 0
        for row in self._rows():
            if row is None:
                yield batch
                batch, characters = [], 0
                continue
            if row.blank:
                yield [row]
                continue
            if batch and (len(batch) >= self._limits.texts or characters + len(row.text) > self._limits.characters):
                yield batch
                batch, characters = [], 0
            batch.append(row)
            characters += len(row.text)
        if batch:
            yield batch

    def _rows(self) -> Iterator[Row | None]:
        """Every row once; None when what was given should be sent, because nothing more comes for a while."""
        for walk in self._walks:
            query = sql.SQL("SELECT coalesce(pg_catalog.max(id), 0) AS last FROM {}").format(
                walk.found.table.identifier
            )
            walk.end = patiently(self._session, query)[0]["last"]
            yield from self._along(walk)
        while left := [walk for walk in self._walks if self._left(walk)]:
            yield None
            with self._changed:
                self._changed.wait(_WAIT)
            for walk in left:
                yield from self._once_more(walk)
                if walk.others is not None and not walk.ranges.busy:
                    walk.last, end = walk.others
                    walk.others = None
                    yield from self._along(walk, end)

    def _left(self, walk: _Walk) -> bool:
        walk.ranges.release_finished()
        return walk.ranges.busy or walk.others is not None

    def _along(self, walk: _Walk, end: int | None = None) -> Iterator[Row | None]:
        """From where the walk is to `end`, leaving out what other workers hold."""
        end = walk.end if end is None else end
        seen: dict[int, int] = {}
        while counts := self._wanted_ranges(walk, end):
            numbers = list(counts)
            walk.ranges.release_finished()
            while walk.ranges.held > _MOST_RANGES:
                yield None
                with self._changed:
                    self._changed.wait(_WAIT)
                walk.ranges.release_finished()
            ours = walk.ranges.claim(numbers)
            if others := [number for number in numbers if number not in ours]:
                before = (min(others) << BITS) - 1
                start = before if walk.others is None else min(before, walk.others[0])
                walk.others = (start, max(last_of(max(others)), walk.others[1] if walk.others else start))
                seen |= {number: counts[number] for number in others}
            if ours:
                yield from self._read(walk, sorted(ours))
                walk.ranges.read(ours)
            walk.last = last_of(numbers[-1])
        if seen != walk.seen:
            walk.seen, self._others_moved = seen, True

    def _wanted_ranges(self, walk: _Walk, end: int) -> dict[int, int]:
        """The next ranges in which rows are wanted, in order, each with how many rows as far as was looked."""
        query = sql.SQL(
            "SELECT page.id::bigint >> {bits} AS number, pg_catalog.count(*) AS rows FROM (SELECT page.id FROM {table} AS page"
            " WHERE {wanted} AND page.id > %s AND page.id <= %s AND page.id <> ALL (%s::bigint[])"
            " ORDER BY page.id LIMIT %s) AS page GROUP BY 1 ORDER BY 1"
        ).format(bits=sql.Literal(BITS), table=walk.found.table.identifier, wanted=walk.selection.wanted(walk.found))
        count = self._limits.texts * _BATCHES_PER_READ
        rows = patiently(self._session, query, (walk.last, end, sorted(walk.skip), count))
        return {row["number"]: row["rows"] for row in rows}

    def _read(self, walk: _Walk, numbers: Sequence[int]) -> Iterator[Row]:
        """The wanted rows of claimed ranges."""
        last, end = (numbers[0] << BITS) - 1, min(walk.end, last_of(numbers[-1]))
        condition = sql.SQL("page.id > %s AND page.id <= %s AND page.id::bigint >> {} = ANY (%s::bigint[])").format(
            sql.Literal(BITS)
        )
        while rows := self._fetch(walk, condition, (last, end, list(numbers))):
            last = rows[-1].id
            rows = [row for row in rows if row.id not in walk.skip]
            walk.ranges.took(row.id for row in rows)
            yield from rows

    def _once_more(self, walk: _Walk) -> Iterator[Row]:
        """Rows whose text had changed when their vector came, as they are now."""
        with self._changed:
            ids, walk.again = walk.again, set()
        for one in ids:
            walk.tries[one] = walk.tries.get(one, 0) + 1
        given_up = {one for one in ids if walk.tries[one] >= _TRIES}
        walk.ranges.settled(given_up)
        pending = ids - given_up
        condition = sql.SQL("page.id > %s AND page.id = ANY (%s::bigint[])")
        there: set[int] = set()
        last = -(2**63)
        while pending and (rows := self._fetch(walk, condition, (last, sorted(pending)))):
            last = rows[-1].id
            there.update(row.id for row in rows)
            yield from rows
        walk.ranges.settled(pending - there)

    def _fetch(self, walk: _Walk, condition: sql.Composable, params: tuple[object, ...]) -> list[Row]:
        """The first wanted rows that meet `condition`, as many as a few requests hold."""
        found = walk.found
        columns = [sql.Identifier("page", name) for name in found.kind.columns]
        size = sql.SQL(" + ").join(
            sql.SQL("coalesce(pg_catalog.octet_length({}), 0)").format(column) for column in columns
        )
        query = sql.SQL(
            "SELECT page.id, {columns}, {text_hash} AS text_hash, {blank} AS blank FROM ("
            " SELECT page.*, pg_catalog.row_number() OVER (ORDER BY page.id) AS position,"
            " pg_catalog.sum({size}) OVER (ORDER BY page.id) AS reach FROM ("
            "  SELECT page.id, {columns} FROM {table} AS page"
            "  WHERE {wanted} AND {condition} ORDER BY page.id LIMIT %s) AS page) AS page"
            " WHERE page.position = 1 OR page.reach <= %s ORDER BY page.id"
        ).format(
            columns=sql.SQL(", ").join(columns),
            wanted=walk.selection.wanted(found),
            condition=condition,
            text_hash=found.text_hash,
            blank=found.blank,
            size=size,
            table=found.table.identifier,
        )
        bound = self._limits.texts * _BATCHES_PER_READ, self._limits.characters * _BATCHES_PER_READ
        return [
            Row(
                walk.number,
                row["id"],
                found.kind.text([row[name] for name in found.kind.columns]),
                row["text_hash"],
                row["blank"],
            )
            for row in patiently(self._session, query, (*params, *bound))
        ]
