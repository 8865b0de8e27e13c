from __future__ import annotations

from collections.abc import Callable

from archon_user import DOCUMENT, STACK, rows, run, set_to, upload

from lab.archon import serve
from lab.embedding_service import RunningService

PAGES = "SELECT count(*), count(embedding) FROM archon_crawled_pages WHERE url = 'file://%s'"


def test_prod_before_alignment_loses_good_rows_and_says_completed(
    copy_of: Callable[..., str], vectors: RunningService
) -> None:
    prod = copy_of("prod")
    (url, before) = rows(prod, "SELECT url, count(*) FROM archon_crawled_pages WHERE url LIKE 'file://%' GROUP BY 1")[0]
    filename = url.removeprefix("file://")
    with serve.server(prod, **STACK, EMBEDDING_BASE_URL=vectors.base_url) as archon:
        last = upload(archon.url, filename)
        log = archon.log()
    assert (last["status"], last["chunksStored"]) == ("completed", 12)
    assert before > 0
    assert rows(prod, PAGES % filename) == [(0, 0)]
    assert rows(prod, f"SELECT title FROM archon_sources WHERE source_id = '{last['sourceId']}'") == [
        (last["sourceId"],)
    ]
    assert "404" in log
    assert "text-embedding-3-small" in log


def test_settings_count_from_the_next_start_on(copy_of: Callable[..., str], vectors: RunningService) -> None:
    bad = [set_to("EMBEDDING_BASE_URL", "http://127.0.0.1:9/v1"), set_to("EMBEDDING_MODEL", "unknown")]
    dev = copy_of("dev", *bad)
    with serve.server(dev, **STACK) as archon:
        upload(archon.url, "new.md")
        run(dev, set_to("EMBEDDING_BASE_URL", vectors.base_url), set_to("EMBEDDING_MODEL", "nomic-embed-text"))
        assert upload(archon.url, "new.md")["status"] == "completed"
        assert rows(dev, PAGES % "new.md") == [(0, 0)]
        archon.restart()
        upload(archon.url, "new.md")
        assert rows(dev, PAGES % "new.md") == [(12, 12)]
        assert rows(
            dev, "SELECT DISTINCT vector_dims(embedding) FROM archon_crawled_pages WHERE url = 'file://new.md'"
        ) == [(768,)]
        run(dev, *bad)
        archon.restart()
        assert upload(archon.url, "new.md")["chunksStored"] == 12
    assert rows(dev, PAGES % "new.md") == [(0, 0)], "good rows are deleted before the new ones are embedded"


def test_vectors_that_do_not_fit_are_refused_row_by_row_and_all_is_completed(
    copy_of: Callable[..., str], vectors: RunningService
) -> None:
    prod = copy_of(
        "prod", set_to("EMBEDDING_MODEL", "nomic-embed-text"), set_to("EMBEDDING_BASE_URL", vectors.base_url)
    )
    with serve.server(prod, **STACK) as archon:
        last = upload(archon.url, "short.md", "A short text.")
        log = archon.log()
    assert (last["status"], last["chunksStored"]) == ("completed", 1)
    assert rows(prod, PAGES % "short.md") == [(0, 0)]
    assert log.count("Error inserting batch") == 3
    assert "expected 1536 dimensions, not 768" in log


def test_a_kind_of_file_that_nobody_reads_ends_in_an_error_event(copy_of: Callable[..., str]) -> None:
    dev = copy_of("dev")
    with serve.server(dev, **STACK) as archon:
        last = upload(archon.url, "photo.zzz", "what")
    assert last["status"] == "error"
    assert rows(dev, "SELECT count(*) FROM archon_sources WHERE source_id LIKE '%zzz%'") == [(0,)]


def test_the_document_has_twelve_chunks() -> None:
    from lab.archon.ingest import chunks_of

    chunks = chunks_of(DOCUMENT)
    assert len(chunks) == 12
    assert max(map(len, chunks)) <= 800
    assert [len(chunk) for chunk in chunks_of("x" * 2000)] == [800, 800, 400]
    assert chunks_of("a" * 500 + "\n\n" + "b" * 500)[0] == "a" * 500
    assert chunks_of("a" * 100 + "\n\n" + "b" * 900)[0] != "a" * 100
