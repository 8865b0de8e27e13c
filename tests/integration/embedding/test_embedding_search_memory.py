"""The memory for a build: asked for the build alone, estimated as pgvector uses it, told where it is too little."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from archon_align.embedding import memory
from archon_align.embedding.index import VectorIndex
from archon_align.errors import AlignError
from test_embedding_search_index import PAGES, Bed, bed, clustered, codes
from test_embedding_search_index import told as told_of

__all__ = ["bed"]


@pytest.mark.parametrize(("dimensions", "m"), [(64, 4), (64, 32), (384, 16), (768, 16), (1536, 24)])
def test_the_estimate_is_what_pgvector_needs(bed: Callable[..., Bed], dimensions: int, m: int) -> None:
    """Its notice says how many rows fitted into 2 MB."""
    one = VectorIndex("i", "hnsw", True, True, None, options=(f"m={m}",))
    rows = round(2 * 1024**2 / memory.needed(one, 1, dimensions) * 1.3)
    prod = bed(clustered(rows, dimensions))
    notices: list[str] = []
    with psycopg.connect(prod.dsn, autocommit=True) as connection:
        connection.add_notice_handler(lambda diag: notices.append(diag.message_primary or ""))
        connection.execute("SET maintenance_work_mem = '2MB'; SET max_parallel_maintenance_workers = 0")
        connection.execute(f"CREATE INDEX ON {PAGES} USING hnsw (embedding vector_cosine_ops) WITH (m = {m})".encode())
    fitted = int(notices[0].split(" after ")[1].split()[0])
    assert memory.needed(one, fitted, dimensions) == pytest.approx(2 * 1024**2, rel=0.12)


def test_a_build_has_the_memory_that_is_wanted_and_nothing_else_has(bed: Callable[..., Bed]) -> None:
    prod = bed(clustered(50))
    own = prod.rows("SHOW maintenance_work_mem")
    prod.rows(
        "CREATE TABLE seen (value text); CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.seen SELECT pg_catalog.current_setting('maintenance_work_mem'); END $$"
    )
    admin = prod.dsn.replace("user=archon_owner", "user=postgres")
    prod.rows(
        "CREATE EVENT TRIGGER see ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION see()", dsn=admin
    )
    work = prod.see_to(memory="123MB")
    assert prod.rows("SELECT value FROM seen") == [("123MB",)]
    assert [statement.summary.split("search")[1] for statement in work.statements] == [
        ", within maintenance_work_mem = 123MB"
    ]
    assert "maintenance_work_mem" not in work.statements[0].sql
    with prod.session() as session:
        with memory.granted(session, "99MB"):
            assert session.value("SHOW maintenance_work_mem") == "99MB"
        assert [(session.value("SHOW maintenance_work_mem"),)] == own


def test_too_little_memory_is_told_with_what_to_set(bed: Callable[..., Bed]) -> None:
    prod = bed(clustered(50))
    one = VectorIndex("i", "hnsw", True, True, None)
    with prod.session(check=True) as session:
        told = memory.shortage(session, "public.i", one, 1_000_000, 768, "1GB")
        assert told is not None
        assert "needs about 3636MB, archon_index_maintenance_work_mem is 1024MB" in told.message
        assert "Set archon_index_maintenance_work_mem to 3636MB" in told.remedy
        servers = memory.shortage(session, "public.i", one, 1_000_000, 768, "")
        assert servers is not None
        assert "the server's maintenance_work_mem is 64MB" in servers.message
        assert memory.shortage(session, "public.i", one, 1_000_000, 768, "3636MB") is None
        assert memory.shortage(session, "public.i", one, 1_000, 768, "") is None
    work = prod.see_to(check=True, memory="1MB")
    assert (told_of(work)["action"], codes(work)) == ("built", [])


def test_the_shared_memory_of_a_container_is_named(bed: Callable[..., Bed], monkeypatch: pytest.MonkeyPatch) -> None:
    prod = bed(clustered(50))
    words = 'could not resize shared memory segment "/PostgreSQL.17" to 2144374272 bytes: No space left on device'

    class Full(psycopg.errors.DiskFull):
        @property
        def diag(self) -> object:  # type: ignore[override]
            return type("Diag", (), {"message_primary": words, "__getattr__": lambda *_: None})()

    def fail(*_: object) -> int:
        raise Full(words)

    monkeypatch.setattr("archon_align.database.session.Session.apply", fail)
    with pytest.raises(AlignError) as caught:
        prod.see_to(memory="2GB")
    assert "set archon_index_maintenance_work_mem below it" in caught.value.remedy
