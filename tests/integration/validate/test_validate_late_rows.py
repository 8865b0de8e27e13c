"""Rows that users add once the embeddings phase has looked are nobody's failure; those it should have seen are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.database.target import Table
from archon_align.embedding.horizon import Horizon, late
from archon_align.embedding.kinds import KINDS
from archon_align.embedding.tables import find_table, vector_type
from archon_align.report.assemble import verdict
from archon_align.validate.criteria import Facts, Rehearsal, Schemas, judge
from archon_align.validate.phase import _quarantined, _seen
from archon_align.validate.state import embedded

PAGES = Table("public", "archon_crawled_pages")
SCHEMA = """
CREATE TABLE archon_crawled_pages (id bigserial PRIMARY KEY, url text, chunk_number int, content text, embedding vector(4));
INSERT INTO archon_crawled_pages (url, chunk_number, content, embedding)
  SELECT 'u', n, 'text ' || n, ARRAY[n, 1, 2, 3]::vector FROM generate_series(1, 8) n;
"""
ADD = "INSERT INTO archon_crawled_pages (url, chunk_number, content) VALUES ('v', 1, %s)"


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database(SCHEMA)


@pytest.fixture
def measured(
    prod: str, make_context: Callable[..., Context]
) -> Callable[[Horizon | None], tuple[int, int, int, list[str]]]:
    """Call with a horizon for: rows missing, late, those for which search is unmet, and the findings' codes."""

    def measure(horizon: Horizon | None) -> tuple[int, int, int, list[str]]:
        context = make_context(prod, check=True)
        results = recorded(horizon) if horizon else []
        with open_session(context, context.prod) as session:
            tables, _ = embedded(session, 4, results)
        nothing = Rehearsal(None)
        facts = Facts({}, {}, tables, _quarantined(tables, results), (), {}, frozenset(), Schemas(), nothing, nothing)
        unmet = facts.missing - facts.late - facts.quarantined
        told = next(one.evidence for one in judge(facts) if one.name.startswith("Search"))
        assert ("without an embedding" in told) == (unmet > 0)
        return facts.missing, facts.late, unmet, [finding.code for finding in _seen(facts)]

    return measure


def recorded(horizon: Horizon) -> list[dict[str, Any]]:
    return [{"phase": "embeddings", "details": {"embeddings": {"horizon": {str(PAGES): horizon.as_dict()}}}}]


def horizon_of(prod: str, make_context: Callable[..., Context]) -> Horizon:
    context = make_context(prod, check=True)
    with open_session(context, context.prod) as session:
        return Horizon.of(session, PAGES)


def test_rows_are_late_by_their_transaction(
    prod: str, make_context: Callable[..., Context], measured: Callable
) -> None:
    with psycopg.connect(prod) as slow, psycopg.connect(prod, autocommit=True) as user:
        user.execute(ADD, ("seen",))
        slow.execute(ADD, ("begun before, committed after",))
        horizon = horizon_of(prod, make_context)
        assert measured(horizon)[:3] == (1, 0, 1)
        slow.commit()
        user.execute(ADD, ("after",))
        user.execute(ADD, ("  ",))
        user.execute("UPDATE archon_crawled_pages SET embedding = NULL, content = 'edited' WHERE id = 1")
        assert measured(horizon) == (5, 4, 1, ["rows_arrived_since"])
        user.execute("DELETE FROM archon_crawled_pages WHERE content = 'seen'")
        assert measured(horizon)[:3] == (4, 4, 0)
        assert measured(None)[:3] == (4, 0, 3)


def test_late_rows_make_no_drift() -> None:
    embeddings = {"missing_after": 4, "arrived_since": 3, "quarantined": 1}
    phases = [{"status": "aligned", "changed": False}]
    assert verdict(False, phases, {"schema": None, "embeddings": embeddings}) == "aligned"
    assert verdict(False, phases, {"schema": None, "embeddings": {**embeddings, "arrived_since": 2}}) == "drift"


def test_after_a_rewrite_nothing_is_late(prod: str, make_context: Callable[..., Context], measured: Callable) -> None:
    """It gives every row a new transaction: then all that is missing counts, as without a horizon."""
    with psycopg.connect(prod, autocommit=True) as user:
        user.execute(ADD, ("seen",))
        horizon = horizon_of(prod, make_context)
        user.execute("ALTER TABLE archon_crawled_pages ALTER chunk_number TYPE bigint")
        user.execute(ADD, ("after",))
    assert measured(horizon)[:3] == (2, 0, 2)


def test_frozen_rows_are_old(prod: str, make_context: Callable[..., Context]) -> None:
    with psycopg.connect(prod, autocommit=True) as user:
        user.execute(ADD, ("seen",))
        user.execute("VACUUM (FREEZE) archon_crawled_pages")
    horizon = horizon_of(prod, make_context)
    context = make_context(prod, check=True)
    with open_session(context, context.prod) as session:
        found = find_table(session, KINDS[0], vector_type(session))
        assert found is not None
        assert late(session, found, horizon).rows == 0
        # A snapshot of very long ago: every row has come since.
        assert late(session, found, Horizon("3:3:", horizon.file)).rows == 1
