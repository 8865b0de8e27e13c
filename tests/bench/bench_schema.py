"""Measure the schema comparison beside migradiff: `python tests/bench/bench_schema.py [TABLES...]` (default: 30 1000 5000).

For each number of tables it makes two databases on an embedded server, all tables linked in one foreign-key chain, PROD different in
one of ten, and lets both tools compare them, each time in a process of its own; ours compares two equal databases besides.

work     seconds to inspect, compare and plan, measured inside the process; migradiff's two connections are in it, ours are not
process  seconds of the whole process: start, connections and all
CPU      seconds of the process and of the server
apply    seconds to execute the plan on a copy of PROD: for ours with its locks and proofs
re-diff  what the tool itself finds there afterwards
dump     facts in which pg_dump of that copy differs from pg_dump of DEV: a witness that belongs to neither
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import schema_pairs as pairs
from archon_align.embedded.server import EmbeddedServer
from archon_align.schema import apply, compare, connect, plan
from archon_align.schema.inspect import inspect_both

ROOT = Path(__file__).resolve().parents[2]
PEER = "migradiff"
PEER_PROGRAM = """
import sys, time, psycopg2, sqlbag
from migra.command import parse_args, run
began = time.perf_counter()
status = run(parse_args(sys.argv[1:]))
sys.stderr.write(f"\\n{time.perf_counter() - began}")
sys.exit(status)
"""
SIZES = (30, 1000, 5000)
TARGETS = {30: 0.3, 1000: 2.0}
REPETITIONS = 5
PATIENCE = 600.0  # seconds for one process
YARDSTICK = "sum(i * i % 7 for i in range(2_000_000))"


def report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# -- in a process of its own -----------------------------------------------------------------------------------------


def compared(current: str, desired: str, *, applied: bool) -> None:
    """Compare, plan and, with `applied`, align `current`; prints the figures as JSON."""
    with connect(current) as prod, connect(desired) as dev:
        began = time.perf_counter()
        here, there = inspect_both(prod, dev, ("public",))
        found = compare(there, here)
        made = plan(found, prod)
        planned = time.perf_counter()
        if applied:
            apply(prod, made, desired=dev)
    figures = {"work": planned - began, "apply": time.perf_counter() - planned, "refused": len(made.refused)}
    figures |= {"differences": len(found.differences), "statements": len(made.statements)}
    sys.stdout.write(json.dumps(figures))


# -- processes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One process: seconds of all of it, CPU seconds with the server's, peak memory in MB, what it wrote and its exit status."""

    wall: float
    cpu: float
    peak: float
    output: str
    errors: str
    status: int


def server_cpu(server: EmbeddedServer) -> float:
    """CPU seconds of the server, of its present sessions and of those that have ended."""
    process = psutil.Process(server.pid())
    ended = process.cpu_times()
    present = [one.cpu_times() for one in (process, *process.children())]
    return float(sum(one.user + one.system for one in present) + ended.children_user + ended.children_system)


def run(server: EmbeddedServer, command: Sequence[str | Path]) -> Run:
    before, began = server_cpu(server), time.perf_counter()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        watch = threading.Timer(PATIENCE, process.kill)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        watch.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (output, errors):
            stream.seek(0)
            texts.append(stream.read().decode())
    cpu = usage.ru_utime + usage.ru_stime + server_cpu(server) - before
    return Run(wall, cpu, usage.ru_maxrss / 1024, *texts, process.returncode)


def must(done: Run, *expected: int) -> Run:
    if done.status not in (expected or (0,)):
        sys.exit(f"bench: exit status {done.status}\n{done.output[-3000:]}\n{done.errors[-3000:]}")
    return done


def yardstick() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", YARDSTICK], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# -- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What one tool did with one pair of databases."""

    tool: str
    pair: str
    works: Sequence[float]
    runs: Sequence[Run]
    statements: str
    applied: str = "-"
    left: str = "-"
    dump: str = "-"

    def line(self) -> str:
        walls = [one.wall for one in self.runs]
        return (
            f"{self.pair:<18}{self.tool:<11}{min(self.works):>8.2f} /{statistics.median(self.works):>6.2f}"
            f"{min(walls):>9.2f} /{statistics.median(walls):>6.2f}{min(one.cpu for one in self.runs):>8.2f}"
            f"{max(one.peak for one in self.runs):>8.0f}{self.statements:>12}{self.applied:>8}{self.left:>14}{self.dump:>6}"
        )


HEADING = (
    f"{'tables, pair':<18}{'tool':<11}{'work s min / med':>16}{'process min / med':>17}{'CPU s':>8}{'MB':>8}{'statements':>12}"
    f"{'apply s':>8}{'re-diff':>14}{'dump':>6}"
)


class Bench:
    """A server with the pairs on it, and both tools."""

    def __init__(self, server: EmbeddedServer, peer: Path) -> None:
        self.server = server
        self.peer = peer

    def dsn(self, database: str) -> str:
        return self.server.dsn(database, pairs.OWNER)

    def _ours(self, current: str, desired: str, *, applied: bool = False) -> Run:
        what = "apply" if applied else "compare"
        return must(run(self.server, [sys.executable, __file__, what, self.dsn(current), self.dsn(desired)]))

    def ours(self, tables: int, prod: str, pair: str, repetitions: int) -> Figures:
        dev = f"dev_{tables}"
        runs = [self._ours(prod, dev) for _ in range(repetitions)]
        works = [json.loads(one.output)["work"] for one in runs]
        found = json.loads(runs[0].output)
        if found["refused"]:
            sys.exit(f"bench: {found['refused']} refusals")
        figures = Figures("ours", f"{tables} {pair}", works, runs, str(found["statements"]))
        if not found["statements"]:
            return figures
        pairs.copy(self.server, prod, "aligned")
        done = json.loads(self._ours("aligned", dev, applied=True).output)
        left = json.loads(self._ours("aligned", dev).output)["differences"]
        return Figures(
            *(figures.tool, figures.pair, works, runs, figures.statements),
            f"{done['apply']:.2f}",
            f"{left} left" if left else "empty",
            str(self._apart(dev)),
        )

    def _theirs(self, current: str, desired: str) -> Run:
        words = ["--unsafe", "--with-privileges", "--no-rename-detection", "--schema", "public"]
        socket = quote(str(self.server.socket_folder), safe="")
        urls = (f"postgresql+psycopg2://{pairs.OWNER}@/{name}?host={socket}" for name in (current, desired))
        return run(self.server, [self.peer / "bin" / "python", "-c", PEER_PROGRAM, *words, *urls])

    def theirs(self, tables: int, prod: str, pair: str, repetitions: int) -> Figures:
        dev = f"dev_{tables}"
        runs = [must(self._theirs(prod, dev), 0, 2) for _ in range(repetitions)]
        statements = sum(1 for text in runs[0].output.split(";\n") if text.strip())
        dsn = pairs.copy(self.server, prod, "aligned")
        began = time.perf_counter()
        try:
            with psycopg.connect(dsn) as connection:
                connection.execute(runs[0].output.encode())
            left = {0: "empty", 2: "not empty"}.get(self._theirs("aligned", dev).status, "failed")
        except psycopg.Error as error:
            left = f"{type(error).__name__}"
        applied = f"{time.perf_counter() - began:.2f}"
        works = [float(one.errors.rsplit("\n", 1)[-1]) for one in runs]
        apart = str(self._apart(dev))
        return Figures(PEER, f"{tables} {pair}", works, runs, str(statements), applied, left, apart)

    def _apart(self, dev: str) -> int:
        return len(pairs.dumped(self.server, "aligned") ^ pairs.dumped(self.server, dev))


def peer_environment() -> Path:
    """An environment of its own for migradiff, locked and hashed: it needs another PostgreSQL driver."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import setup

    requirements = ROOT / "requirements" / "peer.txt"
    folder = setup.CACHE / f"peer-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    if (folder / "bin" / "migra").exists():
        return Path(folder)
    uv, python = setup.uv(), str(folder / "bin" / "python")
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, str(requirements)],
    ):
        done = setup.run(command)
        if done.returncode:
            sys.exit(f"bench: {PEER} could not be installed: {setup.tail(done)}")
    return Path(folder)


def main(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] in ("compare", "apply"):
        compared(*arguments[1:3], applied=arguments[0] == "apply")
        return
    peer = peer_environment()
    with (
        tempfile.TemporaryDirectory(prefix="archon-align-bench-") as folder,
        EmbeddedServer(Path(folder) / "server", settings=pairs.SETTINGS) as server,
    ):
        pairs.prepare(server)
        bench = Bench(server, peer)
        report(HEADING)
        for tables in map(int, arguments or SIZES):
            repetitions = REPETITIONS if tables <= 1000 else 2
            pairs.make_dev(server, tables)
            prod = pairs.make_prod(server, tables)
            ours = bench.ours(tables, prod, "10% differ", repetitions)
            report(ours.line())
            theirs = bench.theirs(tables, prod, "10% differ", 1 if tables > 1000 else repetitions)
            report(theirs.line())
            same = pairs.copy_of_dev(server, tables)
            report(bench.ours(tables, same, "equal", repetitions).line())
            ratio = statistics.median(theirs.works) / statistics.median(ours.works)
            target = f", target {TARGETS[tables]:g} s" if tables in TARGETS else ""
            report(
                f"{tables} tables: {PEER} ÷ ours = {ratio:.1f}; {min(ours.works) / tables * 1000:.2f} ms and"
                f" {max(one.peak for one in ours.runs) / tables:.3f} MB a table{target}; yardstick {yardstick():.2f} s CPU"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
