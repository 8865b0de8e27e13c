"""What PROD holds of sources and pages, before, while and after a document is uploaded again."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..embedding.asking import as_archon, find_asking
from ..embedding.tables import VectorType
from ..preservation.fingerprint import columns_of
from .model import ASIDE_FORM, PAGES, SOURCES, Aside, Source, source_prefix

_SAMPLE = 3
_NEAREST = 5


@dataclass(frozen=True, slots=True)
class State:
    """The pages that have a document's url now: how many, how many with a vector, of which sources."""

    pages: int
    embedded: int
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """One page, by its id."""

    id: int
    content: str


def pages_table(session: Session) -> Table:
    return Table(session.context.schemas[0], PAGES)


def sources_table(session: Session) -> Table:
    return Table(session.context.schemas[0], SOURCES)


def sources_to_rebuild(session: Session) -> list[Source]:
    """Every source with a page that has no vector, in the order of their ids."""
    query = sql.SQL(
        "SELECT source_id, CASE WHEN pg_catalog.min(url) = pg_catalog.max(url) THEN pg_catalog.min(url) ELSE '' END AS url,"
        " pg_catalog.count(*) AS pages, pg_catalog.count(*) - pg_catalog.count(embedding) AS missing FROM {pages}"
        " WHERE url !~ {aside} GROUP BY source_id HAVING pg_catalog.count(*) > pg_catalog.count(embedding) ORDER BY source_id"
    ).format(pages=pages_table(session).identifier, aside=sql.Literal(ASIDE_FORM))
    found = session.rows(query)
    shared = sql.SQL(
        "SELECT DISTINCT url FROM {} WHERE url = ANY (%s::text[]) GROUP BY url HAVING pg_catalog.count(DISTINCT source_id) > 1"
    )
    both = {
        row["url"]
        for row in session.rows(shared.format(pages_table(session).identifier), ([row["url"] for row in found],))
    }
    return [
        Source(row["source_id"], row["url"] or "", row["pages"], row["missing"], shared=row["url"] in both)
        for row in found
    ]


def asides(session: Session) -> list[Aside]:
    """Old pages that a run has left under a marked url."""
    query = sql.SQL("SELECT DISTINCT url, source_id FROM {} WHERE url ~ {} ORDER BY url, source_id").format(
        pages_table(session).identifier, sql.Literal(ASIDE_FORM)
    )
    return [Aside(row["url"], row["source_id"]) for row in session.rows(query)]


def pages(session: Session, url: str, source_id: str) -> list[Page]:
    """A source's pages under `url`, in their order."""
    query = sql.SQL("SELECT id, content FROM {} WHERE url = %s AND source_id = %s ORDER BY chunk_number, id").format(
        pages_table(session).identifier
    )
    return [Page(row["id"], row["content"] or "") for row in session.rows(query, (url, source_id))]


def state(session: Session, url: str) -> State:
    """The pages under `url`, of whatever source."""
    query = sql.SQL(
        "SELECT pg_catalog.count(*) AS pages, pg_catalog.count(embedding) AS embedded,"
        " pg_catalog.array_agg(DISTINCT source_id ORDER BY source_id) AS sources FROM {} WHERE url = %s"
    ).format(pages_table(session).identifier)
    row = session.row(query, (url,)) or {}
    return State(row["pages"], row["embedded"], tuple(row["sources"] or ()))


def same_named(session: Session, filename: str) -> set[str]:
    """The ids of all sources that an upload of this file may have made."""
    query = sql.SQL("SELECT source_id FROM {} WHERE pg_catalog.starts_with(source_id, %s)").format(
        sources_table(session).identifier
    )
    prefix = source_prefix(filename)
    ids = (row["source_id"] for row in session.rows(query, (prefix,)))
    return {one for one in ids if one.removeprefix(prefix).isdigit()}


def wrong_vectors(session: Session, url: str, source_id: str, dimensions: int, vector: VectorType) -> int:
    """How many of the pages have no vector, one of other dimensions, or one without direction."""
    query = sql.SQL(
        "SELECT pg_catalog.count(*) FROM {pages} WHERE url = %s AND source_id = %s AND (embedding IS NULL"
        " OR {dims}(embedding) <> %s OR NOT {norm}(embedding) > 0)"
    ).format(
        pages=pages_table(session).identifier,
        dims=sql.Identifier(vector.schema, "vector_dims"),
        norm=sql.Identifier(vector.schema, "vector_norm"),
    )
    return int(session.value(query, (url, source_id, dimensions)))


def found_by_search(session: Session, some: list[Page], vector: VectorType) -> int | None:
    """How many of a few pages Archon's search function finds by their own vectors; None without such a function."""
    schema = session.context.schemas[0]
    known = session.value(
        "SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace"
        " WHERE p.proname = 'match_archon_crawled_pages' AND n.nspname = %s",
        (schema,),
    )
    if not known:
        return None
    asking = find_asking(session, vector)
    query = sql.SQL(
        "SELECT pg_catalog.count(*) FROM {}((SELECT embedding FROM {} WHERE id = %s), %s) AS found WHERE found.id = %s"
    ).format(sql.Identifier(schema, "match_archon_crawled_pages"), pages_table(session).identifier)
    hits = 0
    for page in sampled(some):
        with as_archon(session, asking, schema):
            hits += int(session.value(query, (page.id, _NEAREST, page.id))) > 0
    return hits


def sampled(some: list[Page]) -> list[Page]:
    """The few pages that `found_by_search` asks for."""
    return some[:: max(1, len(some) // _SAMPLE)][:_SAMPLE]


def carried_columns(session: Session) -> list[str]:
    """What a new source gets of the old one, where the table has it."""
    return [name for name in ("title", "summary") if name in columns_of(session, sources_table(session))]
