"""Applying under adverse conditions: locks held, sessions ended, processes killed, limits met. Nothing is left, or what is left is
found, named and repaired by the next run."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from archon_align.database.session import Session
from archon_align.errors import AlignError, LockTimeout
from archon_align.plan import Statement
from archon_align.schema import phase
from psycopg import sql
from schema_worlds import RUN_ID, World

T = "CREATE TABLE t (id int PRIMARY KEY, a text, n int);"
ROWS = "INSERT INTO t SELECT n, 'täxt ' || n, n % 7 FROM generate_series(1, 50) n;"
PLANS = {
    "rewrites": (
        "CREATE TABLE t (id bigint PRIMARY KEY, a varchar(40) NOT NULL, n numeric); CREATE VIEW v AS SELECT id, a FROM t; CREATE INDEX i ON t (a); CREATE TYPE m AS ENUM ('x', 'y');",
        T + ROWS + "CREATE VIEW v AS SELECT id, a FROM t; CREATE TYPE m AS ENUM ('x');",
        1 << 40,
    ),
    "stages": (
        "CREATE TABLE t (id int CONSTRAINT p PRIMARY KEY, a text NOT NULL, n int CONSTRAINT c CHECK (n >= 0)); CREATE INDEX i ON t (a); CREATE TABLE s (tid int CONSTRAINT f REFERENCES t);",
        "CREATE TABLE t (id int, a text, n int); CREATE TABLE s (tid int);" + ROWS,
        1,
    ),
}


def killed_before(world: World, number: int, options: phase.Options) -> None:
    """Run in a process of its own, which is killed before planned statement `number` (from 0); wait until the server knows."""
    child = os.fork()
    if not child:
        real, left = Session.apply, [number]

        def apply(session: Session, statement: Statement) -> int:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(session, statement)

        Session.apply = apply  # type: ignore[method-assign]
        try:
            phase.run(world.context(), options)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    query = f"SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'align schema {RUN_ID}%'"
    while world.prod.value(world.schema, query):
        time.sleep(0.02)


@pytest.mark.parametrize("kind", PLANS)
def test_kill_9_leaves_nothing_that_the_next_run_does_not_repair(kind: str, make_world: Callable[..., World]) -> None:
    dev, prod, large = PLANS[kind]
    world = make_world(dev, prod)
    options = phase.Options(credentials=False, large_table_bytes=large)
    statements = phase.run(world.context(check=True), options).statements
    inside = next((n for n, one in enumerate(statements) if not one.transactional), len(statements))
    before = world.prod.picture(world.schema)
    killed_before(world, random.randrange(inside), options)  # noqa: S311
    assert world.prod.picture(world.schema) == before
    if inside < len(statements):
        killed_before(world, inside, options)  # committed, and no stage begun
        rest = phase.run(world.context(check=True), options).statements
        killed_before(world, random.randrange(1, len(rest)), options)  # noqa: S311
        assert world.prod.value(world.schema, "SELECT count(*) FROM t") == 50
    outcome = phase.run(world.context(), options)
    assert outcome.status in ("changed", "aligned"), str(outcome.error)
    assert outcome.details["schema"]["differences_after"] == 0
    assert outcome.details["schema"]["only_in_prod"] == []
    assert phase.run(world.context(), options).status == "aligned"
    assert world.prod.value(world.schema, "SELECT count(*) FROM t") == 50


def user(world: World, **options: Any) -> psycopg.Connection:
    """A user's session in the world's schema."""
    connection = psycopg.connect(world.prod.dsn, application_name="some user", autocommit=True, **options)
    connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(world.schema)))
    return connection


def end(world: World, pid: int) -> None:
    with psycopg.connect(world.prod.server.dsn(world.prod.database), autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", (pid,))


def test_who_holds_the_table_is_named(make_world: Callable[..., World]) -> None:
    world = make_world(T + "ALTER TABLE t ADD b int;", T + ROWS)
    before = world.prod.picture(world.schema)
    with user(world) as connection, connection.transaction():
        connection.execute("UPDATE t SET n = n WHERE id = 3")
        with pytest.raises(LockTimeout) as caught:
            phase.run(replace(world.context(), lock_timeout=0.05, lock_attempts=2), phase.Options(credentials=False))
        pid = connection.info.backend_pid
    assert (
        f"is held by pid {pid} (application some user, role archon_owner, idle in transaction, since 20"
        in caught.value.found
    )
    assert "RowExclusiveLock" in caught.value.found
    assert "pg_terminate_backend" in caught.value.remedy
    assert world.prod.picture(world.schema) == before


def test_a_session_ended_in_the_middle_leaves_nothing(
    make_world: Callable[..., World], before: Callable[..., None]
) -> None:
    world = make_world(T + "ALTER TABLE t ADD b int; CREATE INDEX i ON t (n);", T + ROWS)
    picture = world.prod.picture(world.schema)
    before("CREATE INDEX", lambda session: end(world, session.connection.info.backend_pid))
    with pytest.raises(AlignError) as caught:
        world.align()
    assert caught.value.code == "connection_lost"
    assert "create index" in caught.value.what
    assert world.prod.picture(world.schema) == picture
    assert world.align().status == "changed"


def test_a_session_ended_at_commit_is_not_taken_for_a_failure(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(T + "ALTER TABLE t ADD b int;", T + ROWS)
    real = Session.execute

    def execute(session: Session, query: Any, params: Any = None) -> int:
        if query == "COMMIT" and session.target.name == "PROD":
            end(world, session.connection.info.backend_pid)
        return real(session, query, params)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "execute", execute)
        with pytest.raises(AlignError) as caught:
            world.align()
    assert caught.value.code == "commit_unknown"
    assert world.align().status == "changed"


def test_limits_are_named_with_the_statement_and_what_to_raise(make_world: Callable[..., World]) -> None:
    # The rows are asked before as well; only in the transaction is the function slow, or without room.
    body = "BEGIN IF current_setting('check_function_bodies') = 'off' THEN {} END IF; RETURN true; END"
    slow = f"CREATE FUNCTION f(n int) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ {body.format('PERFORM pg_sleep(60);')} $$;"
    full = f"CREATE FUNCTION f(n int) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ {body.format("RAISE 'could not extend file' USING ERRCODE = 'disk_full';")} $$;"
    for function, code, remedy in (
        (slow, "statement_timeout", "archon_statement_timeout"),
        (full, "server_resources", "Free disk"),
    ):
        world = make_world(function + T + "ALTER TABLE t ADD CONSTRAINT c CHECK (f(n));", function + T + ROWS)
        picture = world.prod.picture(world.schema)
        with pytest.raises(AlignError) as caught:
            phase.run(replace(world.context(), statement_timeout=2.0), phase.Options(credentials=False))
        assert (caught.value.code, remedy in caught.value.remedy) == (code, True)
        assert "create constraint" in caught.value.what
        assert caught.value.object_name.endswith("t.c")
        assert world.prod.picture(world.schema) == picture


def test_functions_that_need_each_other_are_refused_by_name(make_world: Callable[..., World]) -> None:
    cycle = """
    CREATE FUNCTION f(n int) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE FUNCTION g(n int) RETURNS int LANGUAGE sql RETURN f(n);
    CREATE OR REPLACE FUNCTION f(n int) RETURNS int LANGUAGE sql RETURN CASE WHEN n > 0 THEN g(n - 1) END;"""
    world = make_world(T + cycle, T + ROWS)
    picture = world.prod.picture(world.schema)
    outcome = world.align()
    assert outcome.status == "decision_needed"
    assert {finding.code for finding in outcome.findings if finding.severity == "error"} == {"cyclic_need"}
    assert world.prod.picture(world.schema) == picture


def test_writers_in_several_tables_meet_no_deadlock_and_lose_nothing(make_world: Callable[..., World]) -> None:
    """Users write along foreign keys in both directions while all their tables are altered, twice and back again."""
    small = """CREATE TABLE a (id int PRIMARY KEY, b int, n int, note text); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a, n int, note text);
    ALTER TABLE a ADD CONSTRAINT a_b FOREIGN KEY (b) REFERENCES b; CREATE TABLE log (at int, a int REFERENCES a, b int REFERENCES b);"""
    large = (
        small.replace("id int", "id bigint")
        .replace("b int", "b bigint")
        .replace("a int", "a bigint")
        .replace("n int", "n int NOT NULL DEFAULT 0")
    )
    rows = "INSERT INTO a SELECT n, NULL, 0 FROM generate_series(1, 9) n; INSERT INTO b SELECT n, n, 0 FROM generate_series(1, 9) n; UPDATE a SET b = id;"
    world = make_world(large, small + rows)
    stop, done, failures = threading.Event(), [0, 0], []

    def write(number: int, tables: tuple[str, str]) -> None:
        with user(world) as connection:
            while not stop.is_set():
                try:
                    with connection.transaction():
                        row = random.randrange(1, 10)  # noqa: S311
                        for table in tables if row % 2 else tables[:1]:
                            connection.execute(
                                f"UPDATE {table} SET n = n + 1, note = 'by {number}' WHERE id = {number * 4 + 1}".encode()
                            )
                        connection.execute("INSERT INTO log VALUES (%s, %s, %s)", (number, row, row))
                        done[number] += 1
                except psycopg.Error as error:
                    failures.append(error)

    threads = [
        threading.Thread(target=write, args=(number, pair)) for number, pair in enumerate((("a", "b"), ("b", "a")))
    ]
    for thread in threads:
        thread.start()
    try:
        outcome = world.align(protected=("a", "b"))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert outcome.status == "changed", str(outcome.error)
    assert failures == []
    assert world.prod.value(world.schema, "SELECT count(*) FROM log") == sum(done)
