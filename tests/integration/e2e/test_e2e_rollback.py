"""Back to before a run as a user does it, a phase that fails, and a run that was killed after COMMIT."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import jsonschema
import psycopg
import pytest
from archon_align.embedded.server import EmbeddedServer

from tests.support.world import ROOT, World

pytestmark = pytest.mark.timeout(3600)
USERS = """
UPDATE archon_tasks SET title = 'theirs' WHERE id = (SELECT id FROM archon_tasks ORDER BY id LIMIT 1);
UPDATE archon_settings SET value = 'their-model' WHERE key = 'EMBEDDING_MODEL';
DELETE FROM archon_crawled_pages WHERE id = (SELECT max(id) FROM archon_crawled_pages);
INSERT INTO archon_credentials (category, key, value) VALUES ('theirs', 'THEIRS', 'value');
"""
REFUSES = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON archon_template_components FOR EACH ROW EXECUTE FUNCTION refuse();
"""
LEDGERS = "2*/restore-points/schema.jsonl"
_OBJECT = re.compile(r"^-- (?:Data for )?Name: (?P<name>.*); Type: (?P<type>[^;]*);", re.MULTILINE)


def dump(world: World, side: str = "prod") -> dict[tuple[str, str], list[str]]:
    """Every object of a database by name and type, as pg_dump tells it, lines sorted: an UPDATE moves a row."""
    command = [str(EmbeddedServer(world.folder).bin / "pg_dump"), "--restrict-key=oracle", world.dsn(side)]
    text = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    found = list(_OBJECT.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    objects = {
        (match["type"], match["name"]): sorted(text[match.end() : end].splitlines())
        for match, end in zip(found, ends, strict=True)
    }
    # Numbers that a sequence has given out are not taken back by any transaction.
    return {key: lines for key, lines in objects.items() if key[0] != "SEQUENCE SET"}


def run_sql(world: World, statements: str) -> None:
    with psycopg.connect(world.dsn("prod"), autocommit=True) as connection:
        connection.execute(statements.encode())


def rollback(world: World, point: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return world.play("-e", f"restore_point={point}", *arguments, playbook="playbooks/rollback.yml")


def schema() -> dict[str, object]:
    return json.loads((ROOT / "docs" / "report.schema.json").read_text())


def test_1_back_to_before_the_run_and_users_keep_what_they_did(world: World) -> None:
    before, on_dev = dump(world), dump(world, "dev")
    result = world.play()
    assert result.returncode == 0, result.stdout + result.stderr
    report = world.report
    points = {point["name"]: point for point in report["restore_points"]}
    run = report["run_id"]
    assert set(points) >= {
        f"{run}:{name}" for name in ("backup", "schema", "data", "embeddings", "search", "templates")
    }
    run_sql(world, USERS)

    picture = world.photograph()
    result = rollback(world, f"{run}:schema", "--check", "--diff")
    assert result.returncode == 0, result.stdout + result.stderr
    assert world.photograph() == picture
    predicted = world.report
    jsonschema.validate(predicted, schema())
    assert (predicted["mode"], predicted["result"]) == ("check", "drift")

    result = rollback(world, f"{run}:schema", "-e", "archon_embedding_base_url=http://127.0.0.1:1/v1")
    assert result.returncode == 0, result.stdout + result.stderr
    report = world.report
    jsonschema.validate(report, schema())
    assert report["result"] == "changed"
    assert f"PROD was put back to {run}:schema" in result.stdout
    undone = report["details"]["rollback"]["rollback"]
    assert undone["statements"] == predicted["details"]["rollback"]["rollback"]["statements"]
    assert undone["lost"] == []
    kept = "\n".join(one["name"] for one in undone["kept"])
    assert "archon_settings" in kept
    assert "archon_credentials" in kept
    after = dump(world)
    assert all("archon_credentials" in name for _, name in after.keys() - before.keys()), after.keys() - before.keys()
    assert before.keys() - after.keys() == set()
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {
        ("TABLE DATA", "archon_tasks"),
        ("TABLE DATA", "archon_settings"),
        ("TABLE DATA", "archon_crawled_pages"),
    } | {key for key in changed if "archon_credentials" in key[1]}
    pages = ("TABLE DATA", "archon_crawled_pages")
    assert len(set(before[pages]) - set(after[pages])) == 1
    assert set(after[pages]) <= set(before[pages])
    settings = ("TABLE DATA", "archon_settings")
    (theirs,) = set(after[settings]) - set(before[settings])
    assert "their-model" in theirs
    assert len(set(before[settings]) - set(after[settings])) == 1
    assert [line for line in after["TABLE DATA", "archon_credentials"] if "THEIRS" in line]
    assert dump(world, "dev") == on_dev
    world.wait_until_tidy()

    result = rollback(world, f"{run}:schema")
    recap = [line for line in result.stdout.splitlines() if line.startswith("lab-prod ")]
    assert "changed=0" in recap[-1], result.stdout
    assert dump(world) == after


def test_2_a_killed_run_is_undone_as_asked_and_a_failing_phase_undoes_itself(world: World) -> None:
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


def test_3_a_restore_point_that_there_is_not_is_refused_with_those_there_are(world: World) -> None:
    picture = world.photograph()
    result = rollback(world, "20260101-000000-abcdef:schema", "--check")
    assert result.returncode != 0
    assert "There is no such restore point" in result.stdout
    assert ":schema" in result.stdout
    assert world.photograph() == picture
