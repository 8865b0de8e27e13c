"""The writer alone: vectors that are there already, written as a rebuild writes them, restore point included."""

from __future__ import annotations

import time

import numpy as np
from archon_align.database.session import open_session
from archon_align.embedding.kinds import KINDS
from archon_align.embedding.selection import Selection
from archon_align.embedding.tables import find_table, vector_type
from archon_align.embedding.writer import Embedded, Writer
from archon_align.rollback.ledger import Ledger
from psycopg import sql

from .database import Database
from .figures import at_least, say

ROWS = 20_000
PER_COMMIT = 512
DIMENSIONS = 768


def measure(database: Database) -> None:
    database.fill(ROWS, DIMENSIONS)
    vectors = np.random.default_rng(2).standard_normal((1024, DIMENSIONS)).astype(np.float32)
    context = database.context
    with open_session(context, context.prod) as session:
        vector = vector_type(session)
        vector.register(session)
        found = find_table(session, KINDS[0], vector)
        assert found is not None
        hashes = sql.SQL("SELECT page.id, {} AS text_hash FROM {} AS page ORDER BY id")
        read = session.rows(hashes.format(found.text_hash, found.table.identifier))
        rows = [Embedded(0, row["id"], row["text_hash"], vectors[n % 1024]) for n, row in enumerate(read)]
        ledger = Ledger(context)
        ledger.begin(session)
        writer = Writer(session, found, vector, ledger, Selection())
        began = time.perf_counter()
        written = sum(len(writer.write(rows[start : start + PER_COMMIT])) for start in range(0, ROWS, PER_COMMIT))
        seconds = time.perf_counter() - began
    if written != ROWS:
        raise RuntimeError(f"the writer wrote {written} of {ROWS} rows")
    say(f"writer alone: {ROWS} rows in commits of {PER_COMMIT}, rows/s {at_least(ROWS / seconds, 8000, '.0f')}")
