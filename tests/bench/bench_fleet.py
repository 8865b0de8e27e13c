"""Measure a fleet's wave of 1, 2, 4 and 8 PRODs side by side: `python -m tests.bench.bench_fleet [number of PRODs …]`.

All on this machine: the controller, one PostgreSQL server with all PRODs, another with DEV, one embedding service. Each PROD begins as the
plan found it and goes through all six phases. Prints wall seconds, how many times as much was done per second as with one PROD, what part
of the machine's processors was busy, CPU seconds of the controller (playbook and modules; no servers, no keepers) per PROD, and what a bare
Python process costs at the same time: on a busy or throttled machine that rises with the others.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
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


def measure(fleet: Fleet, number: int) -> tuple[float, float, float, float]:
    """Wall seconds, the share of the machine's processors that was busy, the controller's CPU seconds, and the yardstick's."""
    fleet.build({f"prod-{one}": BROKEN for one in range(number)})
    fleet.write_inventory(common={"archon_fleet_waves": [number]})
    _, yardstick = run([PYTHON, "-c", YARDSTICK], dict(os.environ))
    cpu, before, began = cpu_of_children(), busy(), time.monotonic()
    done = fleet.play()
    wall = time.monotonic() - began
    share = (busy() - before) / (wall * (psutil.cpu_count() or 1))
    if done.returncode or fleet.summary["result"] != "passed":
        sys.exit(f"bench: the fleet of {number} did not pass\n{(done.stdout + done.stderr)[-4000:]}")
    return wall, share, cpu_of_children() - cpu, yardstick


def main() -> None:
    numbers = tuple(int(one) for one in sys.argv[1:]) or NUMBERS
    report(f"{psutil.cpu_count()} processors")
    report(f"{'PRODs':>5}{'wall s':>9}{'s/PROD':>9}{'speed-up':>10}{'busy':>7}{'CPU s/PROD':>12}{'yardstick s':>13}")
    with tempfile.TemporaryDirectory(prefix="archon-align-bench-") as folder:
        lab = Lab(Path(folder) / "lab", archon=False)
        lab.up()
        try:
            first = None
            for number in numbers:
                lab.reset()
                fleet = Fleet(lab, Path(folder) / "lab", Path(folder) / f"artifacts-{number}")
                wall, share, cpu, yardstick = measure(fleet, number)
                fleet.remove()
                first = first or wall / number
                report(
                    f"{number:>5}{wall:>9.1f}{wall / number:>9.1f}{first * number / wall:>10.2f}{share:>7.2f}"
                    f"{cpu / number:>12.1f}{yardstick:>13.2f}"
                )
        finally:
            lab.remove()


if __name__ == "__main__":
    main()
