"""The pipeline: a reader's batches → a bounded queue → a few concurrent requests → one writer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue

from .failures import ServiceUnavailable
from .quarantine import Settled
from .reader import Row

# One batch waits for each that is in flight: a request slot never idles while rows are read or written.
_QUEUED_PER_REQUEST = 2


def run_pipeline(
    batches: Iterator[Sequence[Row]],
    settle: Callable[[Sequence[Row]], Settled],
    deliver: Callable[[Settled], None],
    *,
    in_flight: int,
    stall_timeout: float,
    stop: threading.Event,
) -> None:
    """Send every batch through `settle` on `in_flight` threads and hand the results to `deliver` in order of arrival.

    `batches` and `deliver` run on the calling thread, which may therefore use one database session for both.
    Raises what `settle`, `batches` or `deliver` raise, and ServiceUnavailable after `stall_timeout` seconds without
    any result. `stop` is set when it ends; threads that still wait for a reply are left to their own timeouts.
    """
    work: SimpleQueue[Sequence[Row] | None] = SimpleQueue()
    done: SimpleQueue[Settled | BaseException] = SimpleQueue()

    def serve() -> None:
        while (batch := work.get()) is not None and not stop.is_set():
            try:
                done.put(settle(batch))
            except BaseException as error:  # noqa: BLE001 - raised again on the calling thread
                done.put(error)

    # Daemons: a request that hangs must not keep the process from ending.
    for number in range(in_flight):
        threading.Thread(target=serve, name=f"embedding-{number}", daemon=True).start()
    outstanding = 0
    exhausted = False
    try:
        while True:
            while not exhausted and outstanding < in_flight * _QUEUED_PER_REQUEST:
                batch = next(batches, None)
                if batch is None:
                    exhausted = True
                else:
                    work.put(batch)
                    outstanding += 1
            if not outstanding:
                return
            try:
                result = done.get(timeout=stall_timeout)
            except Empty:
                raise ServiceUnavailable(
                    "The rebuild makes no progress.",
                    object_name="embedding service",
                    expected=f"a finished batch within {stall_timeout:g} s",
                    found="none",
                    remedy="Check the load of the embedding service, then run again.",
                    code="embedding_stalled",
                ) from None
            outstanding -= 1
            if isinstance(result, BaseException):
                raise result
            deliver(result)
    finally:
        stop.set()
        for _ in range(in_flight):
            work.put(None)
