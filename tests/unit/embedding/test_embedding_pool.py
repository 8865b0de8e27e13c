"""Who is blamed for a refused batch, and how work flows to endpoints that are fast, slow, dead or mistaken."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty

import httpx
import numpy as np
import orjson
import pytest
from archon_align.embedding.breaker import Breaker
from archon_align.embedding.client import EmbeddingClient
from archon_align.embedding.endpoint import Endpoint
from archon_align.embedding.failures import RequestRejected, ServiceUnavailable, ServiceUnusable
from archon_align.embedding.jobs import Settled
from archon_align.embedding.lane import Manner
from archon_align.embedding.pool import Pool
from archon_align.embedding.quarantine import CANARY
from archon_align.embedding.reader import Row
from archon_align.errors import AlignError
from hypothesis import given, settings
from hypothesis import strategies as st

DIMENSIONS = 8
MANNER = Manner("truncate", pull=False, most=8)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archon_align.embedding.breaker.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("archon_align.embedding.breaker.LONGEST_PAUSE", 0.05)


def rows(numbers: Sequence[int]) -> list[Row]:
    return [Row(0, number, f"text {number}", 0, blank=False) for number in numbers]


def vector(text: str, model: int = 0) -> list[float]:
    found = np.random.default_rng([model, *text.encode()]).standard_normal(DIMENSIONS)
    return [float(value) for value in found / np.linalg.norm(found)]


class Service:
    """An endpoint. `answer` may refuse a request by its texts: with a status, or with an exception of httpx."""

    def __init__(
        self,
        answer: Callable[[list[str], int], int | Exception] = lambda _texts, _number: 200,
        *,
        seconds: float = 0.0,
        model: int = 0,
    ) -> None:
        self.answer = answer
        self.seconds = seconds
        self.model = model
        self.requests: list[list[str]] = []
        self.most = self._now = 0
        self._guard = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/embeddings"):
            return httpx.Response(404)
        texts = orjson.loads(request.content)["input"]
        with self._guard:
            self.requests.append(texts)
            number = len(self.requests)
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self.seconds)
        found = self.answer(texts, number)
        with self._guard:
            self._now -= 1
        if isinstance(found, Exception):
            raise found
        if found != 200:
            return httpx.Response(found, json={"error": "EOF"})
        data = [{"index": n, "embedding": vector(text, self.model)} for n, text in enumerate(texts)]
        return httpx.Response(200, json={"data": data})

    @property
    def texts(self) -> int:
        """Texts of rows that it was given."""
        return sum(text.startswith("text ") for texts in self.requests for text in texts)


def pool_of(*services: Service, stall: float = 60.0) -> Pool:
    clients = [
        EmbeddingClient(Endpoint(f"http://127.0.0.1:{number}", "m", DIMENSIONS), transport=httpx.MockTransport(service))
        for number, service in enumerate(services, 1)
    ]
    return Pool(clients, MANNER, stall_timeout=stall)


def drain(pool: Pool, batches: Sequence[Sequence[Row]]) -> Settled:
    """Give the pool `batches` and gather what becomes of them; raises what ends the work."""
    given_away = threading.Event()

    def feed() -> None:
        for batch in batches:
            while not pool.put(batch, 0.1):
                if pool.stopped:
                    return
        given_away.set()

    threading.Thread(target=feed, daemon=True).start()
    embedded, quarantined = [], []
    try:
        while not (given_away.is_set() and pool.idle):
            try:
                result = pool.results.get(timeout=0.02)
            except Empty:
                pool.require_movement()
                continue
            if isinstance(result, BaseException):
                raise result
            embedded += result.embedded
            quarantined += result.quarantined
            pool.settled()
    finally:
        pool.close()
    return Settled(sorted(embedded, key=lambda row: row.id), sorted(quarantined, key=lambda row: row.id))


def refusing(bad: set[str], status: int = 400) -> Callable[[list[str], int], int]:
    return lambda texts, _number: status if bad & set(texts) else 200


@settings(max_examples=25)
@given(st.sets(st.integers(0, 15)), st.integers(1, 16))
def test_exactly_the_bad_rows_are_quarantined(bad: set[int], count: int) -> None:
    pool = pool_of(Service(refusing({f"text {number}" for number in bad})))
    settled = drain(pool, [rows(range(count))])
    assert [row.id for row in settled.quarantined] == [n for n in range(count) if n in bad]
    assert [row.id for row in settled.embedded] == [n for n in range(count) if n not in bad]
    assert all(np.allclose(row.vector, vector(f"text {row.id}"), atol=1e-6) for row in settled.embedded)


@pytest.mark.parametrize("status", [400, 500])
def test_one_bad_row_in_a_batch_costs_few_requests(status: int) -> None:
    service = Service(refusing({"text 37"}, status))
    settled = drain(pool_of(service), [rows(range(64))])
    assert len(settled.embedded) == 63
    assert f"HTTP {status}: EOF" in settled.quarantined[0].reason
    assert settled.quarantined[0].attempts > 3
    assert len(service.requests) <= 40


def test_refusals_by_chance_condemn_nobody() -> None:
    service = Service(lambda texts, number: 500 if number % 7 == 0 and len(texts) > 1 else 200)
    settled = drain(pool_of(service), [rows(range(n, n + 8)) for n in range(0, 160, 8)])
    assert (len(settled.embedded), len(settled.quarantined)) == (160, 0)


def test_a_batch_that_fails_once_is_simply_tried_again() -> None:
    service = Service(lambda _texts, number: 503 if number <= 2 else 200)
    assert len(drain(pool_of(service), [rows(range(3))]).embedded) == 3


def test_a_service_that_refuses_everything_charges_no_row() -> None:
    service = Service(lambda _texts, number: 400 if number > 4 else 200)  # once it is introduced
    with pytest.raises(ServiceUnavailable, match="refuses everything"):
        drain(pool_of(service, stall=1.5), [rows(range(64))])
    assert [CANARY] in service.requests


def test_a_text_that_brings_the_service_down_each_time_is_found() -> None:
    def crash(texts: list[str], _number: int) -> int | Exception:
        return httpx.ReadError("connection reset") if "text 5" in texts else 200

    service = Service(crash)
    settled = drain(pool_of(service), [rows(range(8)), rows(range(8, 16))])
    assert [row.id for row in settled.quarantined] == [5]
    assert len(service.requests) < 60
    assert "connection reset" in settled.quarantined[0].reason
    assert len(settled.embedded) == 15


def test_an_unavailable_service_is_given_up_after_the_stall_timeout() -> None:
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="HTTP 503"):
        drain(pool_of(Service(lambda *_: 503), stall=1.0), [rows(range(3))])
    assert time.monotonic() - began >= 1.0


def test_a_service_that_hangs_is_given_up_by_the_watchdog() -> None:
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="no progress"):
        drain(pool_of(Service(seconds=60), stall=0.3), [rows(range(3))])
    assert time.monotonic() - began < 30


def test_endpoints_share_the_work_by_their_speed() -> None:
    slow, fast = Service(seconds=0.3), Service(seconds=0.03)
    pool = pool_of(slow, fast)
    pool.begin(60, lambda: None)
    settled = drain(pool, [rows([n, n + 1]) for n in range(0, 240, 2)])
    assert len(settled.embedded) == 240
    assert slow.texts + fast.texts == 240, "nobody is embedded twice"
    assert 2 * slow.texts < fast.texts
    assert slow.texts > 0


def test_a_dead_endpoint_is_left_alone_and_the_others_carry_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(f"archon_align.embedding.breaker.{pause}", 600.0)
    dead = Service(lambda *_: httpx.ConnectError("refused"))
    pool = pool_of(dead, Service(seconds=0.005))
    assert len(drain(pool, [rows([n]) for n in range(60)]).embedded) == 60
    assert pool.lanes[0].state == "paused"
    assert len(dead.requests) <= MANNER.most


def test_an_endpoint_that_comes_back_takes_part_again() -> None:
    back = Service(lambda _texts, number: httpx.ConnectError("refused") if number <= 3 else 200, seconds=0.01)
    pool = pool_of(back, Service(seconds=0.1))
    assert len(drain(pool, [rows([n]) for n in range(80)]).embedded) == 80
    assert back.texts > 10
    assert (pool.lanes[0].state, pool.lanes[0].outages) == ("ok", 3)


def test_an_endpoint_with_another_model_takes_no_part() -> None:
    """Whichever is introduced first is the one that the others are held to."""
    pool = pool_of(Service(model=1, seconds=0.01), Service(model=2, seconds=0.01))
    settled = drain(pool, [rows([n]) for n in range(40)])
    off = [lane for lane in pool.lanes if lane.off is not None]
    assert len(off) == 1
    assert off[0].off is not None
    assert off[0].off.code == "embedding_other_model"
    right = 2 if off[0].number == 1 else 1
    assert len(settled.embedded) == 40
    assert all(np.allclose(row.vector, vector(f"text {row.id}", right), atol=1e-6) for row in settled.embedded)


def test_when_every_endpoint_is_unusable_the_work_ends_at_once() -> None:
    with pytest.raises(ServiceUnusable):
        drain(pool_of(Service(lambda *_: 401), Service(lambda *_: 401), stall=60), [rows([1])])


def test_a_single_slot_gets_two_requests_and_no_more() -> None:
    slot = threading.Lock()

    def one_at_a_time(_texts: list[str], _number: int) -> int:
        with slot:
            time.sleep(0.03)
        return 200

    service = Service(one_at_a_time)
    pool = pool_of(service)
    drain(pool, [rows([n]) for n in range(40)])
    assert pool.lanes[0].inflight.limit <= 3
    assert service.most <= 4


def test_a_parallel_service_gets_more() -> None:
    limits = []
    for seconds in (0.03, 0.3, 1.5):  # on a slow machine short answers seem to queue
        pool = pool_of(Service(seconds=seconds))
        drain(pool, [rows([n]) for n in range(100)])
        limits.append(pool.lanes[0].inflight.limit)
        if limits[-1] == MANNER.most:
            return
    pytest.fail(f"limits {limits}")


def test_questions_are_answered_also_while_an_endpoint_fails_at_first() -> None:
    pool = pool_of(Service(lambda _texts, number: 503 if number <= 3 else 200))
    assert np.allclose(pool.ask(["a", "b"], lambda: None), [vector("a"), vector("b")], atol=1e-6)
    pool.close()


def test_whoever_waits_for_an_answer_is_called_meanwhile() -> None:
    pool, waited = pool_of(Service(seconds=0.3)), []
    pool.ask(["a"], lambda: waited.append(time.monotonic()))
    pool.close()
    assert waited


def test_a_refused_question_is_told() -> None:
    pool = pool_of(Service(refusing({"bad"})))
    with pytest.raises(RequestRejected):
        pool.ask(["bad"], lambda: None)
    pool.close()


def test_the_breaker_waits_longer_each_time_and_forgets_when_all_is_well() -> None:
    now = 0.0
    breaker = Breaker(lambda: now)
    waited = []
    for _ in range(12):
        breaker.failed()
        breaker.failed()  # another request that was under way counts as the same failure
        waited.append(breaker.pause)
        now += breaker.pause
    assert all(pause > 0 for pause in waited)
    assert max(waited) <= 0.05
    assert waited[0] < 0.011
    breaker.succeeded()
    assert (breaker.open, breaker.pause) == (False, 0.0)


def test_a_model_that_changes_behind_an_outage_is_found_before_another_row_is_sent() -> None:
    service = Service()

    def change(_texts: list[str], number: int) -> int:
        service.model = int(number > 10)
        return 503 if 10 <= number <= 11 else 200

    service.answer = change
    with pytest.raises(AlignError, match="model changed while the rebuild ran") as raised:
        drain(pool_of(service), [rows([n]) for n in range(60)])
    assert "archon_embeddings_scope: stale" in raised.value.remedy
    changed = [texts for texts in service.requests[11:] if any(text.startswith("text ") for text in texts)]
    assert len(changed) <= MANNER.most, "those that were on their way"


def test_a_model_that_changes_quietly_is_found_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archon_align.embedding.lane._PROVED_SECONDS", 0.1)
    service = Service(seconds=0.01)

    def change(_texts: list[str], number: int) -> int:
        service.model = int(number > 20)
        return 200

    service.answer = change
    with pytest.raises(AlignError, match="model changed while the rebuild ran"):
        drain(pool_of(service), [rows([n]) for n in range(400)])


def test_endpoints_that_differ_end_the_work_before_it_begins() -> None:
    slow, fast = Service(model=1, seconds=0.05), Service(model=2)
    pool = pool_of(slow, fast)
    with pytest.raises(ServiceUnusable, match="do not give the same vectors"):
        pool.begin(60, lambda: None)
    pool.close()
    assert slow.texts == fast.texts == 0


def test_an_endpoint_that_hangs_does_not_keep_the_others_from_beginning() -> None:
    pool = pool_of(Service(seconds=120), Service())
    began = time.monotonic()
    pool.begin(2.0, lambda: None)
    assert time.monotonic() - began < 60
    assert len(drain(pool, [rows([1])]).embedded) == 1


def test_a_refusal_by_chance_is_no_answer_to_a_question() -> None:
    asked: list[list[str]] = []

    def once(texts: list[str], _number: int) -> int:
        asked.append(texts)
        return 500 if asked.count(["a"]) == 1 and texts == ["a"] else 200

    pool = pool_of(Service(once))
    assert pool.ask(["a"], lambda: None).shape == (1, DIMENSIONS)
    pool.close()


@pytest.mark.parametrize("status", [404, 401, 301])
def test_one_odd_answer_does_not_end_a_proven_endpoint(status: int) -> None:
    service = Service(lambda _texts, number: status if number == 20 else 200)
    pool = pool_of(service)
    assert len(drain(pool, [rows([n]) for n in range(60)]).embedded) == 60
    assert (pool.lanes[0].state, pool.lanes[0].outages) == ("ok", 1)


def test_an_endpoint_that_stays_odd_is_given_up() -> None:
    with pytest.raises(ServiceUnusable):
        drain(
            pool_of(Service(lambda _texts, number: 401 if number >= 20 else 200), stall=60),
            [rows([n]) for n in range(60)],
        )


def test_refusals_by_chance_condemn_no_row_that_travels_alone() -> None:
    dice = random.Random(3)  # noqa: S311 - a simulation
    service = Service(lambda texts, _number: 500 if texts[0].startswith("text ") and dice.random() < 0.3 else 200)
    settled = drain(pool_of(service), [rows([n]) for n in range(150)])
    assert len(settled.quarantined) <= 5
    assert len(settled.embedded) + len(settled.quarantined) == 150
