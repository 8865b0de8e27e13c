"""The same questions asked of PROD's database: what a running Archon ought to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from ...database.session import Session
from ...database.target import Table
from ...embedding.asking import Asking, as_archon, find_asking
from ...embedding.endpoint import Endpoint
from ...embedding.functions import Function, find_function
from ...embedding.kinds import KINDS, Kind
from ...embedding.search import Vector
from ...embedding.tables import EmbeddedTable, VectorType, find_table, server_words, vector_type
from ...errors import AlignError
from ...preservation.fingerprint import columns_of

PAGES, EXAMPLES = KINDS
# Archon shows nothing below it.
LOWEST_SIMILARITY = 0.15
_SAMPLE_CHARACTERS = 200
_INGEST = ("EMBEDDING_PROVIDER", "EMBEDDING_BASE_URL", "EMBEDDING_MODEL", "EMBEDDING_DIMENSIONS")
_SEARCH = ("EMBEDDING_MODEL", "LLM_BASE_URL")


@dataclass(frozen=True, slots=True)
class Near:
    """A row that the search function found. `similarity` is None for one without a vector."""

    key: str
    source_id: str
    similarity: float | None


@dataclass(frozen=True, slots=True)
class Knowledge:
    """One kind of embedded rows, with what is needed to search it; `problem` says why it cannot be searched."""

    table: EmbeddedTable | None
    function: Function | None
    vector: VectorType | None
    asking: Asking
    rows: int = 0
    embedded: int = 0
    problem: str = ""


def knowledge(session: Session, kind: Kind) -> Knowledge:
    """How `kind` stands in PROD."""
    try:
        vector = vector_type(session)
    except AlignError as error:
        return Knowledge(None, None, None, Asking(), problem=f"{error.what} {error.found}")
    table = find_table(session, kind, vector)
    if table is None or table.missing_columns:
        missing = "does not exist" if table is None else f"lacks {', '.join(table.missing_columns)}"
        return Knowledge(table, None, vector, Asking(), problem=f"table {kind.table} {missing}")
    row = session.row(
        sql.SQL("SELECT pg_catalog.count(*) AS rows, pg_catalog.count(embedding) AS vectors FROM {}").format(
            table.table.identifier
        )
    )
    assert row is not None
    found = find_function(session, kind)
    problem = "" if found.function else f"function {kind.function}: {found.problem or 'missing'}"
    vector.register(session)
    return Knowledge(table, found.function, vector, find_asking(session, vector), row["rows"], row["vectors"], problem)


def nearest(session: Session, known: Knowledge, vector: Vector, count: int) -> list[Near]:
    """Archon's own search function, asked as Archon asks it. Raises AlignError with the server's words."""
    assert known.function is not None
    call = sql.SQL(
        "SELECT id::text AS id, source_id, similarity FROM {}(query_embedding => %b, match_count => {}, filter => '{{}}')"
    )
    try:
        with as_archon(session, known.asking, known.function.schema):
            rows = session.rows(call.format(known.function.identifier, sql.Literal(count)), (vector,))
    except psycopg.Error as error:
        raise AlignError(
            "Archon's search function fails.",
            object_name=str(known.function),
            expected="rows with similarities",
            found=server_words(error),
            remedy="Run the embeddings phase (--tags embeddings).",
            code="search_function_failed",
        ) from error
    return [Near(row["id"], str(row["source_id"]), row["similarity"]) for row in rows]


def cosines(
    session: Session, known: Knowledge, vector: Vector, keys: Sequence[str]
) -> dict[str, tuple[float | None, str]]:
    """Cosine similarity and content of the rows with these ids, computed here and not by Archon's function."""
    assert known.table is not None
    assert known.vector is not None
    query = sql.SQL(
        "SELECT id::text AS id, 1 - (embedding {} %b) AS cosine, content FROM {} WHERE id = ANY (%s::bigint[])"
    ).format(known.vector.cosine_distance, known.table.table.identifier)
    numbers = [int(key) for key in keys if key.isdigit()]
    return {row["id"]: (row["cosine"], row["content"]) for row in session.rows(query, (vector, numbers))}


def keys_of_examples(session: Session, known: Knowledge, contents: Sequence[str]) -> dict[str, str]:
    """The ids of code examples by their code: Archon's answers do not tell them."""
    assert known.table is not None
    query = sql.SQL(
        "SELECT pg_catalog.min(id)::text AS id, content FROM {} WHERE content = ANY (%s::text[]) GROUP BY content"
    ).format(known.table.table.identifier)
    return {row["content"]: row["id"] for row in session.rows(query, (list(contents),))}


def samples(session: Session, known: Knowledge) -> list[str]:
    """The beginning of one stored text that has a vector: whatever the model, it is near to its own row."""
    assert known.table is not None
    column = sql.Identifier(known.table.kind.columns[-1])
    query = sql.SQL(
        "SELECT pg_catalog.left({column}, {length}) AS text FROM {table}"
        " WHERE embedding IS NOT NULL AND {column} ~ '[^[:space:]]' ORDER BY id LIMIT 1"
    ).format(column=column, length=sql.Literal(_SAMPLE_CHARACTERS), table=known.table.table.identifier)
    return [text for row in session.rows(query) if (text := " ".join((row["text"] or "").split()))]


def wrong_settings(session: Session, endpoint: Endpoint, provider: str, *, search: bool) -> list[str]:
    """What of the settings that ingest (or search) reads is not as wanted, in words without secrets; [] when all is."""
    table = Table(session.context.schemas[0], "archon_settings")
    if not {"key", "value", "category"} <= set(columns_of(session, table)):
        return [f"{table} does not exist or lacks columns"]
    rows = session.rows(
        sql.SQL("SELECT key, value FROM {} WHERE category = 'rag_strategy' AND key = ANY (%s::text[])").format(
            table.identifier
        ),
        (list({*_INGEST, *_SEARCH}),),
    )
    found = {row["key"]: (row["value"] or "").strip() for row in rows}
    wanted = {
        "EMBEDDING_PROVIDER": provider,
        "EMBEDDING_BASE_URL": endpoint.base_url,
        "LLM_BASE_URL": endpoint.base_url,
        "EMBEDDING_MODEL": endpoint.model,
        "EMBEDDING_DIMENSIONS": str(endpoint.dimensions),
    }
    return [
        f"{key} is {_shown(found.get(key, ''))}, not {_shown(wanted[key])}"
        for key in (_SEARCH if search else _INGEST)
        if found.get(key, "").rstrip("/") != wanted[key].rstrip("/")
    ]


def _shown(value: str) -> str:
    if not value:
        return "empty"
    parts = urlsplit(value)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl() if parts.scheme else value


def counts(session: Session) -> Mapping[str, Any]:
    """Projects and tasks as SQL counts them: open and unarchived ones, closed ones with them, by both meanings of a NULL."""
    schema = session.context.schemas[0]
    projects, tasks = Table(schema, "archon_projects"), Table(schema, "archon_tasks")
    return {
        "projects": {
            row["id"]: row["title"]
            for row in session.rows(sql.SQL("SELECT id::text AS id, title FROM {}").format(projects.identifier))
        },
        "tasks": session.row(
            sql.SQL(
                "SELECT pg_catalog.count(*) AS total, pg_catalog.count(*) FILTER (WHERE archived IS NOT TRUE) AS unarchived,"
                " pg_catalog.count(*) FILTER (WHERE archived IS FALSE) AS unarchived_only_false,"
                " pg_catalog.count(*) FILTER (WHERE archived IS NOT TRUE AND status::text <> 'done') AS open,"
                " pg_catalog.count(*) FILTER (WHERE archived IS FALSE AND status::text <> 'done') AS open_only_false FROM {}"
            ).format(tasks.identifier)
        ),
    }
