"""What a rebuilt row costs the server and the run, by row: `python -m tests.bench.embeddings.sizes [--rows N] [--index-rows N]`.

The server has PostgreSQL's own defaults for what is measured here, full_page_writes included. Bytes, unless it says otherwise.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import psycopg
from archon_align.database.session import open_session
from archon_align.embedded.server import EmbeddedServer
from archon_align.embedding.work import survey

from . import stub, writer
from .database import TABLE, Database, running
from .figures import say
from .ours import Order, rebuild

DIMENSIONS = 768
_PARTS = f"""
SELECT pg_relation_size('{TABLE}') AS heap, pg_relation_size(reltoastrelid) AS toast,
  pg_total_relation_size('{TABLE}') AS total FROM pg_class WHERE oid = '{TABLE}'::regclass
"""
# Vectors of no structure are the hardest to index; every row has its own.
_RANDOM_VECTORS = f"""
CREATE TABLE vectors AS SELECT n AS id,
  (SELECT array_agg(random() - 0.5) FROM generate_series(1, {DIMENSIONS}) WHERE n > 0)::real[]::vector({DIMENSIONS}) AS embedding
FROM generate_series(1, %s) n
"""


def _parts(database: Database) -> dict[str, int]:
    with psycopg.connect(database.dsn) as admin:
        heap, toast, total = admin.execute(_PARTS).fetchone() or (0, 0, 0)
    return {"heap": heap, "toast": toast, "total": total}


def _wal(database: Database) -> tuple[int, int]:
    """Bytes and full page images written to the log so far."""
    with psycopg.connect(database.dsn, autocommit=True) as admin:
        row = admin.execute("SELECT pg_current_wal_lsn() - '0/0', (SELECT wal_fpi FROM pg_stat_wal)").fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _rebuild(database: Database, options: dict[str, int | float | str]) -> None:
    with stub.running(stub.Model(1, 0, 0)) as endpoint:
        rebuild([Order(database.dsn, str(database.folder), endpoint.urls, stub.MODEL, DIMENSIONS, options)])


def rows_written(database: Database, rows: int, options: dict[str, int | float | str]) -> None:
    """The table before and after, the log, and the run's own files."""
    for images in ("on", "off"):
        database.execute(f"ALTER SYSTEM SET full_page_writes = {images}")
        database.execute("SELECT pg_reload_conf()")
        database.fill(rows)
        before, (log, pages) = _parts(database), _wal(database)
        _rebuild(database, options)
        after, (log_after, pages_after) = _parts(database), _wal(database)
        say(
            f"log (WAL), full_page_writes {images}, right after a checkpoint: {(log_after - log) / rows:.0f} a row,"
            f" {(pages_after - pages) / rows:.2f} page images a row"
        )
    for part in ("heap", "toast", "total"):
        say(f"table, {part}: {before[part] / rows:.0f} a row before, {after[part] / rows:.0f} after")
    width = database.value(f"SELECT avg(pg_column_size(embedding)) FROM {TABLE}")
    inline = database.value(
        f"SELECT count(*) FROM pg_class WHERE oid = '{TABLE}'::regclass AND relpages * 8192 > {rows} * {width}"
    )
    say(
        f"vector({DIMENSIONS}): {width} as stored, {'in the row itself' if inline else 'out of line (TOAST), uncompressed'}"
    )
    freed = after["heap"] - before["heap"]
    say(
        f"old row versions, free for reuse after VACUUM: {freed / rows:.0f} a row; a table that ever had all its rows rewritten does not grow by them"
    )
    artifacts = [path for path in (database.folder / "restore-points").rglob("*") if path.is_file()]
    say(f"the run's restore point: {sum(path.stat().st_size for path in artifacts) / (2 * rows):.2f} a row")


def committed(database: Database) -> None:
    """What the size of a commit is worth."""
    for per_commit in (128, 256, 512, 1024):
        rate = writer.rate(database, 10_240, per_commit=per_commit)
        say(f"writing in commits of {per_commit} rows: {rate:.0f} rows/s, {per_commit / rate * 1000:.0f} ms each")


def indexed_meanwhile(database: Database) -> None:
    """What an index that is there while vectors are written costs; ivfflat on an empty column has one list that takes all."""
    for index, rows in (("", 10_000), ("ivfflat", 10_000), ("hnsw", 4_000)):
        say(
            f"writing {rows} rows, {index or 'no'} index on the column: {writer.rate(database, rows, index):.0f} rows/s"
        )


def counted(database: Database, rows: int) -> None:
    """How fast the rows without embedding are counted, all in memory: what a start does, and with them all filled."""
    for label in ("all filled", "none filled"):
        if label == "none filled":
            database.fill(rows)
        with open_session(database.context, database.context.prod) as session:
            began = time.perf_counter()
            survey(session, DIMENSIONS)
            seconds = time.perf_counter() - began
        say(f"counting what is missing, {label}: {rows / seconds:.0f} rows/s")


def dumped(database: Database, server: EmbeddedServer, rows: int) -> None:
    """As a backup dumps: custom format, compression 1."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "dump"
        command = [str(server.bin / "pg_dump"), "--format=custom", "--compress=1", f"--table={TABLE}", f"--file={file}"]
        began = time.perf_counter()
        subprocess.run([*command, database.dsn], check=True)
        seconds = time.perf_counter() - began
        say(
            f"backup (pg_dump --format=custom --compress=1): {file.stat().st_size / rows:.0f} a row, {rows / seconds:.0f} rows/s"
        )


def indexed(database: Database, rows: Sequence[int]) -> None:
    """An hnsw index with pgvector's defaults: size, memory for its graph, speed with enough of it and without."""
    for count in rows:
        database.execute("DROP TABLE IF EXISTS vectors")
        database.execute(_RANDOM_VECTORS, count)
        for memory in (f"{count * 5}kB", f"{count * 5 // 4}kB"):
            notices: list[str] = []
            with psycopg.connect(database.dsn, autocommit=True) as admin:
                admin.add_notice_handler(lambda notice, notices=notices: notices.append(notice.message_primary or ""))  # type: ignore[misc]
                admin.execute(f"SET maintenance_work_mem = '{memory}'".encode())
                # Everybody's build is measured alike, however many processors there are.
                admin.execute("SET max_parallel_maintenance_workers = 0")
                log, _ = _wal(database)
                backend = psutil.Process(admin.info.backend_pid)
                began, worked = time.perf_counter(), backend.cpu_times()
                admin.execute("CREATE INDEX measured ON vectors USING hnsw (embedding vector_cosine_ops)")
                seconds, after = time.perf_counter() - began, backend.cpu_times()
                processor = after.user + after.system - worked.user - worked.system
            log_after, _ = _wal(database)
            size = database.value("SELECT pg_relation_size('measured')")
            fitted = next((int(found[1]) for text in notices if (found := re.search(r"after (\d+) tuples", text))), 0)
            kilobytes = int(memory.removesuffix("kB"))
            graph = f"full after {fitted} rows, {kilobytes * 1024 / fitted:.0f} of memory a row" if fitted else "enough"
            say(
                f"hnsw (m 16, ef_construction 64), {count} rows, maintenance_work_mem {kilobytes // 1024} MB ({graph}): {seconds:.1f} s"
                f" in one process, {count / processor:.0f} rows per second of its processor time, index {size / count:.0f} a row, log {(log_after - log) / count:.0f} a row"
            )
            database.execute("DROP INDEX measured")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.embeddings.sizes", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rows", type=int, default=10_000, help="rows to rebuild")
    parser.add_argument("--index-rows", type=int, nargs="*", default=[10_000, 40_000], help="rows to index")
    chosen = parser.parse_args()
    settings = {"full_page_writes": "on", "autovacuum": "off", "shared_buffers": "512MB"}
    with tempfile.TemporaryDirectory(prefix="archon-align-bench-") as name, running(Path(name), settings) as database:
        server = EmbeddedServer(Path(name) / "server")
        say(f"{os.cpu_count()} processors; {chosen.rows} rows of about 730 characters")
        rows_written(database, chosen.rows, {})
        dumped(database, server, chosen.rows)
        counted(database, chosen.rows)
        committed(database)
        indexed_meanwhile(database)
        indexed(database, chosen.index_rows)


if __name__ == "__main__":
    main()
