"""The writing end of a rebuild."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

from .jobs import Settled
from .pool import Pool
from .reader import Reader
from .tables import VectorType
from .writer import Embedded, Writer

if TYPE_CHECKING:
    from .rebuild import Rebuild

_FLUSH_SECONDS = 0.5


class Delivery:
    """The writing end: gathers what was embedded, stores it a few hundred rows at a time, and tells the reader."""

    def __init__(self, rebuild: Rebuild, reader: Reader, vector: VectorType, pool: Pool) -> None:
        self._rebuild = rebuild
        self._reader = reader
        self._pool = pool
        self._writers = [
            Writer(rebuild.session, table.work.found, vector, rebuild.ledger, table.selection)
            for table in rebuild.tables
        ]
        self._buffer: list[Embedded] = []
        self._cut: set[tuple[int, int]] = set()
        self._flushed = 0.0

    def take(self, settled: Settled) -> None:
        """What became of a batch. Raises AlignError or psycopg.Error."""
        tables = self._rebuild.tables
        for (number, one), note in settled.truncated.items():
            tables[number].cut(one, note)
            self._cut.add((number, one))
        self._buffer.extend(settled.embedded)
        if len(self._buffer) >= self._rebuild.options.rows_per_commit:
            self._flush()
        for row in settled.quarantined:
            self._rebuild.quarantine.set_aside(tables[row.table], row)
            self._rebuild.counters.add(quarantined=1)
            self._reader.set_aside(row.table, row.id)

    def tick(self) -> None:
        """Store what waits too long, and show how far it is. Raises AlignError or psycopg.Error."""
        now = time.monotonic()
        if self._buffer and (self._pool.idle or now - self._flushed > _FLUSH_SECONDS):
            self._flush()
        self._rebuild.show(self._rebuild.counters.text())

    def _flush(self) -> None:
        self._rebuild.watch.check()
        by_table: dict[int, list[Embedded]] = defaultdict(list)
        for row in self._buffer:
            by_table[row.table].append(row)
        self._buffer = []
        for number, rows in by_table.items():
            written = self._writers[number].write(rows)
            # A text that was cut is no sample: embedded as it is, it may be refused.
            whole = [row for row in rows if row.id in written and (number, row.id) not in self._cut]
            self._rebuild.tables[number].wrote(len(written), whole, self._rebuild.options.sample)
            ids = {row.id for row in rows}
            edited = self._writers[number].edited([row for row in rows if row.id not in written])
            self._rebuild.counters.add(done=len(ids - edited))
            self._reader.written(number, ids, edited)
        self._cut.clear()
        self._flushed = time.monotonic()
