"""The vector index: what is there, how well it finds, and the plan to have a good one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from psycopg import sql

from ..database.session import Session
from ..plan import Statement
from ..schema.costs import VECTOR_ROWS
from .tables import EmbeddedTable, VectorType

Action = Literal["none", "kept", "built", "replaced", "undecided", "impossible"]
METHOD = "hnsw"
MAX_DIMENSIONS = 2000
_DEFAULT_LISTS = 100
_NAME_BYTES = 63
NEIGHBOURS = 10
# As many samples as an exact scan for each allows within a few seconds.
_SAMPLES = 50
_SAMPLES_OF_MANY = 20
_MANY_ROWS = 50_000
# Distances of the same pair computed twice differ in the last bits.
_EPSILON = 1e-6

_INDEXES = """
SELECT i.relname AS name, am.amname AS method, x.indisvalid AS valid, x.indpred IS NULL AS whole,
  opc.opcname = 'vector_cosine_ops' AS cosine,
  (SELECT option_value FROM pg_options_to_table(i.reloptions) WHERE option_name = 'lists') AS lists,
  ocn.nspname AS operators_schema, opc.opcname AS operators, coalesce(i.reloptions, '{}')::text[] AS options, x.indnatts = 1 AS plain
FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am am ON am.oid = i.relam
JOIN pg_class t ON t.oid = x.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
JOIN pg_opclass opc ON opc.oid = x.indclass[0] JOIN pg_namespace ocn ON ocn.oid = opc.opcnamespace
JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = x.indkey[0]
WHERE n.nspname = %s AND t.relname = %s AND a.attname = %s AND am.amname IN ('ivfflat', 'hnsw')
ORDER BY i.relname
"""


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """An index on a column of vectors. `usable` says that Archon's cosine search can use it; `plain`, that it is on all
    vectors and nothing else; `operators` are its operator class (schema, name), `options` its parameters as `name=value`."""

    name: str
    method: str
    valid: bool
    usable: bool
    lists: int | None
    plain: bool = True
    operators: tuple[str, str] = ("", "")
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexState:
    """All that the plan depends on. `rows` are those with a vector, or that will have one after the rebuild.

    `recall` is recall@10 of what is there, None where it cannot be measured; `taken` are names in the table's schema.
    """

    indexes: tuple[VectorIndex, ...]
    rows: int
    recall: float | None
    dimensions: int | None
    has_hnsw: bool
    taken: frozenset[str]


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """What to do about one table's vector index, and why. `statements` are in order; empty means leave it."""

    action: Action
    reason: str
    statements: tuple[Statement, ...] = ()
    drops: bool = False
    creates: str = ""


def inspect(session: Session, found: EmbeddedTable, rows: int, recall: float | None) -> IndexState:
    """The state of `found`'s vector indexes, for `rows` vectors and their measured `recall`."""
    names = session.rows(
        "SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND starts_with(c.relname, %s)",
        (found.table.schema, "idx_"),
    )
    return IndexState(
        indexes(session, found),
        rows,
        recall,
        found.dimensions,
        bool(session.value("SELECT count(*) FROM pg_am WHERE amname = %s", (METHOD,))),
        frozenset(row["name"] for row in names),
    )


def indexes(session: Session, found: EmbeddedTable) -> tuple[VectorIndex, ...]:
    """The vector indexes on the table's column of vectors, by name."""
    return tuple(
        VectorIndex(
            row["name"],
            row["method"],
            row["valid"],
            row["valid"] and row["whole"] and row["cosine"],
            int(row["lists"] or _DEFAULT_LISTS) if row["method"] == "ivfflat" else None,
            row["plain"] and row["whole"],
            (row["operators_schema"], row["operators"]),
            tuple(row["options"]),
        )
        for row in session.rows(_INDEXES, (found.table.schema, found.table.name, found.column))
    )


@dataclass(frozen=True, slots=True)
class Copies:
    """The indexes of the old vectors made again for the new ones, in the same method with the same parameters: those there
    are or will be, and the statements that make what lacks."""

    indexes: tuple[VectorIndex, ...]
    statements: tuple[Statement, ...]


def copies(found: EmbeddedTable, old: Sequence[VectorIndex], state: IndexState, *, concurrently_rows: int) -> Copies:
    """What of the indexes on the `old` vectors goes over to those in `found`. One with more lists than there are rows does
    not: it would not find anything."""
    there = [index for index in state.indexes if index.valid and index.plain]
    have = [_form(index) for index in there]
    made: list[VectorIndex] = []
    statements = []
    taken = set(state.taken)
    for one in old:
        crowded = one.lists is not None and one.lists > state.rows
        if not (one.valid and one.plain) or crowded or not state.rows or (state.dimensions or 0) > MAX_DIMENSIONS:
            continue
        if _form(one) in have:
            have.remove(_form(one))
            continue
        name = next(name for name in names(found) if name not in taken)
        taken.add(name)
        made.append(replace(one, name=name))
        statements.append(_copy(found, made[-1], state.rows > concurrently_rows, state.rows))
    return Copies((*there, *made), tuple(statements))


def _form(index: VectorIndex) -> tuple[object, ...]:
    return index.method, index.operators, sorted(index.options)


def names(found: EmbeddedTable) -> Iterator[str]:
    """Names for a vector index of `found`, the plainest first, without end."""
    suffixes = itertools.chain(("", f"_{METHOD}"), (f"_{METHOD}{number}" for number in itertools.count(2)))
    return (_name(found, suffix) for suffix in suffixes)


def measure(session: Session, found: EmbeddedTable, vector: VectorType, rows: int) -> float | None:
    """Recall@10 of the index against an exact scan over sampled stored vectors, with the session's default settings
    (probes, ef_search) as Archon has them. None without vectors.

    The planner is made to use the index, which on a small table it would not do by itself.
    """
    query = sql.SQL(
        "SELECT ARRAY(SELECT {vector} {distance} sample.embedding FROM {table} AS page"
        " WHERE {vector} IS NOT NULL ORDER BY {vector} {distance} sample.embedding LIMIT {neighbours}) AS distances"
        " FROM (SELECT id, {vector} AS embedding FROM {table} AS page WHERE {vector} IS NOT NULL"
        " ORDER BY pg_catalog.hashint8(id), id LIMIT {samples}) AS sample ORDER BY sample.id"
    ).format(
        vector=found.vector,
        distance=vector.cosine_distance,
        table=found.table.identifier,
        neighbours=sql.Literal(NEIGHBOURS),
        samples=sql.Literal(_SAMPLES if rows <= _MANY_ROWS else _SAMPLES_OF_MANY),
    )
    by_index = _distances(session, query, ("enable_seqscan", "enable_sort"))
    exact = _distances(session, query, ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"))
    wanted = sum(len(nearest) for nearest in exact)
    if not wanted:
        return None
    hits = sum(
        min(len(nearest), sum(distance <= nearest[-1] + _EPSILON for distance in found_distances))
        for found_distances, nearest in zip(by_index, exact, strict=True)
    )
    return round(hits / wanted, 4)


def _distances(session: Session, query: sql.Composed, off: Sequence[str]) -> list[list[float]]:
    with session.transaction("BEGIN READ ONLY"):
        for setting in off:
            session.execute(sql.SQL("SET LOCAL {} = off").format(sql.Identifier(setting)))
        return [row["distances"] for row in session.rows(query)]


def plan(
    found: EmbeddedTable,
    vector: VectorType,
    state: IndexState,
    *,
    min_recall: float,
    concurrently_rows: int,
) -> IndexPlan:
    """What to do so that Archon's search has an index of at least `min_recall`, in the fewest statements."""
    usable = [index for index in state.indexes if index.usable]
    concurrently = state.rows > concurrently_rows
    # What a broken concurrent build leaves behind costs every write and serves no search.
    leftovers = [index.name for index in state.indexes if not index.valid and index.name.startswith(_name(found, ""))]
    drop_leftovers = tuple(_drop(found, name, concurrently) for name in leftovers)
    if not state.rows:
        return IndexPlan("none", "no vectors to index", drop_leftovers, bool(leftovers))
    reason = _fault(state, usable, min_recall)
    if reason is None:
        unknown = state.recall is None
        return IndexPlan(
            "undecided" if unknown else "kept",
            "its recall is measured after the rebuild" if unknown else "it finds what it should",
            drop_leftovers,
            bool(leftovers),
        )
    if not state.has_hnsw:
        return IndexPlan("impossible", "this pgvector has no hnsw; update it to 0.5 or newer")
    if state.dimensions is None or state.dimensions > MAX_DIMENSIONS:
        return IndexPlan("impossible", f"hnsw wants a column with declared dimensions, at most {MAX_DIMENSIONS}")
    old = [index.name for index in usable]
    # Concurrently, the old index serves searches until the new one is there, so its name stays taken.
    freed = set(leftovers) | (set() if concurrently else set(old))
    name = next(name for name in names(found) if name not in state.taken - freed)
    drop_old = tuple(_drop(found, index, concurrently) for index in old)
    create = _create(found, vector, name, concurrently, state.rows)
    statements = (*drop_leftovers, create, *drop_old) if concurrently else (*drop_leftovers, *drop_old, create)
    return IndexPlan("replaced" if old else "built", reason, statements, bool(old or leftovers), name)


def _fault(state: IndexState, usable: Sequence[VectorIndex], min_recall: float) -> str | None:
    """Why the present indexes will not do, or None."""
    if not usable:
        return "there is no valid index for cosine search"
    crowded = next((index for index in usable if index.lists is not None and index.lists > state.rows), None)
    if crowded is not None:
        return f"{crowded.name} has {crowded.lists} lists for {state.rows} rows, so that most searches look into empty lists"
    if state.recall is not None and state.recall < min_recall:
        return f"its recall@{NEIGHBOURS} is {state.recall:.2f}, below {min_recall:.2f}"
    return None


def _name(found: EmbeddedTable, suffix: str) -> str:
    room = _NAME_BYTES - len(f"idx__{found.column}{suffix}".encode())
    return f"idx_{found.table.name.encode()[:room].decode(errors='ignore')}_{found.column}{suffix}"


def _create(found: EmbeddedTable, vector: VectorType, name: str, concurrently: bool, rows: int) -> Statement:
    plainest = VectorIndex(name, METHOD, True, True, None, operators=(vector.schema, "vector_cosine_ops"))
    return _copy(found, plainest, concurrently, rows)


def _copy(found: EmbeddedTable, index: VectorIndex, concurrently: bool, rows: int) -> Statement:
    options = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
        for name, _, value in (option.partition("=") for option in index.options)
    )
    statement = sql.SQL(
        "CREATE INDEX {concurrently}{name} ON {table} USING {method} ({column} {operators}){options}"
    ).format(
        concurrently=sql.SQL("CONCURRENTLY " if concurrently else ""),
        name=sql.Identifier(index.name),
        table=found.table.identifier,
        method=sql.Identifier(index.method),
        column=sql.Identifier(found.column),
        operators=sql.Identifier(*index.operators),
        options=sql.SQL(" WITH ({})").format(options) if index.options else sql.SQL(""),
    )
    return Statement(
        statement.as_string(None),
        f"{found.table.schema}.{index.name}",
        f"index the {rows} vectors of {found.table} for vector search",
        ("builds_index",),
        transactional=not concurrently,
        seconds=round(rows / VECTOR_ROWS, 2),
    )


def _drop(found: EmbeddedTable, name: str, concurrently: bool) -> Statement:
    statement = sql.SQL("DROP INDEX {concurrently}{name}").format(
        concurrently=sql.SQL("CONCURRENTLY " if concurrently else ""), name=sql.Identifier(found.table.schema, name)
    )
    return Statement(
        statement.as_string(None),
        f"{found.table.schema}.{name}",
        f"drop the old vector index of {found.table}",
        transactional=not concurrently,
    )
