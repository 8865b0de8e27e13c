"""Users write protected rows all the while transactions prove them: nobody is mistaken for a loss, made a victim, or kept waiting."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.database.target import Table
from archon_align.database.transaction import LockMode, protected_transaction
from archon_align.preservation import waiting
from archon_align.preservation.proof import Proof
from archon_align.preservation.waiting import longest, writers_wait

PROJECTS, TASKS, OTHER = (Table("public", name) for name in ("archon_projects", "archon_tasks", "other"))
SCHEMA = """
CREATE TABLE archon_projects (id int PRIMARY KEY, title text, updated_at timestamptz DEFAULT clock_timestamp());
CREATE TABLE archon_tasks (id int PRIMARY KEY, project_id int REFERENCES archon_projects ON DELETE CASCADE, title text,
  updated_at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at = clock_timestamp(); RETURN NEW; END $$;
CREATE TRIGGER t BEFORE UPDATE ON archon_tasks FOR EACH ROW EXECUTE FUNCTION touch();
INSERT INTO archon_projects (id, title) SELECT n, 'project' FROM generate_series(1, 8) n;
INSERT INTO archon_tasks (id, project_id, title) SELECT n, 1 + n % 8, 'old' FROM generate_series(1, 2000) n;
CREATE TABLE other (a int);
"""
SECONDS, USERS, PATIENCE = 4.0, 4, 600.0


@dataclass
class User:
    """One who writes rows of its own until told to stop, and remembers what the server has acknowledged."""

    number: int
    dsn: str
    stop: threading.Event
    rows: dict[int, str] = field(default_factory=dict)
    written: int = 0
    slowest: float = 0.0
    failure: Exception | None = None

    def run(self) -> None:
        chance = random.Random(self.number)  # noqa: S311 - nothing secret
        ids = itertools.count(10_000 * self.number)
        try:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                while not self.stop.is_set():
                    self._write(connection, chance, next(ids))
        except psycopg.Error as error:
            self.failure = error

    def _write(self, connection: psycopg.Connection, chance: random.Random, new: int) -> None:
        pending = dict(self.rows)
        # Tasks first, then their projects: against the order in which the tables are locked for a proof.
        with connection.transaction():
            self._timed(connection, "INSERT INTO archon_tasks VALUES (%s, %s, 'new')", new, self.number)
            pending[new] = "new"
            if pending and chance.random() < 0.5:
                one = chance.choice(list(pending))
                self._timed(connection, "UPDATE archon_tasks SET title = %s WHERE id = %s", f"edited {new}", one)
                pending[one] = f"edited {new}"
            if len(pending) > 5 and chance.random() < 0.5:
                one = chance.choice(list(pending))
                self._timed(connection, "DELETE FROM archon_tasks WHERE id = %s", one)
                del pending[one]
            self._timed(connection, "UPDATE archon_projects SET title = %s WHERE id = %s", f"by {new}", self.number)
        self.rows, self.written = pending, self.written + 1

    def _timed(self, connection: psycopg.Connection, query: str, *values: object) -> None:
        started = time.monotonic()
        connection.execute(query.encode(), values)
        self.slowest = max(self.slowest, time.monotonic() - started)


def transactions(context: Context, seconds: float) -> tuple[list[Proof], float]:
    """Protected transactions one after the other, of each strength; all proofs, and how long the longest lasted."""
    proofs, slowest, until = [], 0.0, time.monotonic() + seconds
    deeds = itertools.cycle([
        ("INSERT INTO public.other VALUES (1)", {OTHER: LockMode.WRITE}),
        ("ALTER TABLE public.archon_tasks ADD COLUMN c{n} int DEFAULT {n}", {TASKS: LockMode.ALTER}),
        ("ALTER TABLE public.archon_projects ALTER COLUMN title SET STATISTICS {n}", {PROJECTS: LockMode.ALTER, TASKS: LockMode.WRITE}),
    ])  # fmt: skip
    with open_session(context, context.prod) as session:
        for number, (text, locks) in enumerate(deeds, 1):
            started = time.monotonic()
            statement = text.replace("{n}", str(number))
            proofs += protected_transaction(session, lambda text=statement: session.execute(text), locks=locks)[1]  # type: ignore[misc]
            slowest = max(slowest, time.monotonic() - started)
            # On a slow machine until users have been seen at work, between and against the transactions.
            seen = {proof.fingerprint_before for proof in proofs if proof.table == str(TASKS)}
            if time.monotonic() > until and (len(seen) > 3 or time.monotonic() > until + PATIENCE):
                break
            time.sleep(0.02)
    return proofs, slowest


def test_users_are_neither_losses_nor_victims_nor_blocked(
    new_database: Callable[[str], str], make_context: Callable[..., Context], hold_run_lock: Callable[[str], object]
) -> None:
    prod = new_database(SCHEMA)
    hold_run_lock(prod)
    stop = threading.Event()
    users = [User(number, prod, stop) for number in range(1, USERS + 1)]
    threads = [threading.Thread(target=user.run) for user in users]
    for thread in threads:
        thread.start()
    try:
        proofs, slowest = transactions(make_context(prod), SECONDS)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [user.failure for user in users] == [None] * USERS
    assert all(proof.preserved for proof in proofs)
    # They did change the tables all the while, between and against the transactions.
    assert len({proof.fingerprint_before for proof in proofs if proof.table == str(TASKS)}) > 3
    assert all(user.written for user in users)
    with psycopg.connect(prod) as reader:
        kept = dict(reader.execute("SELECT id, title FROM archon_tasks WHERE id >= 10000").fetchall())
        untouched = reader.execute("SELECT count(*) FROM archon_tasks WHERE id <= 2000 AND title = 'old'").fetchone()
    assert kept == {key: title for user in users for key, title in user.rows.items()}
    assert untouched == (2000,)
    # Nobody waits longer than one of our transactions with its tries for the locks; the rest is for the machine.
    assert max(user.slowest for user in users) < slowest + 30.0


@pytest.fixture
def analyzed(new_database: Callable[[str], str]) -> str:
    prod = new_database(SCHEMA)
    with psycopg.connect(prod, autocommit=True) as owner:
        owner.execute("ANALYZE")
    return prod


def test_the_wait_is_estimated_from_the_rows_that_are_read(
    analyzed: str, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FINGERPRINT_ROWS", 1000)
    context = make_context(analyzed, check=True)
    with open_session(context, context.prod) as session:
        nothing = writers_wait(session, {OTHER: LockMode.WRITE}, 0)
        proved = writers_wait(session, {OTHER: LockMode.WRITE, Table("public", "absent"): LockMode.WRITE}, 10)
        altered = writers_wait(session, {TASKS: LockMode.ALTER}, 1, seconds=2.5)
    assert (nothing.as_dict(), nothing.findings()) == ({}, [])
    assert proved.as_dict() == {
        str(OTHER): {"mode": "SHARE ROW EXCLUSIVE", "seconds": 2.02},
        str(PROJECTS): {"mode": "SHARE", "seconds": 2.02},
        str(TASKS): {"mode": "SHARE", "seconds": 2.02},
    }
    assert altered.seconds == pytest.approx(4.0 + 2.5, abs=0.05)
    (told,) = longest([proved, altered]).findings()
    assert (told.code, told.object) == ("writers_wait", f"{PROJECTS}, {TASKS}")
    assert "wait up to about 6.5 s" in told.message
    assert longest([proved, altered]).as_dict()[str(TASKS)]["mode"] == "ACCESS EXCLUSIVE"


def test_a_wait_that_nobody_notices_is_in_the_details_alone(
    analyzed: str, make_context: Callable[..., Context]
) -> None:
    context = make_context(analyzed, check=True)
    with open_session(context, context.prod) as session:
        wait = writers_wait(session, {OTHER: LockMode.WRITE}, 1)
    assert (set(wait.as_dict()), wait.findings()) == ({str(OTHER), str(PROJECTS), str(TASKS)}, [])
