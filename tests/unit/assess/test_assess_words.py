"""The state of two databases in words."""

from __future__ import annotations

from dataclasses import replace

from archon_align.assess.state import Embedded, State
from archon_align.assess.words import findings
from archon_align.embedding.index import VectorIndex

INDEX = VectorIndex("i", "hnsw", valid=True, usable=True, lists=None)
PAGES = Embedded("public.archon_crawled_pages", "vector(768)", 768, 93, 93, (INDEX,))
WHOLE = State(
    database="PROD",
    server_version="18.4",
    pgvector="0.8.5",
    size_bytes=1,
    counts={"pages": 93, "sources": 8, "components": 2, "credentials": 4},
    empty_sources=0,
    embedded={"archon_crawled_pages": PAGES, "archon_code_examples": None},
    search_functions={"match_archon_crawled_pages": True},
    settings={"EMBEDDING_MODEL": "nomic-embed-text"},
    credentials={},
    problems=(),
)
DEV = replace(WHOLE, database="DEV")


def codes(prod: State, dev: State = DEV) -> list[str]:
    return [finding.code for finding in findings(prod, dev)]


def test_nothing_is_said_of_a_whole_database() -> None:
    assert codes(WHOLE) == []


def test_each_thing_that_is_wrong_is_said_once() -> None:
    pages = replace(PAGES, with_embedding=90, declared="vector(1536)", indexes=(replace(INDEX, valid=False),))
    assert codes(replace(WHOLE, embedded={"archon_crawled_pages": pages})) == [
        "embeddings_missing",
        "embedding_type",
        "vector_index_invalid",
    ]
    unindexed = replace(WHOLE, embedded={"archon_crawled_pages": replace(PAGES, indexes=())})
    assert codes(unindexed) == ["vector_index_missing"]
    assert codes(replace(WHOLE, counts={**WHOLE.counts, "components": None})) == ["tables_missing"]
    assert codes(replace(WHOLE, search_functions={"match_archon_crawled_pages": False})) == ["search_function_missing"]
    assert codes(replace(WHOLE, empty_sources=3)) == ["sources_without_pages"]
    assert codes(replace(WHOLE, settings={})) == ["settings_differ"]


def test_a_table_that_neither_has_is_not_missing_in_prod() -> None:
    without = {**WHOLE.counts, "components": None}
    assert codes(replace(WHOLE, counts=without), replace(DEV, counts=without)) == []


def test_credentials_missing_in_one_or_both() -> None:
    lacking = {**WHOLE.counts, "credentials": None}
    (one,) = findings(WHOLE, replace(DEV, counts=lacking))
    assert one.message == "The table archon_credentials is missing in DEV."
    both = findings(replace(WHOLE, counts=lacking), replace(DEV, counts=lacking))
    assert [finding.message for finding in both] == ["The table archon_credentials is missing in PROD and DEV."]
