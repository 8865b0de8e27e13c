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

from .database import TABLE, Database
from .figures import at_least, say

ROWS = 20_000
PER_COMMIT = 512
DIMENSIONS = 768


def rate(database: Database, rows: int, index: str = "", per_commit: int = PER_COMMIT) -> float:
    """Rows a second, every row with a vector of its own; `index` names a method by which the column is indexed meanwhile."""
    database.fill(rows, DIMENSIONS)
    if index:
        database.execute(f"CREATE INDEX ON {TABLE} USING {index} (embedding vector_cosine_ops)")
    vectors = np.random.default_rng(2).standard_normal((rows, DIMENSIONS), dtype=np.float32)
    context = database.context
    with open_session(context, context.prod) as session:
        vector = vector_type(session)
        vector.register(session)
        found = find_table(session, KINDS[0], vector)
        assert found is not None
        hashes = sql.SQL("SELECT page.id, {} AS text_hash FROM {} AS page ORDER BY id")
        read = session.rows(hashes.format(found.text_hash, found.table.identifier))
        embedded = [Embedded(0, row["id"], row["text_hash"], vectors[n]) for n, row in enumerate(read)]
        ledger = Ledger(context)
        ledger.begin(session)
        writer = Writer(session, found, vector, ledger, Selection())
        began = time.perf_counter()
        written = sum(len(writer.write(embedded[start : start + per_commit])) for start in range(0, rows, per_commit))
        seconds = time.perf_counter() - began
    if written != rows:
        raise RuntimeError(f"the writer wrote {written} of {rows} rows")
    return rows / seconds


def measure(database: Database) -> None:
    found = rate(database, ROWS)
    say(f"writer alone: {ROWS} rows in commits of {PER_COMMIT}, rows/s {at_least(found, 8000, '.0f')}")
