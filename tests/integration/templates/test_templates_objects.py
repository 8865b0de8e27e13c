"""What is moved besides components and definitions; edits in PROD; words of DEV's environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import template_shapes as shapes
from archon_align.context import Context
from archon_align.errors import AlignError
from archon_align.outcome import PhaseOutcome
from archon_align.templates import phase
from archon_align.templates.conflicts import Decisions
from archon_align.templates.words import Words

PEOPLE = """
CREATE TABLE archon_projects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text NOT NULL);
CREATE TABLE archon_tasks (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), project_id uuid REFERENCES archon_projects, title text NOT NULL);
"""
ASSIGNED = """
CREATE TYPE hierarchy AS ENUM ('project', 'phase', 'task');
CREATE TABLE archon_template_injection_templates (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255) UNIQUE NOT NULL, template_content text NOT NULL);
CREATE TABLE archon_template_assignments (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), hierarchy_type hierarchy NOT NULL, hierarchy_id uuid NOT NULL,
  template_id uuid REFERENCES archon_template_injection_templates ON DELETE CASCADE, priority int DEFAULT 0,
  assigned_at timestamptz DEFAULT now(), UNIQUE (hierarchy_type, hierarchy_id, template_id));
"""
PROMPT = "CREATE TABLE archon_prompts (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), prompt_name text UNIQUE NOT NULL, {} text NOT NULL);"
WORKFLOWS = (
    "CREATE TABLE archon_workflow_templates (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, steps jsonb);"
)


def sql(dsn: str, *statements: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
    return cursor.fetchall() if cursor.description else []


@pytest.fixture
def align(make_context: Callable[..., Context], hold_run_lock: Callable[[str], object]) -> Callable[..., PhaseOutcome]:
    held: set[str] = set()

    def work(dev: str, prod: str, *, check: bool = False, **options: Any) -> PhaseOutcome:
        if prod not in held:
            hold_run_lock(prod)
            held.add(prod)
        context = make_context(prod, dev, phase="templates", check=check)
        return phase.run(context, phase.Options(**options))

    return work


def codes(outcome: PhaseOutcome) -> set[str]:
    return {finding.code for finding in outcome.findings}


def text_of(dsn: str, name: str = "group::one") -> str:
    return str(sql(dsn, f"SELECT instruction_text FROM archon_template_components WHERE name = '{name}'")[0][0])


@pytest.fixture
def two(new_database: Callable[[str], str]) -> tuple[str, str]:
    """DEV with rows, and a PROD that has copies of two of them, one of them older."""
    prod = new_database(shapes.MODERN)
    sql(
        prod,
        "INSERT INTO archon_template_components (name, instruction_text) VALUES ('group::one', 'old'), ('group::same', 'same')",
    )
    return new_database(shapes.MODERN + shapes.ROWS), prod


def test_what_was_edited_in_prod_is_kept_and_told_until_somebody_decides(
    two: tuple[str, str], align: Callable[..., PhaseOutcome]
) -> None:
    dev, prod = two
    sql(
        prod,
        "SELECT pg_sleep(0.01)",
        "UPDATE archon_template_components SET instruction_text = 'mine' WHERE name = 'group::one'",
    )
    foreseen, outcome, again = align(dev, prod, check=True), align(dev, prod), align(dev, prod)
    assert text_of(prod) == "mine"
    assert [one.details["templates"]["kept"] for one in (foreseen, outcome, again)] == [
        ["public.archon_template_components: group::one"]
    ] * 3
    assert outcome.details["templates"]["bodies_different"] == ["public.archon_template_components: group::one"]
    assert "edited_in_prod" in codes(outcome)
    assert (again.status, again.changed) == ("aligned", False)
    taken = align(dev, prod, decisions=Decisions({"archon_template_components: group::one": "take_dev"}))
    assert (taken.details["templates"]["updated"], taken.details["templates"]["kept"]) == (1, [])
    assert text_of(prod).startswith("new one")


def test_what_a_run_of_ours_has_written_is_nobody_s_edit(
    two: tuple[str, str], align: Callable[..., PhaseOutcome]
) -> None:
    dev, prod = two
    assert align(dev, prod).details["templates"]["updated"] == 1
    sql(dev, "UPDATE archon_template_components SET instruction_text = 'newer' WHERE name = 'group::one'")
    again = align(dev, prod)
    assert (text_of(prod), again.details["templates"]["kept"]) == ("newer", [])
    # But what somebody does to it afterwards is theirs.
    sql(prod, "UPDATE archon_template_components SET instruction_text = 'mine' WHERE name = 'group::one'")
    sql(dev, "UPDATE archon_template_components SET instruction_text = 'newest' WHERE name = 'group::one'")
    assert "edited_in_prod" in codes(align(dev, prod))
    assert text_of(prod) == "mine"


@pytest.mark.parametrize(
    ("given", "word"), [({"group::nobody": "take_dev"}, "does not exist"), ({"*": "perhaps"}, "cannot be used")]
)
def test_a_decision_that_cannot_be_meant_is_refused(
    two: tuple[str, str], align: Callable[..., PhaseOutcome], given: dict[str, str], word: str
) -> None:
    with pytest.raises(AlignError, match=word):
        align(*two, decisions=Decisions(given))
    assert text_of(two[1]) == "old"


def test_dev_s_words_become_prod_s_and_stay_so(two: tuple[str, str], align: Callable[..., PhaseOutcome]) -> None:
    dev, prod = two
    sql(
        dev,
        "UPDATE archon_template_components SET instruction_text = 'call manage_task_archon-dev at archon-dev' WHERE name = 'group::two'",
        """UPDATE archon_template_definitions SET template_data =
           '{"template_content": "{{USER_TASK}} \\"by\\" manage_task_archon-dev", "aa": 1, "a": [2]}' WHERE name = 'aa_leaf'""",
    )
    words = Words({"archon-dev": "archon-prod", "manage_task_archon-dev": 'manage "it"\n'})
    foreseen, outcome = align(dev, prod, check=True, words=words), align(dev, prod, words=words)
    assert foreseen.statements == outcome.statements
    assert text_of(prod, "group::two") == 'call manage "it"\n at archon-prod'
    (leaf,) = sql(
        prod, "SELECT template_data ->> 'template_content' FROM archon_template_definitions WHERE name = 'aa_leaf'"
    )
    assert leaf == ('{{USER_TASK}} "by" manage "it"\n',)
    again = align(dev, prod, words=words)
    assert (again.statements, again.details["templates"]["bodies_different"]) == ([], [])
    assert "environment_specific_text" not in codes(outcome)
    assert "environment_specific_text" in codes(align(dev, prod, check=True))


def test_assignments_follow_their_project_by_its_title(
    new_database: Callable[[str], str], align: Callable[..., PhaseOutcome]
) -> None:
    dev = new_database(shapes.MODERN + shapes.ROWS + PEOPLE + ASSIGNED)
    prod = new_database(shapes.MODERN + PEOPLE + ASSIGNED)
    sql(dev, "INSERT INTO archon_projects (title) VALUES ('both'), ('only in DEV'), ('twice in PROD'), ('with a task')")
    sql(
        dev,
        "INSERT INTO archon_tasks (project_id, title) SELECT id, 'ä task' FROM archon_projects WHERE title = 'with a task'",
    )
    sql(
        prod,
        "INSERT INTO archon_projects (title) VALUES ('both'), ('twice in PROD'), ('twice in PROD'), ('with a task')",
    )
    sql(
        prod,
        "INSERT INTO archon_tasks (project_id, title) SELECT id, 'ä task' FROM archon_projects WHERE title = 'with a task'",
    )
    sql(
        dev,
        "INSERT INTO archon_template_injection_templates (name, template_content) VALUES ('used', 'x'), ('not needed', 'y')",
        "INSERT INTO archon_template_assignments (hierarchy_type, hierarchy_id, template_id, priority)"
        " SELECT 'project', p.id, t.id, 7 FROM archon_projects p, archon_template_injection_templates t WHERE t.name = 'used'",
        "INSERT INTO archon_template_assignments (hierarchy_type, hierarchy_id, template_id)"
        " SELECT 'task', k.id, t.id FROM archon_tasks k, archon_template_injection_templates t WHERE t.name = 'used'",
        "INSERT INTO archon_template_assignments (hierarchy_type, hierarchy_id) VALUES ('phase', gen_random_uuid())",
    )
    foreseen, outcome, again = align(dev, prod, check=True), align(dev, prod), align(dev, prod)
    assert foreseen.statements == outcome.statements
    assert (again.status, again.changed) == ("aligned", False)
    assert sql(prod, "SELECT name FROM archon_template_injection_templates") == [("used",)]
    found = sql(
        prod,
        "SELECT a.hierarchy_type::text, coalesce(p.title, k.title), a.priority FROM archon_template_assignments a"
        " LEFT JOIN archon_projects p ON p.id = a.hierarchy_id LEFT JOIN archon_tasks k ON k.id = a.hierarchy_id ORDER BY 1, 2",
    )
    assert found == [("project", "both", 7), ("project", "with a task", 7), ("task", "ä task", 0)]
    (told,) = [finding for finding in outcome.findings if finding.code == "assignments_not_moved"]
    assert told.message.startswith("3 of DEV's assignments")
    assert all(word in told.message for word in ("PROD has none", "PROD has 2", "which phase"))
    assert all(proof.preserved for proof in outcome.proofs)


def test_a_trigger_that_fails_on_every_insert_is_told(
    new_database: Callable[[str], str], align: Callable[..., PhaseOutcome]
) -> None:
    dev = new_database(shapes.MODERN + shapes.ROWS + PEOPLE + ASSIGNED)
    sql(
        dev,
        "INSERT INTO archon_projects (title) VALUES ('both')",
        "INSERT INTO archon_template_injection_templates (name, template_content) VALUES ('used', 'x')",
        "INSERT INTO archon_template_assignments (hierarchy_type, hierarchy_id, template_id)"
        " SELECT 'project', p.id, t.id FROM archon_projects p, archon_template_injection_templates t",
    )
    broken = """
    CREATE FUNCTION trigger_invalidate_assignment_cache() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN PERFORM NEW.entity_id; RETURN NEW; END $$;
    CREATE TRIGGER broken BEFORE INSERT ON archon_template_assignments FOR EACH ROW EXECUTE FUNCTION trigger_invalidate_assignment_cache();
    INSERT INTO archon_projects (title) VALUES ('both');
    """
    prod = new_database(shapes.MODERN + PEOPLE + ASSIGNED + broken)
    outcome = align(dev, prod)
    assert outcome.status == "changed"
    assert "assignments_trigger_broken" in codes(outcome)
    assert sql(prod, "SELECT count(*) FROM archon_template_assignments") == [(0,)]


@pytest.mark.parametrize("theirs", ["prompt", "prompt_content"])
def test_prompts_arrive_in_either_shape(
    new_database: Callable[[str], str], align: Callable[..., PhaseOutcome], theirs: str
) -> None:
    ours = {"prompt": "prompt_content", "prompt_content": "prompt"}[theirs]
    dev = new_database(shapes.MODERN + shapes.ROWS + PROMPT.format(theirs))
    prod = new_database(shapes.MODERN + PROMPT.format(ours))
    sql(dev, f"INSERT INTO archon_prompts (prompt_name, {theirs}) VALUES ('a', 'A'), ('b', 'B')")
    sql(prod, f"INSERT INTO archon_prompts (prompt_name, {ours}) VALUES ('a', 'A'), ('b', 'old'), ('own', 'O')")
    outcome, again = align(dev, prod), align(dev, prod)
    assert sql(prod, f"SELECT prompt_name, {ours} FROM archon_prompts ORDER BY 1") == [
        ("a", "A"),
        ("b", "B"),
        ("own", "O"),
    ]
    assert again.statements == []
    assert "own" in outcome.details["templates"]["only_in_prod"]


def test_workflow_templates_whose_name_is_not_unique_are_left_alone(
    new_database: Callable[[str], str], align: Callable[..., PhaseOutcome]
) -> None:
    dev = new_database(shapes.MODERN + shapes.ROWS + WORKFLOWS)
    prod = new_database(shapes.MODERN + WORKFLOWS)
    sql(
        dev,
        """INSERT INTO archon_workflow_templates (name, steps) VALUES ('once', '[1]'), ('twice', '[2]'), ('twice', '[3]'), (NULL, '[4]')""",
    )
    outcome = align(dev, prod)
    assert sql(prod, "SELECT name, steps::text FROM archon_workflow_templates") == [("once", "[1]")]
    assert {"duplicate_name", "row_without_name"} <= codes(outcome)
