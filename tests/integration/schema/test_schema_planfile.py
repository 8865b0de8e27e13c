"""Reviewed plans: exactly what was reviewed is applied, or nothing."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ansible.module_utils
import orjson
import pytest
from ansible.module_utils.testing import patch_module_args
from archon_align.database.session import open_session
from archon_align.errors import AlignError
from archon_align.outcome import PhaseOutcome
from archon_align.schema import phase
from archon_align.schema.decisions import Decisions
from archon_align.schema.inspect import inspect
from archon_align.schema.planfile import digest, object_digests
from archon_align.schema.scope import Scope
from schema_worlds import World

ROOT = Path(__file__).parents[3]
MakeWorld = Callable[..., World]
T = "CREATE TABLE t (id int PRIMARY KEY, a text);"
ROWS = "INSERT INTO t SELECT n, 'x' || n FROM generate_series(1, 9) n;"
DEV = (
    T
    + "ALTER TABLE t ALTER a TYPE varchar(5), ADD b int; CREATE VIEW v AS SELECT a FROM t; CREATE TYPE mood AS ENUM ('x');"
)


def run(world: World, *, check: bool = False, **options: Any) -> PhaseOutcome:
    return phase.run(world.context(check=check), phase.Options(credentials=False, **options))


def reviewed(world: World, tmp_path: Path, **options: Any) -> Path:
    """The plan.json of a check, put aside."""
    assert run(world, check=True, **options).status == "drift"
    file = tmp_path / "reviewed.json"
    file.write_bytes((world.artifacts / "plan.json").read_bytes())
    return file


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world(DEV, T + ROWS)


def refused(world: World, file: Path, *, check: bool = False, **options: Any) -> AlignError:
    """Refused, with nothing changed."""
    before = world.prod.picture(world.schema)
    with pytest.raises(AlignError) as raised:
        run(world, check=check, plan_file=file, **options)
    assert world.prod.picture(world.schema) == before
    return raised.value


def test_exactly_the_reviewed_statements_run(world: World, tmp_path: Path) -> None:
    file = reviewed(world, tmp_path)
    document = orjson.loads(file.read_bytes())
    assert run(world, check=True, plan_file=file).status == "drift"
    outcome = run(world, plan_file=file)
    assert outcome.status == "changed"
    assert [one.sql for one in outcome.statements] == [one["sql"] for one in document["prod"]["statements"]]
    # Applied once, it is not applied again: PROD is another now.
    again = refused(world, file)
    assert again.code == "plan_outdated"
    assert refused(world, file, check=True).as_dict() == again.as_dict()
    assert run(world).status == "aligned"


@pytest.mark.parametrize(
    ("side", "change", "told"),
    [
        ("prod", "ALTER TABLE t ADD c int;", "PROD table {}.t was changed"),
        ("prod", "CREATE TABLE u (n int);", "PROD table {}.u is new"),
        ("prod", "COMMENT ON COLUMN t.a IS 'x';", "PROD table {}.t was changed"),
        ("prod", "GRANT SELECT ON t TO anon;", "PROD table {}.t was changed"),
        ("dev", "DROP VIEW v;", "DEV view {}.v is gone"),
        ("dev", "ALTER TYPE mood ADD VALUE 'y';", "DEV enum {}.mood was changed"),
        ("dev", "CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int);", "DEV aggregate"),
    ],
)
def test_a_database_that_changed(side: str, change: str, told: str, world: World, tmp_path: Path) -> None:
    file = reviewed(world, tmp_path)
    (world.prod if side == "prod" else world.dev).run(world.schema, change)
    error = refused(world, file)
    assert error.code == "plan_outdated"
    assert told.format(world.schema) in error.found
    assert error.object_name == str(file)


def test_rows_that_change_the_plan(world: World, tmp_path: Path) -> None:
    """The structure is the same, but now a value would be shortened: the plan made anew is another."""
    file = reviewed(world, tmp_path)
    world.prod.run(world.schema, "UPDATE t SET a = 'much too long' WHERE id = 4;")
    assert refused(world, file).code == "plan_differs"


def test_rows_that_do_not_change_the_plan(world: World, tmp_path: Path) -> None:
    file = reviewed(world, tmp_path)
    world.prod.run(world.schema, "INSERT INTO t SELECT n, 'y' FROM generate_series(100, 5000) n; ANALYZE t;")
    assert run(world, plan_file=file).status == "changed"


@pytest.mark.parametrize("place", ["sql", "fingerprint", "inputs", "refused", "digest"])
def test_an_edited_file(place: str, world: World, tmp_path: Path) -> None:
    file = reviewed(world, tmp_path)
    document = orjson.loads(file.read_bytes())
    if place == "sql":
        document["prod"]["statements"][0]["sql"] += " "
    elif place == "fingerprint":
        document["sources"]["prod"]["objects"].popitem()
    elif place == "inputs":
        document["inputs"]["credentials"] = True
    elif place == "refused":
        document["prod"]["refused"].append({})
    else:
        document["digest"] = "0" * 64
    file.write_bytes(orjson.dumps(document))
    assert refused(world, file).code == "plan_edited"


def test_an_edited_file_with_a_digest_of_its_own(world: World, tmp_path: Path) -> None:
    """Whoever can compute a digest still cannot have another statement executed."""
    file = reviewed(world, tmp_path)
    document = orjson.loads(file.read_bytes())
    del document["digest"]
    document["prod"]["statements"][-1]["sql"] = "DROP TABLE t"
    document["digest"] = digest(document)
    file.write_bytes(orjson.dumps(document))
    error = refused(world, file)
    assert error.code == "plan_differs"
    assert "DROP TABLE t" in error.found


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"[]", b'"x"', b"\xff\xfe", b'{"format": 99, "dev": {}, "prod": {}}']
)
def test_what_is_no_plan(content: bytes | None, world: World, tmp_path: Path) -> None:
    file = tmp_path / "no plan"
    if content is not None:
        file.write_bytes(content)
    assert refused(world, file).code == "plan_unreadable"


def test_made_with_other_options(world: World, tmp_path: Path) -> None:
    file = reviewed(world, tmp_path)
    for name, options in {
        "decisions": {"decisions": Decisions.parse({"conversions": {f"{world.schema}.t.a": "left(a, 5)"}})},
        "include": {"scope": Scope.parse(include=["table:*"])},
        "exclude": {"scope": Scope.parse(exclude=["view:*"])},
        "large_table_bytes": {"large_table_bytes": 1},
    }.items():
        error = refused(world, file, **options)
        assert error.code == "plan_other_inputs"
        assert f"{name} = " in error.found
    scoped = reviewed(world, tmp_path, scope=Scope.parse(exclude=["view:*"]))
    assert run(world, plan_file=scoped, scope=Scope.parse(exclude=["view:*"])).status == "changed"


def test_made_for_another_database(world: World, make_world: MakeWorld, tmp_path: Path) -> None:
    file = reviewed(world, tmp_path)
    other = make_world(DEV, T + ROWS)
    assert refused(other, file).code == "plan_other_inputs"  # other schemas
    turned = replace(world, dev=world.prod, prod=world.dev)
    with pytest.raises(AlignError) as raised:
        phase.plan_only(turned.context(check=True), phase.Options(credentials=False, plan_file=file))
    assert raised.value.code == "plan_other_database"
    assert "schema_dev" in raised.value.found


def test_a_plan_with_something_to_decide(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world(T + "ALTER TABLE t ADD b int NOT NULL;", T + ROWS)
    outcome = run(world, check=True)
    assert outcome.status == "decision_needed"
    outcome = run(world, plan_file=world.artifacts / "plan.json")
    assert outcome.status == "decision_needed"


def test_digests_are_the_same_in_every_process(world: World) -> None:
    """Sets have another order in each process; object ids and estimates are not part of it."""
    world.prod.run(world.schema, "GRANT SELECT, INSERT, UPDATE, DELETE ON t TO anon, authenticated, service_role;")
    context = world.context(check=True)
    with open_session(context, context.prod, read_only=True) as session:
        here = object_digests(inspect(session, world.schemas))
    world.prod.run(world.schema, "ANALYZE t; DROP TABLE IF EXISTS gone; CREATE TABLE gone (n int); DROP TABLE gone;")
    script = """
import sys, orjson
from pathlib import Path
from archon_align.context import Context, Run
from archon_align.database.session import open_session
from archon_align.database.target import Target
from archon_align.schema.inspect import inspect
from archon_align.schema.planfile import digest, object_digests
target = Target("PROD", sys.argv[1])
context = Context(Run("20260101-000000-abcdef-check", Path("x")), target, target, "schema", (sys.argv[2],))
with open_session(context, target) as session:
    sys.stdout.buffer.write(orjson.dumps(object_digests(inspect(session, context.schemas))))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, world.prod.dsn, world.schema], capture_output=True, timeout=600, check=True
    )
    assert orjson.loads(done.stdout) == here


def test_the_modules_hand_on_what_was_chosen(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both modules know scope and decisions, so that the assess phase tells of the plan that the schema phase will apply."""
    monkeypatch.setattr(ansible.module_utils, "__path__", [*ansible.module_utils.__path__, str(ROOT / "module_utils")])
    monkeypatch.setattr("signal.signal", lambda *_: None)  # a module's process is its own; this one is not
    context = world.context(check=True)
    given = {
        "run_id": context.run.id, "artifacts_dir": str(world.artifacts), "prod_dsn": world.prod.dsn, "dev_dsn": world.dev.dsn,
        "schema_names": list(world.schemas), "include": ["table:t"], "exclude": ["column:b"], "large_table_mb": 7,
        "decisions": {"conversions": {f"{world.schema}.t.a": "left(a, 5)"}},
    }  # fmt: skip

    def ask(module: str, **more: object) -> dict[str, Any]:
        capsys.readouterr()
        with patch_module_args({**given, **more, "_ansible_check_mode": True}), pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / "library" / f"{module}.py"), run_name="__main__")
        return orjson.loads(capsys.readouterr().out)

    told = ask("archon_schema", credentials=False)
    inputs = orjson.loads((world.artifacts / "plan.json").read_bytes())["inputs"]
    assert told["status"] == "drift"
    assert (inputs["include"], inputs["exclude"], inputs["large_table_bytes"]) == (["table:t"], ["column:b"], 7 << 20)
    assert inputs["decisions"]["conversions"] == {f"{world.schema}.t.a": "left(a, 5)"}
    assert {found["code"] for found in told["findings"]} >= {"out_of_scope"}
    assert told["details"]["schema"]["statements"]
    assert ask("archon_schema", plan=str(tmp_path / "none"))["error"]["code"] == "plan_unreadable"
    assert ask("archon_schema", decisions={"renamings": []})["error"]["code"] == "bad_decision"
    assert ask("archon_assess", include=["tables:x"])["error"]["code"] == "bad_scope"
