"""A function corrected by a decision is led back in both databases: afterwards pg_dump says what it said before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from archon_align.embedded.server import EmbeddedServer
from archon_align.schema import phase
from archon_align.schema.corrections import GUARD
from archon_align.schema.decisions import Decisions
from structure_worlds import undone

from tests.integration.schema.schema_worlds import Side, World, held, make_database, prepare

FIXTURES = Path(__file__).parents[3] / "lab" / "fixtures"
PROTECTED = ("archon_projects", "archon_tasks", "archon_document_versions", "archon_project_sources")
CORRECTED = phase.Options(decisions=Decisions.parse({"corrections": [GUARD]}))
BODY = f"SELECT prosrc FROM pg_proc WHERE proname = '{GUARD}'"
LINKS = """
INSERT INTO archon_projects (title) VALUES ('corrected');
INSERT INTO archon_components (project_id, name) SELECT id, unnest(ARRAY['a', 'b']) FROM archon_projects WHERE title = 'corrected';
INSERT INTO archon_component_dependencies (component_id, depends_on_component_id)
  SELECT a.id, b.id FROM archon_components a, archon_components b WHERE (a.name, b.name) = ('a', 'b');
"""


@pytest.fixture
def pair(server: EmbeddedServer, tmp_path: Path) -> Iterator[World]:
    prepare(server)
    sides = [Side(server, f"corrected_{name}", make_database(server, f"corrected_{name}")) for name in ("dev", "prod")]
    for side, name in zip(sides, ("dev", "prod"), strict=True):
        side.run("public", "".join((FIXTURES / file).read_text() for file in ("common.sql", f"{name}.sql")))
    holding = held(sides[1].dsn)
    next(holding)
    yield World(sides[0], sides[1], ("public",), tmp_path / "artifacts")
    holding.close()


def test_it_is_corrected_in_the_labs_pair_and_led_back_in_both(pair: World) -> None:
    before = pair.dev.dump(), pair.prod.dump()
    broken = pair.dev.value("public", BODY)
    context = pair.context(protected=PROTECTED)
    outcome = phase.run(context, CORRECTED)
    assert outcome.status == "changed"
    bodies = [side.value("public", BODY) for side in (pair.dev, pair.prod)]
    assert bodies[0] == bodies[1]
    assert bodies[0] != broken
    assert phase.run(context, CORRECTED).status == "aligned"
    assert phase.run(context, phase.Options()).status == "aligned"

    undone(context, "PROD")
    undone(context, "DEV")

    assert pair.prod.dump() == before[1]
    assert pair.dev.dump() == before[0]


def test_what_prod_has_broken_already_is_corrected_before_rows_come(pair: World) -> None:
    context = pair.context(protected=PROTECTED)
    told = phase.run(context, phase.Options())
    assert [finding.object for finding in told.findings if finding.code == "dependency_trigger_broken"]
    again = phase.run(context, phase.Options())
    (finding,) = [finding for finding in again.findings if finding.code == "dependency_trigger_broken"]
    assert (again.status, finding.object.split(":")[0]) == ("aligned", "DEV and PROD")
    done = phase.run(context, CORRECTED)
    assert len(done.statements) == 2
    assert "dependency_trigger_broken" not in {finding.code for finding in done.findings}
    for side in (pair.dev, pair.prod):
        side.run("public", LINKS)
