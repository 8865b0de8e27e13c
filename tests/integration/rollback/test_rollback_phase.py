"""Undoing to a restore point, a phase that fails, and runs that died, on small databases; pg_dump is the witness."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from archon_align.context import Context, Run
from archon_align.database.session import open_session
from archon_align.database.target import Target
from archon_align.embedded.server import EmbeddedServer
from archon_align.errors import AlignError, DecisionNeeded
from archon_align.outcome import PhaseOutcome
from archon_align.rollback import phase as rollback
from archon_align.rollback.__main__ import main
from archon_align.rollback.dead import dead_runs, findings
from archon_align.rollback.failure import guarded
from archon_align.rollback.find import choose, find_points
from archon_align.rollback.ledger import Ledger
from archon_align.settings import phase as data

CREDENTIALS = """
CREATE TABLE archon_credentials (
  id serial PRIMARY KEY, category varchar(100) NOT NULL, key varchar(200) NOT NULL, value text,
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(), UNIQUE (category, key));
"""
PROD = f"""{CREDENTIALS}
CREATE TABLE archon_settings (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), key varchar(255) NOT NULL UNIQUE, value text, encrypted_value text,
  is_encrypted boolean DEFAULT false, category varchar(100), description text);
INSERT INTO archon_settings (key, value, category) VALUES
  ('EMBEDDING_MODEL', 'text-embedding-3-small', 'rag_strategy'), ('LLM_BASE_URL', NULL, 'rag_strategy'),
  ('UNTOUCHED', 'as it was', 'rag_strategy');
CREATE TABLE archon_projects (id int PRIMARY KEY, title text); INSERT INTO archon_projects VALUES (1, 'kept');
"""
REFUSES = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON archon_settings FOR EACH ROW EXECUTE FUNCTION refuse();
"""
FIRST, SECOND, THIRD = (f"20260101-0000{number:02}-abcdef" for number in range(3))
OPTIONS = data.Options("ollama", "http://127.0.0.1:11434/v1", "nomic-embed-text", 768)


class World:
    """PROD and DEV on the tests' server, an artifacts root, and one run at a time that holds the run lock."""

    def __init__(self, prod: str, dev: str, root: Path, hold: Callable, server: EmbeddedServer) -> None:
        self.prod, self.dev, self.root, self.server = prod, dev, root, server
        self._hold = hold
        self._keeper: psycopg.Connection | None = None

    def context(self, phase: str, run_id: str = FIRST, *, check: bool = False) -> Context:
        if not check:
            if self._keeper is not None:
                self._keeper.close()
            self._keeper = self._hold(self.prod, run_id)
        run = Run(run_id + ("-check" if check else ""), self.root / (run_id + ("-check" if check else "")))
        return Context(run, Target("PROD", self.prod), Target("DEV", self.dev), phase)

    def align(self, run_id: str = FIRST) -> PhaseOutcome:
        context = self.context("data", run_id)
        return guarded(context, lambda: data.run(context, OPTIONS), roll_back=True)

    def undo(self, point: str, run_id: str = THIRD, *overwrite: str, check: bool = False) -> PhaseOutcome:
        options = rollback.Options(point, self.root, overwrite)
        return rollback.run(self.context("rollback", run_id, check=check), options)

    def sql(self, statement: str, dsn: str = "") -> list[tuple]:
        with psycopg.connect(dsn or self.prod, autocommit=True) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def dump(self) -> tuple[list[str], ...]:
        """Both databases as sorted lines: an UPDATE moves a row, and sequences go on."""
        pictures = []
        for dsn in (self.prod, self.dev):
            command = [self.server.bin / "pg_dump", "--restrict-key=oracle", dsn]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            pictures.append(sorted(line for line in text.splitlines() if "setval(" not in line))
        return tuple(pictures)


@pytest.fixture
def world(new_database: Callable[[str], str], tmp_path: Path, hold_run_lock: Callable, server: EmbeddedServer) -> World:
    return World(new_database(PROD), new_database(CREDENTIALS), tmp_path / "artifacts", hold_run_lock, server)


def named(outcome: PhaseOutcome, code: str) -> list[str]:
    return [finding.object for finding in outcome.findings if finding.code == code]


def test_check_predicts_the_run_undoes_and_a_second_run_changes_nothing(world: World) -> None:
    before = world.dump()
    done = world.align()
    assert done.status == "changed"
    (point,) = done.details["restore_points"]
    assert (point["name"], point["kind"], point["holds"]) == (f"{FIRST}:data", "rows", "13 rows")
    aligned = world.dump()

    predicted = world.undo(point["name"], check=True)
    assert (predicted.status, predicted.changed) == ("drift", True)
    assert world.dump() == aligned
    outcome = world.undo(point["name"])
    assert (outcome.status, outcome.changed, outcome.error) == ("changed", True, None)
    assert outcome.statements == predicted.statements
    assert outcome.diff == predicted.diff
    assert {part["before_header"].split()[0] for part in outcome.diff} == {"PROD", "DEV"}
    assert [(proof.table, proof.preserved) for proof in outcome.proofs] == [("public.archon_projects", True)]
    assert outcome.details["rollback"]["points"] == [{"name": point["name"], "holds": "13 rows"}]
    assert (outcome.details["rollback"]["kept"], outcome.details["rollback"]["lost"]) == ([], [])
    assert world.dump() == before

    again = world.undo(point["name"], "20260101-000009-abcdef")
    assert (again.status, again.changed, again.statements, again.findings) == ("aligned", False, [], [])
    assert world.align("20260101-000010-abcdef").status == "changed"
    assert world.dump()[0] != before[0]


def test_what_users_did_since_is_kept_named_and_undone_on_request_only(world: World) -> None:
    before = world.dump()
    world.align()
    world.sql("UPDATE archon_settings SET value = 'theirs' WHERE key = 'EMBEDDING_MODEL'")
    world.sql("DELETE FROM archon_settings WHERE key = 'LLM_BASE_URL'")
    world.sql("INSERT INTO archon_projects VALUES (2, 'new')")
    outcome = world.undo(f"{FIRST}:data")
    assert outcome.status == "changed"
    kept = named(outcome, "kept_as_users_left_it")
    assert len(kept) == 2
    assert all("archon_settings" in name for name in kept)
    lines = [json.loads(line) for line in (world.root / THIRD / "kept.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [one["name"] for one in outcome.details["rollback"]["kept"]]
    left = dict(world.sql("SELECT key, value FROM archon_settings"))
    assert left == {"EMBEDDING_MODEL": "theirs", "UNTOUCHED": "as it was"}

    again = world.undo(f"{FIRST}:data", "20260101-000009-abcdef")
    assert (again.changed, named(again, "kept_as_users_left_it")) == (False, kept)
    asked = world.undo(f"{FIRST}:data", "20260101-000010-abcdef", "all")
    assert (asked.changed, named(asked, "kept_as_users_left_it")) == (True, [])
    world.sql("DELETE FROM archon_projects WHERE id = 2")
    assert world.dump() == before


def test_what_somebody_makes_again_after_a_rollback_is_theirs(world: World) -> None:
    world.align()
    world.undo(f"{FIRST}:data")
    world.sql("INSERT INTO archon_credentials (category, key, value) VALUES ('embedding', 'EMBEDDING_MODEL', 'theirs')")
    outcome = world.undo(f"{FIRST}:data", "20260101-000009-abcdef")
    assert (outcome.changed, outcome.findings) == (False, [])
    assert world.sql("SELECT value FROM archon_credentials") == [("theirs",)]


def test_undoing_a_run_undoes_later_ones_first(world: World) -> None:
    before = world.dump()
    world.align()
    context = world.context("data", SECOND)
    other = replace(OPTIONS, embedding_model="another-model")
    assert guarded(context, lambda: data.run(context, other), roll_back=True).status == "changed"
    outcome = world.undo(f"{FIRST}:data")
    assert [one["name"] for one in outcome.details["rollback"]["points"]] == [f"{FIRST}:data", f"{SECOND}:data"]
    assert world.dump() == before


def test_a_restore_point_of_another_prod_an_unknown_and_an_edited_one_are_refused(
    world: World, new_database: Callable[[str], str]
) -> None:
    world.align()
    aligned = world.dump()
    with pytest.raises(AlignError, match=f"{FIRST}:data") as caught:
        world.undo(f"{FIRST}:templates", check=True)
    assert caught.value.code == "restore_point_unknown"
    home, world.prod = world.prod, new_database(PROD)
    with pytest.raises(AlignError) as caught:
        world.undo(f"{FIRST}:data")
    assert caught.value.code == "restore_point_of_another_database"
    world.prod = home
    path = world.root / FIRST / "restore-points" / "data.jsonl"
    text = path.read_text()
    for edited in (
        text.replace('"phase":"data"', '"phase":"schema"'),
        text.replace('{"line":"entry"', "{line", 1),
        text.replace('"tables"', '"rows"'),
    ):
        path.write_text(edited)
        with pytest.raises(AlignError) as caught:
            world.undo(f"{FIRST}:data")
        assert caught.value.code == "restore_point_unreadable"
    lines = [json.loads(line) for line in text.splitlines()]
    future = [{**line, "xid": str((1 << 40) + 5)} for line in lines if line["line"] in ("entry", "point")]
    path.write_text("".join(json.dumps(line) + "\n" for line in future))
    with pytest.raises(AlignError) as caught:
        world.undo(f"{FIRST}:data")
    assert caught.value.code == "restore_point_unreadable"
    assert world.dump() == aligned


def test_a_phase_that_fails_undoes_what_it_had_committed_on_dev(world: World) -> None:
    world.sql(REFUSES)
    before = world.dump()
    outcome = world.align()
    assert (outcome.status, outcome.changed) == ("rolled_back", False)
    assert outcome.error is not None
    assert "not today" in outcome.error.found
    assert world.dump() == before
    assert named(outcome, "rolled_back") == [f"{FIRST}:data"]
    (point,) = find_points(world.root).points[:1]
    assert (point.name, point.ended) == (f"{FIRST}:data", "rolled_back")


def test_without_rollback_on_failure_it_stays_and_the_restore_point_is_told(world: World) -> None:
    world.sql(REFUSES)
    context = world.context("data")
    outcome = guarded(context, lambda: data.run(context, OPTIONS), roll_back=False)
    assert outcome.status == "failed"
    assert world.sql("SELECT count(*) FROM archon_credentials", world.dev) == [(4,)]
    assert [point["name"] for point in outcome.details["restore_points"]] == [f"{FIRST}:data"]
    assert world.undo(f"{FIRST}:data").changed
    assert world.sql("SELECT count(*) FROM archon_credentials", world.dev) == [(0,)]


def test_when_undoing_fails_too_the_first_cause_comes_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archon_align.rollback.failure._PATIENCE_SECONDS", 0.0)
    world.sql(REFUSES)
    context = world.context("data")

    def work() -> PhaseOutcome:
        try:
            return data.run(context, OPTIONS)
        finally:
            assert world._keeper is not None
            world._keeper.close()  # the run lock is lost

    outcome = guarded(context, work, roll_back=True)
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert "not today" in outcome.error.found
    (told,) = [finding for finding in outcome.findings if finding.code == "rollback_failed"]
    assert "4 rows" in told.message
    assert f"{FIRST}:data" in told.remedy


def test_what_fails_before_it_acts_is_told_as_before(world: World) -> None:
    context = world.context("data")

    def refuse() -> PhaseOutcome:
        raise DecisionNeeded("Decide.", object_name="x", expected="y", found="z", remedy="w")

    with pytest.raises(DecisionNeeded):
        guarded(context, refuse, roll_back=True)
    assert find_points(world.root).points == ()


def test_a_dead_run_is_recognised_settled_and_no_more_once_it_is_undone(world: World) -> None:
    world.align()
    context = world.context("templates")
    ledger = Ledger(context)
    with open_session(context, context.prod) as session:
        ledger.begin(session)
        session.execute("BEGIN")
        ledger.record(session, "rows", {"tables": []})  # killed between the ledger's line and COMMIT
    own = world.context("preflight", SECOND)

    def dead() -> list:
        with open_session(own, own.prod) as prod, open_session(own, own.dev) as dev:
            return dead_runs(world.root, SECOND, prod, dev)

    (run,) = dead()
    assert (run.run_id, run.restore_point, dict(run.vanished)) == (FIRST, f"{FIRST}:data", {f"{FIRST}:templates": 1})
    (told,) = findings([run], "continue")
    assert "13 rows" in told.message
    assert "archon_dead_run=rollback" in told.remedy
    world.undo(run.restore_point)
    assert dead() == []


def test_a_dead_run_that_a_finished_one_followed_is_history(world: World) -> None:
    world.align()
    world.align(SECOND)
    (world.root / SECOND).mkdir(exist_ok=True)
    own = world.context("preflight", THIRD)
    report, events = (world.root / SECOND / name for name in ("report.json", "events.jsonl"))
    events.write_text(json.dumps({"kind": "run_started", "prod": _identity(world)}) + "\n")
    with open_session(own, own.prod) as prod:
        assert [run.run_id for run in dead_runs(world.root, THIRD, prod, None)] == [FIRST, SECOND]
        report.write_text('{"result": "failed"}')  # before it acted, so it has dealt with nothing
        assert [run.run_id for run in dead_runs(world.root, THIRD, prod, None)] == [FIRST]
        report.write_text('{"result": "aligned"}')
        assert dead_runs(world.root, THIRD, prod, None) == []


def _identity(world: World) -> dict[str, object]:
    path = world.root / FIRST / "restore-points" / "data.jsonl"
    heads = [line for line in map(json.loads, path.read_text().splitlines()) if line.get("database") == "PROD"]
    return heads[0]["identity"]


def test_the_list_names_what_is_undone_and_what_cannot_be_read(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.align()
    world.undo(f"{FIRST}:data")
    odd = world.root / SECOND / "restore-points" / "schema.jsonl"
    odd.parent.mkdir(parents=True)
    odd.write_text("not a ledger\n")
    assert main(["list", "--artifacts", str(world.root)]) == 0
    text = capsys.readouterr().out
    (line,) = [line for line in text.splitlines() if line.startswith(f"{FIRST}:data")]
    assert "13 rows" in line
    assert "yes" in line
    assert f"undid {FIRST}:data" in text
    assert f"NOT USABLE: {SECOND}:schema" in text
    with pytest.raises(AlignError, match="cannot be read"):
        choose(find_points(world.root), f"{SECOND}:schema")
    assert main(["list", "--artifacts", str(world.root), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed["restore_points"]] == [f"{FIRST}:data", f"{THIRD}:rollback"]
