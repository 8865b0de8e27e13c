"""Measure backup and restore beside bare pg_dump and pg_restore: `python tests/bench/bench_backup.py [rounds] [scale]`.

Both do the same work (form, compression, processes, snapshot) on an embedded server with about 400 MB (times scale) of tasks,
pages and their vectors, in turns, so that what else the machine does meets both. Verification is not counted; how long it
takes is said beside. The target is a ratio of 1.1.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from archon_align.backup import phase, restore
from archon_align.backup.dump import MOST_JOBS, form_for
from archon_align.context import Context, Run
from archon_align.database.target import Target
from archon_align.embedded.server import EmbeddedServer

TARGET = 1.1
_MADE = """
CREATE EXTENSION vector;
CREATE TYPE task_status AS ENUM ('todo', 'doing', 'review', 'done');
CREATE TABLE archon_projects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text, docs jsonb DEFAULT '[]');
CREATE TABLE archon_tasks (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), project_id uuid REFERENCES archon_projects ON DELETE CASCADE,
  title text NOT NULL, description text, status task_status DEFAULT 'todo', task_order int, updated_at timestamptz DEFAULT now());
CREATE INDEX ON archon_tasks (project_id);
CREATE TABLE archon_document_versions (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), project_id uuid REFERENCES archon_projects, content jsonb);
CREATE TABLE archon_crawled_pages (id bigserial PRIMARY KEY, url text, chunk_number int, content text, embedding vector(768),
  UNIQUE (url, chunk_number));
CREATE TABLE archon_code_examples (id bigserial PRIMARY KEY, content text, summary text, embedding vector(768));
CREATE FUNCTION words(n int, seed int) RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(substr(md5((i * 7919 + seed)::text), 1, 3 + (i * seed) % 6), ' ') FROM generate_series(1, n) i $$;
INSERT INTO archon_projects (title, docs) SELECT words(4, n), jsonb_build_array(words(80, n)) FROM generate_series(1, 200) n;
INSERT INTO archon_tasks (project_id, title, description, task_order)
  SELECT p.id, words(6, n), words(60, n), n FROM generate_series(1, {tasks}) n
  JOIN (SELECT id, row_number() OVER () AS k FROM archon_projects) p ON p.k = 1 + n % 200;
INSERT INTO archon_document_versions (project_id, content)
  SELECT id, jsonb_build_object('text', words(300, n)) FROM archon_projects, generate_series(1, 10) n;
CREATE TABLE v AS SELECT n, (SELECT array_agg((random() - 0.5 + (i + o.n) * 0)::real) FROM generate_series(1, 768) i)::vector(768) AS e
  FROM generate_series(1, {vectors}) o(n);
INSERT INTO archon_crawled_pages (url, chunk_number, content, embedding)
  SELECT 'https://docs.example.org/' || n, c, words(250, n * c), e FROM v, generate_series(1, 8) c;
INSERT INTO archon_code_examples (content, summary, embedding)
  SELECT words(150, n * c), words(20, n), e FROM v, generate_series(1, 4) c;
DROP TABLE v;
VACUUM ANALYZE;
CHECKPOINT;
"""


def report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def timed(*arguments: str | Path) -> float:
    started = time.monotonic()
    subprocess.run(arguments, check=True, capture_output=True)
    return time.monotonic() - started


def context(folder: Path, number: int, dsn: str) -> Context:
    run = Run(f"20260101-{number:06d}-abcdef", folder / "artifacts" / f"20260101-{number:06d}-abcdef")
    return Context(run=run, prod=Target("PROD", dsn), dev=Target("DEV", ""), phase="backup")


def empty(server: EmbeddedServer, name: str) -> str:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name}".encode())
        admin.execute(f"CREATE DATABASE {name}".encode())
    return server.dsn(name)


def line(name: str, bare: Sequence[float], ours: Sequence[float], more: str) -> None:
    ratio = statistics.median(ours) / statistics.median(bare)
    turns = sorted(own / plain for own, plain in zip(ours, bare, strict=True))
    report(
        f"{name:8} bare {statistics.median(bare):6.2f} s   ours {statistics.median(ours):6.2f} s   ratio {ratio:5.2f}"
        f" (turns {turns[0]:.2f} to {turns[-1]:.2f})   target {TARGET}   {more}"
    )


class Bench:
    """The database, and what was measured: seconds of the bare tools and ours, in turns."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        self.folder = folder
        self.server = server
        self.prod = empty(server, "prod")
        self.dumps: tuple[list[float], list[float]] = ([], [])
        self.restores: tuple[list[float], list[float]] = ([], [])
        self.backups: list[dict[str, Any]] = []

    def fill(self, scale: float) -> None:
        with psycopg.connect(self.prod, autocommit=True) as owner:
            for statement in _MADE.format(tasks=int(150_000 * scale), vectors=int(4_500 * scale)).split(";\n"):
                owner.execute(statement.encode())
            found = owner.execute("SELECT pg_size_pretty(pg_database_size('prod'))").fetchone()
        assert found is not None
        report(f"{found[0]} in the database")

    def turn(self, number: int) -> None:
        """One turn of each, beginning with the other one than last time."""
        here = context(self.folder, number, self.prod)
        for step in (
            self._dump_bare,
            lambda: self._dump_ours(here),
        )[:: -1 if number % 2 else 1]:
            step()
        for step in (
            lambda: self._restore_bare(here),
            lambda: self._restore_ours(here, number),
        )[:: -1 if number % 2 else 1]:
            step()

    def _dump_bare(self) -> None:
        bare = self.folder / "bare"
        shutil.rmtree(bare, ignore_errors=True)
        jobs = form_for(2**40, 0).jobs
        form = ["--format=directory", "--compress=1", "--schema=public", f"--jobs={jobs}", f"--file={bare}"]
        self.dumps[0].append(timed(self.server.bin / "pg_dump", *form, self.prod))

    def _dump_ours(self, here: Context) -> None:
        self.backups.append(phase.run(here, phase.Options(parallel_mb=0)).details["backup"])
        self.dumps[1].append(self.backups[-1]["seconds"]["dump"])

    def _restore_bare(self, here: Context) -> None:
        target = empty(self.server, "bare")
        dump = here.run.artifacts / "backup" / "public.dir"
        listing = here.run.artifacts / "backup" / "restore.list"
        with psycopg.connect(target, autocommit=True) as admin:
            admin.execute("CREATE EXTENSION vector")
        form = [f"--jobs={MOST_JOBS}", "--exit-on-error", f"--use-list={listing}", f"--dbname={target}"]
        self.restores[0].append(timed(self.server.bin / "pg_restore", *form, dump))

    def _restore_ours(self, here: Context, number: int) -> None:
        into = context(self.folder, 100_000 + number, empty(self.server, "ours"))
        options = restore.Options(here.run.id, here.run.artifacts.parent)
        self.restores[1].append(restore.run(into, options).details["restore"]["seconds"]["restore"])


def main(rounds: int, scale: float) -> None:
    with tempfile.TemporaryDirectory() as name, EmbeddedServer(Path(name) / "server") as server:
        bench = Bench(Path(name), server)
        bench.fill(scale)
        for number in range(rounds):
            bench.turn(number)
        last = bench.backups[-1]
        proof = statistics.median(item["seconds"]["proof"] for item in bench.backups)
        line("dump", *bench.dumps, f"{last['format']} of {last['bytes'] / 2**20:.0f} MiB, its proof {proof:.1f} s more")
        line("restore", *bench.restores, f"{last['rows']} rows")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, float(sys.argv[2]) if len(sys.argv) > 2 else 1.0)
