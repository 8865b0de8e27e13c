"""How many requests an endpoint gets, against simulated servers: no clock, no network."""

from __future__ import annotations

import heapq
import random

from archon_align.embedding.inflight import InFlight
from hypothesis import given
from hypothesis import strategies as st


class Server:
    """Serves `slots` requests at a time, `seconds` each, and keeps whoever comes in a queue. Its clock is its own."""

    def __init__(self, slots: int, seconds: float = 0.08, jitter: float = 0.0) -> None:
        self.seconds = seconds
        self.jitter = jitter
        self.now = 0.0
        self.busy = 0.0
        self._free = [0.0] * slots
        self._answers: list[tuple[float, float, int]] = []

    def feed(self, inflight: InFlight, count: int) -> None:
        """Keep as many requests in flight as the limit says until `count` were answered."""
        dice = random.Random(7)  # noqa: S311 - a simulation
        answered = 0
        while answered < count:
            while len(self._answers) < inflight.limit:
                began = max(self.now, heapq.heappop(self._free))
                cost = self.seconds * (1 + dice.uniform(0, self.jitter))
                heapq.heappush(self._free, began + cost)
                heapq.heappush(self._answers, (began + cost, self.now, inflight.limit))
                self.busy += cost
            done, sent, limit = heapq.heappop(self._answers)
            self.now = done
            inflight.answered(1000, done - sent, limit)
            answered += 1


@given(st.integers(1, 24), st.floats(0.001, 5), st.floats(0, 0.1))
def test_every_slot_is_used_and_few_wait(slots: int, seconds: float, jitter: float) -> None:
    inflight = InFlight(64)
    Server(slots, seconds, jitter).feed(inflight, 400)
    assert slots + 1 <= inflight.limit <= 3 * slots


def test_a_single_slot_is_given_two() -> None:
    inflight = InFlight(16)
    Server(1).feed(inflight, 100)
    assert inflight.limit == 2


def test_the_limit_is_found_within_a_few_rounds() -> None:
    inflight = InFlight(32)
    server = Server(8)
    server.feed(inflight, 40)
    assert 12 <= inflight.limit <= 16
    assert server.now < 10 * server.seconds


@given(st.integers(1, 5), st.integers(1, 30))
def test_no_more_than_is_allowed(most: int, slots: int) -> None:
    inflight = InFlight(most)
    Server(slots).feed(inflight, 200)
    assert 1 <= inflight.limit <= most


def test_a_server_that_becomes_slower_is_kept_busy_all_the_same() -> None:
    inflight = InFlight(32)
    server = Server(4)
    server.feed(inflight, 100)
    server.seconds *= 3
    server.feed(inflight, 100)
    assert inflight.limit >= 5


def test_a_slow_first_answer_as_a_model_is_loaded_misleads_only_for_a_while() -> None:
    inflight = InFlight(32)
    inflight.answered(1000, 20.0, inflight.limit)
    Server(4).feed(inflight, 100)
    assert 5 <= inflight.limit <= 10


def test_overload_halves_and_recovers() -> None:
    inflight = InFlight(32)
    server = Server(8)
    server.feed(inflight, 200)
    before = inflight.limit
    inflight.overloaded()
    assert inflight.limit == before // 2
    server.feed(inflight, 300)
    assert inflight.limit >= 8
    for _ in range(9):
        inflight.overloaded()
    assert inflight.limit == 1
