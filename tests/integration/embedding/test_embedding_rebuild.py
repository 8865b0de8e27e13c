"""The rebuild against a real server and the lab's embedding service."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from archon_align.context import Context
from archon_align.embedding import phase
from archon_align.embedding.phase import Options


def test_all_rows_get_their_own_vector(ready: Context, options: Callable[..., Options], prod: str) -> None:
    outcome = phase.run(ready, options())
    print(outcome.as_result(), outcome.seconds)
    assert (outcome.status, outcome.changed, outcome.error) == ("changed", True, None)
