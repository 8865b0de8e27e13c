"""Which sources have vectors that the model does not give for their texts: made by another model, or of an earlier text.

A few rows of each source are embedded once more and compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import batched

from psycopg import sql

from ..database.session import Session
from .same_model import SAME_COSINE
from .selection import Selection
from .stored import TEXTS_PER_REQUEST, Stored, embedded, knows_sources, read, source_of
from .tables import EmbeddedTable, VectorType
from .verification import Embed

# The first row, the last, and three that a hash of the id draws: a rebuild that was stopped half-way shows in the outer ones.
_SAMPLES = """
SELECT {source} AS source, count(*) AS rows, min(page.id) AS first, max(page.id) AS last,
  (min(ARRAY[pg_catalog.hashint8extended(page.id, 1), page.id]))[2] AS one,
  (min(ARRAY[pg_catalog.hashint8extended(page.id, 2), page.id]))[2] AS two,
  (min(ARRAY[pg_catalog.hashint8extended(page.id, 3), page.id]))[2] AS three
FROM {table} AS page WHERE {vector} IS NOT NULL GROUP BY 1 ORDER BY min(page.id)
"""


@dataclass(frozen=True, slots=True)
class StaleSource:
    """A source whose vectors are not, or not all, what its texts give: of `rows` vectors `sampled` were compared, and
    `matching` of these are as they must be.

    `source` is None for the rows that name none; `whole`: the table knows no sources. Nothing was sampled where the service
    refuses all texts, or all are blank: what can be embedded of such a source will be.
    """

    source: str | None
    rows: int
    sampled: int
    matching: int
    whole: bool = False

    @property
    def mixed(self) -> bool:
        return self.matching > 0


def stale_sources(
    session: Session, found: EmbeddedTable, vector: VectorType, embed: Embed, prefix: str
) -> list[StaleSource]:
    """The stale sources of a table, in the order of their first rows. Reads only.

    Raises ServiceUnavailable, ServiceUnusable or psycopg.Error.
    """
    known = knows_sources(session, found)
    groups = session.tuples(
        sql.SQL(_SAMPLES).format(source=source_of(known), table=found.table.identifier, vector=found.vector)
    )
    group_of = {one: number for number, (_, _, *ids) in enumerate(groups) for one in ids}
    sampled, matching = [0] * len(groups), [0] * len(groups)
    for one, same in _compared(session, found, vector, embed, prefix, list(group_of), sources=known):
        sampled[group_of[one]] += 1
        matching[group_of[one]] += same
    return [
        StaleSource(name, rows, sampled[number], matching[number], whole=not known)
        for number, (name, rows, *_) in enumerate(groups)
        if not sampled[number] or matching[number] < sampled[number]
    ]


def selection(stale: Sequence[StaleSource]) -> Selection:
    """The rows to be embedded when these sources of a table are stale."""
    return Selection(
        tuple(one.source for one in stale if one.source is not None),
        unnamed=any(one.source is None and not one.whole for one in stale),
        whole=any(one.whole for one in stale),
    )


def _compared(
    session: Session,
    found: EmbeddedTable,
    vector: VectorType,
    embed: Embed,
    prefix: str,
    ids: Sequence[int],
    *,
    sources: bool,
) -> Iterator[tuple[int, bool]]:
    """Each row's id, and whether its vector is what its text gives."""
    for some in batched(ids, TEXTS_PER_REQUEST):
        rows = read(session, found, vector, some, sources=sources)
        yield from ((row.id, False) for row in rows if not row.directed)
        directed: list[Stored] = [row for row in rows if row.directed]
        for row, fresh in zip(directed, embedded(embed, [prefix + row.text for row in directed]), strict=True):
            if fresh is not None:
                yield row.id, row.cosine(fresh) >= SAME_COSINE
