"""`python -m tests.torture --runs 50 --seed 1`: exit status 0 when every round was survived, 1 if not, 130 when interrupted."""

from __future__ import annotations

import argparse
import logging
import queue
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .report import line, table
from .round import Outcome, play_round
from .scene import Site, Stopped

WORKERS = 2


class Torture:
    """Some workers, each with a lab of its own, that play the rounds of a queue."""

    def __init__(self, runs: int, seed: int, folder: Path) -> None:
        self.stop = threading.Event()
        self.interrupted = False
        self.outcomes: list[Outcome] = []
        self._folder = folder
        self._printing = threading.Lock()
        self._seeds: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(runs):
            self._seeds.put(seed + number)

    def interrupt(self, *_: object) -> None:
        """Stop (signal handler)."""
        self.interrupted = True
        self.stop.set()

    def work(self, worker: int) -> None:
        """Play rounds until there are none left."""
        site: Site | None = None
        try:
            while not self.stop.is_set():
                try:
                    seed = self._seeds.get_nowait()
                except queue.Empty:
                    return
                if site is None:
                    site = Site(self._folder / f"{worker}-{seed}", self.stop)
                    site.up()
                outcome = play_round(site, seed)
                if not outcome.survived:
                    site.keep()
                    outcome.kept, site = self._folder / site.folder.name, None
                self._say(outcome)
        except Stopped:
            return
        finally:
            if site is not None:
                site.remove()

    def _say(self, outcome: Outcome) -> None:
        with self._printing:
            self.outcomes.append(outcome)
            print(line(len(self.outcomes), outcome), flush=True)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="rounds (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="seed of the first round; the next ones follow (default: at random)")
    parser.add_argument("--workers", type=int, default=WORKERS, help="labs side by side (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the labs go (default: a temporary folder)")
    return parser.parse_args(given)


@contextmanager
def stopped_by_signals(torture: Torture) -> Iterator[None]:
    """Ctrl-C ends the rounds that are going on, and nothing keeps running."""
    before = {name: signal.signal(name, torture.interrupt) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        torture.stop.set()
        for name, handler in before.items():
            signal.signal(name, handler)


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    logging.getLogger("httpx").setLevel(
        logging.WARNING
    )  # a library of the lab's vectors switches everybody's messages on
    seed = options.seed if options.seed is not None else secrets.randbelow(10**6)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    torture = Torture(options.runs, seed, folder)
    print(f"{options.runs} rounds from seed {seed}, {options.workers} labs in {folder}", flush=True)
    started = time.monotonic()
    with stopped_by_signals(torture):
        workers = [threading.Thread(target=torture.work, args=(number,)) for number in range(options.workers)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    failed = [outcome.seed for outcome in torture.outcomes if not outcome.survived]
    print(f"\n{table(torture.outcomes)}\n")
    minutes = (time.monotonic() - started) / 60
    print(
        f"{len(torture.outcomes)} rounds in {minutes:.1f} min, {len(failed)} failed"
        + (f": seeds {failed}" if failed else "")
    )
    if not failed:
        folder.rmdir()
    if torture.interrupted:
        return 130
    return 1 if failed or len(torture.outcomes) < options.runs else 0


if __name__ == "__main__":
    sys.exit(main())
