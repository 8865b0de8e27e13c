"""The vector index on databases of all kinds: measured as Archon asks, made better where that helps, otherwise left alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import Session, open_session
from archon_align.embedded.server import EmbeddedServer
from archon_align.embedding import index, recall
from archon_align.embedding.asking import find_asking
from archon_align.embedding.indexing import Indexing, Loaded, Wanted
from archon_align.embedding.kinds import KINDS
from archon_align.embedding.tables import find_table, vector_type
from archon_align.errors import AlignError
from archon_align.rollback.ledger import Ledger
from embedding_rows import TABLES
from numpy.typing import NDArray
from psycopg import sql

PAGES = "archon_crawled_pages"
IVFFLAT = f"CREATE INDEX poor ON {PAGES} USING ivfflat (embedding vector_cosine_ops) WITH (lists = 40)"
HNSW = f"CREATE INDEX good ON {PAGES} USING hnsw (embedding vector_cosine_ops)"


def clustered(rows: int, dimensions: int = 16, seed: int = 1) -> NDArray[np.float32]:
    """Vectors in as many clusters as an ivfflat index of 40 lists will cut in two."""
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, dimensions)).astype(np.float32)


@dataclass
class Bed:
    """A PROD of pages with the given vectors."""

    dsn: str
    context: Callable[..., Context]

    def rows(self, query: str, *, dsn: str = "") -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn or self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def fill(self, vectors: NDArray[np.float32]) -> None:
        with (
            psycopg.connect(self.dsn) as owner,
            owner.cursor().copy(f"COPY {PAGES} (url, chunk_number, content, embedding) FROM STDIN".encode()) as copy,
        ):
            for number, one in enumerate(vectors):
                copy.write_row((f"u{number}", 0, f"page {number}", str(one.tolist())))

    def indexes(self) -> dict[str, str]:
        return dict(
            self.rows(
                "SELECT indexname, substring(indexdef FROM 'USING.*') FROM pg_indexes"
                f" WHERE tablename = '{PAGES}' AND indexdef ~ 'hnsw|ivfflat'"
            )
        )

    @contextmanager
    def session(self, **fields: Any) -> Iterator[Session]:
        context = self.context(**fields)
        with open_session(context, context.prod) as session:
            yield session

    def see_to(
        self,
        *,
        min_recall: float = 0.95,
        concurrently_rows: int = 50_000,
        timeout: float = 60.0,
        memory: str = "",
        **fields: Any,
    ) -> Indexing:
        with self.session(**fields) as session:
            vector = vector_type(session)
            vector.register(session)
            found = find_table(session, KINDS[0], vector)
            assert found is not None
            count = session.value(f"SELECT count(embedding) FROM public.{PAGES}")  # type: ignore[arg-type]
            work = Indexing(
                session,
                Wanted(min_recall, concurrently_rows, timeout, memory),
                Ledger(session.context),
                find_asking(session, vector),
            )
            work.findings += work.asking.findings
            work.see_to(Loaded(found, count, count, 0), vector)
            return work


def told(work: Indexing) -> dict[str, Any]:
    return work.indexes[f"public.{PAGES}"]


def codes(work: Indexing) -> list[str]:
    return [finding.code for finding in work.findings]


@pytest.fixture
def bed(
    new_database: Callable[[str], str], make_context: Callable[..., Context], hold_run_lock: Callable[..., object]
) -> Callable[..., Bed]:
    def make(vectors: NDArray[np.float32], *statements: str, dimensions: int = 0) -> Bed:
        dsn = new_database(TABLES.format(schema="public", dimensions=dimensions or vectors.shape[1]))
        made = Bed(dsn, lambda **fields: make_context(dsn, dsn, phase="search", **fields))
        made.fill(vectors)
        for statement in statements:
            made.rows(statement)
        hold_run_lock(dsn)
        return made

    return make


@pytest.fixture
def roles(server: EmbeddedServer) -> Iterator[Callable[[str], None]]:
    """Call with statements on roles (as superuser); roles and what is set for them end with the test."""

    def do(statement: str) -> None:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(statement.encode())

    do("CREATE ROLE authenticator LOGIN NOINHERIT; GRANT service_role TO authenticator")
    yield do
    do("ALTER ROLE service_role RESET ALL; ALTER ROLE archon_owner RESET ALL; DROP ROLE authenticator")


def test_an_index_that_no_parameters_help_is_built_twice_at_most_and_then_left_alone(bed: Callable[..., Bed]) -> None:
    prod = bed(clustered(500, 32))
    first = prod.see_to(min_recall=1.0001)
    assert [statement.sql.split()[0] for statement in first.statements] == ["CREATE", "DROP", "CREATE"]
    assert told(first)["action"] == "built"
    assert told(first)["build_seconds"] > 0
    assert "; then its recall@10 is" in told(first)["reason"]
    definition = prod.indexes()
    assert list(definition.values()) == [
        "USING hnsw (embedding vector_cosine_ops) WITH (m='32', ef_construction='128')"
    ]
    assert codes(first) == ["search_index_recall"]
    for again in (prod.see_to(min_recall=1.0001), prod.see_to(min_recall=1.0001, check=True)):
        assert (again.statements, again.executed, told(again)["action"]) == ([], False, "weak")
        assert told(again)["recall_at_10"] == told(first)["recall_at_10"]
    assert prod.indexes() == definition


def test_recall_of_near_duplicates_is_the_same_in_every_run(bed: Callable[..., Bed]) -> None:
    random = np.random.default_rng(1)
    near = random.normal(size=(40, 768))[random.integers(0, 40, 500)] + 0.001 * random.normal(size=(500, 768))
    prod = bed(near.astype(np.float32))
    first, second = prod.see_to(), prod.see_to()
    assert (first.executed, second.executed, second.statements) == (True, False, [])
    assert told(second)["recall_at_10"] == told(first)["recall_at_10"] >= 0.95


def test_the_remedy_for_a_weak_index_names_the_ef_search_that_is_enough(bed: Callable[..., Bed]) -> None:
    prod = bed(clustered(300, 32), HNSW + " WITH (m = 32, ef_construction = 64)")
    database = prod.rows("SELECT current_database()")[0][0]
    prod.rows(f"SELECT '[1]'::vector; ALTER DATABASE {database} SET hnsw.ef_search = 1")
    weak = prod.see_to()
    assert (told(weak)["action"], told(weak)["recall_at_10"] < 0.95) == ("weak", True)
    remedy = weak.findings[-1].remedy
    assert remedy.startswith("hnsw.ef_search = 80 is enough here: SELECT '[1]'::vector; ALTER DATABASE")
    prod.rows(remedy.split(": ", 1)[1].split("; in one session")[0])
    after = prod.see_to()
    assert (told(after)["action"], after.asking.settings) == ("kept", {"hnsw.ef_search": "80"})


def test_an_hnsw_below_the_minimum_is_left_where_a_stronger_one_would_take_too_long(bed: Callable[..., Bed]) -> None:
    prod = bed(clustered(500, 32), HNSW)
    work = prod.see_to(min_recall=1.0001, timeout=2.0)
    assert (told(work)["action"], work.statements, list(prod.indexes())) == ("weak", [], ["good"])


def test_of_two_indexes_only_the_one_that_misses_goes(bed: Callable[..., Bed]) -> None:
    prod = bed(clustered(2000), IVFFLAT, HNSW)
    predicted, work = prod.see_to(check=True), prod.see_to()
    dropped = [statement.sql for statement in work.statements]
    if dropped:
        assert dropped == ['DROP INDEX "public"."poor"']
        assert (told(work)["action"], "good stays" in told(work)["reason"]) == ("dropped", True)
    assert [statement.sql for statement in predicted.statements] == dropped
    assert "good" in prod.indexes()
    assert prod.see_to().statements == []


def test_two_good_indexes_stay_and_are_told(bed: Callable[..., Bed]) -> None:
    prod = bed(clustered(300), HNSW, HNSW.replace("good", "better") + " WITH (m = 24)")
    work = prod.see_to()
    assert (work.statements, codes(work), len(prod.indexes())) == ([], ["search_indexes_many"], 2)


def test_indexes_for_something_else_are_never_touched(bed: Callable[..., Bed], server: EmbeddedServer) -> None:
    mine = {
        "l2": f"CREATE INDEX l2 ON {PAGES} USING hnsw (embedding vector_l2_ops)",
        "half": f"CREATE INDEX half ON {PAGES} USING hnsw ((embedding::halfvec(16)) halfvec_cosine_ops)",
        "one_source": f"CREATE INDEX one_source ON {PAGES} USING hnsw (embedding vector_cosine_ops) WHERE source_id = 'src'",
        "idx_archon_crawled_pages_embedding_partial": f"CREATE INDEX idx_archon_crawled_pages_embedding_partial ON {PAGES}"
        " USING hnsw (embedding vector_cosine_ops) WHERE source_id = 'other'",
    }
    prod = bed(clustered(300), *mine.values())
    database = prod.rows("SELECT current_database()")[0][0]
    invalid = (
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid IN ('one_source'::regclass, 'idx_archon_crawled_pages_embedding_partial'::regclass)"
    )
    prod.rows(invalid, dsn=server.dsn(database))
    work = prod.see_to()
    assert [statement.sql.split()[0] for statement in work.statements] == ["CREATE"]
    assert set(prod.indexes()) == {*mine, "idx_archon_crawled_pages_embedding"}
    assert codes(work) == ["search_index_invalid"]
    assert prod.see_to().statements == []


def test_an_index_that_a_killed_build_left_is_replaced(bed: Callable[..., Bed]) -> None:
    prod = bed(clustered(300))
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.01):
            if prod.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"
            ):
                return

    killer = threading.Thread(target=kill)
    with psycopg.connect(prod.dsn) as user:  # whose transaction the build waits for, so that it is met
        user.execute(f"UPDATE {PAGES} SET metadata = '{{}}' WHERE id = 1".encode())
        killer.start()
        with pytest.raises((AlignError, psycopg.Error)):
            prod.see_to(concurrently_rows=100)
        ended.set()
        killer.join()
    assert prod.rows("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(1,)]
    work = prod.see_to(concurrently_rows=100)
    assert [statement.sql.split(" ON ")[0] for statement in work.statements] == [
        'DROP INDEX CONCURRENTLY "public"."idx_archon_crawled_pages_embedding"',
        'CREATE INDEX CONCURRENTLY "idx_archon_crawled_pages_embedding"',
    ]
    assert prod.rows("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]


def test_an_index_that_somebody_is_building_is_no_leftover(bed: Callable[..., Bed]) -> None:
    prod = bed(clustered(300))
    name = "idx_archon_crawled_pages_embedding"
    with psycopg.connect(prod.dsn) as user, psycopg.connect(prod.dsn, autocommit=True) as builder:
        user.execute(f"UPDATE {PAGES} SET metadata = '{{}}' WHERE id = 1".encode())
        statement = f"CREATE INDEX CONCURRENTLY {name} ON {PAGES} USING hnsw (embedding vector_cosine_ops)"
        building = threading.Thread(target=builder.execute, args=(statement.encode(),))
        building.start()
        for _ in range(20_000):
            if prod.rows("SELECT 1 FROM pg_index WHERE NOT indisvalid"):
                break
            time.sleep(0.01)
        work = prod.see_to()
        assert (work.statements, told(work)["action"], codes(work)) == (
            [],
            "undecided",
            ["search_index_in_making"],
        )
        user.rollback()
        building.join()
    assert prod.see_to().statements == []


def test_settings_count_as_archon_has_them(bed: Callable[..., Bed], roles: Callable[[str], None]) -> None:
    prod = bed(clustered(2000), IVFFLAT)
    database = prod.rows("SELECT current_database()")[0][0]
    probes = "SET ivfflat.probes = 39"

    def measured() -> tuple[float, dict[str, str], list[str]]:
        work = prod.see_to(check=True)
        return told(work)["recall_at_10"], dict(work.asking.settings), codes(work)

    poor, settings, _ = measured()
    assert (poor < 0.8, settings) == (True, {})
    roles(f"ALTER ROLE archon_owner {probes}")  # ours, not Archon's
    assert measured() == (poor, {}, [])
    roles(f"ALTER ROLE service_role {probes}")  # PostgREST does not see it
    assert measured() == (poor, {}, ["search_setting_unheard"])
    roles("ALTER ROLE service_role SET enable_indexscan = on")  # this it does
    assert measured() == (poor, {"enable_indexscan": "on"}, ["search_setting_unheard"])
    roles("ALTER ROLE service_role RESET ALL")
    roles(f"ALTER ROLE authenticator IN DATABASE {database} {probes}")
    assert measured() == (1.0, {"ivfflat.probes": "39"}, [])
    roles("ALTER ROLE authenticator SET ivfflat.probes = 1")  # weaker than in the database
    assert measured()[0] == 1.0
    roles(f"ALTER ROLE authenticator IN DATABASE {database} RESET ALL; ALTER DATABASE {database} {probes}")
    assert measured() == (poor, {"ivfflat.probes": "1"}, [])
    roles("ALTER ROLE authenticator RESET ALL")
    assert measured() == (1.0, {"ivfflat.probes": "39"}, [])
    roles(f"ALTER DATABASE {database} SET ivfflat.probes = 'many'")
    assert measured() == (poor, {}, ["search_setting_ignored"])


@pytest.mark.parametrize(
    ("vectors", "action"),
    [
        (clustered(3), "built"),
        (np.ones((200, 16), dtype=np.float32), "built"),
        (np.zeros((20, 16), dtype=np.float32), "built"),
        (np.vstack([clustered(200), np.zeros((30, 16), dtype=np.float32)]), "built"),
        (np.empty((0, 16), dtype=np.float32), "none"),
    ],
)
def test_odd_vectors(bed: Callable[..., Bed], vectors: NDArray[np.float32], action: str) -> None:
    prod = bed(vectors)
    work = prod.see_to()
    recall = told(work)["recall_at_10"]
    assert (told(work)["action"], recall if recall is None else recall >= 0.95) == (
        action,
        True if vectors.any() else None,
    )
    again = prod.see_to()
    assert (again.statements, again.executed) == ([], False)


def test_too_many_dimensions_for_any_index(bed: Callable[..., Bed]) -> None:
    work = bed(clustered(20, 2001)).see_to()
    assert (told(work)["action"], work.statements, codes(work)) == ("impossible", [], ["search_index_impossible"])
    assert "halfvec" in work.findings[0].message


def test_a_pgvector_without_hnsw_builds_nothing_and_drops_no_index_of_a_user(bed: Callable[..., Bed]) -> None:
    prod = bed(clustered(300), IVFFLAT)
    with prod.session() as session:
        vector = vector_type(session)
        found = find_table(session, KINDS[0], vector)
        assert found is not None
        there = index.indexes(session, found)
    state = index.IndexState(there, 300, 0.3, 16, False, frozenset(), "poor")
    planned = index.plan(found, vector, state, min_recall=0.95, concurrently_rows=50_000)
    assert (planned.action, planned.statements) == ("impossible", ())


def test_a_scan_that_takes_too_long_leaves_the_index_alone(
    bed: Callable[..., Bed], monkeypatch: pytest.MonkeyPatch
) -> None:
    prod = bed(clustered(100), HNSW)
    slow = sql.SQL("SELECT 1.0::float8 AS distance FROM pg_sleep(60) WHERE %b IS NOT NULL AND %b IS NOT NULL")
    monkeypatch.setattr(recall, "_search", lambda *_: slow)
    work = prod.see_to(statement_timeout=1.0)
    assert (work.statements, told(work)["recall_at_10"], codes(work)) == ([], None, ["search_index_unmeasured"])
    assert (told(work)["action"], told(work)["reason"]) == ("undecided", "its recall could not be measured")


def test_a_table_that_a_user_holds_is_told(bed: Callable[..., Bed]) -> None:
    prod = bed(clustered(100))
    with psycopg.connect(prod.dsn) as user:
        user.execute(f"LOCK TABLE {PAGES} IN SHARE ROW EXCLUSIVE MODE".encode())
        with pytest.raises(AlignError) as caught:
            prod.see_to(lock_attempts=2, lock_timeout=0.05)
    assert caught.value.code == "lock_timeout"
    assert prod.indexes() == {}


@pytest.mark.parametrize("concurrently_rows", [10, 50_000])
def test_a_full_disk_leaves_nothing_behind(
    bed: Callable[..., Bed], monkeypatch: pytest.MonkeyPatch, concurrently_rows: int
) -> None:
    prod = bed(clustered(300))
    apply = Session.apply

    def full(self: Session, statement: Any) -> int:
        apply(self, statement)
        raise psycopg.errors.DiskFull("could not extend file: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Session, "apply", full)
        with pytest.raises(AlignError) as caught:
            prod.see_to(concurrently_rows=concurrently_rows)
    assert (caught.value.code, "Free disk" in caught.value.remedy) == ("server_resources", True)
    assert prod.see_to(concurrently_rows=concurrently_rows).executed or prod.indexes()


def test_a_read_only_server_is_told(bed: Callable[..., Bed], server: EmbeddedServer) -> None:
    prod = bed(clustered(100))
    database = prod.rows("SELECT current_database()")[0][0]
    prod.rows(f"ALTER DATABASE {database} SET default_transaction_read_only = on", dsn=server.dsn())
    with pytest.raises(AlignError) as caught:
        prod.see_to()
    assert caught.value.code == "read_only_server"


def test_what_was_carried_out_before_a_failure_counts_as_changed(
    bed: Callable[..., Bed], monkeypatch: pytest.MonkeyPatch
) -> None:
    prod = bed(clustered(60), IVFFLAT.replace("40", "100"))
    apply = Session.apply

    def fail(self: Session, statement: Any) -> int:
        if statement.sql.startswith("DROP"):
            raise psycopg.errors.LockNotAvailable("canceling statement due to lock timeout")
        return apply(self, statement)

    with prod.session() as session:
        vector = vector_type(session)
        vector.register(session)
        found = find_table(session, KINDS[0], vector)
        assert found is not None
        work = Indexing(session, Wanted(0.95, 10, 60.0, ""), Ledger(session.context), find_asking(session, vector))
        monkeypatch.setattr(Session, "apply", fail)
        with pytest.raises(AlignError, match="concurrently"):
            work.see_to(Loaded(found, 60, 60, 0), vector)
        assert work.executed
    assert set(prod.indexes()) == {"poor", "idx_archon_crawled_pages_embedding"}
