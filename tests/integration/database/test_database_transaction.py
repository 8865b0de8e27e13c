"""The transaction protocol against a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.database.target import Table
from archon_align.database.transaction import LockMode, protected_transaction
from archon_align.errors import AlignError, GateRefused, LockLost, LockTimeout, PreservationBroken
from psycopg import sql

TASKS = Table("public", "archon_tasks")
OTHER = Table("public", "other")
SCHEMA = """
CREATE TABLE archon_tasks (id int PRIMARY KEY, title text, updated_at timestamptz DEFAULT now());
INSERT INTO archon_tasks SELECT n, 'täsk ' || n FROM generate_series(1, 50) n;
CREATE TABLE other (a int);
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN UPDATE public.archon_tasks SET title = 'gone' WHERE id = 7; RETURN NEW; END $$;
"""


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database(SCHEMA)


def test_unchanged_rows_are_proved_and_committed(
    prod: str, make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    hold_run_lock(prod)
    with open_session(make_context(prod), make_context(prod).prod) as session:
        _, proofs = protected_transaction(
            session, lambda: session.execute("INSERT INTO public.other VALUES (1)"), locks={OTHER: LockMode.WRITE}
        )
        assert session.value("SELECT count(*) FROM public.other") == 1
    assert [(p.table, p.rows_before, p.preserved, p.method) for p in proofs] == [
        ("public.archon_tasks", 50, True, "counters")
    ]


def test_new_column_is_not_a_loss(prod: str, make_context: Callable[..., Context], hold_run_lock: Callable) -> None:
    hold_run_lock(prod)
    with open_session(make_context(prod), make_context(prod).prod) as session:
        _, proofs = protected_transaction(
            session,
            lambda: session.execute("ALTER TABLE public.archon_tasks ADD COLUMN token uuid DEFAULT gen_random_uuid()"),
            locks={TASKS: LockMode.ALTER},
        )
    assert [(p.preserved, p.method) for p in proofs] == [(True, "scan")]


def test_a_change_behind_the_gates_back_is_undone(
    prod: str, make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    """A trigger on another table rewrites a protected row: the gate cannot see it, the proof does."""
    hold_run_lock(prod)
    with psycopg.connect(prod, autocommit=True) as owner:
        owner.execute("CREATE TRIGGER t AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION meddle()")
    with open_session(make_context(prod), make_context(prod).prod) as session:
        with pytest.raises(PreservationBroken, match="archon_tasks"):
            protected_transaction(
                session, lambda: session.execute("INSERT INTO public.other VALUES (1)"), locks={OTHER: LockMode.WRITE}
            )
        assert session.value("SELECT count(*) FROM public.other") == 0
        assert session.value("SELECT title FROM public.archon_tasks WHERE id = 7") == "täsk 7"


def test_the_gate_stands_before_the_server(
    prod: str, make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    hold_run_lock(prod)
    with open_session(make_context(prod), make_context(prod).prod) as session:
        with pytest.raises(GateRefused):
            protected_transaction(session, lambda: session.execute("DELETE FROM public.archon_tasks"), locks={})
        assert session.value("SELECT count(*) FROM public.archon_tasks") == 50


def test_without_the_run_lock_nothing_runs(
    prod: str, make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    hold_run_lock(prod, "20260101-000000-ffffff")
    with open_session(make_context(prod), make_context(prod).prod) as session, pytest.raises(LockLost, match="ffffff"):
        protected_transaction(session, lambda: None, locks={})


def test_a_lock_held_for_good_is_a_clear_refusal(
    prod: str, make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    hold_run_lock(prod)
    context = make_context(prod, lock_timeout=0.05, lock_attempts=2)
    with psycopg.connect(prod) as user, open_session(context, context.prod) as session:
        user.execute("LOCK TABLE archon_tasks IN ROW EXCLUSIVE MODE")
        with pytest.raises(LockTimeout, match=r"public\.archon_tasks"):
            protected_transaction(session, lambda: None, locks={})


def test_a_writer_delays_us_but_is_never_the_victim(
    prod: str, make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    hold_run_lock(prod)
    failures: list[Exception] = []

    def user() -> None:
        try:
            with psycopg.connect(prod) as connection:
                connection.execute("UPDATE archon_tasks SET title = 'user' WHERE id = 1")
                time.sleep(1.2)
                connection.execute("INSERT INTO other VALUES (5)")
        except psycopg.Error as error:
            failures.append(error)

    context = make_context(prod)
    with open_session(context, context.prod) as session:
        thread = threading.Thread(target=user)
        thread.start()
        time.sleep(0.3)
        _, proofs = protected_transaction(session, lambda: None, locks={OTHER: LockMode.WRITE})
        thread.join()
        assert failures == []
        assert proofs[0].preserved
        assert session.value("SELECT title FROM public.archon_tasks WHERE id = 1") == "user"


def test_a_try_ends_in_time_whichever_of_its_tables_it_waits_for(
    prod: str, make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    """The first table is let go late in the try, the second never: users wait for the first all the while."""
    hold_run_lock(prod)
    context = make_context(prod, lock_timeout=4, lock_attempts=1)
    with (
        psycopg.connect(prod) as first,
        psycopg.connect(prod) as second,
        open_session(context, context.prod) as session,
    ):
        first.execute("LOCK TABLE archon_tasks IN ROW EXCLUSIVE MODE")
        second.execute("LOCK TABLE other IN ROW EXCLUSIVE MODE")
        letting_go = threading.Timer(3, first.rollback)
        letting_go.start()
        began = time.monotonic()
        with pytest.raises(LockTimeout, match=r"public\.other"):
            protected_transaction(session, lambda: None, locks={OTHER: LockMode.PROVE})
        assert time.monotonic() - began < 6
        letting_go.join()
        assert session.value("SHOW statement_timeout") == "5min"


def test_what_a_person_cancels_is_not_tried_again(
    prod: str, make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    hold_run_lock(prod)
    context = make_context(prod, lock_timeout=600)
    with (
        psycopg.connect(prod) as user,
        psycopg.connect(prod, autocommit=True) as person,
        open_session(context, context.prod) as session,
    ):
        user.execute("LOCK TABLE archon_tasks IN ROW EXCLUSIVE MODE")
        canceling = threading.Thread(target=cancel_when_waiting, args=(person, session.connection.info.backend_pid))
        canceling.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            protected_transaction(session, lambda: None, locks={OTHER: LockMode.WRITE})
        canceling.join()


def test_the_time_for_locks_is_not_that_of_what_follows(
    prod: str, make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    hold_run_lock(prod)
    context = make_context(prod)
    with open_session(context, context.prod, statement_timeout=77) as session:
        during, _ = protected_transaction(
            session, lambda: session.value("SHOW statement_timeout"), locks={OTHER: LockMode.WRITE}
        )
        assert (during, session.value("SHOW statement_timeout")) == ("77s", "77s")


def cancel_when_waiting(person: psycopg.Connection, pid: int) -> None:
    waiting = b"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    while not person.execute(waiting, (pid,)).fetchall():
        time.sleep(0.05)


def test_check_mode_refuses_before_the_server_is_asked(prod: str, make_context: Callable[..., Context]) -> None:
    context = make_context(prod, check=True)
    with open_session(context, context.prod) as session:
        with pytest.raises(GateRefused):
            session.execute("ANALYZE public.other")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), session.transaction():
            session.rows(
                "SELECT pg_catalog.nextval(pg_catalog.pg_get_serial_sequence('public.other', 'a'))"
                " , pg_catalog.lo_create(0)"
            )


def test_a_percent_sign_in_a_name_or_literal_is_itself(
    new_database: Callable[[str], str], make_context: Callable[..., Context]
) -> None:
    context = make_context(new_database('CREATE TABLE "100 %s" ("a%b" text); INSERT INTO "100 %s" VALUES (\'5 %\')'))
    query = sql.SQL("SELECT {column} FROM {table} WHERE {column} = {text} AND {column} LIKE %s").format(
        column=sql.Identifier("a%b"), table=sql.Identifier("public", "100 %s"), text=sql.Literal("5 %")
    )
    with open_session(context, context.prod) as session:
        assert session.value(query, ("5%",)) == "5 %"


def test_a_database_that_is_set_to_be_read_only_is_not_written(prod: str, make_context: Callable[..., Context]) -> None:
    context = make_context(prod)
    with psycopg.connect(prod, autocommit=True) as owner:
        owner.execute("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on")
    try:
        with pytest.raises(AlignError, match="set to be read only"):
            open_session(context, context.prod)
        open_session(context, context.prod, read_only=True).close()
    finally:
        with psycopg.connect(prod, autocommit=True, options="-c default_transaction_read_only=off") as owner:
            owner.execute("ALTER ROLE CURRENT_USER RESET default_transaction_read_only")
