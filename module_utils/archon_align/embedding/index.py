"""The vector index: what is there, how well it finds, and the plan to have a good one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from psycopg import sql

from ..database.session import Session
from ..plan import Statement
from ..schema.costs import VECTOR_ROWS
from .recall import NEIGHBOURS, Measured
from .tables import EmbeddedTable, VectorType

Action = Literal["none", "kept", "built", "replaced", "dropped", "weak", "undecided", "impossible"]
METHOD = "hnsw"
MAX_DIMENSIONS = 2000
DEFAULT_M = 16
_STRONG_M = 32
STRONG = (f"m={_STRONG_M}", "ef_construction=128")
# How much longer it takes to build than with pgvector's defaults.
_STRONG_COSTS = 3
_DEFAULT_LISTS = 100
_NAME_BYTES = 63
_OWN_NAMES = 20
_TOO_MANY = (
    f"pgvector indexes a column of type vector with declared dimensions, at most {MAX_DIMENSIONS}; of type halfvec up to 4000,"
    " but what Archon's functions search is vector, so choose a model of fewer dimensions"
)

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


_BUILDERS = """
SELECT count(*) FROM pg_stat_progress_create_index p JOIN pg_locks l ON l.pid = p.pid AND l.granted
JOIN pg_class t ON t.oid = l.relation JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE n.nspname = %s AND t.relname = %s AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND p.pid <> pg_backend_pid()
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

    @property
    def m(self) -> int:
        """The neighbours of each element of an hnsw graph."""
        return int(dict(option.split("=", 1) for option in self.options).get("m", DEFAULT_M))


@dataclass(frozen=True, slots=True)
class IndexState:
    """All that the plan depends on. `rows` are those with a vector, or that will have one after the rebuild.

    `recall` is recall@10 of what is there by the index `used`, None where it is not measured, for the reason `unmeasured`;
    `taken` are names in the table's schema; `in_making` says that another session is building an index on the column.
    """

    indexes: tuple[VectorIndex, ...]
    rows: int
    recall: float | None
    dimensions: int | None
    has_hnsw: bool
    taken: frozenset[str]
    used: str = ""
    unmeasured: str = ""
    in_making: bool = False


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """What to do about one table's vector index, and why. `statements` are in order; empty means leave it."""

    action: Action
    reason: str
    statements: tuple[Statement, ...] = ()
    drops: bool = False
    creates: VectorIndex | None = None


def inspect(session: Session, found: EmbeddedTable, rows: int, measured: Measured | None, why: str = "") -> IndexState:
    """The state of `found`'s vector indexes, for `rows` vectors and what was `measured`, or `why` it was not."""
    names = session.rows(
        "SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND starts_with(c.relname, %s)",
        (found.table.schema, "idx_"),
    )
    there = indexes(session, found)
    return IndexState(
        there,
        rows,
        measured.recall if measured else None,
        found.dimensions,
        bool(session.value("SELECT count(*) FROM pg_am WHERE amname = %s", (METHOD,))),
        frozenset(row["name"] for row in names),
        measured.used if measured else "",
        why,
        # Until it is there, an index that is built concurrently looks like one that was given up.
        any(not one.valid for one in there) and bool(session.value(_BUILDERS, (found.table.schema, found.table.name))),
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


def copies(
    found: EmbeddedTable, old: Sequence[VectorIndex], state: IndexState, *, concurrently_rows: int, memory: str = ""
) -> Copies:
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
        statements.append(_create(found, made[-1], state.rows > concurrently_rows, state.rows, memory))
    return Copies((*there, *made), tuple(statements))


def _form(index: VectorIndex) -> tuple[object, ...]:
    return index.method, index.operators, sorted(index.options)


def names(found: EmbeddedTable) -> Iterator[str]:
    """Names for a vector index of `found`, the plainest first, without end."""
    suffixes = itertools.chain(("", f"_{METHOD}"), (f"_{METHOD}{number}" for number in itertools.count(2)))
    return (_name(found, suffix) for suffix in suffixes)


def plan(
    found: EmbeddedTable,
    vector: VectorType,
    state: IndexState,
    *,
    min_recall: float,
    concurrently_rows: int,
    timeout: float = math.inf,
    memory: str = "",
) -> IndexPlan:
    """What to do so that Archon's search has an index of at least `min_recall`, in the fewest statements.

    An hnsw index that finds less is made once more with stronger parameters, when that takes less than `timeout` seconds;
    one that has them is left alone, or each run would build it anew. `memory` is the maintenance_work_mem for the build.
    """
    usable = [index for index in state.indexes if index.usable]
    concurrently = state.rows > concurrently_rows
    if state.in_making:
        return IndexPlan("undecided", "somebody else is building an index of this table right now")
    # What a broken concurrent build leaves behind costs every write and serves no search.
    leftovers = [index.name for index in state.indexes if is_leftover(found, index)]
    drop_leftovers = tuple(_drop(found, name, concurrently) for name in leftovers)
    if not state.rows:
        return IndexPlan("none", "no vectors to index", drop_leftovers, bool(leftovers))
    faulty, reason = _fault(state, usable, min_recall)
    if reason is None:
        unknown = state.recall is None
        return IndexPlan(
            "undecided" if unknown else "kept",
            state.unmeasured if unknown else "it finds what it should",
            drop_leftovers,
            bool(leftovers),
        )
    others = [index for index in usable if index not in faulty]
    drop_faulty = tuple(_drop(found, index.name, concurrently) for index in faulty)
    if others:
        kept = " and ".join(index.name for index in others)
        return IndexPlan("dropped", f"{reason}; {kept} stays", (*drop_leftovers, *drop_faulty), True)
    if not state.has_hnsw:
        return IndexPlan(
            "impossible", "this pgvector has no hnsw; update it to 0.5 or newer", drop_leftovers, bool(leftovers)
        )
    if state.dimensions is None or state.dimensions > MAX_DIMENSIONS:
        return IndexPlan("impossible", _TOO_MANY, drop_leftovers, bool(leftovers))
    options: tuple[str, ...] = ()
    if any(index.method == METHOD for index in faulty):
        options = STRONG
        if any(_is_strong(index) for index in faulty) or _STRONG_COSTS * state.rows / VECTOR_ROWS > timeout:
            return IndexPlan("weak", reason, drop_leftovers, bool(leftovers))
    # Concurrently, the old index serves searches until the new one is there, so its name stays taken.
    freed = set(leftovers) | (set() if concurrently else {index.name for index in faulty})
    name = next(name for name in names(found) if name not in state.taken - freed)
    made = VectorIndex(name, METHOD, True, True, None, operators=(vector.schema, "vector_cosine_ops"), options=options)
    create = _create(found, made, concurrently, state.rows, memory)
    statements = (*drop_leftovers, create, *drop_faulty) if concurrently else (*drop_leftovers, *drop_faulty, create)
    return IndexPlan("replaced" if faulty else "built", reason, statements, bool(faulty or leftovers), made)


def _fault(
    state: IndexState, usable: Sequence[VectorIndex], min_recall: float
) -> tuple[tuple[VectorIndex, ...], str | None]:
    """The indexes that will not do, and why; no reason when all is well."""
    if not usable:
        return (), "there is no valid index for cosine search"
    crowded = tuple(index for index in usable if index.lists is not None and index.lists > state.rows)
    if crowded:
        one = crowded[0]
        return (
            crowded,
            f"{one.name} has {one.lists} lists for {state.rows} rows, so that most searches look into empty lists",
        )
    if state.recall is not None and state.recall < min_recall:
        faulty = tuple(index for index in usable if state.used in ("", index.name))
        return faulty, f"its recall@{NEIGHBOURS} is {state.recall:.2f}, below {min_recall:.2f}"
    return (), None


def is_leftover(found: EmbeddedTable, index: VectorIndex) -> bool:
    """Whether an index is what a build of ours left that did not come to its end: invalid, and of no name but ours."""
    return not index.valid and index.plain and index.name in itertools.islice(names(found), _OWN_NAMES)


def _is_strong(index: VectorIndex) -> bool:
    return index.m >= _STRONG_M


def _name(found: EmbeddedTable, suffix: str) -> str:
    room = _NAME_BYTES - len(f"idx__{found.column}{suffix}".encode())
    return f"idx_{found.table.name.encode()[:room].decode(errors='ignore')}_{found.column}{suffix}"


def _create(found: EmbeddedTable, index: VectorIndex, concurrently: bool, rows: int, memory: str) -> Statement:
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
    within = f", within maintenance_work_mem = {memory.strip()}" if memory else ""
    return Statement(
        statement.as_string(None),
        f"{found.table.schema}.{index.name}",
        f"index the {rows} vectors of {found.table} for vector search{within}",
        ("builds_index",),
        transactional=not concurrently,
        seconds=round((_STRONG_COSTS if _is_strong(index) else 1) * rows / VECTOR_ROWS, 2),
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
