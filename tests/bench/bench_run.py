"""Measure whole runs on a lab of its own: `python tests/bench/bench_run.py [repetitions]`.

Prints wall and CPU seconds of a full run, a run that finds nothing to do, and a check, each the best of some repetitions.
CPU counts the playbook, its modules and their programs, but no servers and no keeper (they are detached). A busy or throttled machine stretches
both; what a bare Python process costs at the same time tells by how much, and the last column is the quotient.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(sys.executable)
REPETITIONS = 2
YARDSTICK = "sum(i * i % 7 for i in range(2_000_000))"


@dataclass(frozen=True)
class Kind:
    """One kind of run: the seconds it may take, and how it must end. `broken` asks for the lab's start state before it."""

    name: str
    target: float
    arguments: tuple[str, ...] = ()
    broken: bool = False
    result: str = "changed"


KINDS = (
    Kind("check", 15.0, ("--check",), broken=True, result="drift"),
    Kind("full", 25.0, broken=True),
    Kind("no-op", 15.0, result="aligned"),
)


@dataclass(frozen=True)
class Measured:
    """Seconds of one command: wall, CPU, and CPU of the yardstick just before it."""

    wall: float
    cpu: float
    yardstick: float


def report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command: Sequence[str | Path], environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds. Stops the benchmark with the command's own words when it fails."""
    cpu, began = cpu_of_children(), time.monotonic()
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    wall = time.monotonic() - began
    if ended.returncode:
        sys.exit(f"bench: {' '.join(map(str, command))} failed\n{(ended.stdout + ended.stderr)[-4000:]}")
    return wall, cpu_of_children() - cpu


@contextmanager
def lab() -> Iterator[tuple[dict[str, str], Path]]:
    """A lab of this benchmark's own: the environment that names it, and the folder for its artifacts."""
    with tempfile.TemporaryDirectory(prefix="archon-align-bench-") as folder:
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ARCHON_LAB_FOLDER": str(Path(folder) / "lab"),
        }
        try:
            run([PYTHON, "-m", "lab", "up"], environment)
            yield environment, Path(folder) / "artifacts"
        finally:
            run([PYTHON, "-m", "lab", "remove"], environment)


def measure(kind: Kind, environment: dict[str, str], artifacts: Path) -> Measured:
    if kind.broken:
        run([PYTHON, "-m", "lab", "reset"], environment)
    _, yardstick = run([PYTHON, "-c", YARDSTICK], environment)
    playbook = str(PYTHON.with_name("ansible-playbook"))
    root = f"archon_artifacts_root={artifacts}"
    wall, cpu = run([playbook, "align.yml", "-e", root, *kind.arguments], environment)
    found = json.loads((artifacts / "latest" / "report.json").read_bytes())["result"]
    if found != kind.result:
        sys.exit(f"bench: the {kind.name} run ended {found}, not {kind.result}")
    return Measured(wall, cpu, yardstick)


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else REPETITIONS
    with lab() as (environment, artifacts):
        report(f"{'run':<8}{'wall s':>8}{'target':>8}{'CPU s':>8}{'yardstick s':>13}{'CPU ÷ yardstick':>17}")
        for kind in KINDS:
            best = min((measure(kind, environment, artifacts) for _ in range(repetitions)), key=lambda one: one.cpu)
            report(
                f"{kind.name:<8}{best.wall:>8.1f}{kind.target:>8.0f}{best.cpu:>8.1f}{best.yardstick:>13.2f}"
                f"{best.cpu / best.yardstick:>17.0f}"
            )
        _, up = run([PYTHON, "-m", "lab", "up"], environment)
        report(f"lab up, when it is up already: {up:.1f} s CPU")


if __name__ == "__main__":
    main()
