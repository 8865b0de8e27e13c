"""One rebuild in a process of its own, so that its memory and its processor time are the rebuild's and nobody else's.

The process imports everything, says `ready`, waits for a line, rebuilds, and prints what came of it as JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Order:
    """What a rebuilding process is to do. `options` go to phase.Options as they are."""

    dsn: str
    folder: str
    urls: tuple[str, ...]
    model: str
    dimensions: int
    options: dict[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Result:
    """What a rebuild did: seconds as the outcome says, `began` and `ended` by the monotonic clock, and what its process used."""

    rows: int
    missing_after: int
    seconds: float
    began: float
    ended: float
    processor: float
    peak_mb: float
    error: str

    @property
    def rate(self) -> float:
        return self.rows / self.seconds


def rebuild(orders: Sequence[Order]) -> list[Result]:
    """A process for each order, all beginning at the same moment. Raises RuntimeError when one did not do its work."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(order)) for order in orders]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        results = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            out, err = process.communicate()
            if process.returncode:
                raise RuntimeError(f"the rebuilding process ended with {process.returncode}: {err[-2000:]}")
            results.append(Result(**json.loads(out.splitlines()[-1])))
    if problem := next((result.error for result in results if result.error), ""):
        raise RuntimeError(problem)
    return results


@contextmanager
def _process(order: Order) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", __spec__.name if __spec__ else "", json.dumps(asdict(order))]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _peak_mb() -> float:
    """The most memory this process ever had. ru_maxrss would count what its parent had when it was made."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # macOS counts bytes


def main(order: Order) -> Result:
    from archon_align.embedding import phase
    from archon_align.embedding.endpoint import Endpoint

    from .database import context_of

    endpoints = tuple(Endpoint(url, order.model, order.dimensions) for url in order.urls)
    options = phase.Options(endpoints=endpoints, **order.options)  # type: ignore[arg-type]
    context = context_of(order.dsn, Path(order.folder))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        sys.exit("nobody waits for this rebuild any more")
    began, before = time.monotonic(), time.process_time()
    outcome = phase.run(context, options)
    found = outcome.details["embeddings"]
    return Result(
        rows=found["rebuilt"],
        missing_after=found["missing_after"],
        seconds=outcome.seconds,
        began=began,
        ended=time.monotonic(),
        processor=time.process_time() - before,
        peak_mb=_peak_mb(),
        error=str(outcome.error or ""),
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(main(Order(**json.loads(sys.argv[1]))))) + "\n")
