"""Prefix and stale vectors through the whole rebuild, and several endpoints."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.embedding import phase
from archon_align.embedding.kinds import KINDS
from archon_align.embedding.phase import Options
from archon_align.embedding.ranges import Ranges
from archon_align.embedding.tables import find_table, vector_type
from numpy.typing import NDArray

from lab.embedding_service import RunningService, serve


def query(dsn: str, statement: str, *params: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), params or None)
        return cursor.fetchall() if cursor.description else []


def vectors(dsn: str) -> dict[int, NDArray[np.float64]]:
    rows = query(dsn, "SELECT id, embedding::text FROM archon_crawled_pages")
    return {number: np.array(orjson.loads(text)) for number, text in rows}


def assert_same(found: dict[int, NDArray[np.float64]], expected: dict[int, NDArray[np.float64]]) -> None:
    """The last digits of a vector depend on the texts that it was made beside, on some processors."""
    assert found.keys() == expected.keys()
    assert [number for number in found if not np.allclose(found[number], expected[number], rtol=0, atol=1e-6)] == []


@pytest.fixture
def second() -> Iterator[RunningService]:
    with serve() as running:
        yield running


def test_the_prefix_of_the_vectors_that_are_there_is_used(
    ready: Context, options: Callable[..., Options], prod: str
) -> None:
    prefixed = phase.run(ready, options(prefix="search_document: "))
    assert prefixed.details["embeddings"]["prefix"]["source"] == "configured"
    before = vectors(prod)
    query(prod, "UPDATE archon_crawled_pages SET embedding = NULL WHERE id > 20")
    found = phase.run(ready, options())
    assert found.details["embeddings"]["prefix"] | {"evidence": ...} == {
        "value": "search_document: ",
        "source": "evidence",
        "evidence": ...,
    }
    assert_same(vectors(prod), before)


def test_stale_vectors_are_rebuilt_when_asked_for_and_only_then(
    ready: Context, options: Callable[..., Options], prod: str, make_context: Callable[..., Context]
) -> None:
    phase.run(ready, options())
    good = vectors(prod)
    query(prod, "UPDATE archon_crawled_pages SET source_id = 'other' WHERE id > 50")
    turned = "('[' || (SELECT string_agg((-x::float)::text, ',') FROM unnest(string_to_array(trim('[]' FROM embedding::text), ',')) x) || ']')::vector"
    query(prod, f"UPDATE archon_crawled_pages SET embedding = {turned} WHERE source_id = 'other'")
    assert phase.run(ready, options()).changed is False

    check = make_context(prod, check=True)
    looked = phase.run(check, options(scope="stale"))
    assert (looked.status, looked.details["embeddings"]["tables"]["public.archon_crawled_pages"]["stale"]) == (
        "drift",
        43,
    )
    assert "up to 43 whose vectors come from another model" in looked.statements[0].summary

    done = phase.run(ready, options(scope="stale"))
    assert (done.status, done.details["embeddings"]["rebuilt"]) == ("changed", 43)
    assert_same(vectors(prod), good)
    again = phase.run(ready, options(scope="stale"))
    assert (again.status, again.changed, again.statements) == ("aligned", False, [])


def test_a_mixed_source_keeps_the_vectors_that_are_right(
    ready: Context, options: Callable[..., Options], prod: str, service: RunningService
) -> None:
    phase.run(ready, options())
    good = vectors(prod)
    query(
        prod,
        "UPDATE archon_crawled_pages AS page SET embedding = other.embedding FROM archon_crawled_pages AS other"
        " WHERE page.id % 2 = 0 AND other.id = (page.id + 10) % 93 + 1",
    )
    xmin = dict(query(prod, "SELECT id, xmin::text FROM archon_crawled_pages WHERE id % 2 = 1"))
    service.forget_requests()
    done = phase.run(ready, options(scope="stale"))
    assert done.details["embeddings"]["rebuilt"] == 46
    assert_same(vectors(prod), good)
    assert dict(query(prod, "SELECT id, xmin::text FROM archon_crawled_pages WHERE id % 2 = 1")) == xmin


def test_two_endpoints_share_the_rows_and_one_that_dies_is_told(
    ready: Context, options: Callable[..., Options], prod: str, service: RunningService, second: RunningService
) -> None:
    made = options(batch_texts=4, rows_per_commit=8)
    both = replace(made, endpoints=(*made.endpoints, replace(made.endpoints[0], base_url=second.base_url)))
    service.set_faults(latency=0.05)
    second.set_faults(latency=0.05)
    outcome = phase.run(ready, both)
    told = outcome.details["embeddings"]["endpoints"]
    assert (outcome.status, sum(one["rows"] for one in told)) == ("changed", 105)
    assert all(one["rows"] > 20 for one in told)

    query(prod, "UPDATE archon_crawled_pages SET embedding = NULL")
    second.set_faults(status=503)
    outcome = phase.run(ready, both)
    assert (outcome.status, outcome.details["embeddings"]["missing_after"]) == ("changed", 0)
    assert [finding.code for finding in outcome.findings] == ["embedding_endpoint_outages"]


def test_quarantine_is_noted_row_by_row(
    ready: Context, options: Callable[..., Options], prod: str, service: RunningService
) -> None:
    query(prod, "UPDATE archon_crawled_pages SET content = 'POISON ' || content WHERE id IN (7, 60)")
    query(prod, "UPDATE archon_crawled_pages SET content = ' ' WHERE id = 8")
    service.set_faults(fail_marked=True, marker="POISON")
    outcome = phase.run(ready, options())
    lines = [orjson.loads(line) for line in (ready.run.artifacts / "quarantine.jsonl").read_bytes().splitlines()]
    assert {(line["id"], line["attempts"] > 2) for line in lines} == {(7, True), (60, True), (8, False)}
    assert outcome.details["embeddings"]["quarantined"] == 3
    assert (ready.run.artifacts / "quarantine.jsonl").stat().st_mode & 0o777 == 0o600


def test_workers_one_after_the_other_leave_restore_points_of_their_own(
    ready: Context, options: Callable[..., Options], prod: str, service: RunningService
) -> None:
    first = phase.run(ready, options(worker="one"))
    assert [point["name"] for point in first.details["restore_points"]] == [f"{ready.run.id}:embeddings-one"]
    last = phase.run(ready, options())
    assert (last.status, last.details["restore_points"]) == ("aligned", [])


def test_an_index_that_would_slow_many_writes_down_is_told(
    make_context: Callable[..., Context],
    options: Callable[..., Options],
    prod: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query(prod, 'CREATE INDEX "odd ""index" ON archon_crawled_pages USING hnsw (embedding vector_cosine_ops)')
    check = make_context(prod, check=True)
    assert phase.run(check, options()).findings == []
    monkeypatch.setattr("archon_align.embedding.work._MANY_ROWS", 93)
    told = phase.run(check, options()).findings
    assert [finding.code for finding in told] == ["embedding_index_in_the_way"]
    assert told[0].remedy.endswith('DROP INDEX CONCURRENTLY "public"."odd ""index"')


def test_check_mode_pulls_no_model(
    ready: Context,
    make_context: Callable[..., Context],
    options: Callable[..., Options],
    prod: str,
    service: RunningService,
) -> None:
    phase.run(ready, options())
    service.set_faults(model_missing=True)
    service.forget_requests()
    looked = phase.run(make_context(prod, check=True), options(scope="stale", pull=True))
    assert (looked.status, looked.findings[0].code) == ("aligned", "embedding_model_to_pull")
    assert not [one for one in service.requests if "pull" in str(one["path"])]


def test_a_worker_that_stands_still_is_not_waited_for_for_ever(
    ready: Context, options: Callable[..., Options], prod: str
) -> None:
    with open_session(ready, ready.prod) as session:
        found = find_table(session, KINDS[0], vector_type(session))
        assert found is not None
        assert Ranges(session, found).claim([0]) == {0}
        outcome = phase.run(ready, options(stall_timeout=1.5))
    assert (outcome.status, outcome.error and outcome.error.code) == ("resumable", "embedding_stalled")
    assert "no other worker stands still" in str(outcome.error)
    assert phase.run(ready, options()).details["embeddings"]["missing_after"] == 0


def test_a_table_that_is_locked_for_a_while_is_waited_for(
    ready: Context, options: Callable[..., Options], prod: str, service: RunningService
) -> None:
    service.set_faults(latency=0.3)

    def lock() -> None:
        with psycopg.connect(prod) as user:
            user.execute("LOCK TABLE archon_crawled_pages IN ACCESS EXCLUSIVE MODE")
            time.sleep(2)

    threading.Timer(1.0, lock).start()
    outcome = phase.run(ready, options(batch_texts=4))
    assert (outcome.status, outcome.details["embeddings"]["missing_after"]) == ("changed", 0)


def test_sparse_ids_do_not_fill_the_servers_table_of_locks(
    ready: Context, options: Callable[..., Options], prod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archon_align.embedding.reader._MOST_RANGES", 8)
    query(prod, "UPDATE archon_crawled_pages SET id = id * 256")
    most: list[int] = []
    claim = Ranges.claim

    def counted(ranges: Ranges, numbers: list[int]) -> set[int]:
        ours = claim(ranges, numbers)
        most.append(ranges.held)
        return ours

    monkeypatch.setattr(Ranges, "claim", counted)
    outcome = phase.run(ready, options(batch_texts=2))
    assert outcome.details["embeddings"]["missing_after"] == 0
    assert max(most) <= 8 + 8


def test_workers_with_different_models_are_found_by_the_last_call(
    ready: Context, options: Callable[..., Options], prod: str
) -> None:
    phase.run(ready, options(worker="one"))
    assert phase.run(ready, options()).status == "aligned"
    query(
        prod,
        "UPDATE archon_crawled_pages AS page SET embedding = other.embedding FROM archon_crawled_pages AS other"
        " WHERE other.id = (page.id + 40) % 93 + 1",
    )
    last = phase.run(ready, options(sample=50))
    assert (last.status, last.error and last.error.code) == ("failed", "embedding_sample_mismatch")
    assert "every worker has the same model" in str(last.error)
    assert phase.run(ready, options(scope="stale")).details["embeddings"]["rebuilt"] > 80
