"""Measure a fleet's wave of 1, 2, 4 and 8 PRODs side by side: `python -m tests.bench.bench_fleet [number of PRODs …]`.

All on this machine: the controller, one PostgreSQL server with all PRODs, another with DEV, one embedding service. Each PROD begins as the
plan found it and goes through all six phases. Prints wall seconds, how many times as much was done per second as with one PROD, what part
of the machine's processors was busy, CPU seconds of the controller (playbook and modules; no servers, no keepers) per PROD, the playbook's memory at its
highest, and what a bare Python process costs at the same time: on a busy or throttled machine that rises with the others.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from lab.world import Lab
from tests.bench.bench_run import PYTHON, YARDSTICK, cpu_of_children, report, run
from tests.support.fleet import BROKEN, Fleet

NUMBERS = (1, 2, 4, 8)


def busy() -> float:
    """Processor seconds that this machine has spent on anything."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


@dataclass(frozen=True)
class Measured:
    """Wall seconds, the share of the machine's processors that was busy, the controller's CPU seconds, the yardstick's, and MiB."""

    wall: float
    share: float
    cpu: float
    yardstick: float
    memory: float


def play(fleet: Fleet) -> tuple[int, str, float]:
    """The playbook's exit code, its words, and the most MiB that its own process had."""
    process, memory = fleet.start(), 0
    while process.poll() is None:
        with suppress(psutil.Error):
            memory = max(memory, psutil.Process(process.pid).memory_info().rss)
        time.sleep(0.5)
    return process.returncode, fleet.output, memory / 2**20


def measure(fleet: Fleet, number: int) -> Measured:
    fleet.build({f"prod-{one}": BROKEN for one in range(number)})
    fleet.write_inventory(common={"archon_fleet_waves": [number]})
    _, yardstick = run([PYTHON, "-c", YARDSTICK], dict(os.environ))
    cpu, before, began = cpu_of_children(), busy(), time.monotonic()
    code, words, memory = play(fleet)
    wall = time.monotonic() - began
    share = (busy() - before) / (wall * (psutil.cpu_count() or 1))
    if code or fleet.summary["result"] != "passed":
        sys.exit(f"bench: the fleet of {number} did not pass\n{words[-4000:]}")
    return Measured(wall, share, cpu_of_children() - cpu, yardstick, memory)


def main() -> None:
    numbers = tuple(int(one) for one in sys.argv[1:]) or NUMBERS
    report(f"{psutil.cpu_count()} processors")
    report(
        f"{'PRODs':>5}{'wall s':>9}{'s/PROD':>9}{'speed-up':>10}{'busy':>7}{'CPU s/PROD':>12}{'yardstick s':>13}{'MiB':>6}"
    )
    with tempfile.TemporaryDirectory(prefix="archon-align-bench-") as folder:
        lab = Lab(Path(folder) / "lab", archon=False)
        lab.up()
        try:
            first = None
            for number in numbers:
                lab.reset()
                fleet = Fleet(lab, Path(folder) / "lab", Path(folder) / f"artifacts-{number}")
                one = measure(fleet, number)
                fleet.remove()
                first = first or one.wall / number
                report(
                    f"{number:>5}{one.wall:>9.1f}{one.wall / number:>9.1f}{first * number / one.wall:>10.2f}{one.share:>7.2f}"
                    f"{one.cpu / number:>12.1f}{one.yardstick:>13.2f}{one.memory:>6.0f}"
                )
        finally:
            lab.remove()


if __name__ == "__main__":
    main()
