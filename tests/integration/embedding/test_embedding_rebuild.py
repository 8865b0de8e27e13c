"""The rebuild against a real server and the lab's embedding service."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
from archon_align.backup import space
from archon_align.context import Context
from archon_align.database.session import Session
from archon_align.embedding import phase
from archon_align.embedding.client import EmbeddingClient
from archon_align.embedding.phase import Options
from archon_align.embedding.progress import Counts, Endpoints, parse
from archon_align.embedding.vectors import Vectors
from archon_align.errors import AlignError, Resumable
from archon_align.rollback.ledger import Ledger
from psycopg import sql

from lab.embedding_service import RunningService

PAGES, EXAMPLES = "public.archon_crawled_pages", "public.archon_code_examples"


def query(dsn: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def missing(dsn: str) -> int:
    count = query(
        dsn,
        "SELECT (SELECT count(*) FROM archon_crawled_pages WHERE embedding IS NULL)"
        " + (SELECT count(*) FROM archon_code_examples WHERE embedding IS NULL)",
    )[0][0]
    assert isinstance(count, int)
    return count


def stored(dsn: str, table: str, where: str = "true") -> np.ndarray:
    rows = query(dsn, f"SELECT embedding::text FROM {table} WHERE {where} ORDER BY id")
    return np.asarray([json.loads(str(row[0])) for row in rows], dtype=np.float32)


def test_every_row_gets_the_vector_of_its_own_text(
    ready: Context, options: Callable[..., Options], prod: str, service: RunningService
) -> None:
    before = query(
        prod, "SELECT id, url, chunk_number, content, metadata, source_id, created_at FROM archon_crawled_pages"
    )
    outcome = phase.run(ready, options(sample=5))
    assert (outcome.status, outcome.changed, outcome.error, outcome.findings) == ("changed", True, None, [])
    details = outcome.details["embeddings"]
    assert (details["missing_before"], details["missing_after"], details["rebuilt"]) == (105, 0, 105)
    assert details["tables"][EXAMPLES] == {
        "missing_before": 12,
        "missing_after": 0,
        "rebuilt": 12,
        "quarantined": 0,
        "truncated": 0,
    }
    assert details["digest"]
    json.dumps(outcome.as_result())

    texts = [str(row[0]) for row in query(prod, "SELECT content FROM archon_crawled_pages ORDER BY id")]
    examples = query(prod, "SELECT content, summary FROM archon_code_examples ORDER BY id")
    texts += [f"{code}\n\nSummary: {summary}" for code, summary in examples]
    with EmbeddingClient(options().endpoints[0]) as client:
        expected = np.concatenate([client.embed(texts[n : n + 7]) for n in range(0, len(texts), 7)])
    found = np.concatenate([stored(prod, PAGES), stored(prod, EXAMPLES)])
    assert np.abs(found - expected).max() < 1e-6
    after = query(
        prod, "SELECT id, url, chunk_number, content, metadata, source_id, created_at FROM archon_crawled_pages"
    )
    assert sorted(map(str, before)) == sorted(map(str, after))

    service.forget_requests()
    again = phase.run(ready, options())
    assert (again.status, again.changed, again.details["embeddings"]["rebuilt"]) == ("aligned", False, 0)
    assert again.statements == []
    assert service.requests == []


def test_a_full_disk_stops_it_before_more_is_written(
    ready: Context, options: Callable[..., Options], prod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([10_000, 100])
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: type("Usage", (), {"free": next(free) * space.MIB}))
    outcome = phase.run(ready, options(rows_per_commit=8, batch_texts=8, min_free_mb=200))
    assert outcome.status == "resumable"
    assert isinstance(outcome.error, Resumable)
    assert outcome.error.code == "disk_full"
    assert outcome.error.object_name == str(ready.run.artifacts)
    assert missing(prod) == 105 - 8
    monkeypatch.undo()
    assert phase.run(ready, options()).details["embeddings"]["rebuilt"] == 97


def test_check_mode_counts_and_writes_nothing(
    prod: str, make_context: Callable[..., Context], options: Callable[..., Options], service: RunningService
) -> None:
    outcome = phase.run(make_context(prod, check=True), options())
    assert (outcome.status, outcome.changed) == ("drift", True)
    assert outcome.details["embeddings"]["missing_before"] == 105
    assert [statement.summary.split(" (")[0] for statement in outcome.statements] == [
        "embed 93 rows in place",
        "embed 12 rows in place",
    ]
    assert service.requests == []
    assert missing(prod) == 105


def test_check_mode_before_the_schema_phase(
    new_database: Callable[[str], str], make_context: Callable[..., Context], options: Callable[..., Options]
) -> None:
    """One column still has the old dimension, the other table lacks its column."""
    dsn = new_database(
        "CREATE TABLE archon_crawled_pages (id bigserial PRIMARY KEY, content text, embedding vector(1536));"
        "CREATE TABLE archon_code_examples (id bigserial PRIMARY KEY, content text, summary text);"
        "INSERT INTO archon_crawled_pages (content) VALUES ('a'), (' ');"
        "INSERT INTO archon_code_examples (content) VALUES ('b')"
    )
    outcome = phase.run(make_context(dsn, check=True), options())
    assert outcome.status == "drift"
    assert {finding.code for finding in outcome.findings} == {"embedding_column_dimension", "embedding_column_missing"}
    tables = outcome.details["embeddings"]["tables"]
    assert (tables[PAGES]["missing_before"], tables[EXAMPLES]["missing_before"]) == (2, 1)
    assert [diff["after"] for diff in outcome.diff] == ["1 rows without embedding\n", "0 rows without embedding\n"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("ALTER TABLE archon_crawled_pages ALTER embedding TYPE vector(1536)", "embedding_column_dimension"),
        ("ALTER TABLE archon_crawled_pages DROP COLUMN embedding", "embedding_column_missing"),
        ("ALTER TABLE archon_code_examples DROP COLUMN summary", "embedding_column_missing"),
        ("ALTER TABLE archon_crawled_pages ALTER embedding TYPE text USING NULL", "embedding_column_missing"),
        ("ALTER TABLE archon_crawled_pages ALTER id DROP DEFAULT, ALTER id TYPE text", "embedding_id_type"),
        ("DROP TABLE archon_crawled_pages, archon_code_examples", "embedding_tables_missing"),
        ("DROP TABLE archon_crawled_pages, archon_code_examples; DROP EXTENSION vector", "pgvector_missing"),
    ],
)
def test_a_schema_that_does_not_fit_stops_before_the_service_is_asked(
    ready: Context,
    options: Callable[..., Options],
    prod: str,
    change: str,
    code: str,
    service: RunningService,
    server: object,
) -> None:
    superuser = server.dsn(psycopg.conninfo.conninfo_to_dict(prod)["dbname"])  # type: ignore[attr-defined]
    query(superuser, change)
    with pytest.raises(AlignError) as caught:
        phase.run(ready, options())
    assert caught.value.code == code
    assert service.requests == []


def test_a_missing_table_and_an_empty_one_are_no_failure(
    ready: Context, options: Callable[..., Options], prod: str
) -> None:
    query(prod, "DROP TABLE archon_code_examples; DELETE FROM archon_crawled_pages")
    outcome = phase.run(ready, options())
    assert (outcome.status, outcome.details["embeddings"]["missing_before"]) == ("aligned", 0)
    assert [finding.code for finding in outcome.findings] == ["embedding_table_missing"]


def test_blank_and_refused_rows_are_quarantined_and_the_rest_goes_on(
    ready: Context,
    make_context: Callable[..., Context],
    options: Callable[..., Options],
    prod: str,
    service: RunningService,
) -> None:
    query(prod, "UPDATE archon_crawled_pages SET content = E' \\n\\t' WHERE id IN (1, 50)")
    query(prod, "UPDATE archon_crawled_pages SET content = 'POISON ' || content WHERE id = 70")
    service.set_faults(fail_marked=True, marker="POISON")
    outcome = phase.run(ready, options())
    assert (outcome.status, outcome.error) == ("changed", None)
    totals = outcome.details["embeddings"]
    assert (totals["rebuilt"], totals["quarantined"], totals["missing_after"]) == (102, 3, 3)
    assert {finding.object for finding in outcome.findings} == {f"{PAGES} id {number}" for number in (1, 50, 70)}
    assert query(prod, "SELECT id FROM archon_crawled_pages WHERE embedding IS NULL ORDER BY id") == [
        (1,),
        (50,),
        (70,),
    ]

    service.set_faults()
    healed = phase.run(ready, options())
    assert (healed.status, healed.details["embeddings"]["rebuilt"]) == ("changed", 1)
    again = phase.run(ready, options())
    assert (again.status, again.changed, len(again.findings)) == ("aligned", False, 2)
    looked = phase.run(make_context(prod, check=True), options())
    assert (looked.status, looked.details["embeddings"]["quarantined"]) == ("aligned", 2), (
        "or a check tells of drift for ever"
    )


def test_too_many_quarantined_rows_fail_the_phase_and_keep_the_rest(
    ready: Context, options: Callable[..., Options], prod: str
) -> None:
    query(prod, "UPDATE archon_crawled_pages SET content = ' ' WHERE id > 80")
    outcome = phase.run(ready, options(max_quarantined=5, batch_texts=8))
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "embedding_too_many_quarantined"
    assert "archon_embeddings_max_quarantined" in str(outcome.error)
    assert missing(prod) == 105 - outcome.details["embeddings"]["rebuilt"]


@pytest.mark.parametrize("fault", ["nan", "infinity", "zero"])
def test_vectors_that_are_none_are_never_stored(
    ready: Context, options: Callable[..., Options], prod: str, service: RunningService, fault: str
) -> None:
    """`NaN` in JSON's digits is malformed JSON; in base64 it is a number."""
    query(prod, "UPDATE archon_crawled_pages SET content = 'POISON ' || content WHERE id = 7")
    service.set_faults(bad_vector=fault, marker="POISON")
    outcome = phase.run(ready, options())
    assert (outcome.status, outcome.details["embeddings"]["quarantined"]) == ("changed", 1)
    assert query(prod, "SELECT id FROM archon_crawled_pages WHERE embedding IS NULL") == [(7,)]


def test_shuffled_replies_are_put_in_order(
    ready: Context, options: Callable[..., Options], prod: str, service: RunningService
) -> None:
    service.set_faults(shuffled=True)
    phase.run(ready, options())
    healthy = stored(prod, PAGES)
    query(prod, "UPDATE archon_crawled_pages SET embedding = NULL")
    service.set_faults()
    phase.run(ready, options())
    assert np.abs(stored(prod, PAGES) - healthy).max() < 1e-6


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ({"status": 503}, "embedding_busy"),
        ({"status": 500}, "embedding_refused"),
        ({"malformed": True}, "embedding_malformed"),
        ({"dimension": 512}, "embedding_dimension"),
        ({"drop_last": True}, "embedding_count"),
        ({"model_missing": True}, "embedding_model_missing"),
        ({"hang": True}, "embedding_timeout"),
    ],
)
def test_a_service_that_never_works_leaves_everything_as_it_was(
    ready: Context,
    options: Callable[..., Options],
    prod: str,
    service: RunningService,
    faults: dict[str, object],
    code: str,
) -> None:
    service.set_faults(**faults)
    outcome = phase.run(ready, options(timeout=0.3 if "hang" in faults else 60.0, stall_timeout=1.5))
    assert (outcome.status, outcome.changed, outcome.details["embeddings"]["missing_after"]) == (
        "resumable",
        False,
        105,
    )
    assert isinstance(outcome.error, Resumable)
    assert outcome.error.code == code
    assert missing(prod) == 105


@pytest.fixture
def once_embedded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call with how a text begins and what shall happen once its vector has come, before that is written."""
    embed, begun = EmbeddingClient.embed, threading.Lock()

    def when(beginning: str, happens: Callable[[], object]) -> None:
        def embedding(client: EmbeddingClient, texts: Sequence[str]) -> Vectors:
            vectors = embed(client, texts)
            if any(text.startswith(beginning) for text in texts) and begun.acquire(blocking=False):
                happens()
            return vectors

        monkeypatch.setattr(EmbeddingClient, "embed", embedding)

    return when


def test_a_service_that_dies_half_way_is_continued(
    ready: Context,
    options: Callable[..., Options],
    prod: str,
    service: RunningService,
    once_embedded: Callable[..., None],
) -> None:
    once_embedded("Page ", lambda: service.set_faults(status=503))
    outcome = phase.run(ready, options(batch_texts=10, stall_timeout=1.5))
    assert outcome.status == "resumable"
    assert outcome.error is not None
    done = outcome.details["embeddings"]["rebuilt"]
    assert f"{done} embeddings written in this run are kept" in outcome.error.remedy
    assert 0 < done < 105
    assert missing(prod) == 105 - done
    service.set_faults()
    rest = phase.run(ready, options())
    assert (rest.status, rest.details["embeddings"]["rebuilt"], missing(prod)) == ("changed", 105 - done, 0)


def test_a_short_outage_is_waited_out(ready: Context, options: Callable[..., Options], service: RunningService) -> None:
    service.set_faults(status=503, first=2)
    assert phase.run(ready, options()).status == "changed"


def test_a_full_disk_under_the_restore_point_stops_the_rebuild_and_keeps_what_is_there(
    ready: Context, options: Callable[..., Options], prod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, written = Ledger.record, []

    def full(ledger: Ledger, *args: Any) -> int:
        if written:
            ledger.path = ready.run.artifacts / "restore-points" / "embeddings.jsonl" / "no folder"
        written.append(1)
        return record(ledger, *args)

    monkeypatch.setattr(Ledger, "record", full)
    outcome = phase.run(ready, options(rows_per_commit=16, batch_texts=8))
    assert (outcome.status, outcome.error and outcome.error.code) == ("resumable", "restore_point_not_written")
    left = missing(prod)
    assert left == 105 - outcome.details["embeddings"]["rebuilt"] < 105
    assert [point["kind"] for point in outcome.details["restore_points"]] == ["vectors"]
    monkeypatch.undo()
    assert (phase.run(ready, options()).status, missing(prod)) == ("changed", 0)


def test_progress_is_visible_and_no_transaction_waits_for_the_service(
    ready: Context,
    options: Callable[..., Options],
    prod: str,
    service: RunningService,
    monkeypatch: pytest.MonkeyPatch,
    once_embedded: Callable[..., None],
) -> None:
    once_embedded("Page ", lambda: service.set_faults(latency=1.0))
    seen: set[str] = set()
    told: set[str] = set()
    progress = Session.progress

    def noted(session: Session, text: str) -> None:
        told.add(text)
        progress(session, text)

    monkeypatch.setattr(Session, "progress", noted)
    waits: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        with psycopg.connect(prod, autocommit=True) as connection:
            while not stop.wait(0.02):
                rows = connection.execute(
                    "SELECT application_name, state, extract(epoch FROM clock_timestamp() - state_change)::float"
                    " FROM pg_stat_activity WHERE application_name LIKE 'align embeddings%'"
                ).fetchall()
                seen.update(row[0].partition(f"{ready.run.id} ")[2] for row in rows)
                waits.extend(row[2] for row in rows if row[1] == "idle in transaction")

    watcher = threading.Thread(target=watch)
    watcher.start()
    phase.run(ready, options(batch_texts=16, sample=0))
    stop.set()
    watcher.join()
    counts = {found.done for text in told if isinstance(found := parse(text), Counts)}
    assert len(counts) >= 3
    assert max(counts) == 105
    assert any(isinstance(parse(text), Endpoints) for text in told)
    assert any(isinstance(parse(text), Counts) for text in seen & told)
    assert max(waits, default=0) < 0.9  # the restore point is written, not the service awaited


def test_a_row_that_changes_meanwhile_gets_the_vector_of_its_new_text(
    ready: Context, options: Callable[..., Options], prod: str, once_embedded: Callable[..., None]
) -> None:
    edit = "UPDATE archon_crawled_pages SET content = 'Rewritten about submarines.' WHERE id = 40"
    once_embedded("Page 39 ", lambda: query(prod, edit))
    outcome = phase.run(ready, options(batch_texts=100, sample=0))
    assert outcome.details["embeddings"]["missing_after"] == 0
    with EmbeddingClient(options().endpoints[0]) as client:
        expected = client.embed(["Rewritten about submarines."])
    assert np.abs(stored(prod, PAGES, "id = 40") - expected).max() < 1e-6


def test_a_locked_row_is_waited_for_without_making_a_victim(
    ready: Context, options: Callable[..., Options], prod: str
) -> None:
    with psycopg.connect(prod) as user:
        user.execute("UPDATE archon_crawled_pages SET metadata = '{}' WHERE id = 5")
        threading.Timer(1.5, user.commit).start()
        outcome = phase.run(ready, options())
        assert (outcome.status, missing(prod)) == ("changed", 0)


def test_a_row_locked_for_good_is_a_clear_resumable_end(
    prod: str,
    make_context: Callable[..., Context],
    hold_run_lock: Callable[..., object],
    options: Callable[..., Options],
) -> None:
    hold_run_lock(prod)
    with psycopg.connect(prod) as user:
        user.execute("UPDATE archon_crawled_pages SET metadata = '{}' WHERE id = 5")
        outcome = phase.run(make_context(prod, lock_timeout=0.05, lock_attempts=2), options())
    assert (outcome.status, outcome.error and outcome.error.code) == ("resumable", "lock_timeout")


def test_without_the_run_lock_nothing_is_written(
    prod: str, make_context: Callable[..., Context], options: Callable[..., Options]
) -> None:
    outcome = phase.run(make_context(prod), options())
    assert (outcome.status, outcome.error and outcome.error.code) == ("failed", "lock_lost")
    assert missing(prod) == 105


def test_a_lost_connection_is_a_clear_resumable_end(
    ready: Context, options: Callable[..., Options], server: object, once_embedded: Callable[..., None]
) -> None:
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'align embeddings%'"
    once_embedded("Page ", lambda: query(server.dsn(), kill))  # type: ignore[attr-defined]
    outcome = phase.run(ready, options(batch_texts=16))
    assert (outcome.status, outcome.error and outcome.error.code) == ("resumable", "connection_lost")


def test_a_role_without_privileges_is_told_so(
    prod: str,
    make_context: Callable[..., Context],
    options: Callable[..., Options],
    server: object,
    hold_run_lock: Callable,
) -> None:
    database = psycopg.conninfo.conninfo_to_dict(prod)["dbname"]
    with psycopg.connect(server.dsn(database), autocommit=True) as admin:  # type: ignore[attr-defined]
        admin.execute("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
        admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; GRANT pg_read_all_stats TO reader")
    hold_run_lock(prod)
    reader = server.dsn(database, "reader")  # type: ignore[attr-defined]
    outcome = phase.run(make_context(reader), options())
    assert outcome.error is not None
    assert outcome.error.code == "missing_privilege"
    with psycopg.connect(server.dsn(database), autocommit=True) as admin:  # type: ignore[attr-defined]
        admin.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_pgvector_in_another_schema_and_odd_names(
    new_database: Callable[[str], str],
    server: object,
    make_context: Callable[..., Context],
    hold_run_lock: Callable[..., object],
    options: Callable[..., Options],
) -> None:
    dsn = new_database("")
    superuser = server.dsn(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])  # type: ignore[attr-defined]
    odd = 'ärchon "x" y'
    with psycopg.connect(superuser, autocommit=True) as admin:
        admin.execute(
            'CREATE SCHEMA "ext x"; ALTER EXTENSION vector SET SCHEMA "ext x"; GRANT USAGE ON SCHEMA "ext x" TO PUBLIC'
        )
        admin.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION archon_owner").format(sql.Identifier(odd)))
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(odd)))
        owner.execute(
            "CREATE TABLE archon_crawled_pages (id int PRIMARY KEY, url text, chunk_number int, content text,"
            ' embedding "ext x".vector)'
        )
        owner.execute(
            "INSERT INTO archon_crawled_pages VALUES (-5, 'u', 0, 'ünïcødé 🎻 100 \\ ''q'''), (9, 'v', 0, NULL), (3, 'w', 0, repeat('long ', 30000))"
        )
    hold_run_lock(dsn)
    context = make_context(dsn, schemas=(odd,))
    outcome = phase.run(context, options())
    assert (outcome.status, outcome.details["embeddings"]["rebuilt"]) == ("changed", 2)
    assert outcome.details["embeddings"]["quarantined"] == 1
