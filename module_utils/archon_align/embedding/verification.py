"""Proof that vectors belong to their texts: before anything is written, and again on a sample of what was."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
from psycopg import sql

from ..database.session import Session
from .failures import ServiceUnusable
from .same_model import SAME_COSINE
from .tables import EmbeddedTable, VectorType
from .vectors import Vectors, cosines

# Texts as they are sent, prefix included, to one vector each, in order.
type Embed = Callable[[Sequence[str]], Vectors]

_TEXTS = (
    "Write-ahead logging keeps a database consistent after a crash.",
    "Bake the bread for forty minutes until its crust is brown.",
    "The orchestra rehearsed the second movement twice.",
)


def _mixed_up(url: str, expected: str, found: str, code: str) -> ServiceUnusable:
    return ServiceUnusable(
        "The embedding service mixes up texts and vectors.",
        object_name=url,
        expected=expected,
        found=found,
        remedy="Nothing was written. Check the service (a proxy or batching layer that reorders?), then run again.",
        code=code,
    )


def require_order(embed: Embed, url: str) -> Vectors:
    """Embed a few texts together and alone; the vectors of the texts, by which services can be compared.

    Raises ServiceUnusable unless each text gets its own vector both times. The first request has all texts.
    """
    together = embed(_TEXTS)
    # The last text's place follows from the others'.
    alone = np.concatenate([embed([text]) for text in _TEXTS[:-1]])
    worst = min(cosines(together[:-1], alone))
    # Written so that NaN fails.
    if not worst >= SAME_COSINE:
        expected = "the same vector for a text alone and among others"
        raise _mixed_up(url, expected, f"cosine {worst:.3f}", "embedding_order")
    if min(cosines(together, together[[1, 2, 0]])) > 1 - 1e-6:
        raise _mixed_up(url, "different vectors for different texts", "one vector for all", "embedding_constant")
    return together


def again(embed: Embed) -> Vectors:
    """The vectors that `require_order` returned, asked for once more in one request."""
    return embed(_TEXTS)


def worst_cosine(
    session: Session, found: EmbeddedTable, vector: VectorType, embed: Embed, prefix: str, ids: Sequence[int]
) -> tuple[int, float] | None:
    """Embed the texts of the rows `ids` once more, all in one request; the row least like its stored vector, and the cosine.

    None when none of the rows has such a vector any more (users change rows).
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
    fresh = _in_other_company(
        embed, [prefix + found.kind.text([row[name] for name in found.kind.columns]) for row in rows]
    )
    compared = session.rows(
        sql.SQL(
            "SELECT page.id, {cosine} AS cosine FROM {table} AS page"
            " JOIN ROWS FROM (pg_catalog.unnest(%b::bigint[]), pg_catalog.unnest(%b::bigint[]),"
            " pg_catalog.unnest(%b::{array})) AS fresh(id, text_hash, embedding)"
            " ON page.id = fresh.id AND {text_hash} = fresh.text_hash"
            " WHERE {same_dimensions} ORDER BY cosine LIMIT 1"
        ).format(
            cosine=cosine(found, vector),
            same_dimensions=same_dimensions(found, vector),
            table=found.table.identifier,
            array=vector.array,
            text_hash=found.text_hash,
        ),
        ([row["id"] for row in rows], [row["text_hash"] for row in rows], list(fresh)),
    )
    return (compared[0]["id"], float(compared[0]["cosine"])) if compared else None


def same_dimensions(found: EmbeddedTable, vector: VectorType) -> sql.Composable:
    """Whether a row (called `page`) has a vector of as many dimensions as `fresh.embedding`."""
    dims = sql.Identifier(vector.schema, "vector_dims")
    return sql.SQL("{dims}({vector}) = {dims}(fresh.embedding)").format(dims=dims, vector=found.vector)


def cosine(found: EmbeddedTable, vector: VectorType) -> sql.Composable:
    """The cosine of the vector of a row (called `page`) with `fresh.embedding`: -1 with a vector that has no direction or
    other dimensions, NULL without a vector."""
    return sql.SQL(
        "CASE WHEN {same_dimensions} THEN coalesce(nullif(1 - ({vector} {distance} fresh.embedding), 'NaN'), -1)"
        " WHEN {vector} IS NOT NULL THEN -1 END"
    ).format(same_dimensions=same_dimensions(found, vector), vector=found.vector, distance=vector.cosine_distance)


def _in_other_company(embed: Embed, texts: Sequence[str]) -> Vectors:
    """The texts' vectors by one request that no request of the rebuild can have been like.

    Two others stand before the first and the last, and the order is drawn: a service that shuffles batches, always in the
    same way even, would agree with itself on the same batch only. Reversed, rotated or with neighbours changed at either
    end, one of the texts gets the vector of one of those two.
    """
    order = random.sample(range(len(texts)), len(texts))
    found = embed([_TEXTS[0], *(texts[n] for n in order[:-1]), _TEXTS[1], *(texts[n] for n in order[-1:])])
    own = np.concatenate([found[1 : len(texts)], found[len(texts) + 1 :]])
    return own[np.argsort(order)]
