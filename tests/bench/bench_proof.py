"""Measure the preservation proof: `python tests/bench/bench_proof.py [rows …]`.

Prints, for an embedded server with its default settings and task rows as Archon has them, how many rows a second are fingerprinted
(target 150,000, linear: the same for each size) with and without the server's own parallel reading; what one protected transaction
costs whose act touches no protected row, and one that rewrites the table; and how long a user who writes all the while waited, beside the
estimate that the plan shows.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
from archon_align.context import Context, Run
from archon_align.database.session import Session, open_session
from archon_align.database.target import Table, Target
from archon_align.database.transaction import LockMode, protected_transaction
from archon_align.embedded.server import EmbeddedServer
from archon_align.preservation.fingerprint import columns_of, fingerprint
from archon_align.preservation.waiting import FINGERPRINT_ROWS, writers_wait
from archon_align.schema.costs import REWRITE_BYTES

SIZES = (100_000, 300_000, 1_000_000)
TARGET = 150_000
WRITTEN_AT = 300_000
TASKS, OTHER = Table("public", "archon_tasks"), Table("public", "other")
_MADE = """
CREATE TABLE archon_tasks (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), project_id uuid, parent_task_id uuid, title text NOT NULL, description text DEFAULT '',
  status text DEFAULT 'todo', assignee text DEFAULT 'User', task_order int DEFAULT 0, feature text, sources jsonb DEFAULT '[]',
  code_examples jsonb DEFAULT '[]', archived boolean DEFAULT false, archived_at timestamptz, archived_by text,
  created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
CREATE TABLE other (a int);
"""
_FILL = """
INSERT INTO archon_tasks (project_id, title, description, task_order, feature, sources, created_at, updated_at)
SELECT gen_random_uuid(), 'Task number ' || n, repeat('A description of the task with several words in it. ', 4), n, 'feature ' || n %% 7,
       '[{"url": "https://example.org/a", "type": "doc"}]', now() - n * interval '1 s', now() - n * interval '1 min'
FROM generate_series(1, %s - (SELECT count(*) FROM archon_tasks)) n
"""


def report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def world() -> Iterator[tuple[Context, psycopg.Connection]]:
    """A server with an empty table of tasks: the context of a run on it, and its owner."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder)) as server,
        psycopg.connect(server.dsn(), autocommit=True) as owner,
    ):
        owner.execute(_MADE.encode())
        run = Run("20260101-000000-abcdef", Path(folder) / "artifacts")
        yield Context(run=run, prod=Target("PROD", server.dsn()), dev=Target("DEV", ""), phase="bench"), owner


def best(work: Callable[[], object], tries: int = 3) -> float:
    times = []
    for _ in range(tries):
        started = time.monotonic()
        work()
        times.append(time.monotonic() - started)
    return min(times)


def cpu_seconds(session: Session, work: Callable[[], object]) -> float:
    """What the session's own server process spends on `work`."""
    backend = psutil.Process(int(session.value("SELECT pg_backend_pid()")))
    before = sum(backend.cpu_times()[:2])
    work()
    return sum(backend.cpu_times()[:2]) - before


def fingerprints(session: Session, sizes: tuple[int, ...], fill: Callable[[int], None]) -> None:
    report(
        f"{'rows':>12}{'rows/s':>14}{'of target':>12}{'alone':>14}{'per CPU s':>14}   (alone: without parallel workers)"
    )
    columns = columns_of(session, TASKS)
    for rows in sizes:
        fill(rows)
        rates = []
        for workers in ("2", "0"):
            session.rows("SELECT pg_catalog.set_config('max_parallel_workers_per_gather', %s, false)", (workers,))
            rates.append(rows / best(lambda: fingerprint(session, TASKS, columns)))
        # Other work on the machine lengthens the time, and this much less.
        spent = cpu_seconds(session, lambda: fingerprint(session, TASKS, columns))
        session.execute("RESET max_parallel_workers_per_gather")
        report(f"{rows:12,}{rates[0]:14,.0f}{rates[0] / TARGET:12.2f}{rates[1]:14,.0f}{rows / spent:14,.0f}")
        if rows == WRITTEN_AT:
            waits(session, rows)


def waits(session: Session, rows: int) -> None:
    """How long a user waits for two kinds of transaction, beside what the plan says."""
    size = int(session.value("SELECT pg_table_size('public.archon_tasks')"))
    deeds: tuple[tuple[str, Callable[[], object], dict[Table, LockMode], float], ...] = (
        ("touches no protected row", lambda: session.execute("INSERT INTO public.other VALUES (1)"), {OTHER: LockMode.WRITE}, 0.0),
        ("rewrites the table", lambda: session.execute("ALTER TABLE public.archon_tasks ADD COLUMN made float DEFAULT random()"),
         {TASKS: LockMode.ALTER}, size / REWRITE_BYTES),
    )  # fmt: skip
    for what, act, locks, seconds in deeds:
        planned = writers_wait(session, locks, 1, seconds)
        with user(session.context.prod.dsn) as waited:
            time.sleep(0.3)
            started = time.monotonic()
            protected_transaction(session, act, locks=locks, require_lock=False)
            lasted = time.monotonic() - started
        report(
            f"{'':12}a transaction that {what}: {lasted:.2f} s; a user's write waited {max(waited):.2f} s, planned {planned.seconds:.2f} s"
        )


@contextmanager
def user(dsn: str) -> Iterator[list[float]]:
    """One who writes a task again and again; how long each write took."""
    waited: list[float] = []
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not stop.is_set():
                started = time.monotonic()
                connection.execute("INSERT INTO archon_tasks (title) VALUES ('a user''s')")
                waited.append(time.monotonic() - started)
                time.sleep(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield waited
    finally:
        stop.set()
        thread.join()


def main(sizes: tuple[int, ...]) -> None:
    with world() as (context, owner), open_session(context, context.prod) as session:

        def fill(rows: int) -> None:
            owner.execute(_FILL.encode(), (rows,))
            owner.execute("ANALYZE archon_tasks")

        report(f"plans estimate by {FINGERPRINT_ROWS:,} rows/s")
        fingerprints(session, sizes, fill)


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or SIZES)
