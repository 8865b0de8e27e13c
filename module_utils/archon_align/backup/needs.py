"""What some tables cannot do without, by the catalogue's own dependencies."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..database.session import Session

# The catalogues' own oids, the same in every server.
CLASS, CONSTRAINT, TYPE, ROUTINE, DEFAULT, TRIGGER, EXTENSION = 1259, 2606, 1247, 1255, 2604, 2620, 3079
Node = tuple[int, int]

_EDGES = """
SELECT classid::bigint, objid::bigint, refclassid::bigint, refobjid::bigint, deptype::text
FROM pg_depend WHERE deptype IN ('n', 'a', 'i', 'e')
"""
_INSIDE = """
WITH dumped AS (SELECT oid FROM pg_namespace WHERE nspname = ANY(%(schemas)s))
SELECT 'pg_class'::regclass::oid::bigint AS catalogue, oid::bigint AS oid FROM pg_class WHERE relnamespace IN (SELECT oid FROM dumped)
UNION ALL SELECT 'pg_proc'::regclass::oid::bigint, oid::bigint FROM pg_proc WHERE pronamespace IN (SELECT oid FROM dumped)
UNION ALL SELECT 'pg_type'::regclass::oid::bigint, oid::bigint FROM pg_type WHERE typnamespace IN (SELECT oid FROM dumped)
UNION ALL SELECT 'pg_operator'::regclass::oid::bigint, oid::bigint FROM pg_operator WHERE oprnamespace IN (SELECT oid FROM dumped)
UNION ALL SELECT 'pg_opclass'::regclass::oid::bigint, oid::bigint FROM pg_opclass WHERE opcnamespace IN (SELECT oid FROM dumped)
UNION ALL SELECT 'pg_opfamily'::regclass::oid::bigint, oid::bigint FROM pg_opfamily WHERE opfnamespace IN (SELECT oid FROM dumped)
UNION ALL SELECT 'pg_collation'::regclass::oid::bigint, oid::bigint FROM pg_collation WHERE collnamespace IN (SELECT oid FROM dumped)
UNION ALL SELECT 'pg_ts_config'::regclass::oid::bigint, oid::bigint FROM pg_ts_config WHERE cfgnamespace IN (SELECT oid FROM dumped)
UNION ALL SELECT 'pg_ts_dict'::regclass::oid::bigint, oid::bigint FROM pg_ts_dict WHERE dictnamespace IN (SELECT oid FROM dumped)
"""
_CONSTRAINTS = """
SELECT oid::bigint, contype::text, conrelid::bigint, contypid::bigint, confrelid::bigint FROM pg_constraint
"""
_SOURCES = """
SELECT 'pg_proc'::regclass::oid::bigint AS catalogue, p.oid::bigint AS oid, p.proname AS name, p.prosrc AS source
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
WHERE n.nspname = ANY(%(schemas)s) AND l.lanname NOT IN ('c', 'internal')
UNION ALL
SELECT 'pg_type'::regclass::oid::bigint, t.oid::bigint, t.typname, ''
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
WHERE n.nspname = ANY(%(schemas)s) AND (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c')
"""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Graph:
    """Who needs whom. `parts` come with what they are part of, `own` only with a table that brings its rows.
    A trigger by a function of another schema is nobody's own: what would stand in for that would swallow rows.

    `inside` is what the dump holds of the kinds that live in schemas; `members` maps what an extension brought to it.
    """

    needs: Mapping[Node, set[Node]]
    parts: Mapping[Node, set[Node]]
    own: Mapping[Node, set[Node]]
    inside: frozenset[Node]
    members: Mapping[Node, int]
    sources: Sequence[tuple[Node, str, str]] = ()


@dataclass(slots=True)
class Closure:
    """What was reached: `inside` the dump, `outside` of it, and the oids of `extensions`."""

    inside: set[Node] = field(default_factory=set)
    outside: set[Node] = field(default_factory=set)
    extensions: set[int] = field(default_factory=set)


def read_graph(session: Session, schemas: Sequence[str], tables: frozenset[int]) -> Graph:
    """The dependencies in the session's snapshot. `tables` are the oids of those that bring their rows."""
    needs: dict[Node, set[Node]] = defaultdict(set)
    parts: dict[Node, set[Node]] = defaultdict(set)
    own: dict[Node, set[Node]] = defaultdict(set)
    members: dict[Node, int] = {}
    for catalogue, oid, other_catalogue, other_oid, kind in session.tuples(_EDGES):
        this, other = (catalogue, oid), (other_catalogue, other_oid)
        if kind == "e":
            members[this] = other_oid
            continue
        # A partition works without its parent, a sequence without the column that owns it.
        if not (kind == "a" and catalogue == other_catalogue == CLASS):
            needs[this].add(other)
        if kind == "i" or (kind == "a" and catalogue == DEFAULT):
            parts[other].add(this)
        elif kind == "a" and catalogue in (TRIGGER, CLASS):
            own[other].add(this)
    for oid, kind, table, domain, target in session.tuples(_CONSTRAINTS):
        holder = (CLASS, table) if table else (TYPE, domain)
        if kind == "c":
            parts[holder].add((CONSTRAINT, oid))
        elif kind in "pux" or (kind == "f" and target in tables):
            own[holder].add((CONSTRAINT, oid))
    inside = frozenset((row["catalogue"], row["oid"]) for row in session.rows(_INSIDE, {"schemas": list(schemas)}))
    sources = tuple(
        ((row["catalogue"], row["oid"]), row["name"], row["source"])
        for row in session.rows(_SOURCES, {"schemas": list(schemas)})
    )
    for nodes in own.values():
        nodes -= {
            node
            for node in nodes
            if node[0] == TRIGGER
            and any(other[0] == ROUTINE and other not in inside and other not in members for other in needs[node])
        }
    return Graph(needs, parts, own, inside, members, sources)


def close(graph: Graph, tables: Iterable[int]) -> Closure:
    """Everything that `tables`, with their rows, indexes, keys and triggers, need to be made and filled alone.

    Besides what the catalogue knows that is functions and types of the same schemas whose names a needed function's
    body says: bodies are text to the catalogue. What would bring further tables for that is left alone.
    """
    tables = frozenset(tables)
    found = _reach(graph, tables, [(CLASS, oid) for oid in tables], Closure())
    while True:
        bodies = " ".join(source for node, _, source in graph.sources if node in found.inside)
        words = set(_WORD.findall(bodies))
        named = [
            node
            for node, name, _ in graph.sources
            if node not in found.inside and (name in words or (not _WORD.fullmatch(name) and name in bodies))
        ]
        before = len(found.inside)
        relations = {node for node in found.inside if node[0] == CLASS}
        for node in named:
            wider = _reach(graph, tables, [node], Closure(set(found.inside), set(found.outside), set(found.extensions)))
            composite = graph.parts.get(node, set())
            if {other for other in wider.inside if other[0] == CLASS} <= relations | composite:
                found = wider
        if len(found.inside) == before:
            return found


def _reach(graph: Graph, tables: frozenset[int], start: Sequence[Node], found: Closure) -> Closure:
    waiting = list(start)
    schematic = {catalogue for catalogue, _ in graph.inside}
    while waiting:
        node = waiting.pop()
        if node in found.inside or node in found.outside:
            continue
        if node in graph.members:
            found.extensions.add(graph.members[node])
            continue
        if node[0] == EXTENSION:
            found.extensions.add(node[1])
            continue
        if node[0] in schematic and node not in graph.inside:
            found.outside.add(node)
            continue
        found.inside.add(node)
        waiting += graph.needs.get(node, ())
        waiting += graph.parts.get(node, ())
        if node[0] == CLASS and node[1] in tables:
            waiting += graph.own.get(node, ())
    return found
