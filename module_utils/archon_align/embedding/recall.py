"""How well a search finds: its recall@10 over sampled stored vectors, against an exact scan."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg import sql

from ..database.session import Session
from .asking import Asking, as_archon, settings_of
from .functions import Function
from .tables import EmbeddedTable, VectorType

NEIGHBOURS = 10
_SAMPLES = 50
# An exact scan of a large table takes long; as many are made as these seconds allow, and one at least.
_SECONDS = 15.0
# Distances of the same pair computed twice differ in the last bits.
_EPSILON = 1e-6
# Every index of pgvector is left aside, or nothing but an index is used.
_EXACT = ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan")
_BY_INDEX = ("enable_seqscan", "enable_sort")

Distances = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """Stored vectors, and by each the distances of its true nearest neighbours, ascending. Vectors without direction,
    for which a cosine says nothing, are neither."""

    vectors: tuple[Any, ...]
    nearest: tuple[Distances, ...]

    def recall(self, found: Sequence[Distances]) -> float:
        """The part of the true neighbours that was found; any neighbour as near as the last of them is one."""
        hits = sum(
            min(len(nearest), sum(distance <= nearest[-1] + _EPSILON for distance in distances))
            for distances, nearest in zip(found, self.nearest, strict=True)
        )
        return round(hits / sum(map(len, self.nearest)), 4)


@dataclass(frozen=True, slots=True)
class Measured:
    """Recall@10 over `samples` vectors, by the index called `used` ('' when the server scanned instead)."""

    recall: float
    used: str
    samples: int


def draw(session: Session, found: EmbeddedTable, vector: VectorType) -> Sample | None:
    """Sample stored vectors and scan for their neighbours, the same ones for the same rows; None without any.

    Raises psycopg.errors.QueryCanceled when a scan for a single one takes longer than the statement timeout allows.
    """
    rows = session.rows(
        sql.SQL(
            "SELECT {vector} AS embedding FROM {table} AS page WHERE {vector} IS NOT NULL"
            " ORDER BY pg_catalog.hashint8(id), id LIMIT {samples}"
        ).format(vector=found.vector, table=found.table.identifier, samples=sql.Literal(_SAMPLES))
    )
    vectors = [row["embedding"] for row in rows if np.any(row["embedding"])]
    kept: list[Any] = []
    nearest: list[Distances] = []
    query = _search(found, vector)
    started = time.monotonic()
    with session.transaction("BEGIN READ ONLY"):
        _switch_off(session, _EXACT)
        for one in vectors:
            if kept and time.monotonic() - started > _SECONDS:
                break
            distances = _distances(session, query, one)
            if distances:
                kept.append(one)
                nearest.append(distances)
    return Sample(tuple(kept), tuple(nearest)) if kept else None


def by_index(
    session: Session, found: EmbeddedTable, vector: VectorType, sample: Sample, asking: Asking, **more: str
) -> Measured:
    """The recall of the index that the server prefers, with the settings of Archon's sessions, or with `more` of them (a
    dot in the name written as `__`).

    The planner is made to use an index, which on a small table it would not do by itself.
    """
    query = _search(found, vector)
    with settings_of(session, asking):
        _switch_off(session, _BY_INDEX)
        for name, value in more.items():
            session.rows("SELECT pg_catalog.set_config(%s, %s, true)", (name.replace("__", "."), value))
        plan = session.value(sql.SQL("EXPLAIN (FORMAT JSON, COSTS false) {}").format(query), (sample.vectors[0],) * 2)
        found_distances = [_distances(session, query, one) for one in sample.vectors]
    return Measured(sample.recall(found_distances), _index_in(plan), len(sample.vectors))


def through_function(
    session: Session, found: EmbeddedTable, vector: VectorType, sample: Sample, asking: Asking, function: Function
) -> float:
    """The recall of what Archon's function returns to Archon, as the server chooses to carry it out.

    Raises psycopg.Error as the server raises it to Archon.
    """
    call = sql.SQL(
        "SELECT found.id FROM {}(query_embedding => %b, match_count => {}, filter => '{{}}') AS found"
    ).format(function.identifier, sql.Literal(NEIGHBOURS))
    returned: list[list[int]] = []
    started = time.monotonic()
    with as_archon(session, asking, function.schema):
        for one in sample.vectors:
            if returned and time.monotonic() - started > _SECONDS:
                break
            returned.append([row["id"] for row in session.rows(call, (one,))])
    distance = sql.SQL(
        "SELECT {vector} {distance} %b AS distance FROM {table} AS page WHERE page.id = ANY (%s::bigint[])"
    ).format(vector=found.vector, distance=vector.cosine_distance, table=found.table.identifier)
    asked = Sample(sample.vectors[: len(returned)], sample.nearest[: len(returned)])
    return asked.recall(
        [
            _sound(row["distance"] for row in session.rows(distance, (one, ids)))
            for one, ids in zip(asked.vectors, returned, strict=True)
        ]
    )


def sufficient(
    measure: Callable[[int], float], min_recall: float, tries: Sequence[int] = (80, 160, 320, 640)
) -> int | None:
    """The first of `tries` (values of hnsw.ef_search) with which an index reaches `min_recall`, or None."""
    return next((value for value in tries if measure(value) >= min_recall), None)


def _search(found: EmbeddedTable, vector: VectorType) -> sql.Composed:
    return sql.SQL(
        "SELECT {vector} {distance} %b AS distance FROM {table} AS page WHERE {vector} IS NOT NULL"
        " ORDER BY {vector} {distance} %b LIMIT {neighbours}"
    ).format(
        vector=found.vector,
        distance=vector.cosine_distance,
        table=found.table.identifier,
        neighbours=sql.Literal(NEIGHBOURS),
    )


def _distances(session: Session, query: sql.Composed, one: Any) -> Distances:
    return _sound(row["distance"] for row in session.rows(query, (one, one)))


def _sound(distances: Any) -> Distances:
    """Without those to vectors that have no direction."""
    return tuple(sorted(one for one in distances if one is not None and not math.isnan(one)))


def _switch_off(session: Session, settings: Sequence[str]) -> None:
    for setting in settings:
        session.execute(sql.SQL("SET LOCAL {} = off").format(sql.Identifier(setting)))


def _index_in(plan: Any) -> str:
    """The index that a plan of one table's search uses, or ''."""
    nodes = [plan[0]["Plan"]] if isinstance(plan, list) else []
    while nodes:
        node = nodes.pop()
        if "Index Name" in node and node.get("Order By"):
            return str(node["Index Name"])
        nodes += node.get("Plans", ())
    return ""
