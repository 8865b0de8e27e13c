"""Vectors of another dimension: converted in place when there are none, left to a column beside theirs when there are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from archon_align.database.session import open_session
from archon_align.schema.compare import compare
from archon_align.schema.inspect import inspect
from schema_worlds import World

PAGES = """CREATE TABLE archon_crawled_pages (id bigserial PRIMARY KEY, url text, content text, embedding vector({n}));
CREATE INDEX "pages idx" ON archon_crawled_pages USING {index};"""
HNSW = "hnsw (embedding vector_l2_ops) WITH (m = 7, ef_construction = 33)"
IVFFLAT = "ivfflat (embedding vector_cosine_ops) WITH (lists = 5)"
ROWS = "INSERT INTO archon_crawled_pages (content, embedding) SELECT 'text ' || n, CASE WHEN n % 3 > 0 THEN ARRAY[n, 1, 0, 2]::vector END FROM generate_series(1, 9) n;"
DEV = PAGES.format(n=3, index=IVFFLAT)


def world_of(make_world: Callable[..., World], prod: str, dev: str = DEV) -> World:
    return make_world(dev, prod)


def codes(outcome: object) -> set[str]:
    return {finding.code for finding in outcome.findings}  # type: ignore[attr-defined]


def test_without_vectors_the_column_is_converted_in_place_and_indexes_keep_method_and_parameters(
    make_world: Callable[..., World],
) -> None:
    rows = "INSERT INTO archon_crawled_pages (content) VALUES ('a'), ('b');"
    world = world_of(make_world, PAGES.format(n=4, index=HNSW) + rows)
    predicted = world.align(check=True)
    outcome = world.align()
    assert (outcome.status, outcome.details["schema"]["differences_after"]) == ("changed", 0)
    assert outcome.statements == predicted.statements
    assert not any("rebuilt" in statement.sql for statement in outcome.statements)
    definition = world.prod.value(world.schema, "SELECT pg_get_indexdef(to_regclass('\"pages idx\"'))")
    assert "hnsw (embedding vector_l2_ops) WITH (m='7', ef_construction='33')" in str(definition)
    assert world.prod.value(world.schema, "SELECT count(*) FROM archon_crawled_pages") == 2
    assert world.align().status == "aligned"


def test_with_vectors_a_column_beside_is_made_and_the_old_one_stays_in_use(make_world: Callable[..., World]) -> None:
    world = world_of(make_world, PAGES.format(n=4, index=HNSW) + ROWS)
    before = world.prod.value(
        world.schema, "SELECT string_agg(embedding::text, ';' ORDER BY id) FROM archon_crawled_pages"
    )
    predicted = world.align(check=True)
    outcome = world.align()
    assert outcome.statements == predicted.statements
    assert (outcome.status, outcome.error) == ("changed", None)
    assert any(
        "ADD COLUMN embedding_rebuilt " in statement.sql or 'ADD COLUMN "embedding_rebuilt"' in statement.sql
        for statement in outcome.statements
    )
    told = [finding for finding in outcome.findings if finding.code == "vectors_to_rebuild"]
    assert [finding.message[:9] for finding in told] == ["6 vectors"]
    assert outcome.details["schema"]["differences_after"] == 1
    assert outcome.details["schema"]["only_in_prod"] == []
    assert (
        world.prod.value(world.schema, "SELECT string_agg(embedding::text, ';' ORDER BY id) FROM archon_crawled_pages")
        == before
    )

    again = world.align()
    assert (again.status, again.changed, list(again.statements)) == ("aligned", False, [])
    assert codes(again) >= {"vectors_to_rebuild"}
    assert again.details["schema"]["only_in_prod"] == []
