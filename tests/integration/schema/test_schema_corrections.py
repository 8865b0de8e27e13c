"""Archon's guard against circular dependencies cannot work: it is told, and corrected in both databases when that is decided."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from archon_align.context import Context
from archon_align.errors import AlignError
from archon_align.schema.decisions import Decisions
from archon_align.schema.phase import Options, run

FIXTURE = (Path(__file__).parents[3] / "lab/fixtures/dev.sql").read_text()
TABLES = """
CREATE TABLE archon_components (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text);
CREATE TABLE archon_component_dependencies (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  component_id uuid REFERENCES archon_components, depends_on_component_id uuid REFERENCES archon_components);
"""
GUARD = re.search(
    r"CREATE FUNCTION check_component_circular_dependency.*?EXECUTE FUNCTION \w+\(\);", FIXTURE, re.DOTALL
)
ROWS = "INSERT INTO archon_components (name) VALUES ('a'), ('b'), ('c')"
LINK = """INSERT INTO archon_component_dependencies (component_id, depends_on_component_id)
SELECT one.id, other.id FROM archon_components one, archon_components other WHERE one.name = %s AND other.name = %s"""
DECIDED = Decisions.parse({"corrections": ["check_component_circular_dependency"]})


@pytest.fixture
def two(new_database: Callable[[str], str], hold_run_lock: Callable[[str], object]) -> tuple[str, str]:
    assert GUARD is not None
    dev, prod = new_database(TABLES + GUARD[0]), new_database(TABLES)
    hold_run_lock(prod)
    for dsn in (dev, prod):
        with psycopg.connect(dsn) as owner:
            owner.execute(ROWS)
    return dev, prod


def link(dsn: str, one: str, other: str) -> None:
    with psycopg.connect(dsn) as owner:
        owner.execute(LINK.encode(), (one, other))


def test_it_is_told_with_what_it_should_be(two: tuple[str, str], make_context: Callable[..., Context]) -> None:
    dev, prod = two
    outcome = run(make_context(prod, dev, phase="schema"), Options(credentials=False))
    (told,) = [finding for finding in outcome.findings if finding.code == "dependency_trigger_broken"]
    assert told.object.startswith("DEV: function")
    assert "CREATE OR REPLACE FUNCTION public.check_component_circular_dependency()" in told.remedy
    with pytest.raises(psycopg.errors.SyntaxError, match="no destination"):
        link(prod, "a", "b")


def test_a_decision_corrects_it_in_both_databases(two: tuple[str, str], make_context: Callable[..., Context]) -> None:
    dev, prod = two
    options = Options(credentials=False, decisions=DECIDED)
    foreseen = run(make_context(prod, dev, phase="schema", check=True), options)
    outcome = run(make_context(prod, dev, phase="schema"), options)
    again = run(make_context(prod, dev, phase="schema"), options)
    without = run(make_context(prod, dev, phase="schema"), Options(credentials=False))
    assert [one.sql for one in foreseen.statements] == [one.sql for one in outcome.statements]
    assert len(outcome.details["schema"]["dev_statements"]) == 1
    assert [one.status for one in (again, without)] == ["aligned", "aligned"]
    assert "dependency_trigger_broken" not in {
        finding.code for one in (outcome, again, without) for finding in one.findings
    }
    for dsn in two:
        link(dsn, "a", "b")
        link(dsn, "b", "c")
        with pytest.raises(psycopg.errors.RaiseException, match="circular dependency"):
            link(dsn, "c", "a")
        with psycopg.connect(dsn) as owner:
            # An update that turns a row round is no circle with itself.
            owner.execute(
                "DELETE FROM archon_component_dependencies WHERE component_id <> (SELECT id FROM archon_components WHERE name = 'a')"
            )
            owner.execute(
                "UPDATE archon_component_dependencies SET component_id = depends_on_component_id, depends_on_component_id = component_id"
            )


def test_a_correction_that_is_not_known_is_refused() -> None:
    with pytest.raises(AlignError, match="decisions"):
        Decisions.parse({"corrections": ["archive_task"]})
