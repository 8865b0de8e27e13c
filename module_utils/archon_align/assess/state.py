"""What one database holds now: rows, embeddings, search functions and settings, as far as there is something to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..embedding.index import VectorIndex, indexes
from ..embedding.kinds import KINDS
from ..embedding.tables import EmbeddedTable, VectorType, find_table, vector_type
from ..errors import AlignError
from ..findings import Finding
from ..preservation.fingerprint import columns_of
from ..settings import store
from ..settings.wanted import shown

# The plan's section 1.2 and what the later phases will touch.
_TABLES = {
    "projects": "archon_projects",
    "tasks": "archon_tasks",
    "document_versions": "archon_document_versions",
    "project_sources": "archon_project_sources",
    "sources": "archon_sources",
    "pages": "archon_crawled_pages",
    "code_examples": "archon_code_examples",
    "components": "archon_components",
    "component_dependencies": "archon_component_dependencies",
    "template_definitions": "archon_template_definitions",
    "template_components": "archon_template_components",
    "template_assignments": "archon_template_assignments",
    "template_injection_templates": "archon_template_injection_templates",
    "settings": "archon_settings",
    "credentials": "archon_credentials",
}
_KEYS = ("EMBEDDING", "LLM")
_ENCRYPTED = "(encrypted)"


@dataclass(frozen=True, slots=True)
class Embedded:
    """A table of embedded rows. `declared` is the embedding column's type, '' when there is no such column."""

    table: str
    declared: str
    dimensions: int | None
    rows: int
    with_embedding: int
    indexes: tuple[VectorIndex, ...]

    @property
    def missing(self) -> int:
        return self.rows - self.with_embedding

    def as_dict(self) -> dict[str, Any]:
        return {
            "column": self.declared or None,
            "dimensions": self.dimensions,
            "rows": self.rows,
            "with_embedding": self.with_embedding,
            "missing": self.missing,
            "indexes": [
                {"name": index.name, "method": index.method, "lists": index.lists, "valid": index.valid}
                for index in self.indexes
            ],
        }


@dataclass(frozen=True, slots=True)
class State:
    """One database. A count is None where the table does not exist; `settings` are None where they cannot be read.

    So is `wal_bytes`, the size of the server's write-ahead log, where the role may not see it.
    """

    database: str
    server_version: str
    pgvector: str | None
    size_bytes: int
    wal_bytes: int | None
    counts: dict[str, int | None]
    empty_sources: int | None
    embedded: dict[str, Embedded | None]
    search_functions: dict[str, bool]
    settings: dict[str, str] | None
    credentials: dict[str, str] | None
    problems: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """For the report: string keys, null for what does not exist, nothing secret."""
        return {
            "server_version": self.server_version,
            "pgvector": self.pgvector,
            "size_bytes": self.size_bytes,
            "wal_bytes": self.wal_bytes,
            "counts": self.counts,
            "sources_without_pages": self.empty_sources,
            "embeddings": {name: found.as_dict() if found else None for name, found in self.embedded.items()},
            "search_functions": self.search_functions,
            "settings": self.settings,
            "credentials": self.credentials,
        }


def state_of(session: Session) -> State:
    """Everything in one snapshot. What cannot be read for its shape becomes a problem, not an error."""
    problems: list[Finding] = []
    with session.transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"):
        tables = {name: _located(session, table) for name, table in _TABLES.items()}
        vector = _vector(session)
        return State(
            database=session.target.name,
            server_version=str(session.value("SHOW server_version")),
            pgvector=vector.version if vector else None,
            size_bytes=int(session.value("SELECT pg_database_size(current_database())")),
            wal_bytes=_wal_bytes(session),
            counts={name: _count(session, table) for name, table in tables.items()},
            empty_sources=_empty_sources(session, tables["sources"], tables["pages"]),
            embedded={kind.table: _embedded(session, kind.table, vector, problems) for kind in KINDS},
            search_functions={kind.function: _has_function(session, kind.function) for kind in KINDS},
            settings=_stored(session, store.SETTINGS, problems),
            credentials=_stored(session, store.CREDENTIALS, problems),
            problems=tuple(problems),
        )


def _wal_bytes(session: Session) -> int | None:
    if not session.value("SELECT has_function_privilege('pg_ls_waldir()', 'EXECUTE')"):
        return None
    return int(session.value("SELECT coalesce(sum(size), 0) FROM pg_ls_waldir()"))


def _located(session: Session, name: str) -> Table | None:
    candidates = [Table(schema, name) for schema in session.context.schemas]
    return next((table for table in candidates if columns_of(session, table)), None)


def _count(session: Session, table: Table | None, condition: sql.Composable | None = None) -> int | None:
    if table is None:
        return None
    where = sql.SQL(" WHERE {}").format(condition) if condition else sql.SQL("")
    return int(session.value(sql.SQL("SELECT count(*) FROM {}").format(table.identifier) + where))


def _empty_sources(session: Session, sources: Table | None, pages: Table | None) -> int | None:
    """Sources whose ingest failed: Archon writes the source before its pages and calls that completed."""
    if sources is None or pages is None:
        return None
    if any("source_id" not in columns_of(session, table) for table in (sources, pages)):
        return None
    condition = sql.SQL("NOT EXISTS (SELECT FROM {} AS page WHERE page.source_id = source.source_id)")
    query = sql.SQL("SELECT count(*) FROM {} AS source WHERE ").format(sources.identifier)
    return int(session.value(query + condition.format(pages.identifier)))


def _vector(session: Session) -> VectorType | None:
    try:
        return vector_type(session)
    except AlignError:
        return None


def _embedded(session: Session, name: str, vector: VectorType | None, problems: list[Finding]) -> Embedded | None:
    kind = next(kind for kind in KINDS if kind.table == name)
    try:
        found: EmbeddedTable | None = find_table(session, kind, vector)
    except AlignError as error:
        problems.append(_problem(session, error))
        return None
    if found is None:
        return None
    filled = sql.SQL("embedding IS NOT NULL") if found.declared else sql.SQL("false")
    return Embedded(
        str(found.table),
        # Which schema pgvector lives in is no part of the type's meaning: in DEV it may be another than in PROD.
        found.declared.rsplit(".", 1)[-1],
        found.dimensions,
        _count(session, found.table) or 0,
        _count(session, found.table, filled) or 0,
        indexes(session, found),
    )


def _has_function(session: Session, name: str) -> bool:
    query = (
        "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE p.proname = %s AND n.nspname = ANY(%s)"
    )
    return bool(session.value(query, (name, list(session.context.schemas))))


def _stored(session: Session, name: str, problems: list[Finding]) -> dict[str, str] | None:
    """The keys about embeddings and language models, values only where they are neither encrypted nor secret."""
    table = Table(session.context.schemas[0], name)
    if "key" not in columns_of(session, table):
        return None
    query = sql.SQL("SELECT DISTINCT key::text AS key FROM {} WHERE key::text ~ %s").format(table.identifier)
    keys: Sequence[str] = [row["key"] for row in session.rows(query, (f"^({'|'.join(_KEYS)})_",))]
    try:
        rows = store.read(session, name, keys).rows
    except AlignError as error:
        problems.append(_problem(session, error))
        return None
    return {row.key: _ENCRYPTED if row.encrypted else shown(row.key, row.value) for row in rows}


def _problem(session: Session, error: AlignError) -> Finding:
    name = (
        error.object_name
        if error.object_name.startswith(session.target.name)
        else f"{session.target.name} {error.object_name}"
    )
    return Finding(error.code, "warning", name, f"{error.what} {error.found}.", error.remedy)
