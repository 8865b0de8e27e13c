"""Vectors that a change of dimensions set aside: removed by a validation that passes, and by no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.target import Table
from archon_align.embedding.kept import note
from archon_align.outcome import PhaseOutcome
from archon_align.validate import phase
from test_validate_phase import ALIGNED, ROWS, SETTINGS

PAGES = Table("public", "archon_crawled_pages")
COPY = "archon_quarantine.archon_crawled_pages__embedding_2"
DROP = 'DROP TABLE "archon_quarantine"."archon_crawled_pages__embedding_2"'
KEPT = f"""
CREATE SCHEMA archon_quarantine;
CREATE TABLE {COPY} AS SELECT id, '[1, 2]'::vector(2) AS embedding FROM archon_crawled_pages;
COMMENT ON TABLE {COPY} IS '{note("20250101-000000-0a1b2c", PAGES)}';
CREATE TABLE archon_quarantine.somebodys AS SELECT 1 AS id; COMMENT ON TABLE archon_quarantine.somebodys IS 'keep me';
"""


@dataclass
class World:
    prod: str
    run: Callable[..., PhaseOutcome]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.prod, autocommit=True) as owner:
            cursor = owner.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    @property
    def tables(self) -> set[str]:
        found = self.rows(
            "SELECT relname FROM pg_class WHERE relnamespace = 'archon_quarantine'::regnamespace AND relkind = 'r'"
        )
        return {row[0] for row in found}


@pytest.fixture
def world(
    new_database: Callable[[str], str],
    make_context: Callable[..., Context],
    hold_run_lock: Callable[[str], object],
) -> World:
    dev, prod = new_database(ALIGNED), new_database(ALIGNED + ROWS + KEPT)
    hold_run_lock(prod)

    def run(*, check: bool = False, enforce: bool = True, results: Any = ()) -> PhaseOutcome:
        context = make_context(prod, dev, check=check, phase="validate", lock_timeout=0.1, lock_attempts=2)
        return phase.run(context, phase.Options(SETTINGS, results, enforce))

    return World(prod, run)


def told(outcome: PhaseOutcome) -> list[str]:
    return [finding.severity for finding in outcome.findings if finding.code == "vectors_kept"]


def test_they_go_once_every_criterion_is_met_and_nothing_else_does(world: World) -> None:
    predicted = world.run(check=True)
    assert (predicted.status, predicted.changed, world.tables) == (
        "drift",
        True,
        {"archon_crawled_pages__embedding_2", "somebodys"},
    )
    outcome = world.run()
    assert (outcome.status, outcome.changed, outcome.error) == ("changed", True, None)
    assert [one.sql for one in outcome.statements] == [one.sql for one in predicted.statements] == [DROP]
    assert all(proof.preserved for proof in outcome.proofs)
    assert outcome.proofs
    assert world.tables == {"somebodys"}
    again = world.run()
    assert (again.status, again.changed) == ("aligned", False)


def test_they_stay_while_a_criterion_is_unmet(world: World) -> None:
    world.rows("UPDATE archon_crawled_pages SET embedding = NULL WHERE id = 3")
    outcome = world.run()
    assert (outcome.status, outcome.changed, told(outcome)) == ("failed", False, ["info"])
    assert "archon_crawled_pages__embedding_2" in world.tables


def test_they_stay_when_the_state_is_only_told(world: World) -> None:
    outcome = world.run(enforce=False)
    assert (outcome.status, outcome.changed, outcome.statements) == ("aligned", False, ())
    assert "archon_crawled_pages__embedding_2" in world.tables


def test_a_row_without_a_new_vector_keeps_its_old_one(world: World) -> None:
    """Blank rows are excused from having a vector; what they had is not thrown away for that."""
    world.rows("UPDATE archon_crawled_pages SET embedding = NULL, content = ' ' WHERE id = 3")
    outcome = world.run()
    assert (outcome.status, outcome.error, told(outcome)) == ("aligned", None, ["warning"])
    assert "archon_crawled_pages__embedding_2" in world.tables


def test_a_removal_that_cannot_be_is_told_and_the_verdict_stays(world: World) -> None:
    with psycopg.connect(world.prod) as reader:
        reader.execute(f"SELECT * FROM {COPY}".encode())
        outcome = world.run()
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "lock_timeout"
    assert all(criterion["met"] is not False for criterion in outcome.details["criteria"])
    assert "archon_crawled_pages__embedding_2" in world.tables


def test_check_mode_names_what_the_run_itself_would_keep(world: World) -> None:
    world.rows(f"DROP TABLE {COPY}")
    results = [{"phase": "embeddings", "details": {"search": {"kept": [{"of": str(PAGES), "table": COPY, "rows": 8}]}}}]
    assert [one.sql for one in world.run(check=True, results=results).statements] == [DROP]
