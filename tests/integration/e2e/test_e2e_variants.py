"""The lab's other PRODs: tables of another shape, which only decisions bring into line, and row-level security forced on the owner."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from lab.databases import ADMIN, OWNER
from lab.world import Lab
from tests.support.world import ROOT, World

pytestmark = pytest.mark.timeout(2400)  # two runs in one story
EXAMPLE = ROOT / "docs" / "examples" / "decisions-two-shapes.yml"
SHAPED = ("archon_project_sources", "archon_document_versions", "archon_workflow_step_executions")
# What a person must decide about the variant two-shapes: what the run names, and what it says of it.
UNDECIDED = {
    "table public.archon_project_sources": "source_id",
    "table public.archon_prompts": "prompt",
    "table public.archon_workflow_template_versions": "version_tag, workflow_template_id",
    "column public.archon_workflow_step_executions.step_name": "1 row",
    "constraint public.archon_document_versions.chk_project_or_task": "3 rows",
}
# DEV's view of PROD's old rows, said once more by hand.
MAPPED = """
SELECT (SELECT count(*) FROM archon_quarantine.archon_project_sources AS old JOIN archon_project_sources AS new USING (id, project_id)
        WHERE new.source_id = coalesce(old.metadata ->> 'source_id', old.source_url) AND new.linked_at = old.created_at
          AND new.notes IS NOT DISTINCT FROM nullif(old.description, '')),
       (SELECT count(*) FROM archon_quarantine.archon_document_versions AS old JOIN archon_document_versions AS new
        USING (id, field_name, version_number, content, change_type, created_by, created_at)
        WHERE new.document_id IS NOT DISTINCT FROM old.document_id::text AND new.project_id IS NOT DISTINCT FROM old.project_id
          AND coalesce(new.project_id, new.task_id) = coalesce(old.project_id, old.task_id)),
       (SELECT count(*) FROM archon_quarantine.archon_workflow_step_executions AS old JOIN archon_workflow_step_executions AS new
        USING (id, workflow_execution_id, step_index, status, created_at)
        WHERE new.step_name = left(old.step_name, 255) AND new.tool_parameters = old.tool_arguments
          AND new.attempt_number = old.retry_count + 1),
       (SELECT count(*) FROM archon_prompts WHERE prompt <> '' AND variables IS NOT NULL),
       (SELECT count(*) FROM archon_workflow_template_versions WHERE version_tag = version_number || '.0.0')
"""


@pytest.fixture
def variant(shared_lab: Lab, lab_folder: Path, tmp_path: Path) -> World:
    """The lab as no variant yet; a test resets it."""
    return World(shared_lab, lab_folder, tmp_path / "artifacts")


def rows(world: World, table: str, columns: str = "*") -> str:
    """Every row of PROD's table as text."""
    query = f"SELECT string_agg(t::text, E'\\n' ORDER BY t::text) FROM (SELECT {columns} FROM {table}) AS t"
    with psycopg.connect(world.lab.dsn("prod", ADMIN), autocommit=True) as connection:
        found = connection.execute(query.encode()).fetchone()
    assert found is not None
    return str(found[0])


def test_other_shapes_without_decisions_are_named_and_nothing_is_changed(variant: World) -> None:
    variant.lab.reset("two-shapes")
    before = variant.photograph()

    undecided = variant.play("--tags", "schema")

    assert undecided.returncode != 0
    assert variant.report["result"] == "decision_needed"
    findings = next(phase["findings"] for phase in variant.report["phases"] if phase["name"] == "schema")
    for name, said in UNDECIDED.items():
        told = [one for one in findings if one["object"] == name and one["severity"] == "error" and one["remedy"]]
        assert [one for one in told if said in one["message"]], name
    assert variant.photograph() == before


def test_other_shapes_are_aligned_by_the_documented_decisions(variant: World) -> None:
    variant.lab.reset("two-shapes")
    old = {name: rows(variant, f"public.{name}") for name in SHAPED}

    decided = variant.play("-e", f"@{EXAMPLE}")

    assert decided.returncode == 0, decided.stdout + decided.stderr
    report = variant.report
    assert report["result"] == "changed"
    assert report["schema"]["differences_after"] == 0
    assert len(report["protected"]) == 5, "the four protected tables, and the other one that was reshaped"
    for name, proof in report["protected"].items():
        assert proof["preserved"] is True, name
        assert proof["rows_before"] == proof["rows_after"], name
    for name, found in old.items():
        assert rows(variant, f"archon_quarantine.{name}") == found, name
    with psycopg.connect(variant.dsn("prod"), autocommit=True) as connection:
        assert connection.execute(MAPPED).fetchone() == (34, 40, 30, 12, 24)

    again = variant.play("--tags", "schema", "-e", f"@{EXAMPLE}")

    assert "changed=0" in next(line for line in again.stdout.splitlines() if line.startswith("lab-prod "))
    assert variant.report["result"] == "aligned"


def test_forced_row_level_security_is_refused_and_aligned_through_the_admin(variant: World) -> None:
    variant.lab.reset("force-rls")
    as_owner = variant.play()
    assert as_owner.returncode != 0
    assert "row-level security is forced on the owner" in as_owner.stdout
    assert f"CREATE ROLE {ADMIN} LOGIN BYPASSRLS IN ROLE" in as_owner.stdout
    tasks = rows(variant, "archon_tasks", "id, title, updated_at")

    as_admin = variant.play("-e", "archon_lab_admin=true")

    assert as_admin.returncode == 0, as_admin.stdout + as_admin.stderr
    report = variant.report
    assert report["result"] == "changed"
    assert report["schema"]["differences_after"] == report["embeddings"]["missing_after"] == 0
    assert all(proof["preserved"] for proof in report["protected"].values())
    owners = "SELECT string_agg(DISTINCT pg_get_userbyid(relowner), ' ') FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert variant.value("prod", owners) == OWNER
    forced = "SELECT count(*) FROM pg_class WHERE relforcerowsecurity"
    assert variant.value("prod", forced) == 17
    assert rows(variant, "archon_tasks", "id, title, updated_at") == tasks
