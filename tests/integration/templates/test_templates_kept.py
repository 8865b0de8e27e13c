"""What follows from keeping what somebody has edited in PROD; assignments that name templates of either kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import template_shapes as shapes
from archon_align.outcome import PhaseOutcome
from archon_align.templates.conflicts import Decisions
from archon_align.templates.words import Words
from test_templates_objects import ASSIGNED, PEOPLE, align, codes, sql

__all__ = ["align"]
LATER = "updated_at = created_at + interval '1 day'"


@pytest.fixture
def two(new_database: Callable[[str], str], align: Callable[..., PhaseOutcome]) -> tuple[str, str]:
    """DEV, and a PROD that was brought up with a copy of it by hand."""
    return new_database(shapes.MODERN + shapes.ROWS), new_database(shapes.MODERN + shapes.ROWS)


def test_a_kept_template_that_is_broken_is_told_and_stops_nothing(
    two: tuple[str, str], align: Callable[..., PhaseOutcome]
) -> None:
    dev, prod = two
    sql(
        prod,
        f"""UPDATE archon_template_definitions SET template_data = '{{"template_content": "{{{{group::mine}}}}"}}', {LATER} WHERE name = 'aa_leaf'""",
    )
    outcome = align(dev, prod)
    assert (outcome.status, outcome.details["templates"]["kept"]) == (
        "aligned",
        ["public.archon_template_definitions: aa_leaf"],
    )
    assert {"edited_in_prod", "template_broken_in_prod"} <= codes(outcome)


def test_a_component_that_is_kept_inactive_is_told_and_stops_nothing(
    two: tuple[str, str], align: Callable[..., PhaseOutcome]
) -> None:
    dev, prod = two
    sql(prod, "UPDATE archon_template_components SET is_active = false WHERE name = 'group::one'")
    outcome = align(dev, prod)
    assert outcome.details["templates"]["kept"] == ["public.archon_template_components: group::one"]
    (told,) = [finding for finding in outcome.findings if finding.code == "template_broken_in_prod"]
    assert "{{group::one}} (inactive)" in told.message
    taken = align(dev, prod, decisions=Decisions({"group::one": "take_dev"}))
    assert (taken.status, "template_broken_in_prod" in codes(taken)) == ("changed", False)


def test_an_assignment_may_name_a_template_definition(
    new_database: Callable[[str], str], align: Callable[..., PhaseOutcome]
) -> None:
    shape = ASSIGNED + "ALTER TABLE archon_template_assignments ADD entity_id uuid, ADD template_name varchar(255);"
    dev = new_database(shapes.MODERN + shapes.ROWS + PEOPLE + shape)
    prod = new_database(shapes.MODERN + PEOPLE + shape)
    for dsn in (dev, prod):
        sql(dsn, "INSERT INTO archon_projects (title) VALUES ('both')")
    sql(
        dev,
        "INSERT INTO archon_template_assignments (hierarchy_type, hierarchy_id, entity_id, template_name)"
        " SELECT 'project', id, id, 'zz_root' FROM archon_projects",
    )
    outcome, again = align(dev, prod), align(dev, prod)
    assert sql(
        prod,
        "SELECT a.template_name, a.template_id, a.entity_id = p.id FROM archon_template_assignments a JOIN archon_projects p ON p.id = a.hierarchy_id",
    ) == [("zz_root", None, True)]
    assert "assignments_not_moved" not in codes(outcome)
    assert (again.status, again.changed) == ("aligned", False)


def test_words_leave_placeholders_and_keys_alone(two: tuple[str, str], align: Callable[..., PhaseOutcome]) -> None:
    dev, prod = two
    outcome = align(dev, prod, words=Words({"one": "eins", "template": "vorlage", "true": "false"}))
    assert sql(prod, "SELECT count(*) FROM archon_template_definitions WHERE NOT is_active") == [(0,)]
    (content,) = sql(
        prod, "SELECT template_data ->> 'template_content' FROM archon_template_definitions WHERE name = 'zz_root'"
    )
    assert content[0].startswith("{{group::one}}")
    assert outcome.details["templates"]["bodies_different"] == []
