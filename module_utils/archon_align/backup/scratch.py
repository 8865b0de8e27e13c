"""The server on which a backup is proved: a private one, or one that is named."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Self

from ..embedded.server import EmbeddedServer
from .leftovers import SCRATCH, SERVER, mark
from .outer import Outer

_SETTINGS = {
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "maintenance_work_mem": "256MB",
    "synchronous_commit": "off",
}


class Stopped(Exception):
    """What a scratch server's work in the background ends with when nobody waits for it any more."""


class Scratch:
    """A private server that comes up in the background once it is begun, and is gone after the `with` block.

    Work is done there one piece after the other; with an `outer` server, on that instead.
    """

    def __init__(self, outer: Outer | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{mark()}-")
        self._server = EmbeddedServer(Path(self._folder.name) / SERVER, settings=_SETTINGS)
        self._pool = ThreadPoolExecutor(1)
        self.outer = outer
        self._start: Future[None] | None = None
        self._leaving = Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._pool.shutdown(cancel_futures=True)
        if self.outer:
            self.outer.close()
        self._server.remove()
        self._folder.cleanup()

    @property
    def embedded(self) -> EmbeddedServer:
        """The private server itself, which may not run yet."""
        return self._server

    @property
    def server(self) -> EmbeddedServer | Outer:
        """The server on which the proof is made."""
        return self.outer or self._server

    def begin(self) -> Future[None]:
        """Start the server without waiting for it; once is enough."""
        self._start = self._start or self._pool.submit(self.server.start)
        return self._start

    def work(self, task: Callable[[], None]) -> Future[None]:
        """Do `task` in the background once the server runs. Its error, or the server's, is the future's."""
        running = self.begin()

        def when_it_runs() -> None:
            running.result()
            task()

        return self._pool.submit(when_it_runs)

    def guard(self) -> None:
        """Raise Stopped when the `with` block is being left, so that what works here comes to an end."""
        if self._leaving.is_set():
            raise Stopped
