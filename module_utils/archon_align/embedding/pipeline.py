"""The pipeline: a reader's batches → the pool's queue → a few concurrent requests per endpoint → one writer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty

from .jobs import Settled
from .pool import Pool
from .quarantine import Quarantined
from .reader import Reader
from .work import BLANK

# How often the one that waits looks at the clock.
TICK_SECONDS = 0.25
_SHOW_SECONDS = 1.0
_END_SECONDS = 2.0


class _Read(Exception):
    """The reader is through, and so is all that it gave."""


class Feeder:
    """Gives the pool what the reader reads, in a thread: nobody who writes waits for a read, nor a read for a write."""

    def __init__(self, reader: Reader, pool: Pool, show: Callable[[str], None]) -> None:
        self._reader = reader
        self._pool = pool
        self._show = show
        self._shown = ("", 0.0)
        self._thread = threading.Thread(target=self._run, name="embedding-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Wait until the thread has let go of its session; a statement that takes long is cancelled."""
        self._thread.join(TICK_SECONDS)
        if self._thread.is_alive():
            self._reader.cancel()
            self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        try:
            for batch in self._reader.batches():
                self._show_endpoints()
                if not batch:
                    if self._reader.others_go_on():
                        self._pool.touch()
                elif batch[0].blank:
                    blank = Quarantined(batch[0].table, batch[0].id, BLANK)
                    self._pool.results.put(Settled(quarantined=[blank], job=False))
                else:
                    while not self._pool.put(batch, _SHOW_SECONDS):
                        if self._pool.stopped:
                            return
                        self._show_endpoints()
                if self._pool.stopped:
                    return
            self._pool.results.put(_Read())
        except BaseException as error:  # noqa: BLE001 - raised again on the calling thread
            self._pool.results.put(error)

    def _show_endpoints(self) -> None:
        text, now = self._pool.text(), time.monotonic()
        if text != self._shown[0] and now - self._shown[1] > _SHOW_SECONDS:
            self._show(text)
            self._shown = text, now


def run_pipeline(pool: Pool, feeder: Feeder, deliver: Callable[[Settled], None], tick: Callable[[], None]) -> None:
    """Until the reader is through: hand each result to `deliver`, and call `tick` at least every 0.25 s.

    Both run on the calling thread, and so does what they raise. Raises what the reader or an endpoint raises, and ServiceUnavailable after the pool's
    stall timeout without any result.
    """
    feeder.start()
    try:
        while True:
            try:
                result = pool.results.get(timeout=TICK_SECONDS)
            except Empty:
                tick()
                pool.require_movement()
                continue
            if isinstance(result, _Read):
                return
            if isinstance(result, BaseException):
                raise result
            deliver(result)
            if result.job:
                pool.settled()
            tick()
    except BaseException:
        pool.stop()
        raise
    finally:
        feeder.end()
