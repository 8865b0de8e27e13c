"""Stages: what large tables cannot bear inside the transaction. Every table that holds a row is large here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import psycopg
import pytest
from archon_align.database.session import Session
from archon_align.errors import LockLost
from archon_align.outcome import PhaseOutcome
from archon_align.schema import outside, phase
from archon_align.schema.decisions import Decisions
from psycopg import sql
from schema_worlds import Side, World, facts

ROWS = "INSERT INTO t SELECT n, 'täxt ' || n, n % 7 FROM generate_series(1, 50) n;"
T = "CREATE TABLE t (id int, a text, n int);"
LARGE = phase.Options(credentials=False, large_table_bytes=1, stage_timeout=30)


def align(world: World, *, check: bool = False, options: phase.Options = LARGE, **fields: Any) -> PhaseOutcome:
    return phase.run(replace(world.context(check=check), **fields), options)


def objects(outcome: PhaseOutcome) -> list[str]:
    """The last part of the name of what each stage makes."""
    return [name.rpartition(".")[2] for name in outcome.details["schema"]["stages"]]


def superuser(side: Side, text: str) -> None:
    with psycopg.connect(side.server.dsn(side.database), autocommit=True) as admin:
        admin.execute(text.encode())


def user(world: World, **options: Any) -> psycopg.Connection:
    """A user's session in the world's schema."""
    connection = psycopg.connect(world.prod.dsn, application_name="some user", autocommit=True, **options)
    connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(world.schema)))
    connection.autocommit = False
    return connection


EVERYTHING = """
CREATE TABLE p (id int CONSTRAINT p_pkey PRIMARY KEY); CREATE TABLE small (tid int CONSTRAINT s_fk REFERENCES p);
CREATE TABLE t (id int CONSTRAINT "t p" PRIMARY KEY, a text NOT NULL, n int CONSTRAINT f REFERENCES p CONSTRAINT c CHECK (n >= 0));
ALTER TABLE t ADD CONSTRAINT "k y" UNIQUE (a) INCLUDE (n) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE t ADD CONSTRAINT nn UNIQUE NULLS NOT DISTINCT (a, id) WITH (fillfactor = 70); ALTER TABLE t CLUSTER ON nn;
CREATE INDEX "i dx" ON t (lower(a) DESC) INCLUDE (n) WHERE n > 1; COMMENT ON INDEX "i dx" IS 'why'; COMMENT ON CONSTRAINT c ON t IS 'c'; COMMENT ON CONSTRAINT nn ON t IS 'n';
CREATE TABLE half (a int CONSTRAINT known CHECK (a > 0)); CREATE TABLE not_yet (a int); ALTER TABLE not_yet ADD CONSTRAINT x CHECK (a > 0) NOT VALID;
"""
NOTHING_YET = f"""
CREATE TABLE p (id int); INSERT INTO p SELECT generate_series(0, 9); CREATE TABLE small (tid int); {T} {ROWS}
CREATE TABLE half (a int); INSERT INTO half VALUES (1); ALTER TABLE half ADD CONSTRAINT known CHECK (a > 0) NOT VALID;
CREATE TABLE not_yet (a int); INSERT INTO not_yet VALUES (-1);
"""


def test_every_kind_of_stage(make_world: Callable[..., World]) -> None:
    world = make_world(EVERYTHING, NOTHING_YET)
    before = world.prod.picture(world.schema)
    predicted = align(world, check=True)
    assert world.prod.picture(world.schema) == before
    outcome = align(world)
    assert outcome.status == "changed", str(outcome.error)
    assert [one.sql for one in predicted.statements] == [one.sql for one in outcome.statements]
    assert [name.split(" ", 1)[0] for name in outcome.details["schema"]["stages"]] == ["validate"] * 3 + [
        "build"
    ] * 5 + ["validate"] * 4
    assert outcome.details["schema"]["differences_after"] == 0
    assert world.prod.value(world.schema, "SELECT count(*) FROM t") == 50
    option = f'--schema="{world.schema.replace(chr(34), chr(34) * 2)}"'
    assert facts(world.dev.dump(option)) == facts(world.prod.dump(option))
    outside = [one for one in outcome.statements if not one.transactional]
    assert len(outside) == 12
    assert all("outside_transaction" in one.hazards for one in outside)
    script = (world.artifacts / "plan.sql").read_text()
    assert "-- Locks, held until COMMIT, under a second:\n--   ACCESS EXCLUSIVE on" in script
    assert (
        script.index("COMMIT;")
        < script.index("-- STAGE after COMMIT: build index")
        < script.index("CREATE INDEX CONCURRENTLY")
    )
    plan = orjson.loads((world.artifacts / "plan.json").read_bytes())["prod"]
    assert len(plan["stages"]) == 12
    assert {lock["mode"] for lock in plan["locks"].values()} == {"ACCESS EXCLUSIVE"}
    again = align(world)
    assert (again.status, list(again.statements)) == ("aligned", [])


def test_small_and_partitioned_tables_and_keys_that_views_need_stay_in_the_transaction(
    make_world: Callable[..., World],
) -> None:
    parts = "CREATE TABLE part (a int PRIMARY KEY) PARTITION BY RANGE (a); CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (9);"
    view = "CREATE VIEW v AS SELECT id, a FROM t GROUP BY id;"
    world = make_world(
        parts + T + "CREATE INDEX ON part (a); ALTER TABLE t ADD PRIMARY KEY (id), ADD CONSTRAINT f FOREIGN KEY (n) REFERENCES part;" + view,
        parts + T + ROWS + "INSERT INTO part SELECT generate_series(0, 8);",
    )  # fmt: skip
    outcome = align(world)
    assert outcome.status == "changed", str(outcome.error)
    assert objects(outcome) == ["id", "f"]  # NOT NULL and the foreign key
    assert align(world).status == "aligned"
    other = make_world(T + "CREATE INDEX ON t (a);", T + ROWS)
    assert align(other, options=phase.Options(credentials=False)).details["schema"]["stages"] == []


def test_stages_of_what_the_same_plan_makes_and_renames(make_world: Callable[..., World]) -> None:
    world = make_world(
        "CREATE FUNCTION ok(n int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 < 99';"
        "CREATE TABLE new_t (id bigint, a text, m int CONSTRAINT c CHECK (ok(m)), x int DEFAULT 5 CONSTRAINT d CHECK (x > 1)); CREATE INDEX i ON new_t (x, ok(m));",
        T + ROWS,
    )
    quoted = sql.Identifier(world.schema).as_string()
    decisions = Decisions.parse(
        {"renames": [
            {"kind": "table", "from": f"{quoted}.t", "to": "new_t"}, {"kind": "column", "from": f"{quoted}.t.n", "to": "m"},
        ]}
    )  # fmt: skip
    outcome = align(world, options=replace(LARGE, decisions=decisions))
    assert outcome.status == "changed", str(outcome.error)
    assert objects(outcome) == ["i", "c", "d"]
    assert outcome.details["schema"]["differences_after"] == 0
    assert align(world).status == "aligned"


def test_a_lock_that_a_stage_does_not_get_names_its_holder(
    make_world: Callable[..., World], before: Callable[..., None]
) -> None:
    world = make_world(T + "ALTER TABLE t ADD CONSTRAINT c CHECK (n < 9);", T + ROWS)
    with user(world) as connection:
        before("VALIDATE", lambda _: connection.execute("LOCK TABLE t IN SHARE MODE"))
        outcome = align(world, lock_timeout=0.05, lock_attempts=2)
        pid = connection.info.backend_pid
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code) == ("resumable", "lock_timeout")
    assert f"is held by pid {pid} (application some user" in outcome.error.found
    assert "constraint" in outcome.error.found.partition("What remains: ")[2]
    assert align(world).status == "changed"


def test_leftovers_of_dead_runs_are_found_named_and_repaired(make_world: Callable[..., World]) -> None:
    world = make_world(
        T.replace("a text", "a text NOT NULL") + "CREATE INDEX i ON t (n); ALTER TABLE t ADD CONSTRAINT k UNIQUE (id); ALTER TABLE t ADD CONSTRAINT made UNIQUE (a);"
        "CREATE TABLE s (id int CONSTRAINT s_k UNIQUE);",
        T + ROWS + """
        CREATE INDEX i ON t (n); CREATE INDEX i_ccnew ON t (n); CREATE UNIQUE INDEX k ON t (id); CREATE UNIQUE INDEX made ON t (a);
        ALTER TABLE t ADD CONSTRAINT archon_align_not_null_a CHECK (a IS NOT NULL) NOT VALID; ALTER TABLE t ADD CONSTRAINT archon_align_not_null_n CHECK (n IS NOT NULL);
        CREATE TABLE s (id int); CREATE UNIQUE INDEX s_k ON s (id);""",
    )  # fmt: skip
    names = "('i', 'i_ccnew', 'k', 's_k')"
    superuser(
        world.prod,
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid IN (SELECT oid FROM pg_class WHERE relname IN {names} AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = {sql.Literal(world.schema).as_string()}))",
    )
    outcome = align(world)
    assert outcome.status == "changed", str(outcome.error)
    assert objects(outcome) == ["a", "i", "k"]
    assert outcome.details["schema"]["differences_after"] == 0
    assert [finding.object.rpartition(".")[2] for finding in outcome.findings if finding.code == "leftover"] == [
        "archon_align_not_null_n"
    ]
    assert outcome.details["schema"]["only_in_prod"] == []
    summaries = "\n".join(one.summary for one in outcome.statements)
    assert summaries.count("left behind invalid by a build that failed") == 4
    assert align(world).status == "aligned"


def test_a_name_that_an_unfit_index_has_is_refused(make_world: Callable[..., World]) -> None:
    world = make_world(T + "ALTER TABLE t ADD CONSTRAINT k UNIQUE (id);", T + ROWS + "CREATE INDEX k ON t (n);")
    outcome = align(world)
    assert [finding.code for finding in outcome.findings if finding.severity == "error"] == ["name_taken"]


def test_a_stage_that_fails_says_what_is_done_and_the_next_run_does_the_rest(
    make_world: Callable[..., World], before: Callable[..., None]
) -> None:
    world = make_world(
        T
        + "CREATE INDEX a_first ON t (n); CREATE UNIQUE INDEX b_then ON t (id); ALTER TABLE t ADD CONSTRAINT c CHECK (n < 9);",
        T + ROWS,
    )
    before(
        "CREATE UNIQUE INDEX CONCURRENTLY",
        lambda _: world.prod.run(world.schema, "INSERT INTO t VALUES (1, 'twice', 1)"),
    )
    outcome = align(world)
    assert (outcome.status, outcome.changed) == ("resumable", True)
    assert outcome.error is not None
    assert "(id)=(1) is duplicated" in outcome.error.found
    done, _, remains = outcome.error.found.partition("What remains: ")
    assert "the transaction (1 statements) is committed; build index" in done
    assert "a_first: done" in done
    assert "b_then" in remains
    assert "validate constraint" in remains
    assert outcome.details["schema"]["differences_after"] == 2
    assert world.prod.value(world.schema, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0  # it cleaned up
    refused = align(world)
    assert [finding.code for finding in refused.findings if finding.severity == "error"] == ["rows_in_the_way"]
    world.prod.run(world.schema, "DELETE FROM t WHERE a = 'twice'")
    rest = align(world)
    assert rest.status == "changed", str(rest.error)
    assert objects(rest) == ["b_then", "c"]
    assert [one.transactional for one in rest.statements] == [False, False]
    assert align(world).status == "aligned"


def test_a_row_that_came_in_before_the_check_is_found_by_validation(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(T.replace("n int", "n int CONSTRAINT c CHECK (n < 9)"), T + ROWS)
    real = phase._planned

    def then_a_user(*arguments: Any) -> phase.Planned:
        planned = real(*arguments)
        world.prod.run(world.schema, "INSERT INTO t VALUES (99, 'x', 99)")
        return planned

    with monkeypatch.context() as patch:
        patch.setattr(phase, "_planned", then_a_user)
        outcome = align(world)
    assert outcome.status == "resumable"
    assert outcome.error is not None
    assert "is violated by some row" in outcome.error.found
    refused = align(world)
    assert "1 row (ctid=" in next(finding.message for finding in refused.findings if finding.severity == "error")


def test_a_stages_time_limit_is_its_own_and_named(make_world: Callable[..., World]) -> None:
    slow = "CREATE FUNCTION slow(n int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN true; END $$;"
    world = make_world(
        slow + T.replace("n int", "n int CONSTRAINT c CHECK (slow(n))"), slow + T + ROWS.replace("50", "4")
    )
    outcome = align(world, options=replace(LARGE, stage_timeout=0.15), statement_timeout=20.0)
    assert outcome.status == "resumable"
    assert outcome.error is not None
    assert outcome.error.code == "statement_timeout"
    assert "archon_schema_stage_timeout" in outcome.error.remedy
    assert "constraint" in outcome.error.object_name


def test_without_the_run_lock_no_stage_begins(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(T + "CREATE INDEX i ON t (n);", T + ROWS)

    def lost(session: Session) -> None:
        raise LockLost(
            "The run lock is not held by this run.",
            object_name="run lock",
            expected="held",
            found="held by nobody",
            remedy="Start a new run.",
            code="lock_lost",
        )

    monkeypatch.setattr(outside, "require_own_lock", lost)
    outcome = align(world)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code) == ("resumable", "lock_lost")
    assert world.prod.value(world.schema, "SELECT count(*) FROM pg_indexes WHERE schemaname = current_schema") == 0


def test_a_build_waits_for_older_transactions_while_others_write(make_world: Callable[..., World]) -> None:
    world = make_world(T + "CREATE INDEX i ON t (n); ALTER TABLE t ADD CONSTRAINT c CHECK (n >= 0);", T + ROWS)
    stop, written, failures = threading.Event(), [0], []

    def write() -> None:
        with user(world) as connection:
            connection.autocommit = True
            while not stop.is_set():
                try:
                    connection.execute("INSERT INTO t VALUES (0, 'row', 3)")
                    connection.execute("UPDATE t SET n = n + 1 WHERE id = 7")
                    written[0] += 1
                except psycopg.Error as error:
                    failures.append(error)

    def older() -> None:
        with user(world) as connection:
            connection.execute("SELECT count(*) FROM pg_class")
            connection.execute("SELECT pg_sleep(1.5)")

    threads = [threading.Thread(target=write), threading.Thread(target=older)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    try:
        outcome = align(world)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert outcome.status == "changed", str(outcome.error)
    assert failures == []
    assert world.prod.value(world.schema, "SELECT count(*) FROM t WHERE a = 'row'") == written[0]


def test_a_build_gives_way_before_a_user_becomes_a_deadlocks_victim(make_world: Callable[..., World]) -> None:
    world = make_world(T + "CREATE INDEX i ON t (n);", T + ROWS)
    outcomes: list[PhaseOutcome] = []
    with user(world) as connection:
        superuser(world.prod, f"GRANT SET ON PARAMETER deadlock_timeout TO {connection.info.user}")
        connection.execute("SET deadlock_timeout = '120s'")  # however long this machine takes to see the user wait
        superuser(world.prod, f"REVOKE SET ON PARAMETER deadlock_timeout FROM {connection.info.user}")
        connection.execute("INSERT INTO t VALUES (0, 'mine', 3)")
        run = threading.Thread(target=lambda: outcomes.append(align(world)))
        run.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'virtualxid' AND NOT granted"
        while not world.prod.value(world.schema, waiting):
            time.sleep(0.02)
        time.sleep(2.0)  # the server has looked for a deadlock on the build's behalf; the next look is on the user's
        connection.execute("CREATE INDEX mine ON t (a)")  # waits for the build, which waits for this transaction
        connection.commit()
    run.join()
    assert outcomes[0].status == "changed", str(outcomes[0].error)
    assert (
        world.prod.value(world.schema, "SELECT count(*) FROM pg_index WHERE indisvalid AND indrelid = 't'::regclass")
        == 2
    )


def test_a_backend_that_is_ended_in_a_stage_leaves_what_the_next_run_repairs(make_world: Callable[..., World]) -> None:
    world = make_world(T + "CREATE UNIQUE INDEX i ON t (id);", T + ROWS)
    outcomes: list[PhaseOutcome] = []
    with user(world) as connection:
        connection.execute("INSERT INTO t VALUES (0, 'mine', 3)")
        run = threading.Thread(target=lambda: outcomes.append(align(world)))
        run.start()
        waiting = "SELECT min(pid) FROM pg_locks WHERE locktype = 'virtualxid' AND NOT granted"
        while not (pid := world.prod.value(world.schema, waiting)):
            time.sleep(0.02)
        superuser(world.prod, f"SELECT pg_terminate_backend({pid})")
        run.join()
    assert outcomes[0].status == "resumable"
    assert outcomes[0].error is not None
    assert outcomes[0].error.code == "connection_lost"
    assert (
        world.prod.value(
            world.schema, "SELECT count(*) FROM pg_index WHERE NOT indisvalid AND indrelid = 't'::regclass"
        )
        == 1
    )
    repaired = align(world)
    assert repaired.status == "changed", str(repaired.error)
    assert "left behind invalid" in repaired.statements[0].summary
    assert align(world).status == "aligned"
