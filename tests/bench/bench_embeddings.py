"""Measure the rebuild against a stub of known capacity: `python tests/bench/bench_embeddings.py [rows]`.

Prints throughput ÷ the stub's own capacity (target 0.97 with 1 slot, 0.95 with 4), and the writer alone (8,000 rows/s).
"""

from __future__ import annotations

import asyncio
import base64
import multiprocessing
import resource
import socket
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import psycopg
from archon_align.context import Context, Run
from archon_align.database.run_lock import LOCK_KEYS
from archon_align.database.session import open_session
from archon_align.database.target import Target
from archon_align.embedded.server import EmbeddedServer
from archon_align.embedding import phase
from archon_align.embedding.endpoint import Endpoint
from archon_align.embedding.kinds import KINDS
from archon_align.embedding.tables import find_table, vector_type
from archon_align.embedding.writer import Embedded, Writer
from archon_align.rollback.ledger import Ledger

DIMENSIONS = 768
PER_REQUEST, PER_TEXT = 0.020, 0.001
BATCH = 64
RUN_ID = "20260101-000000-abcdef"
TABLES = f"""
CREATE EXTENSION vector;
CREATE TABLE archon_crawled_pages (id bigserial PRIMARY KEY, url varchar NOT NULL, chunk_number int NOT NULL,
  content text NOT NULL, embedding vector({DIMENSIONS}));
"""
FILL = "INSERT INTO archon_crawled_pages (url, chunk_number, content) SELECT 'u', n, n || repeat(' lorem ipsum', 60) FROM generate_series(1, %s) n"


def report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def serve(listener: socket.socket, slots: int) -> None:
    """An endpoint that takes 20 ms and 1 ms per text while it holds one of `slots`, and nothing else."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    base = np.random.default_rng(1).standard_normal(DIMENSIONS).astype("<f4")
    base /= np.linalg.norm(base)
    made = [base64.b64encode(np.roll(base, shift).tobytes()).decode() for shift in range(DIMENSIONS)]
    held = asyncio.Semaphore(slots)

    async def embed(request: Request) -> Response:
        texts = orjson.loads(await request.body())["input"]
        async with held:
            began = time.perf_counter()
            data = [{"index": n, "embedding": made[zlib.crc32(t.encode()) % DIMENSIONS]} for n, t in enumerate(texts)]
            answer = orjson.dumps({"data": data})
            # The stub's own work is part of its time, so that its capacity is what the model says.
            await asyncio.sleep(max(0.0, PER_REQUEST + PER_TEXT * len(texts) - (time.perf_counter() - began)))
        return Response(answer, media_type="application/json")

    app = Starlette(routes=[Route("/v1/embeddings", embed, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    server.run(sockets=[listener])


@contextmanager
def stub(slots: int) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.get_context("fork").Process(target=serve, args=(listener, slots), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        process.terminate()
        process.join()
        listener.close()


def rebuild_ratio(context: Context, slots: int, rows: int) -> None:
    with psycopg.connect(context.prod.dsn, autocommit=True) as admin:
        admin.execute("TRUNCATE archon_crawled_pages")
        admin.execute(FILL, (rows,))
        admin.execute("VACUUM ANALYZE archon_crawled_pages")
    capacity = slots * BATCH / (PER_REQUEST + PER_TEXT * BATCH)
    with stub(slots) as url:
        endpoint = Endpoint(url, "stub", DIMENSIONS)
        outcome = phase.run(context, phase.Options(endpoint, batch_texts=BATCH, in_flight=2 * slots))
    found = outcome.details["embeddings"]
    if outcome.error or found["missing_after"]:
        raise SystemExit(str(outcome.error or found))
    report(
        f"rebuild, {slots} slot(s): {rows} rows, {found['rows_per_second']:.0f} rows/s of {capacity:.0f},"
        f" ratio {found['rows_per_second'] / capacity:.3f}"
    )


def writer_alone(context: Context, rows: int) -> None:
    with psycopg.connect(context.prod.dsn, autocommit=True) as admin:
        admin.execute("TRUNCATE archon_crawled_pages")
        admin.execute(FILL, (rows,))
        admin.execute("VACUUM ANALYZE archon_crawled_pages")
    vectors = np.random.default_rng(2).standard_normal((1024, DIMENSIONS)).astype(np.float32)
    with open_session(context, context.prod) as session:
        vector = vector_type(session)
        vector.register(session)
        found = find_table(session, KINDS[0], vector)
        assert found is not None
        hashes = psycopg.sql.SQL("SELECT page.id, {} AS text_hash FROM {} AS page ORDER BY id").format(
            found.text_hash, found.table.identifier
        )
        read = session.rows(hashes)
        ledger = Ledger(context)
        ledger.begin(session)
        writer = Writer(session, found, vector, ledger)
        started = time.perf_counter()
        for start in range(0, rows, 512):
            batch = read[start : start + 512]
            written = writer.write([Embedded(r["id"], r["text_hash"], vectors[n % 1024]) for n, r in enumerate(batch)])
            assert written == len(batch)
        seconds = time.perf_counter() - started
    report(f"writer alone: {rows} rows, {rows / seconds:.0f} rows/s")


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 6_400
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "server") as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(TABLES)
        context = Context(
            run=Run(RUN_ID, Path(folder)), prod=Target("PROD", server.dsn()), dev=Target("DEV", ""), phase="embeddings"
        )
        context = replace(context, statement_timeout=60.0)
        with psycopg.connect(server.dsn(), autocommit=True, application_name=f"align keeper {RUN_ID}") as keeper:
            keeper.execute("SELECT pg_advisory_lock(%s, %s)", LOCK_KEYS)
            writer_alone(context, 20_000)
            for slots in (1, 4):
                rebuild_ratio(context, slots, rows * slots)
    report(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
