"""The pool: every endpoint's lane takes batches from one queue as fast as it answers them, so that each does its share."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from .client import EmbeddingClient, Identity
from .failures import RequestRejected, ServiceUnavailable, ServiceUnusable
from .jobs import Job, Settled
from .lane import OTHER_MODEL, Lane, Manner
from .progress import endpoints_text
from .quarantine import Quarantined
from .reader import Row
from .same_model import require_same_model
from .vectors import Vectors
from .writer import Embedded

# Batches that wait for a lane: enough that none idles while the next rows are read.
_WAITING = 4
_TICK = 0.5
# A row is to blame when it was refused so often alone.
_ALONE = 4


class Pool:
    """Endpoints, by a client each, that embed rows and answer questions, on threads of their own; `prefix` stands before each row's text.

    What becomes of rows arrives in `results`, and so does whatever ends the work. No row is charged for what is an
    endpoint's failure: its batch goes to whoever takes it next.
    """

    def __init__(self, clients: Sequence[EmbeddingClient], manner: Manner, *, stall_timeout: float) -> None:
        self.prefix = ""
        self.results: SimpleQueue[Settled | BaseException] = SimpleQueue()
        self.lanes = [Lane(number, client, manner) for number, client in enumerate(clients, 1)]
        self._stall_timeout = stall_timeout
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._unsettled = 0
        self.stopped = False
        self._reference: Vectors | None = None
        self._moved = time.monotonic()
        self._said = ""

    def put(self, rows: Sequence[Row], seconds: float) -> bool:
        """Have `rows` embedded; False when there was no room for them within `seconds`, or the pool was stopped."""
        job = Job([self.prefix + row.text for row in rows], rows)
        with self._changed:
            if not self._changed.wait_for(lambda: self.stopped or self._has_room(), seconds) or self.stopped:
                return False
            self._unsettled += 1
            self._jobs.append(job)
            self._wake()
        return True

    def _has_room(self) -> bool:
        return len(self._jobs) < _WAITING and self._unsettled < self._room()

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._unsettled

    def _room(self) -> int:
        """Batches that may be on their way at a time, those included that wait to be written: memory stays flat."""
        return 2 * sum(lane.allowed for lane in self.lanes) + 2 * _WAITING

    def settled(self) -> None:
        """Somebody has dealt with one of the results."""
        with self._changed:
            self._unsettled -= 1
            self._moved = time.monotonic()
            self._changed.notify_all()

    def touch(self) -> None:
        """There is a good reason why nothing is embedded at the moment."""
        self._moved = time.monotonic()

    def ask(self, texts: Sequence[str], tick: Callable[[], None]) -> Vectors:
        """The vectors of `texts`, by whichever endpoint takes them; waits out their failures, and calls `tick` meanwhile.

        Raises ServiceUnavailable (after the stall timeout), ServiceUnusable or RequestRejected.
        """
        if not texts:
            raise ValueError("no texts")
        job = Job(texts, reply=SimpleQueue())
        assert job.reply is not None
        self.touch()
        with self._changed:
            self._jobs.appendleft(job)
            self._wake()
        while True:
            try:
                answer = job.reply.get(timeout=_TICK)
            except Empty:
                tick()
                self.require_movement()
                continue
            self.touch()
            if isinstance(answer, Exception):
                raise answer
            return answer

    def require_movement(self) -> None:
        """Raise ServiceUnavailable when nothing has been embedded for the stall timeout, ServiceUnusable when no endpoint is left."""
        lost = [lane.off for lane in self.lanes if lane.off is not None]
        if len(lost) == len(self.lanes):
            raise lost[0]
        if time.monotonic() - self._moved < self._stall_timeout:
            return
        failures = [lane.last_failure for lane in self.lanes if lane.last_failure is not None]
        if not failures:
            raise ServiceUnavailable(
                "The rebuild makes no progress.",
                object_name=", ".join(lane.endpoint.base_url for lane in self.lanes),
                expected=f"an answer within {self._stall_timeout:g} s (archon_embeddings_stall_timeout)",
                found="none",
                remedy="Check the load of the embedding service, and that no other worker stands still, then run again.",
                code="embedding_stalled",
            )
        first = failures[0]
        others = [f"{one.object_name}: {one.found}" for one in failures[1:]]
        raise ServiceUnavailable(
            first.what,
            object_name=first.object_name,
            expected=first.expected,
            found="; ".join([f"{first.found}, for {self._stall_timeout:g} s", *others]),
            remedy=first.remedy,
            code=first.code,
        )

    def _say(self, text: str) -> None:
        self._said = text
        self.touch()

    def text(self) -> str:
        """What the endpoints are at, in the few bytes that Session.progress has: their states, or what one of them says."""
        return self._said or endpoints_text([lane.state for lane in self.lanes])

    def identities(self) -> list[tuple[Lane, Identity]]:
        """What each endpoint that took part says of itself now, beside what it said in the beginning (lane.identity)."""
        return [(lane, lane.client.identity()) for lane in self.lanes if lane.introduced and lane.off is None]

    def stop(self) -> None:
        """Take no more batches. Threads that wait for an answer are left to their own timeouts."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """`stop`, and close the clients."""
        self.stop()
        for lane in self.lanes:
            lane.client.close()

    def _wake(self) -> None:
        """Threads for what each lane may do now. Daemons: a request that hangs must not keep the process from ending."""
        for lane in self.lanes:
            while not self.stopped and lane.off is None and lane.threads < lane.allowed:
                lane.threads += 1
                name = f"embedding-{lane.number}-{lane.threads}"
                threading.Thread(target=self._serve, args=(lane,), name=name, daemon=True).start()
        self._changed.notify_all()

    def _serve(self, lane: Lane) -> None:
        while (job := self._take(lane)) is not None:
            try:
                self._process(lane, job)
            except Exception as error:  # noqa: BLE001 - raised again on the calling thread
                (job.reply or self.results).put(error)
            finally:
                with self._changed:
                    lane.active -= 1
                    self._wake()

    def _take(self, lane: Lane) -> Job | None:
        with self._changed:
            while not self.stopped and lane.off is None:
                if lane.active < lane.allowed and self._jobs and not lane.breaker.pause:
                    lane.active += 1
                    self._changed.notify_all()
                    # Whoever has yet to introduce itself may hang over it, and is given nothing that others can do.
                    return self._jobs.popleft() if lane.introduced else Job([])
                self._changed.wait(lane.breaker.pause or _TICK)
            return None

    def begin(self, seconds: float, tick: Callable[[], None]) -> None:
        """Have every endpoint introduce itself, and wait for all that answer within `seconds`, before any row is sent.

        Raises ServiceUnusable when two of them give different vectors: nobody can say which is right. One that comes
        later and differs from those takes no part.
        """
        if len(self.lanes) == 1:
            return
        threads = [threading.Thread(target=self._greet, args=(lane,), daemon=True) for lane in self.lanes]
        for lane, thread in zip(self.lanes, threads, strict=True):
            lane.active += 1
            thread.start()
        deadline = time.monotonic() + seconds
        for thread in threads:
            while thread.is_alive() and time.monotonic() < deadline:
                thread.join(_TICK)
                tick()
        for lane in self.lanes:
            if lane.off is not None and lane.off.code == OTHER_MODEL:
                raise lane.off

    def _greet(self, lane: Lane) -> None:
        try:
            self._process(lane, Job([]))
        except Exception as error:  # noqa: BLE001 - raised again on the calling thread
            self.results.put(error)
        finally:
            with self._changed:
                lane.active -= 1
                self._wake()

    def _process(self, lane: Lane, job: Job) -> None:
        """One batch at one endpoint, whatever comes of it."""
        sent = innocent = False
        try:
            if not job.texts:
                self._introduce(lane)
                return
            if self._reference is not None and lane.wants_proof():
                lane.prove(self._reference)
            if job.suspect:
                lane.require_canary()
                innocent = True
                with self._changed:
                    lane.breaker.succeeded()
            sent = True
            if job.reply is not None:
                job.reply.put(lane.client.embed(job.texts))
                with self._changed:
                    lane.breaker.succeeded()
            else:
                self._embed(lane, job)
        except ServiceUnusable as error:
            self._lose(lane, error, job)
        except ServiceUnavailable as error:
            with self._changed:
                lane.failed(error)
            job.outages += sent and job.reply is None
            if sent and innocent and error.code != "embedding_busy":
                self._isolate(job, error.found)
            else:
                self._again([job])
        except RequestRejected as error:
            self._refused(lane, job, error)

    def _introduce(self, lane: Lane) -> None:
        try:
            found = lane.introduce(self._say, self.touch)
        finally:
            self._said = ""
        with self._changed:
            if self._reference is None:
                self._reference = found
            require_same_model(self._reference, found, lane.client.url)
            lane.introduced = True

    def _embed(self, lane: Lane, job: Job) -> None:
        limit, began = lane.inflight.limit, time.monotonic()
        job.attempts += 1
        answer = lane.embed(job)
        seconds = time.monotonic() - began
        with self._changed:
            lane.answered(job, seconds, limit)
            lane.rows += len(answer.positions)
        rows = [job.rows[position] for position in answer.positions]
        self.results.put(
            Settled(
                [
                    Embedded(row.table, row.id, row.text_hash, vector, lane.number)
                    for row, vector in zip(rows, answer.vectors, strict=True)
                ],
                [_quarantined(job, position, reason) for position, reason in answer.refused.items()],
                {(job.rows[n].table, job.rows[n].id): note for n, note in answer.truncated.items()},
            )
        )

    def _refused(self, lane: Lane, job: Job, error: RequestRejected) -> None:
        """The endpoint is fine otherwise, or else nobody is charged."""
        if job.reply is not None and job.refusals:
            job.reply.put(error)
            return
        try:
            lane.require_canary()
        except ServiceUnavailable as failure:
            with self._changed:
                lane.failed(failure)
            self._again([job])
        except ServiceUnusable as failure:
            self._lose(lane, failure, job)
        else:
            self._isolate(job, f"{error.found} (expected {error.expected})")

    def _isolate(self, job: Job, reason: str) -> None:
        """Try the batch once more, then its halves; a row that is refused alone again and again, while a harmless text succeeds, is to blame."""
        job.refusals += 1
        self.touch()
        if job.refusals == 1:
            self._again([job])
        elif len(job.rows) == 1 and job.refusals < _ALONE:
            # Whatever waits comes first, so that a bad moment of the service passes.
            with self._changed:
                self._jobs.append(job)
                self._changed.notify_all()
        elif len(job.rows) > 1:
            with self._changed:
                self._unsettled += 1
            self._again(job.halves())
        else:
            self.results.put(Settled(quarantined=[_quarantined(job, 0, reason)]))

    def _lose(self, lane: Lane, error: ServiceUnusable, job: Job) -> None:
        with self._changed:
            passing = lane.mistaken(error)
            if passing is not None:
                lane.failed(passing)
            else:
                lane.off = error
        if all(one.off is not None for one in self.lanes):
            self.results.put(error)
        self._again([job])

    def _again(self, jobs: Sequence[Job]) -> None:
        """Put jobs to where they are taken next; an introduction is nobody else's."""
        with self._changed:
            self._jobs.extendleft(job for job in reversed(jobs) if job.texts)
            self._changed.notify_all()


def _quarantined(job: Job, position: int, reason: str) -> Quarantined:
    row = job.rows[position]
    return Quarantined(row.table, row.id, reason, job.attempts)
