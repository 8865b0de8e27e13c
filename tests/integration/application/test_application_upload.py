"""An upload as the client makes and follows it, at the lab's Archon over PROD's tables."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
from archon_align.application.progress import Event, follow
from archon_align.application.server import Archon
from archon_align.web.trust import Trust

from lab.archon import serve
from lab.embedding_service import RunningService

NAME = "Über uns. v2 final.txt"
TEXT = "A resolver asks the servers of a domain for its records and keeps what they say for a while. " * 30
# As phase 2 leaves PROD.
ALIGNED = "ALTER TABLE archon_crawled_pages ALTER COLUMN embedding TYPE vector(768)"
PATIENCE = 120.0


def uploaded(url: str, name: str, content: bytes, kind: str = "text/plain") -> tuple[list[str], Event | None]:
    with Archon(url, check=False) as archon, follow(url, Trust()) as follower:
        assert archon.wait_ready(PATIENCE).ready
        assert follower.connected
        follower.subscribe(archon.upload(name, content, content_type=kind))
        last = follower.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        # Each message comes in a thread of its own.
        while len(follower.events) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        return [event.status for event in follower.events], last


def test_an_upload_is_followed_to_its_end_which_the_table_confirms_or_does_not(
    copy_of: Callable[..., str], vectors: RunningService
) -> None:
    prod = copy_of("prod", ALIGNED)

    def settings(**wanted: str) -> None:
        with psycopg.connect(prod) as owner:
            for key, value in wanted.items():
                owner.execute(
                    "INSERT INTO archon_settings (key, value, category) VALUES (%s, %s, 'rag_strategy')"
                    " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    [key, value],
                )

    def stored() -> list[tuple[str, int, int]]:
        with psycopg.connect(prod) as owner:
            return owner.execute(
                "SELECT source_id, count(*), count(embedding) FROM archon_crawled_pages WHERE url = %s GROUP BY 1",
                [f"file://{NAME}"],
            ).fetchall()

    settings(EMBEDDING_PROVIDER="ollama", EMBEDDING_BASE_URL=vectors.base_url, EMBEDDING_MODEL="no-such-model")
    given = {"EMBEDDING_PROVIDER": "ollama", "EMBEDDING_BASE_URL": vectors.base_url, "LAB_ARCHON_UPLOAD_DELAY": "3"}
    with serve.server(prod, **given) as running:
        _, last = uploaded(running.url, NAME, TEXT.encode())
        # Archon says that it is done and how much it has stored, and nothing is there.
        assert last is not None
        assert (last.status, bool(last.stored), stored()) == ("completed", True, [])

        settings(EMBEDDING_MODEL="nomic-embed-text", LLM_BASE_URL=vectors.base_url)
        running.restart()
        stages, last = uploaded(running.url, NAME, TEXT.encode())
        assert last is not None
        assert {"completed"} < set(stages)  # and stages before it
        ((source, pages, embedded),) = stored()
        assert (last.status, last.source_id, last.stored) == ("completed", source, pages)
        assert pages == embedded > 0
        with Archon(running.url, check=True) as archon:
            assert source in {one.source_id for one in archon.sources()}

        before = stored()
        _, last = uploaded(running.url, "picture.png", b"\x89PNG\r\n\x1a\n" + bytes(100), "image/png")
        assert last is not None
        assert (last.status, bool(last.text), stored()) == ("error", True, before)
