"""A stale rebuild by the whole phase, and its rollback: every row is byte for byte what it was."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from archon_align.context import Context
from archon_align.embedding import phase
from archon_align.embedding.phase import Options
from archon_align.rollback.ledger import read_point

from tests.integration.rollback.undoing_rows import copied, undone

TABLES = ("archon_crawled_pages", "archon_code_examples")


def test_replaced_and_filled_vectors_of_a_stale_run_go_back(
    prod: str, ready: Context, options: Callable[..., Options]
) -> None:
    with psycopg.connect(prod) as connection:
        for table in TABLES:
            connection.execute(
                f"UPDATE {table} SET embedding = array_fill(id::real / 7e5 + 1, ARRAY[768])::vector WHERE id % 3 > 0".encode()
            )
    before = copied(prod, *TABLES)

    done = phase.run(ready, options(scope="stale"))

    assert (done.status, done.error) == ("changed", None)
    assert copied(prod, *TABLES) != before
    point = read_point(ready.run.artifacts / "restore-points" / "embeddings.jsonl")
    assert sum(sum(count for *_, count in one.payload["former"]["states"]) for one in point.entries) == 62 + 8

    assert undone(ready, point.entries).kept == []
    assert copied(prod, *TABLES) == before
