"""The rebuild says until when it looked: pages uploaded while it runs or later are late, none that it should have seen is."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.embedding import phase
from archon_align.embedding.phase import Options
from archon_align.validate.state import embedded

from lab.embedding_service import RunningService

ADD = "INSERT INTO archon_crawled_pages (url, chunk_number, content) VALUES ('https://example.org/new', %s, 'new')"


def unexplained(context: Context, results: list[dict[str, object]]) -> tuple[int, int]:
    """Rows without vector, and how many of them are not late."""
    with open_session(context, context.prod, read_only=True) as session:
        tables, _ = embedded(session, 768, results)
    missing = sum(table.work.missing for table in tables)
    return missing, missing - sum(table.late.rows for table in tables)


@pytest.mark.parametrize("nothing_missing", [False, True])
def test_uploads_while_it_runs_are_late(
    ready: Context, options: Callable[..., Options], prod: str, service: RunningService, nothing_missing: bool
) -> None:
    if nothing_missing:
        phase.run(ready, options())
    service.set_faults(latency=0.1)
    stop = threading.Event()
    added: list[int] = []

    def upload() -> None:
        with psycopg.connect(prod, autocommit=True) as user:
            while not stop.wait(0.02):
                user.execute(ADD, (len(added),))
                added.append(1)

    uploading = threading.Thread(target=upload)
    if not nothing_missing:
        uploading.start()
    outcome = phase.run(ready, options(batch_texts=16))
    if nothing_missing:
        uploading.start()
    until = len(added) + 2
    while len(added) < until:
        assert uploading.is_alive()
        stop.wait(0.02)
    stop.set()
    uploading.join()
    assert outcome.status == ("aligned" if nothing_missing else "changed")
    missing, unseen = unexplained(ready, [outcome.as_result()])
    assert missing > 0
    assert unseen == 0
    assert unexplained(ready, [])[1] == missing
    again = phase.run(ready, options())
    assert unexplained(ready, [again.as_result()]) == (0, 0)


def test_a_rebuild_that_stopped_has_no_horizon(
    ready: Context, options: Callable[..., Options], service: RunningService
) -> None:
    service.set_faults(status=503)
    outcome = phase.run(ready, options(stall_timeout=1.5))
    assert (outcome.status, outcome.details["embeddings"]["horizon"]) == ("resumable", {})
    assert unexplained(ready, [outcome.as_result()]) == (105, 105)
