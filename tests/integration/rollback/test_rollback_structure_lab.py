"""The lab's own pair is aligned and led back: afterwards pg_dump, which shares no code with the core, says what it said before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from archon_align.database.session import open_session
from archon_align.embedded.server import EmbeddedServer
from archon_align.rollback.structure_states import Change, decode_change, encode_change, states
from archon_align.schema import phase
from archon_align.schema.inspect import inspect
from structure_worlds import planned, undone

from tests.integration.schema.schema_worlds import Side, World, held, make_database, prepare

FIXTURES = Path(__file__).parents[3] / "lab" / "fixtures"
PROTECTED = ("archon_projects", "archon_tasks", "archon_document_versions", "archon_project_sources")


def lab_sql(world: str) -> str:
    return "".join((FIXTURES / name).read_text() for name in ("common.sql", f"{world}.sql"))


@pytest.fixture
def pair(server: EmbeddedServer, tmp_path: Path) -> Iterator[World]:
    prepare(server)
    sides = [Side(server, f"lab_back_{name}", make_database(server, f"lab_back_{name}")) for name in ("dev", "prod")]
    for side, name in zip(sides, ("dev", "prod"), strict=True):
        side.run("public", lab_sql(name))
    holding = held(sides[1].dsn)
    next(holding)
    yield World(sides[0], sides[1], ("public",), tmp_path / "artifacts")
    holding.close()


def test_the_labs_pair_is_led_back_byte_for_byte(pair: World) -> None:
    pair.prod.run(
        "public",
        "INSERT INTO archon_projects (title) SELECT 'p' || n FROM generate_series(1, 3) n;"
        "INSERT INTO archon_tasks (project_id, title) SELECT id, 't ' || title FROM archon_projects;",
    )
    before = pair.dev.dump(), pair.prod.dump()
    rows = pair.prod.value("public", "SELECT string_agg(t::text, ';' ORDER BY id) FROM archon_tasks t")
    context = pair.context(protected=PROTECTED)
    assert phase.run(context, phase.Options()).status == "changed"
    assert pair.prod.dump() != before[1]

    shown = planned(context, "PROD")
    done = undone(context, "PROD")
    undone(context, "DEV")

    assert done.statements == shown.statements
    assert not done.kept
    assert pair.prod.dump() == before[1]
    assert pair.dev.dump() == before[0]
    assert pair.prod.value("public", "SELECT string_agg(t::text, ';' ORDER BY id) FROM archon_tasks t") == rows
    assert all(proof.preserved for proof in done.proofs)
    assert undone(context, "PROD").statements == undone(context, "DEV").statements == ()


def test_a_whole_catalogue_survives_being_written_down(pair: World) -> None:
    with open_session(pair.context(), pair.context().dev) as session:
        found = states(inspect(session, ("public",)))

    for key, state in found.items():
        assert decode_change(encode_change(Change(key, None, state))) == Change(key, None, state)
