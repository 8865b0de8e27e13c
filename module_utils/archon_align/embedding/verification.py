"""Proof that vectors belong to their texts: before anything is written, and again on a sample of what was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from psycopg import sql

from ..database.session import Session
from .failures import ServiceUnusable
from .quarantine import PatientClient
from .tables import EmbeddedTable, VectorType
from .vectors import cosines

# The same text embedded twice differs by rounding only, also when batches are composed differently.
SAME_COSINE = 0.99
_TEXTS = (
    "Write-ahead logging keeps a database consistent after a crash.",
    "Bake the bread for forty minutes until its crust is brown.",
    "The orchestra rehearsed the second movement twice.",
)


def _unusable(url: str, expected: str, found: str, code: str) -> ServiceUnusable:
    return ServiceUnusable(
        "The embedding service mixes up texts and vectors.",
        object_name=url,
        expected=expected,
        found=found,
        remedy="Nothing was written. Check the service (a proxy or batching layer that reorders?), then run again.",
        code=code,
    )


def require_order(client: PatientClient) -> None:
    """Embed a few texts together and alone; raises ServiceUnusable unless each text gets its own vector both times.

    It is also the client's introduction (see EmbeddingClient.introduce).
    """
    together = client.embed(_TEXTS, introduction=True)
    # The last text's place follows from the others'.
    alone = np.concatenate([client.embed([text]) for text in _TEXTS[:-1]])
    worst = min(cosines(together[:-1], alone))
    url = client.client.url
    if worst < SAME_COSINE:
        raise _unusable(
            url, "the same vector for a text alone and among others", f"cosine {worst:.3f}", "embedding_order"
        )
    if min(cosines(together, together[[1, 2, 0]])) > 1 - 1e-6:
        raise _unusable(url, "different vectors for different texts", "one vector for all", "embedding_constant")


def worst_cosine(
    session: Session, found: EmbeddedTable, vector: VectorType, client: PatientClient, ids: Sequence[int]
) -> tuple[int, float] | None:
    """Embed the texts of the rows `ids` once more, one by one; the row least like its stored vector, and the cosine.

    None when none of the rows has its vector any more (users change rows).
    """
    columns = sql.SQL(", ").join(sql.Identifier("page", name) for name in found.kind.columns)
    rows = session.rows(
        sql.SQL(
            "SELECT page.id, {columns}, {text_hash} AS text_hash FROM {table} AS page"
            " WHERE page.id = ANY (%s::bigint[]) AND {vector} IS NOT NULL"
        ).format(columns=columns, vector=found.vector, text_hash=found.text_hash, table=found.table.identifier),
        (list(ids),),
    )
    if not rows:
        return None
    # One text per request: a batch shuffled the same way twice would agree with itself.
    fresh = [client.embed([found.kind.text([row[name] for name in found.kind.columns])])[0] for row in rows]
    compared = session.rows(
        sql.SQL(
            "SELECT page.id, 1 - ({vector} {distance} fresh.embedding) AS cosine FROM {table} AS page"
            " JOIN ROWS FROM (pg_catalog.unnest(%b::bigint[]), pg_catalog.unnest(%b::bigint[]),"
            " pg_catalog.unnest(%b::{array})) AS fresh(id, text_hash, embedding)"
            " ON page.id = fresh.id AND {text_hash} = fresh.text_hash"
            " WHERE {vector} IS NOT NULL ORDER BY cosine LIMIT 1"
        ).format(
            vector=found.vector,
            distance=vector.cosine_distance,
            table=found.table.identifier,
            array=vector.array,
            text_hash=found.text_hash,
        ),
        ([row["id"] for row in rows], [row["text_hash"] for row in rows], fresh),
    )
    return (compared[0]["id"], float(compared[0]["cosine"])) if compared else None
