"""The writer: many vectors in one binary statement, and only where a row still lacks one for the text that was read.

Which rows are about to get one is in the run's restore point first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from psycopg import errors as pg
from psycopg import sql

from ..database.run_lock import require_own_lock
from ..database.session import Session
from ..database.tries import pause
from ..errors import LockTimeout
from ..rollback.ledger import Ledger
from .packing import PackedVectors
from .recording import record
from .selection import Selection
from .tables import EmbeddedTable, VectorType, server_words


@dataclass(frozen=True, slots=True)
class Embedded:
    """One row's new vector, with the hash of the text it was made from; `endpoint` is the number of the one that made it."""

    table: int
    id: int
    text_hash: int
    vector: NDArray[np.float32]
    endpoint: int = 1


def update_statement(
    found: EmbeddedTable, vector: VectorType, selection: Selection, placeholders: Sequence[str]
) -> sql.Composable:
    """The set-based UPDATE, which returns the ids; `placeholders` stand for the arrays of ids, hashes and vectors.

    It takes ROW EXCLUSIVE only.
    """
    ids, hashes, vectors = (sql.SQL(name) for name in placeholders)
    return sql.SQL(
        "UPDATE {table} AS page SET {column} = fresh.embedding FROM ROWS FROM ("
        "pg_catalog.unnest({ids}::bigint[]), pg_catalog.unnest({hashes}::bigint[]), pg_catalog.unnest({vectors}::{array})"
        ") AS fresh(id, text_hash, embedding)"
        " WHERE page.id = fresh.id AND {replaces} AND {text_hash} = fresh.text_hash RETURNING page.id"
    ).format(
        table=found.table.identifier,
        column=sql.Identifier(found.column),
        replaces=selection.replaces(found, vector),
        ids=ids,
        hashes=hashes,
        vectors=vectors,
        array=vector.array,
        text_hash=found.text_hash,
    )


class Writer:
    """Writes vectors of one table on one session that has pgvector registered."""

    def __init__(
        self, session: Session, found: EmbeddedTable, vector: VectorType, ledger: Ledger, selection: Selection
    ) -> None:
        self._session = session
        self._found = found
        self._vector = vector
        self._ledger = ledger
        self._selection = selection
        self._update = update_statement(found, vector, selection, ("%b", "%b", "%b"))

    def write(self, rows: Sequence[Embedded]) -> set[int]:
        """Store `rows` in one short transaction; the ids of those that still wanted their vector.

        Raises LockLost, LockTimeout, AlignError when the restore point cannot be written, or psycopg.Error.
        """
        ids, hashes = [row.id for row in rows], [row.text_hash for row in rows]
        vectors = [row.vector for row in rows]
        attempts = self._session.context.lock_attempts
        for attempt in range(1, attempts + 1):
            require_own_lock(self._session)
            try:
                return self._transact(ids, hashes, vectors)
            except (pg.LockNotAvailable, pg.DeadlockDetected, pg.SerializationFailure) as error:
                # Somebody edits one of these rows; all our locks are gone now, so they can finish.
                if attempt == attempts:
                    raise LockTimeout(
                        "Rows could not be written because somebody keeps them locked.",
                        object_name=f"{self._session.target.name}: {self._found.table}",
                        expected=f"row locks within {attempts} tries of {self._session.context.lock_timeout} s each",
                        found=server_words(error),
                        remedy="See pg_locks for the session that holds them, end it or wait, and run again.",
                        code="lock_timeout",
                    ) from error
                pause()
        raise AssertionError("unreachable: the last attempt either returned or raised")

    def _transact(self, ids: list[int], hashes: list[int], vectors: list[NDArray[np.float32]]) -> set[int]:
        with self._session.transaction("BEGIN ISOLATION LEVEL READ COMMITTED"):
            xid = record(
                self._session, self._ledger, self._found, self._vector, self._selection, (ids, hashes, vectors)
            )
            written = {row["id"] for row in self._session.rows(self._update, (ids, hashes, PackedVectors(vectors)))}
        self._ledger.committed(self._session, xid)
        return written

    def edited(self, unwritten: Sequence[Embedded]) -> set[int]:
        """Those of rows that were not written whose text is another one by now; others are gone, or have a good vector."""
        if not unwritten:
            return set()
        query = sql.SQL(
            "SELECT page.id FROM {table} AS page JOIN ROWS FROM (pg_catalog.unnest(%s::bigint[]), pg_catalog.unnest(%s::bigint[]))"
            " AS read(id, text_hash) ON page.id = read.id WHERE {text_hash} <> read.text_hash"
        ).format(table=self._found.table.identifier, text_hash=self._found.text_hash)
        rows = self._session.rows(query, ([row.id for row in unwritten], [row.text_hash for row in unwritten]))
        return {row["id"] for row in rows}
