"""The command as a script meets it: exit codes, one JSON object whatever happens, nothing changed unless it says so, no secret shown."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from archon_align.embedded.server import EmbeddedServer
from archon_align.errors import AlignError, PreservationBroken
from archon_align.plan import Statement
from archon_align.schema import api, command
from psycopg import sql
from psycopg.conninfo import make_conninfo
from schema_worlds import Side, held, make_database, prepare

SECRET = "geheim-7Qx"
T = "CREATE TABLE t (id int PRIMARY KEY, a text);"
ROWS = "INSERT INTO t SELECT n, 'täxt ' || n FROM generate_series(1, 9) n;"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def pair(server: EmbeddedServer) -> tuple[Side, Side]:
    """Two databases that nobody's run lock is held on."""
    prepare(server)
    dev, prod = (Side(server, name, make_database(server, name)) for name in ("command_dev", "command_prod"))
    return dev, prod


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        answer = json.loads(self.out)
        assert answer["exit_code"] == self.code
        return answer


@dataclass(frozen=True)
class Pair:
    """A schema of its own in both databases, and the command pointed at it."""

    dev: Side
    prod: Side
    schema: str
    call: Callable[..., Ran]

    def __call__(self, *words: str, options: tuple[str, ...] = ("--json",)) -> Ran:
        dsns = ("--current", self.prod.dsn, "--desired", self.dev.dsn)
        return self.call(*words, *dsns, "--schema", self.schema, *options)

    def picture(self) -> tuple[object, ...]:
        return self.prod.picture(self.schema)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*words: str) -> Ran:
        capfd.readouterr()
        code = command.main(list(words))
        out, err = capfd.readouterr()
        assert SECRET not in out + err
        assert "Traceback" not in out + err
        return Ran(code, out, err)

    return run


@pytest.fixture
def make(pair: tuple[Side, Side], call: Callable[..., Ran]) -> Callable[[str, str], Pair]:
    def made(dev_sql: str, prod_sql: str) -> Pair:
        schema = f'cmd {next(_numbers)} "ü%s'
        dev, prod = pair
        dev.run(schema, dev_sql)
        prod.run(schema, prod_sql)
        return Pair(dev, prod, schema, call)

    return made


def codes(found: list[dict[str, str]]) -> set[str]:
    return {one["code"] for one in found}


def test_equal(make: Callable[[str, str], Pair]) -> None:
    world = make(T, "CREATE TABLE t (a text, id int PRIMARY KEY); CREATE TABLE only_here (n int);")
    answer = world("diff").json
    assert (answer["exit_code"], answer["result"], answer["differences"], answer["statements"]) == (
        0,
        "aligned",
        [],
        [],
    )
    assert answer["only_in_prod"] == [f"table {world.schema}.only_here"]
    assert answer["refused"] == []
    text = world("diff", options=())
    assert text.code == 0
    assert "no differences" in text.out
    assert f"table {world.schema}.only_here" in text.out
    assert "\033" not in text.out
    before = world.picture()
    applied = world("apply").json
    assert (applied["exit_code"], applied["result"], applied["applied"], applied["differences_after"]) == (
        0,
        "aligned",
        False,
        0,
    )
    assert world.picture() == before


def test_different_then_aligned(make: Callable[[str, str], Pair]) -> None:
    dev = (
        T
        + 'ALTER TABLE t ADD b int NOT NULL DEFAULT 7, ALTER a TYPE varchar(20); CREATE INDEX "i %s" ON t (b); CREATE VIEW v AS SELECT a FROM t;'
    )
    world = make(dev, T + ROWS)
    before = world.picture()
    answer = world("diff").json
    assert (answer["exit_code"], answer["result"]) == (2, "drift")
    assert world.picture() == before
    name = f"{world.schema}.t"
    assert {
        "kind": "column",
        "name": f"{name}.a",
        "aspect": "type",
        "desired": "character varying(20)",
        "current": "text",
    } in answer["differences"]
    assert {
        "kind": "column",
        "name": f"{name}.b",
        "aspect": "missing",
        "desired": "exists",
        "current": "missing",
    } in answer["differences"]
    assert all(set(one) == {"sql", "object", "summary", "hazards", "seconds"} for one in answer["statements"])
    assert "builds_index" in {hazard for one in answer["statements"] for hazard in one["hazards"]}
    text = world("diff", options=()).out
    for line in (
        f"  table {name}",
        "    ~ column a: type: text → character varying(20)",
        "    + column b: integer default 7 not null",
    ):
        assert line in text.splitlines()
    applied = world("apply").json
    assert (
        applied["exit_code"],
        applied["result"],
        applied["applied"],
        applied["differences_after"],
        applied["differences_left"],
    ) == (0, "changed", True, 0, [])
    assert applied["statements"] == answer["statements"]
    assert [(one["table"], one["rows_before"], one["preserved"]) for one in applied["proofs"]] == [(name, 9, True)]
    assert world.prod.value(world.schema, "SELECT string_agg(a, ',' ORDER BY id) FROM t WHERE b = 7").count("täxt") == 9  # type: ignore[attr-defined]
    assert world("apply").json["applied"] is False
    assert world("diff").code == 0


def test_a_decision_is_needed(make: Callable[[str, str], Pair], tmp_path: Path) -> None:
    world = make(T + "ALTER TABLE t ADD b int NOT NULL;", T + ROWS)
    before = world.picture()
    for words in ("diff", "apply"):
        answer = world(words).json
        assert (answer["exit_code"], answer["result"]) == (3, "decision_needed")
        assert codes(answer["refused"]) == {"rows_in_the_way"}
        assert codes(answer["refused"]) <= codes(answer["findings"])
        assert answer["differences"]
        assert world.picture() == before
    assert answer["applied"] is False
    assert answer["differences_after"] == len(answer["differences"]) == 1
    text = world("apply", options=())
    assert text.code == 3
    assert "to be decided" in text.out
    assert "in a file for --decisions" in text.out
    assert "archon_schema_decisions: {backfills: {" in text.out
    assert "inventory" not in text.out
    # The decision, with the inventory's variable around it or without.
    decision = {"backfills": {f"column {world.schema}.t.b": "id * 2"}}
    file = tmp_path / "decisions.yml"
    file.write_text(json.dumps({"archon_schema_decisions": decision}))
    assert world("diff", "--decisions", str(file)).code == 2
    file.write_text(json.dumps(decision))
    assert world("apply", "--decisions", str(file)).code == 0
    assert world.prod.value(world.schema, "SELECT sum(b) FROM t") == 90


def test_what_differs_but_cannot_be_changed_is_a_difference(make: Callable[[str, str], Pair]) -> None:
    """Never "no differences" while one is known."""
    world = make("CREATE CONVERSION total FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;" + T, T)
    for words in ("diff", "apply"):
        answer = world(words).json
        assert answer["exit_code"] == 2
        assert [one["kind"] for one in answer["differences"]] == ["unmodelled"]
        assert "total" in answer["differences"][0]["name"]
    assert (answer["result"], answer["differences_after"]) == ("drift", 1)
    assert "total" in world("apply", options=()).out
    assert world("diff", "--include", "table:*").code == 0


def test_nothing_in_the_model_is_said(make: Callable[[str, str], Pair]) -> None:
    world = make("", T + ROWS)
    before = world.picture()
    for words in ("diff", "apply"):
        answer = world(words).json
        assert answer["exit_code"] == 0
        assert "desired_empty" in codes(answer["findings"])
        assert "desired_empty" in world(words, options=()).out
    assert world.picture() == before


def test_both_directions(make: Callable[[str, str], Pair]) -> None:
    world = make(T, T + ROWS + "ALTER TABLE t ADD c int; CREATE TABLE u (n int);")
    assert world("diff").code == 0
    both = world("diff", "--both").json
    assert both["exit_code"] == 2
    assert both["differences"] == []
    assert [one["name"] for one in both["reverse"]["differences"]] == [f"{world.schema}.t.c", f"{world.schema}.u"]
    assert [one["summary"] for one in both["reverse"]["statements"]]
    reverse = world("diff", "--reverse").json
    assert reverse["exit_code"] == 2
    assert {name: reverse[name] for name in ("differences", "statements", "prod", "dev")} == {
        name: both["reverse"][name] for name in ("differences", "statements", "prod", "dev")
    }
    assert "the other direction" in world("diff", "--both", options=()).out


def test_scope(make: Callable[[str, str], Pair]) -> None:
    world = make(T + "ALTER TABLE t ADD b int; CREATE TABLE u (n int); CREATE INDEX ui ON u (n);", T)
    answer = world("apply", "--include", "table:t", "--exclude", "grant:*").json
    assert (answer["exit_code"], answer["differences_after"]) == (0, 0)
    assert answer["out_of_scope"] == [f"index {world.schema}.ui: missing", f"table {world.schema}.u: missing"]
    assert "out_of_scope" in codes(answer["findings"])
    refused = world("apply", "--include", "index:ui").json
    assert refused["exit_code"] == 3
    assert f"needs table {world.schema}.u" in refused["refused"][0]["message"]


def test_a_reviewed_plan(make: Callable[[str, str], Pair], tmp_path: Path) -> None:
    world = make(T + "ALTER TABLE t ADD b int;", T + ROWS)
    assert world("diff", "--out", str(tmp_path)).code == 2
    assert "ADD COLUMN" in (tmp_path / "plan.sql").read_text()
    file = str(tmp_path / "plan.json")
    assert world("diff", "--plan", file).code == 2
    other = world("apply", "--plan", file, "--protect", "t").json
    assert (other["exit_code"], other["error"]["code"]) == (1, "plan_other_inputs")
    world.prod.run(world.schema, "ALTER TABLE t ADD c int;")
    changed = world("apply", "--plan", file).json
    assert (changed["exit_code"], changed["error"]["code"]) == (1, "plan_outdated")
    assert f"PROD table {world.schema}.t was changed" in changed["error"]["found"]
    world.prod.run(world.schema, "ALTER TABLE t DROP c;")
    assert world("apply", "--plan", file).code == 0


def test_a_failure_in_the_transaction_is_rolled_back(make: Callable[[str, str], Pair]) -> None:
    world = make(T + "ALTER TABLE t ADD b int; CREATE INDEX i ON t ((1 / (id - 5)));", T + ROWS)
    before = world.picture()
    answer = world("apply").json
    assert (answer["exit_code"], answer["result"], answer["applied"]) == (4, "rolled_back", False)
    assert "division by zero" in answer["error"]["found"]
    assert answer["differences_after"] == len(answer["differences"]) == 2
    assert world.picture() == before
    text = world("apply", options=())
    assert "division by zero" in text.err


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM %I.log",
        "INSERT INTO %I.log VALUES (9)",
        "UPDATE %I.log SET n = n",
        "TRUNCATE %I.log",
    ],
)
def test_a_table_that_nobody_named_is_protected(harm: str, make: Callable[[str, str], Pair]) -> None:
    """Whatever a statement of the plan would do to a table that the plan does not speak of, by a function or a trigger."""
    wipe = f"CREATE TABLE log (n int); CREATE FUNCTION wipe(s text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('{harm}', s); RETURN 1; END $$;"
    world = make(T + wipe + "ALTER TABLE t ADD b int;", T + wipe + ROWS + "INSERT INTO log VALUES (1), (2);")
    before = world.picture()
    with api.connect(world.dev.dsn) as dev, api.connect(world.prod.dsn) as prod:
        made = api.plan(api.compare(api.inspect(dev, [world.schema]), api.inspect(prod, [world.schema])), prod)
        text = (
            sql.SQL("SELECT {}({})").format(sql.Identifier(world.schema, "wipe"), sql.Literal(world.schema)).as_string()
        )
        evil = replace(made.plan, statements=(*made.plan.statements, Statement(text, "evil", "evil")))
        with pytest.raises(PreservationBroken) as raised:
            api.apply(prod, replace(made, plan=evil), desired=dev)
        assert raised.value.object_name == f"{world.schema}.log"
        assert world.picture() == before
        done = api.apply(prod, made, desired=dev)
    assert [proof.table for proof in done.proofs] == [f"{world.schema}.t"]


def test_runs_exclude_each_other(make: Callable[[str, str], Pair]) -> None:
    world = make(T, "")
    before = world.picture()
    for _ in held(world.prod.dsn):
        assert world("diff").code == 2
        answer = world("apply").json
    assert (answer["exit_code"], answer["error"]["code"]) == (1, "run_active")
    assert "20260101-000000-abcdef" in answer["error"]["found"]
    assert world.picture() == before
    assert world("apply").code == 0
    with psycopg.connect(world.prod.dsn, autocommit=True) as look:
        left = look.execute(
            "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'align %' AND datname = current_database()"
        ).fetchall()
        assert [name for (name,) in left if "keeper" in name] == []


def test_somebody_elses_table(make: Callable[[str, str], Pair], pair: tuple[Side, Side]) -> None:
    world = make(T + "ALTER TABLE t ADD b int;", T)
    with psycopg.connect(world.prod.server.dsn(world.prod.database), autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER TABLE {} OWNER TO postgres").format(sql.Identifier(world.schema, "t")))
    answer = world("apply").json
    assert (answer["exit_code"], codes(answer["refused"])) == (3, {"not_owner"})


# -- wrong use and wrong surroundings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--json"],
        ["diff"],
        ["frob", "--current", "a=b", "--desired", "a=b"],
        ["diff", "--current", f"password={SECRET}"],
        ["diff", "--desired", f"password={SECRET}"],
        ["diff", "apply", "--current", "x", "--desired", "y"],
        ["diff", "--current", "dbname=x", "--desired", "dbname=y", "--frob"],
        ["diff", "--current", "dbname=x", "--desired"],
        ["diff", "--cur", "dbname=x", "--desired", "dbname=y"],
        ["apply", "--current", "dbname=x", "--desired", "dbname=y", "--both"],
        ["apply", "--current", "dbname=x", "--desired", "dbname=y", "--reverse"],
        ["diff", "--current", "dbname=x", "--desired", "dbname=y", "--statement-timeout", "soon"],
        ["diff", "--current", "dbname=x", "--desired", "dbname=y", "--schema", "a", "--all-schemas"],
    ],
    ids=lambda words: " ".join(words).replace(SECRET, "…") or "nothing",
)
def test_wrong_usage(words: list[str], call: Callable[..., Ran]) -> None:
    ran = call(*words)
    assert ran.code == 64
    if "--json" not in words:
        assert ran.out == ""
        assert "usage:" in ran.err
        ran = call("--json", *words)
    assert ran.json["error"]["code"] == "usage"
    assert ran.code == 64


@pytest.fixture
def wrong(pair: tuple[Side, Side], server: EmbeddedServer) -> dict[str, tuple[str, str]]:
    good = pair[0].dsn
    no_such = make_conninfo(good, dbname="no_such_database", password=SECRET)
    nobody = make_conninfo(good, user="nobody_here", password=SECRET)
    return {
        "malformed": (f"postgresql://u:{SECRET}@:x:y/%zz", "bad_dsn"),
        "no DSN at all": (f"just {SECRET}", "bad_dsn"),
        "empty": ("", "bad_dsn"),
        "unset variable": ("env:ARCHON_NO_SUCH_DSN", "bad_dsn"),
        "nobody listens": (f"host=127.0.0.1 port=1 dbname=x user=u password={SECRET}", "unreachable"),
        "no such host": (f"host=no-such-host.invalid dbname=x user=u password={SECRET}", "unknown_host"),
        "no such database": (no_such, "no_database"),
        "no such role": (nobody, "no_role"),
    }


@pytest.mark.parametrize(
    ("case", "side"),
    [("malformed", "current"), ("malformed", "desired"), ("no DSN at all", "current"), ("empty", "desired"), ("unset variable", "current"), ("nobody listens", "desired"),
     ("no such host", "current"), ("no such database", "current"), ("no such role", "desired")],
)  # fmt: skip
def test_no_way_to_a_database(
    case: str, side: str, wrong: dict[str, tuple[str, str]], pair: tuple[Side, Side], call: Callable[..., Ran]
) -> None:
    dsn, code = wrong[case]
    dsns = {"current": pair[1].dsn, "desired": pair[0].dsn, side: dsn}
    words = ("apply", "--current", dsns["current"], "--desired", dsns["desired"])
    answer = call(*words, "--json").json
    assert (answer["exit_code"], answer["result"], answer["error"]["code"]) == (1, "failed", code)
    assert f"--{side}" in str(answer["error"])
    assert all(answer["error"][part] for part in ("what", "object", "expected", "found", "remedy"))
    assert "archon_dsn" not in str(answer)
    if case == "malformed":
        text = call(*words)
        assert (text.code, text.out) == (1, "")
        assert answer["error"]["what"] in text.err


def test_the_same_database_twice(pair: tuple[Side, Side], call: Callable[..., Ran]) -> None:
    other_words = make_conninfo(pair[0].dsn, application_name="x", connect_timeout="7")
    for desired in (pair[0].dsn, other_words):
        answer = call("apply", "--json", "--current", pair[0].dsn, "--desired", desired).json
        assert (answer["exit_code"], answer["error"]["code"]) == (1, "same_database")


def test_names_that_mean_nothing(make: Callable[[str, str], Pair], tmp_path: Path) -> None:
    world = make(T, T)
    nowhere = world("diff", "--schema", "no such").json
    assert (nowhere["exit_code"], nowhere["error"]["code"]) == (1, "schema_missing")
    assert "public" in nowhere["error"]["found"]
    assert world("diff", "--protect", "nobody").json["error"]["code"] == "protected_table_unknown"
    assert world("diff", "--include", "tables:x").json["error"]["code"] == "usage"
    assert world("diff", "--include", "tables:x").code == 64
    for text, code in (("{", "bad_decision"), ("renamings: []", "bad_decision"), (None, "bad_decision")):
        file = tmp_path / f"file {code}"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        answer = world("apply", "--decisions", str(file)).json
        assert (answer["exit_code"], answer["error"]["code"]) == (1, code)
    for text in ("", "{}", "[1]", None):
        file = tmp_path / "plan"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        answer = world("apply", "--plan", str(file)).json
        assert (answer["exit_code"], answer["error"]["code"]) == (1, "plan_unreadable")


def test_servers_that_are_too_old(make: Callable[[str, str], Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    world = make(T, T)
    monkeypatch.setattr(api, "OLDEST", 99)
    answer = world("diff").json
    assert (answer["exit_code"], answer["error"]["code"], answer["error"]["found"]) == (
        1,
        "server_too_old",
        "PostgreSQL 18",
    )


def test_a_stage_that_fails_is_gone_on_with(make: Callable[[str, str], Pair]) -> None:
    world = make(T + "ALTER TABLE t ADD b int; CREATE INDEX i ON t ((1 / (id - 5)));", T + ROWS)
    answer = world("apply", "--large-table-mb", "0").json
    assert (answer["exit_code"], answer["result"], answer["applied"], answer["differences_after"]) == (
        5,
        "resumable",
        True,
        1,
    )
    assert "division by zero" in answer["error"]["found"]
    assert [one["summary"] for one in answer["statements"] if "outside_transaction" in one["hazards"]]
    world.prod.run(world.schema, "DELETE FROM t WHERE id = 5;")
    again = world("apply", "--large-table-mb", "0").json
    assert (again["exit_code"], again["differences_after"]) == (0, 0)


def test_nobody_knows_whether_it_was_committed(
    make: Callable[[str, str], Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(T, "")

    def lost(*_: object, **__: object) -> None:
        raise AlignError("Lost.", object_name="PROD", expected="x", found="y", remedy="z", code=command.COMMIT_UNKNOWN)

    monkeypatch.setattr(api, "apply", lost)
    answer = world("apply").json
    assert (answer["exit_code"], answer["result"]) == (5, "resumable")
    assert "applied" not in answer


def test_a_defect_is_json_too(
    make: Callable[[str, str], Pair], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    world = make(T, T)

    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(command, "_require_somewhere", broken)
    assert command.main(["diff", "--json", "--current", world.prod.dsn, "--desired", world.dev.dsn]) == 1
    out, err = capfd.readouterr()
    assert json.loads(out)["error"]["code"] == "defect"
    assert "KeyError" in err


def test_as_a_program(make: Callable[[str, str], Pair]) -> None:
    """Options before and after, DSNs as URI, as pairs and from the environment; both streams read as one are still JSON."""
    world = make(T, "")
    parts = psycopg.conninfo.conninfo_to_dict(world.dev.dsn)
    uri = f"postgresql://{parts['user']}@/{parts['dbname']}?host={parts['host']}" + (
        f"&port={parts['port']}" if "port" in parts else ""
    )
    environment = os.environ | {"THE_DSN": world.prod.dsn}
    for words in (
        ["--json", "--desired", uri, "diff", "--schema", world.schema, "--current=env:THE_DSN"],
        ["diff", "--current", "env:THE_DSN", "--schema", world.schema, "--json", f"--desired={uri}"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "archon_align.schema", *words],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        found = json.loads(done.stdout)["differences"]
        assert [one["name"] for one in found] == [f"{world.schema}.t.t_pkey", f"{world.schema}.t"]


def test_the_examples_of_the_documentation(server: EmbeddedServer) -> None:
    """Every Python block of docs/python-api.md, as it stands, on a pair that has what it speaks of."""
    text = (Path(__file__).parents[3] / "docs" / "python-api.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    dev, prod = (Side(server, name, make_database(server, name)) for name in ("docs_dev", "docs_prod"))
    dev.run("public", "CREATE TABLE t (a varchar(20), b int); CREATE INDEX ON t (a);")
    prod.run("public", "CREATE TABLE t (a text); INSERT INTO t VALUES ('x');")
    dev.run("shop", "CREATE TABLE orders (id int, currency text NOT NULL); CREATE TABLE other (n int);")
    prod.run("shop", "CREATE TABLE orders (id int); INSERT INTO orders VALUES (1);")
    environment = os.environ | {"DEV_DSN": dev.dsn, "PROD_DSN": prod.dsn}
    printed = ""
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    assert "column public.t.a: type: text → character varying(20)" in printed
    assert "shop.orders.currency" in printed
    assert prod.value("shop", "SELECT currency FROM orders") == "EUR"
    assert prod.value("shop", "SELECT to_regclass('other') IS NULL")


def test_every_schema(pair: tuple[Side, Side], call: Callable[..., Ran], make: Callable[[str, str], Pair]) -> None:
    world = make(T, "")
    world.prod.run("archon_quarantine", "CREATE TABLE IF NOT EXISTS kept (n int);")
    answer = call("diff", "--json", "--all-schemas", "--current", world.prod.dsn, "--desired", world.dev.dsn).json
    assert "error" not in answer, answer["error"]
    assert f"{world.schema}.t" in {one["name"] for one in answer["differences"]}
    assert "table archon_quarantine.kept" not in answer["only_in_prod"]


@pytest.fixture(autouse=True)
def _no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
