"""What PROD holds now: rows, protected tables, embeddings, and whether its search functions answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..embedding.asking import Asking, as_archon, find_asking
from ..embedding.horizon import Horizon, Late, late
from ..embedding.kinds import KINDS
from ..embedding.tables import EmbeddedTable, VectorType, find_table, function_schema, vector_type
from ..embedding.work import Work, survey
from ..errors import AlignError
from ..findings import Finding
from ..preservation.fingerprint import columns_of, existing, fingerprint
from ..report.protected import Observation

# The plan's section 6.2, and what tells the same of the knowledge base. A condition needs its column.
_COUNTS = {
    "projects": ("archon_projects", ""),
    "tasks": ("archon_tasks", ""),
    "sources": ("archon_sources", ""),
    "pages": ("archon_crawled_pages", ""),
    "pages_with_embeddings": ("archon_crawled_pages", "embedding"),
    "code_examples": ("archon_code_examples", ""),
    "code_examples_with_embeddings": ("archon_code_examples", "embedding"),
    "template_components": ("archon_template_components", ""),
}
_TABLES = """
SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY (%s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
PROBE_MATCHES = 5


@dataclass(frozen=True, slots=True)
class Embedded:
    """One table of embedded rows: what is missing, how many stored vectors do not have the wanted dimension, and what of the
    missing came after the embeddings phase had looked."""

    work: Work
    misfits: int
    late: Late


@dataclass(frozen=True, slots=True)
class Probe:
    """A search function asked with a stored vector. `problem` is '' when it answered, or when there are no rows to find."""

    function: str
    answers: int
    problem: str


def counts(session: Session) -> dict[str, int | None]:
    """Rows by the plan's names; None where the table, or the column that is asked about, does not exist."""
    found: dict[str, int | None] = {}
    for name, (table_name, column) in _COUNTS.items():
        table, columns = _located(session, table_name)
        if table is None or (column and column not in columns):
            found[name] = None
            continue
        where = sql.SQL(" WHERE {} IS NOT NULL").format(sql.Identifier(column)) if column else sql.SQL("")
        found[name] = int(session.value(sql.SQL("SELECT count(*) FROM {}").format(table.identifier) + where))
    return found


def row_counts(session: Session) -> dict[str, int]:
    """Rows of every table of the run's schemas, by qualified name; what belongs to an extension is left out."""
    return {
        str(table): int(session.value(sql.SQL("SELECT count(*) FROM {}").format(table.identifier)))
        for table in (
            Table(row["schema"], row["name"]) for row in session.rows(_TABLES, (list(session.context.schemas),))
        )
    }


def _located(session: Session, name: str) -> tuple[Table | None, tuple[str, ...]]:
    for schema in session.context.schemas:
        if columns := columns_of(session, Table(schema, name)):
            return Table(schema, name), columns
    return None, ()


def protected(
    session: Session, before: Mapping[str, Observation], reshaped: Mapping[str, Mapping[str, Any]]
) -> dict[str, Observation]:
    """The protected tables now, over the columns that they had `before`, or all they have when nothing was recorded. One
    that this run `reshaped` is read by its way back (as Carried.as_dict gives it)."""
    places = {
        str(table): Table(*reshaped[str(table)]["place"]) if str(table) in reshaped else table
        for table in session.context.protected
    }
    now = existing(session, list(places.values()))
    looks: dict[str, Observation] = {}
    for name, place in places.items():
        if (columns := now.get(place)) is None:
            continue
        way = reshaped.get(name, {})
        wanted = before[name].columns if name in before else columns
        if way:
            wanted = tuple(way["columns"] or sorted(set(wanted) - set(way["computed"])))
        texts = way.get("after", {})
        looks[name] = Observation(None, "", tuple(wanted))
        if set(wanted) <= {*columns, *texts}:
            with suppress(psycopg.errors.UndefinedColumn), _savepoint(session):
                seen = fingerprint(session, place, wanted, texts)
                looks[name] = Observation(seen.rows, seen.digest, tuple(wanted))
    gone = {name: look for name, look in before.items() if name in places and name not in looks}
    return looks | {name: Observation(None, "", look.columns) for name, look in gone.items()}


@contextmanager
def _savepoint(session: Session) -> Iterator[None]:
    """What fails inside leaves the snapshot usable."""
    session.execute("SAVEPOINT look")
    try:
        yield
    except psycopg.Error:
        session.execute("ROLLBACK TO SAVEPOINT look")
        raise


def embedded(
    session: Session, dimensions: int, results: Sequence[Mapping[str, Any]]
) -> tuple[list[Embedded], list[Finding]]:
    """The embedded tables that exist, measured against the wanted number of `dimensions` and what the embeddings phase recorded
    in `results`. For a session in check mode."""
    vector, works, findings = survey(session, dimensions)
    measured = [
        Embedded(
            work,
            _misfits(session, work.found, vector, dimensions),
            late(session, work.found, Horizon.recorded(results, work.found.table)),
        )
        for work in works
    ]
    return measured, findings


def _misfits(session: Session, found: EmbeddedTable, vector: VectorType | None, dimensions: int) -> int:
    # A column that declares the wanted dimension cannot hold another.
    if vector is None or "embedding" in found.missing_columns or found.dimensions == dimensions:
        return 0
    query = sql.SQL("SELECT count(*) FROM {} WHERE {}(embedding) <> %s").format(
        found.table.identifier, sql.Identifier(vector.schema, "vector_dims")
    )
    return int(session.value(query, (dimensions,)))


def probes(session: Session) -> list[Probe]:
    """Ask each search function, as the plan's section 4.4 does, for what is nearest to a stored vector, and ask it as Archon does."""
    try:
        vector = vector_type(session)
    except AlignError:
        return []
    tables = [found for kind in KINDS if (found := find_table(session, kind, vector)) is not None]
    asking = find_asking(session, vector)
    return [_probe(session, found, vector, asking) for found in tables if "embedding" not in found.missing_columns]


def _probe(session: Session, found: EmbeddedTable, vector: VectorType, asking: Asking) -> Probe:
    schema = function_schema(session, found.kind) or found.table.schema
    name = f"{schema}.{found.kind.function}"
    stored = sql.SQL(
        "SELECT count(*) AS rows, count(embedding) AS vectors,"
        " (SELECT embedding::text FROM {table} WHERE embedding IS NOT NULL LIMIT 1) AS one FROM {table}"
    ).format(table=found.table.identifier)
    try:
        held = session.row(stored)
        if not held or held["vectors"] == 0:
            return Probe(name, 0, "no stored vector to ask with" if held and held["rows"] else "")
        query = sql.SQL(
            "SELECT count(*) AS answers, count(similarity) AS similarities FROM {function}("
            " query_embedding := {one}::{type}, match_count := {count})"
        ).format(
            function=sql.Identifier(schema, found.kind.function),
            one=sql.Literal(held["one"]),
            type=sql.Identifier(vector.schema, "vector"),
            count=sql.Literal(PROBE_MATCHES),
        )
        with as_archon(session, asking, schema):
            row = session.row(query)
    except psycopg.Error as error:
        return Probe(name, 0, " ".join((error.diag.message_primary or str(error)).split()))
    assert row is not None
    if row["answers"] == 0:
        return Probe(name, 0, "no answer")
    empty = row["answers"] - row["similarities"]
    return Probe(name, row["answers"], f"{empty} of {row['answers']} answers without a similarity" if empty else "")
