"""Stored vectors and the texts that they are compared with, as they come from the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from psycopg import sql

from ..database.session import Session
from ..preservation.fingerprint import columns_of
from .failures import RequestRejected
from .selection import SOURCE
from .tables import EmbeddedTable, VectorType
from .vectors import Vectors
from .verification import Embed

# What one request holds; a longer text travels alone.
TEXTS_PER_REQUEST = 64
_CHARACTERS_PER_REQUEST = 100_000


@dataclass(frozen=True, slots=True)
class Stored:
    """A row that has a vector: its source (None: it names none), its text, the vector of whatever dimensions."""

    id: int
    source: str | None
    text: str
    vector: Vectors

    @property
    def directed(self) -> bool:
        """Whether a cosine with the vector means anything."""
        return bool(np.isfinite(self.vector).all() and self.vector.any())

    def cosine(self, fresh: Vectors) -> float:
        """The cosine of the stored vector with `fresh`; -1 when they do not compare."""
        if self.vector.shape != fresh.shape or not self.directed:
            return -1.0
        one, other = self.vector.astype(np.float64), fresh.astype(np.float64)
        return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def knows_sources(session: Session, found: EmbeddedTable) -> bool:
    """Whether the table says where a row comes from."""
    return SOURCE in columns_of(session, found.table)


def source_of(known: bool) -> sql.Composable:
    """The source of a row (called `page`) as text; NULL where the table does not know sources."""
    return sql.SQL("{}::text").format(sql.Identifier("page", SOURCE)) if known else sql.SQL("NULL::text")


def read(
    session: Session, found: EmbeddedTable, vector: VectorType, ids: Sequence[int], *, sources: bool
) -> list[Stored]:
    """The rows `ids` that have a vector and a text, in the order of `ids`; `sources`: the table knows them."""
    query = sql.SQL(
        "SELECT page.id, {source} AS source, {columns}, {send}({vector}) AS vector"
        " FROM {table} AS page WHERE page.id = ANY (%s::bigint[]) AND {vector} IS NOT NULL AND NOT {blank}"
    ).format(
        source=source_of(sources),
        columns=sql.SQL(", ").join(sql.Identifier("page", name) for name in found.kind.columns),
        send=sql.Identifier(vector.schema, "vector_send"),
        vector=found.vector,
        table=found.table.identifier,
        blank=found.blank,
    )
    rows = {
        row[0]: Stored(row[0], row[1], found.kind.text(row[2:-1]), _vector(row[-1]))
        for row in session.tuples(query, (list(ids),))
    }
    return [rows[one] for one in ids if one in rows]


def _vector(sent: bytes) -> Vectors:
    """A vector as pgvector sends it: the number of dimensions, a word for later use, and big-endian floats."""
    return np.frombuffer(sent, dtype=">f4", offset=4).astype(np.float32)


def embedded(embed: Embed, texts: Sequence[str]) -> list[Vectors | None]:
    """The texts' vectors, in requests of bounded size; None for each text that the service refuses for itself.

    Raises ServiceUnavailable or ServiceUnusable.
    """
    return [vector for some in _requests(texts) for vector in _embedded(embed, some)]


def _requests(texts: Sequence[str]) -> Iterator[list[str]]:
    request: list[str] = []
    characters = 0
    for text in texts:
        if request and (len(request) == TEXTS_PER_REQUEST or characters + len(text) > _CHARACTERS_PER_REQUEST):
            yield request
            request, characters = [], 0
        request.append(text)
        characters += len(text)
    if request:
        yield request


def _embedded(embed: Embed, texts: Sequence[str]) -> list[Vectors | None]:
    try:
        return list(embed(texts))
    except RequestRejected:
        if len(texts) == 1:
            return [None]
    middle = len(texts) // 2
    return [*_embedded(embed, texts[:middle]), *_embedded(embed, texts[middle:])]
