"""Several worker processes on one table, sharing it by their locks: what they get out of four endpoints of one slot each."""

from __future__ import annotations

from . import stub
from .database import Database
from .figures import say
from .ours import Order, rebuild

# Workers, and the endpoints that each of them has for itself.
SHARES = ((1, 4), (2, 2), (4, 1), (1, 1), (2, 1))


def measure(database: Database, rows_per_endpoint: int, batch: int, options: dict[str, int | float | str]) -> None:
    for workers, endpoints in SHARES:
        rows = rows_per_endpoint * workers * endpoints
        database.fill(rows)
        with stub.running(stub.Model(1), workers * endpoints) as served:
            shares = [served.urls[worker::workers] for worker in range(workers)]
            results = rebuild(
                [
                    Order(
                        database.dsn,
                        str(database.folder),
                        urls,
                        stub.MODEL,
                        served.model.dimensions,
                        {**options, "worker": f"bench{number}"},
                    )
                    for number, urls in enumerate(shares)
                ]
            )
            seen = served.served()
        done = sum(result.rows for result in results)
        if done != rows:
            raise RuntimeError(f"{workers} workers embedded {done} of {rows} rows")
        # From the moment that all were told to go until the last had ended and said so.
        began = min(result.began for result in results)
        seconds = max(result.ended for result in results) - began
        say(
            f"{workers} worker(s) with {endpoints} of {workers * endpoints} endpoints each: {rows} rows, {rows / seconds:.0f} rows/s of"
            f" {served.capacity(batch):.0f}, efficiency {rows / seconds / served.capacity(batch):.3f}; {seen.texts - rows} texts embedded beside the rows; first request after {seen.first - began:.2f} s;"
            f" rows by worker {', '.join(str(result.rows) for result in results)}"
        )
