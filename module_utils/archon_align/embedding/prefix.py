"""Which prefix stands before the texts: told by the vectors that are there, else by the variable.

The same model gives other vectors for the same text with and without `search_document: `, and vectors of both kinds in one table
do not compare.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Any, Literal

import psycopg
from psycopg import sql

from ..database.session import Session, open_session
from ..errors import AlignError
from ..findings import Finding
from .kinds import KINDS
from .same_model import SAME_COSINE
from .stored import Stored, embedded, knows_sources, read
from .tables import EmbeddedTable, VectorType, find_table, vector_type
from .verification import Embed

NONE = ""
NOMIC = "search_document: "
_SAMPLE = 8
# Where rows are looked for, how many are looked at there, and how long a text tells most (octets): a prefix before a long
# one changes little, and the model may read only the beginning.
_PLACES = 24
_ROWS_PER_PLACE = 20
_TELLING = (40, 2000)
# Two prefixes differ when the worse is so much farther away: below that it is rounding.
_NOISE = 1e-5

_ENDS = "SELECT min(page.id) AS first, max(page.id) AS last FROM {table} AS page WHERE {vector} IS NOT NULL AND {dimensions}"
_NEAR = """
SELECT DISTINCT page.id FROM pg_catalog.unnest(%s::bigint[]) AS place(id) CROSS JOIN LATERAL (
  SELECT page.id FROM (
    SELECT page.id, {size} AS size FROM {table} AS page
    WHERE page.id >= place.id AND {vector} IS NOT NULL AND {dimensions} ORDER BY page.id LIMIT %s) AS page
  ORDER BY page.size BETWEEN %s AND %s DESC, page.id LIMIT 1) AS page
ORDER BY page.id
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison says: the prefix (None: it does not tell), `same` when the prefixes make no difference, how many
    rows speak for each candidate, and the median cosine with each."""

    prefix: str | None
    same: bool
    votes: Mapping[str, int]
    cosines: Mapping[str, float]


def decide(cosines: Sequence[Mapping[str, float]]) -> Verdict:
    """What the rows say, each by the cosine of its stored vector with its text under each candidate.

    A row speaks for a candidate under which it is the same vector, and clearly closer than under any other. More than half
    of the rows have to speak for one: users edit rows, and sources differ.
    """
    votes: Counter[str] = Counter()
    ties = 0
    for row in cosines:
        best, *others = sorted(row, key=lambda one: -row[one])
        if row[best] < SAME_COSINE:
            continue
        if all(1 - row[other] > 2 * (1 - row[best]) + _NOISE for other in others):
            votes[best] += 1
        else:
            ties += 1
    first = votes.most_common(1)
    prefix = first[0][0] if first and first[0][1] * 2 > len(cosines) else None
    candidates = cosines[0] if cosines else {}
    return Verdict(
        prefix,
        prefix is None and ties * 2 > len(cosines),
        {one: votes[one] for one in candidates},
        {one: round(median(row[one] for row in cosines), 4) for one in candidates},
    )


@dataclass(frozen=True, slots=True)
class Prefix:
    """What stands before each text, how that is known, and what was measured by database."""

    prefix: str
    source: Literal["evidence", "configured"]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


def find_prefix(
    session: Session,
    tables: Sequence[EmbeddedTable],
    vector: VectorType,
    dimensions: int,
    embed: Embed,
    configured: str,
) -> Prefix:
    """The prefix that PROD's vectors (of `tables`) were made with, or DEV's where PROD's do not tell; else `configured`.

    Reads only, two requests at most. Raises ServiceUnavailable, ServiceUnusable or psycopg.Error (of PROD).
    """
    candidates = tuple(dict.fromkeys((NONE, NOMIC, configured)))
    evidence: dict[str, Any] = {}
    findings: list[Finding] = []
    for target in (session.target, session.context.dev):
        name = target.name
        prod = target is session.target
        rows = _sample(session, tables, vector, dimensions) if prod else _of_dev(session, dimensions)
        compared = _compare(rows, embed, candidates)
        if not compared:
            continue
        verdict = decide(compared)
        evidence[name] = {"sampled": len(compared), "votes": dict(verdict.votes), "cosines": dict(verdict.cosines)}
        if verdict.prefix is not None:
            findings += _told(name, verdict, len(compared), configured)
            return Prefix(verdict.prefix, "evidence", evidence, tuple(findings))
        if verdict.same:
            break
        findings.append(_not_told(name, verdict, len(compared), configured))
    return Prefix(configured, "configured", evidence, tuple(findings))


def _compare(rows: Sequence[Stored], embed: Embed, candidates: Sequence[str]) -> list[dict[str, float]]:
    """By row the cosine under each candidate; a row that the service refuses tells nothing."""
    fresh = iter(embedded(embed, [candidate + row.text for row in rows for candidate in candidates]))
    compared = [(row, {candidate: next(fresh) for candidate in candidates}) for row in rows]
    return [
        {candidate: row.cosine(one) for candidate, one in made.items() if one is not None}
        for row, made in compared
        if all(one is not None for one in made.values())
    ]


def _of_dev(session: Session, dimensions: int) -> list[Stored]:
    """Rows of DEV; none where it cannot be asked, which is no error here."""
    context = session.context
    with contextlib.suppress(AlignError, psycopg.Error), open_session(context, context.dev, read_only=True) as dev:
        vector = vector_type(dev)
        tables = [find_table(dev, kind, vector) for kind in KINDS]
        return _sample(dev, [found for found in tables if found is not None], vector, dimensions)
    return []


def _sample(session: Session, tables: Sequence[EmbeddedTable], vector: VectorType, dimensions: int) -> list[Stored]:
    """Up to eight rows with a vector of `dimensions`, of as many sources as possible."""
    by_source: dict[tuple[str, str | None], list[Stored]] = {}
    for found in tables:
        if found.missing_columns or found.dimensions not in (None, dimensions):
            continue
        ids = _near(session, found, vector, dimensions)
        for row in read(session, found, vector, ids, sources=knows_sources(session, found)):
            if row.directed:
                by_source.setdefault((found.kind.table, row.source), []).append(row)
    # Round after round one of each source, each source's own spread over its ids.
    queues = [_spread(rows) for rows in by_source.values()]
    rounds = (row for turn in range(_SAMPLE) for queue in queues for row in queue[turn : turn + 1])
    return list(islice(rounds, _SAMPLE))


def _spread(rows: Sequence[Stored]) -> list[Stored]:
    """The middle one first, then from the halves' middles."""
    if not rows:
        return []
    middle = len(rows) // 2
    left, right = _spread(rows[:middle]), _spread(rows[middle + 1 :])
    pairs = [
        one
        for number in range(max(len(left), len(right)))
        for side in (left, right)
        for one in side[number : number + 1]
    ]
    return [rows[middle], *pairs]


def _near(session: Session, found: EmbeddedTable, vector: VectorType, dimensions: int) -> list[int]:
    """Ids of rows with a vector, one near each of some places between the first and the last."""
    # Only a column that declares no dimensions can hold others; asking means reading each vector.
    right: sql.Composable = sql.SQL("true")
    if found.dimensions is None:
        right = sql.SQL("{}({}) = {}").format(
            sql.Identifier(vector.schema, "vector_dims"), found.vector, sql.Literal(dimensions)
        )
    names = {"table": found.table.identifier, "vector": found.vector, "dimensions": right}
    ends = session.row(sql.SQL(_ENDS).format(**names))
    if ends is None or ends["first"] is None:
        return []
    first, last = ends["first"], ends["last"]
    step = max(1, -(-(last - first + 1) // _PLACES))
    size = sql.SQL(" + ").join(
        sql.SQL("coalesce(pg_catalog.octet_length({}), 0)").format(sql.Identifier("page", name))
        for name in found.kind.columns
    )
    query = sql.SQL(_NEAR).format(**names, size=size)
    places = list(range(first, last + 1, step))
    return [row["id"] for row in session.rows(query, (places, _ROWS_PER_PLACE, *_TELLING))]


def _told(name: str, verdict: Verdict, sampled: int, configured: str) -> list[Finding]:
    if verdict.prefix == configured:
        return []
    return [
        Finding(
            "embedding_prefix_found",
            "warning" if configured else "info",
            f"{name}: embeddings",
            f"The stored vectors were made {_words(verdict.prefix or NONE)}, so that is how texts are embedded, and not"
            f" {_words(configured)} as configured: {_measured(verdict, sampled)}.",
            "Set archon_embedding_prefix accordingly, and see that Archon puts the same before what it embeds.",
        )
    ]


def _not_told(name: str, verdict: Verdict, sampled: int, configured: str) -> Finding:
    return Finding(
        "embedding_prefix_unknown",
        "warning",
        f"{name}: embeddings",
        "The stored vectors do not tell which prefix was used; they come from another model, from several, or from other"
        f" texts: {_measured(verdict, sampled)}. Texts are embedded {_words(configured)}, unless DEV's vectors tell.",
        "Check archon_embedding_model and archon_embedding_prefix; archon_embeddings_scope=stale rebuilds vectors of another model.",
    )


def _words(prefix: str) -> str:
    return f"with the prefix {prefix!r}" if prefix else "without a prefix"


def _measured(verdict: Verdict, sampled: int) -> str:
    told = ", ".join(f"{verdict.cosines[one]:.3f} {_words(one)} ({votes} rows)" for one, votes in verdict.votes.items())
    return f"of {sampled} sampled rows, embedded once more, the median cosine is {told}"
