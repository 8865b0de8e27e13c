"""What a batch is about to write, in the restore point before it is written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from ..database.session import Session
from ..rollback.former import Former
from ..rollback.ledger import Ledger
from ..rollback.vectors import record as record_vectors
from .selection import Selection
from .tables import EmbeddedTable, VectorType


def record(
    session: Session,
    ledger: Ledger,
    found: EmbeddedTable,
    vector: VectorType,
    selection: Selection,
    arrays: tuple[Sequence[int], Sequence[int], Sequence[NDArray[np.float32]]],
) -> int:
    """Write down what the open transaction is about to do with `arrays` (ids, hashes, vectors); its full transaction id.

    Where vectors may be replaced, the rows are locked and their former vectors kept. Raises AlignError or psycopg.Error.
    """
    table, column, ids = found.table, found.column, arrays[0]
    if not selection.replaces_any:
        # Before any row is locked: others do not wait for this disk.
        return record_vectors(session, ledger, table, column, ids)
    rows = session.tuples(
        sql.SQL(
            "SELECT page.id, page.xmin::text::bigint, {send}({vector}) FROM {table} AS page JOIN ROWS FROM ("
            "pg_catalog.unnest(%b::bigint[]), pg_catalog.unnest(%b::bigint[]), pg_catalog.unnest(%b::{array})"
            ") AS fresh(id, text_hash, embedding) ON page.id = fresh.id AND {text_hash} = fresh.text_hash"
            " WHERE {replaces} ORDER BY page.id FOR NO KEY UPDATE OF page"
        ).format(
            send=sql.Identifier(vector.schema, "vector_send"),
            vector=found.vector,
            table=table.identifier,
            array=vector.array,
            text_hash=found.text_hash,
            replaces=selection.replaces(found, vector),
        ),
        arrays,
    )
    former = [Former(one, xmin, bytes(was)) for one, xmin, was in rows if was is not None]
    return record_vectors(session, ledger, table, column, [row[0] for row in rows], former)
