"""Search as Archon does it: by vectors, and in hybrid mode by words whose similarity is made up."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from .embeddings import Embedder
from .ingest import PAGES
from .rest import Rest, RestError, Row

logger = logging.getLogger("archon.search")

CODE = "archon_code_examples"
_LOWEST_SIMILARITY = 0.15
_SHOWN_CHARACTERS = 1000
_KEYWORDS = 8
_STOPPED = """a about an and are as at be by can do does for from has have how i in into is it its of on or that the this to was
what when where which who why will with you your"""
_STOP_WORDS = frozenset(re.findall(r"\w+", _STOPPED))


@dataclass(frozen=True)
class Kind:
    """What is searched: a table, its function and the columns that words are looked for in."""

    table: str
    function: str
    texts: tuple[str, ...]


PAGE_SEARCH = Kind(PAGES, "match_archon_crawled_pages", ("content",))
CODE_SEARCH = Kind(CODE, "match_archon_code_examples", ("content", "summary"))


async def find(
    kind: Kind, query: str, source: str | None, count: int, *, hybrid: bool, rest: Rest, embedder: Embedder
) -> list[Row]:
    """Rows with `similarity`, best first; none at all when the query cannot be embedded."""
    vector = await embedder.for_query(query)
    if vector is None:
        logger.error("Failed to create embedding for query")
        return []
    if not hybrid:
        return await _by_vector(kind, vector, source, count, rest)
    near = await _by_vector(kind, vector, source, count * 2, rest)
    return _merged(near, await _by_words(kind, query, count * 2, rest))[:count]


def shown(row: Row) -> dict[str, Any]:
    """A result of a search for pages."""
    return {
        "id": row["id"],
        "content": row["content"][:_SHOWN_CHARACTERS],
        "metadata": row["metadata"],
        "similarity_score": row["similarity"],
    }


def shown_code(row: Row) -> dict[str, Any]:
    """A result of a search for code examples."""
    return {
        "url": row["url"],
        "code": row["content"],
        "summary": row["summary"],
        "metadata": row["metadata"],
        "source_id": row["source_id"],
        "similarity": row["similarity"],
    }


async def _by_vector(kind: Kind, vector: list[float], source: str | None, count: int, rest: Rest) -> list[Row]:
    arguments: dict[str, object] = {"query_embedding": str(vector), "match_count": count, "filter": {}}
    if source:
        arguments["source_filter"] = source
    try:
        rows = await rest.call(kind.function, arguments)
        # One row without a vector has no similarity, and with it everything is lost.
        return [row for row in rows if float(row.get("similarity", 0.0)) >= _LOWEST_SIMILARITY]
    except (RestError, TypeError) as error:
        logger.error("Vector search failed: %s", error)
        return []


async def _by_words(kind: Kind, query: str, count: int, rest: Rest) -> list[Row]:
    """Hits of single words in whatever source: the filter is not applied here."""
    words = _keywords(query)
    if not words:
        return []
    try:
        rows = await rest.select(
            kind.table,
            columns=("id", "url", "chunk_number", "content", "metadata", "source_id", *kind.texts[1:]),
            any_of=[(column, "ilike", f"%{word}%") for word in words for column in kind.texts],
            limit=count,
        )
    except RestError as error:
        logger.error("Keyword search failed: %s", error)
        return []
    for row in rows:
        text = " ".join(row[column] for column in kind.texts).lower()
        share = sum(word in text for word in words) / len(words)
        row["similarity"] = round(0.3 + 0.4 * share, 4)
    return sorted(rows, key=lambda row: float(row["similarity"]), reverse=True)


def _keywords(query: str) -> list[str]:
    words = (word for word in re.findall(r"\w+", query.lower()) if len(word) > 2 and word not in _STOP_WORDS)
    return list(dict.fromkeys(words))[:_KEYWORDS]


def _merged(near: list[Row], hits: list[Row]) -> list[Row]:
    known = {row["id"]: row for row in near}
    hit = {row["id"] for row in hits}
    rows = [{**row, "similarity": min(1.0, row["similarity"] * 1.2)} if row["id"] in hit else row for row in near]
    rows += [row for row in hits if row["id"] not in known]
    return sorted(rows, key=lambda row: float(row["similarity"]), reverse=True)
