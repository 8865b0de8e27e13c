"""The vector index and the proof of search against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from archon_align.context import Context
from archon_align.embedding import phase, search_phase
from archon_align.embedding.phase import Options
from archon_align.errors import AlignError

IVFFLAT = (
    "CREATE INDEX idx_archon_crawled_pages_embedding ON archon_crawled_pages"
    " USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)"
)
FUNCTION = """
CREATE FUNCTION match_{table} (query_embedding vector, match_count int DEFAULT 10, filter jsonb DEFAULT '{{}}', source_filter text DEFAULT NULL)
RETURNS TABLE (id bigint, url varchar, chunk_number int, content text, metadata jsonb, source_id text, similarity float)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT id, url, chunk_number, content, metadata, source_id, 1 - (embedding <=> query_embedding) AS similarity
  FROM {table} WHERE metadata @> filter AND (source_filter IS NULL OR source_id = source_filter)
  ORDER BY embedding <=> query_embedding LIMIT match_count;
END $$;
"""
GRANTS = "GRANT USAGE ON SCHEMA public TO service_role; GRANT ALL ON ALL TABLES IN SCHEMA public TO service_role;"
PAGES = "public.archon_crawled_pages"


def owner(dsn: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def index_of(dsn: str) -> list[str]:
    rows = owner(
        dsn,
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'archon_crawled_pages' AND indexdef ~ 'vector_cosine_ops'",
    )
    return [str(row[0]) for row in rows]


@pytest.fixture
def functions(prod: str) -> None:
    for table in ("archon_crawled_pages", "archon_code_examples"):
        owner(prod, FUNCTION.format(table=table))
    owner(prod, GRANTS)


@pytest.fixture
def search(options: Callable[..., Options]) -> Callable[..., search_phase.Options]:
    def make(**fields: object) -> search_phase.Options:
        return search_phase.Options(options().endpoint, **{"pauses": (), **fields})  # type: ignore[arg-type]

    return make


@pytest.fixture
def filled(ready: Context, options: Callable[..., Options], functions: None, prod: str) -> Context:
    owner(prod, IVFFLAT)
    assert phase.run(ready, options()).status == "changed"
    return ready


def test_a_crowded_ivfflat_gives_way_to_hnsw_once(
    filled: Context, search: Callable[..., search_phase.Options], prod: str
) -> None:
    first = search_phase.run(filled, search())
    print(json.dumps(first.as_result(), indent=1), first.seconds)
    assert (first.status, first.changed, first.error) == ("changed", True, None)
