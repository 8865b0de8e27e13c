"""The state of two databases in words."""

from __future__ import annotations

from dataclasses import replace

from archon_align.assess.growth import disk_growth
from archon_align.assess.state import Embedded, State
from archon_align.assess.words import findings
from archon_align.embedding.index import VectorIndex

INDEX = VectorIndex("i", "hnsw", valid=True, usable=True, lists=None)
PAGES = Embedded("public.archon_crawled_pages", "vector(768)", 768, 93, 93, (INDEX,))
WHOLE = State(
    database="PROD",
    server_version="18.4",
    pgvector="0.8.5",
    size_bytes=2**20,
    wal_bytes=None,
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
        "disk_growth_expected",
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


def test_growth_counts_what_is_missing_and_what_must_be_indexed() -> None:
    def said(pages: Embedded, **changes: object) -> str:
        (finding,) = disk_growth(replace(WHOLE, embedded={"archon_crawled_pages": pages}, **changes), DEV)
        assert finding.severity == "info"
        return finding.message

    # 100,000 vectors of 768 dimensions of 4 bytes are 293 MiB.
    missing = replace(PAGES, rows=300_000, with_embedding=200_000)
    assert (
        "take about 527 MiB and their index about 396 MiB, in a database of 1 MiB; the write-ahead log takes"
        in said(missing)
    )
    assert "index about 1187 MiB" in said(replace(missing, indexes=()))
    assert "index about 1187 MiB" in said(replace(missing, indexes=(replace(INDEX, valid=False),)))
    # Where PROD declares no dimension, DEV's is what will be.
    assert "about 527 MiB" in said(replace(missing, declared="", dimensions=None))
    assert "(it has 16 MiB now)" in said(missing, wal_bytes=16 * 2**20)
