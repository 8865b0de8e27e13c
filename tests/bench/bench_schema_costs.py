"""Measure what the costs in plans are estimated by: `python tests/bench/bench_schema_costs.py [rows]`.

Prints, for an embedded server with its default settings, each rate beside the one that `schema/costs.py` goes by. An estimate is to
be right within an order of magnitude; change a constant when a machine of today is further off than that.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from archon_align.embedded.server import EmbeddedServer
from archon_align.schema import costs

ROWS = 1_000_000
VECTORS = 4_000
_MADE = """
CREATE EXTENSION vector;
CREATE TABLE parent (id int PRIMARY KEY);
INSERT INTO parent SELECT n FROM generate_series(1, {rows}) n;
CREATE TABLE t (id int, ref int, body text);
INSERT INTO t SELECT n, n, repeat(md5(n::text), 2) FROM generate_series(1, {rows}) n;
CREATE TABLE v AS SELECT o.n AS id, (SELECT array_agg(random() + (i + o.n) * 0) FROM generate_series(1, 768) i)::vector(768) AS e
  FROM generate_series(1, {vectors}) o(n);
CREATE TABLE w AS SELECT id, to_tsvector('simple', repeat(md5(id::text) || ' ', 5)) AS words FROM t LIMIT {rows} / 10;
ANALYZE;
CHECKPOINT;
"""


def report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def database(rows: int) -> Iterator[psycopg.Connection]:
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder)) as server,
        psycopg.connect(server.dsn(), autocommit=True) as connection,
    ):
        connection.execute(_MADE.format(rows=rows, vectors=VECTORS).encode())
        yield connection


def seconds(connection: psycopg.Connection, statement: str) -> float:
    started = time.monotonic()
    connection.execute(statement.encode())
    return time.monotonic() - started


def main(rows: int) -> None:
    with database(rows) as connection:
        found = connection.execute("SELECT pg_table_size('t')").fetchone()
        size = found[0] if found else 0
        fingerprint = "SELECT sum(('x' || substr(md5(ROW(t.*)::text), 1, 16))::bit(64)::bigint) FROM t"
        measured = (
            ("rewrite", "bytes/s", costs.REWRITE_BYTES, size, "ALTER TABLE t ALTER id TYPE bigint"),
            ("b-tree index, integer", "rows/s", costs.INDEX_ROWS, rows, "CREATE INDEX ON t (id)"),
            ("b-tree index, text", "rows/s", costs.INDEX_ROWS, rows, "CREATE INDEX ON t (body)"),
            ("gin index", "rows/s", costs.GIN_ROWS, rows // 10, "CREATE INDEX ON w USING gin (words)"),
            ("hnsw index, 768-d", "rows/s", costs.VECTOR_ROWS, VECTORS, "CREATE INDEX ON v USING hnsw (e vector_cosine_ops)"),
            ("CHECK", "rows/s", costs.VALIDATE_ROWS, rows, "ALTER TABLE t ADD CHECK (length(body) > 3)"),
            ("NOT NULL", "rows/s", costs.VALIDATE_ROWS, rows, "ALTER TABLE t ALTER ref SET NOT NULL"),
            ("foreign key", "rows/s", costs.FOREIGN_KEY_ROWS, rows, "ALTER TABLE t ADD FOREIGN KEY (ref) REFERENCES parent"),
            ("fingerprint", "rows/s", costs.FINGERPRINT_ROWS, rows, fingerprint),
        )  # fmt: skip
        report(f"{'what':24}{'measured':>14}{'estimated by':>16}{'ratio':>8}")
        for what, unit, estimate, amount, statement in measured:
            rate = amount / seconds(connection, statement)
            report(f"{what:24}{rate:14,.0f}{estimate:16,.0f}{rate / estimate:8.1f} {unit}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
