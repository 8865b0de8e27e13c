"""A phase that fails, a run that was killed after COMMIT, and the way back from both; from a whole run: test_e2e_alignment."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from e2e_undoing import dump, rollback, run_sql

from tests.support.world import World

pytestmark = pytest.mark.timeout(3600)
REFUSES = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON archon_template_components FOR EACH ROW EXECUTE FUNCTION refuse();
"""
LEDGERS = "2*/restore-points/schema.jsonl"


def test_1_a_killed_run_is_undone_as_asked_and_a_failing_phase_undoes_itself(world: World) -> None:
    before = dump(world)
    known = set(world.artifacts.glob(LEDGERS))
    process = world.start("--tags", "schema")
    deadline = time.monotonic() + 600
    while not set(world.artifacts.glob(LEDGERS)) - known:
        assert time.monotonic() < deadline, process.poll()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGSTOP)  # the module commits, and the playbook does not end meanwhile
    while not (ledger := _committed(world, known)):
        assert time.monotonic() < deadline, process.poll()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=600)
    world.wait_until_tidy()
    dead = ledger.parent.parent.name
    assert not (world.artifacts / dead / "report.json").exists(), "it had ended before it was killed"
    assert dump(world) != before

    run_sql(world, REFUSES)
    broken = dump(world)
    result = world.play("--tags", "schema,data,templates", "-e", "archon_dead_run=rollback")
    assert result.returncode != 0
    report = world.report
    assert report["result"] == "rolled_back", result.stdout
    (told,) = [finding for finding in report["findings"] if finding["code"] == "dead_run"]
    assert dead in told["message"]
    assert "objects" in told["message"]
    status = {phase["name"]: phase["status"] for phase in report["phases"]}
    assert status["rollback"] == status["schema"] == status["data"] == "changed"
    assert status["templates"] == "rolled_back"
    assert "not today" in result.stdout
    assert "Committed and kept" in result.stdout
    point = f"{report['run_id']}:schema"
    assert point in result.stdout
    components = ("TABLE DATA", "archon_template_components")
    assert len(dump(world)[components]) == len(broken[components])

    run_sql(world, "DROP TRIGGER refuse ON archon_template_components; DROP FUNCTION refuse()")
    result = rollback(world, point)
    assert result.returncode == 0, result.stdout + result.stderr
    after = dump(world)
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == set()


def _committed(world: World, known: set[Path]) -> Path | None:
    """The ledger of the schema phase that has just been committed on PROD."""
    for path in set(world.artifacts.glob(LEDGERS)) - known:
        if '{"line":"committed","database":"PROD"' in path.read_text():
            return path
    return None


def test_2_a_restore_point_that_there_is_not_is_refused_with_those_there_are(world: World) -> None:
    picture = world.photograph()
    result = rollback(world, "20260101-000000-abcdef:schema", "--check")
    assert result.returncode != 0
    assert "There is no such restore point" in result.stdout
    assert ":schema" in result.stdout
    assert world.photograph() == picture
