"""Who is blamed for a refused batch, and how work flows through the threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import httpx
import numpy as np
import orjson
import pytest
from archon_align.embedding.client import EmbeddingClient
from archon_align.embedding.endpoint import Endpoint
from archon_align.embedding.failures import ServiceUnavailable, ServiceUnusable
from archon_align.embedding.pipeline import run_pipeline
from archon_align.embedding.quarantine import CANARY, PatientClient, Settled
from archon_align.embedding.reader import Limits, Row, batches
from archon_align.embedding.verification import require_order
from hypothesis import given
from hypothesis import strategies as st


def rows(count: int) -> list[Row]:
    return [Row(number, f"text {number}", 0, blank=False) for number in range(count)]


class Service:
    """Refuses requests that hold a bad text; `fail_first` requests get 503 before that."""

    def __init__(self, bad: set[str], *, fail_first: int = 0, refuse_all: bool = False) -> None:
        self.bad = bad
        self.fail_first = fail_first
        self.refuse_all = refuse_all
        self.requests: list[list[str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        texts = orjson.loads(request.content)["input"]
        self.requests.append(texts)
        if len(self.requests) <= self.fail_first:
            return httpx.Response(503)
        if self.refuse_all or self.bad & set(texts):
            return httpx.Response(400, json={"error": "EOF"})
        data = [{"index": n, "embedding": [1.0, 0.0]} for n, _ in enumerate(texts)]
        return httpx.Response(200, json={"data": data})


def patient(service: Service, pauses: Sequence[float] = (0.0, 0.0)) -> PatientClient:
    client = EmbeddingClient(Endpoint("http://127.0.0.1:1", "m", 2), transport=httpx.MockTransport(service))
    return PatientClient(client, pauses, threading.Event())


@given(st.sets(st.integers(0, 15)), st.integers(1, 16))
def test_exactly_the_bad_rows_are_quarantined(bad: set[int], count: int) -> None:
    settled = patient(Service({f"text {number}" for number in bad})).settle(rows(count))
    assert [row.id for row in settled.quarantined] == [n for n in range(count) if n in bad]
    assert [row.id for row in settled.embedded] == [n for n in range(count) if n not in bad]


def test_one_bad_row_in_a_batch_costs_few_requests() -> None:
    service = Service({"text 37"})
    settled = patient(service).settle(rows(64))
    assert len(settled.embedded) == 63
    assert "HTTP 400: EOF" in settled.quarantined[0].reason
    assert len(service.requests) <= 20


def test_a_batch_that_fails_once_is_simply_tried_again() -> None:
    service = Service(set(), fail_first=2)
    assert len(patient(service).settle(rows(3)).embedded) == 3
    assert len(service.requests) == 3


def test_a_service_that_refuses_everything_charges_no_row() -> None:
    service = Service(set(), refuse_all=True)
    with pytest.raises(ServiceUnavailable, match="refuses everything"):
        patient(service).settle(rows(64))
    assert [CANARY] in service.requests
    assert len(service.requests) <= 5


def test_an_unavailable_service_is_given_up_after_the_pauses() -> None:
    service = Service(set(), fail_first=99)
    with pytest.raises(ServiceUnavailable, match="HTTP 503"):
        patient(service).settle(rows(3))
    assert len(service.requests) == 3


def test_waiting_ends_when_the_work_was_given_up() -> None:
    client = patient(Service(set(), fail_first=99), pauses=(30.0,))
    client._stop.set()
    started = time.monotonic()
    with pytest.raises(ServiceUnavailable):
        client.settle(rows(1))
    assert time.monotonic() - started < 1


def _positional(request: httpx.Request, *, reverse: bool = False, constant: bool = False) -> httpx.Response:
    texts = orjson.loads(request.content)["input"]
    vectors = []
    for text in texts:
        vector = np.random.default_rng(0 if constant else len(text)).standard_normal(8)
        vectors.append((vector / np.linalg.norm(vector)).tolist())
    if reverse:
        vectors.reverse()
    return httpx.Response(200, json={"data": [{"index": n, "embedding": v} for n, v in enumerate(vectors)]})


@pytest.mark.parametrize(
    ("fault", "words"), [({"reverse": True}, "alone and among others"), ({"constant": True}, "one vector for all")]
)
def test_a_service_that_mixes_up_texts_is_found_before_anything_is_written(fault: dict[str, bool], words: str) -> None:
    endpoint = Endpoint("http://127.0.0.1:1", "m", 8)
    bad = EmbeddingClient(endpoint, transport=httpx.MockTransport(lambda request: _positional(request, **fault)))
    with pytest.raises(ServiceUnusable, match=words):
        require_order(PatientClient(bad, (), threading.Event()).embed, "url")
    good = EmbeddingClient(endpoint, transport=httpx.MockTransport(_positional))
    require_order(PatientClient(good, (), threading.Event()).embed, "url")


@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=40),
    st.integers(1, 5),
    st.integers(1, 60),
    st.data(),
)
def test_batches_keep_their_bounds_and_lose_nobody(
    given_rows: list[tuple[int, bool]], texts: int, characters: int, data: st.DataObject
) -> None:
    made = [Row(number, "x" * size, 0, blank) for number, (size, blank) in enumerate(given_rows)]
    skip = data.draw(st.sets(st.integers(0, 40)))
    found = list(batches(iter(made), Limits(texts, characters), skip))
    assert sorted(row.id for batch in found for row in batch) == [row.id for row in made if row.id not in skip]
    for batch in found:
        assert len(batch) <= texts
        assert len(batch) == 1 or sum(len(row.text) for row in batch) <= characters
        assert len(batch) == 1 or not any(row.blank for row in batch)


def _run(
    settle: object, count: int = 10, *, in_flight: int = 2, stall: float = 5.0, taken: list[int] | None = None
) -> list[Settled]:
    delivered: list[Settled] = []

    def source() -> Iterator[list[Row]]:
        for row in rows(count):
            if taken is not None:
                taken.append(row.id)
            yield [row]

    run_pipeline(
        source(),
        settle,
        delivered.append,
        in_flight=in_flight,
        stall_timeout=stall,
        stop=threading.Event(),  # type: ignore[arg-type]
    )
    return delivered


def test_every_batch_is_delivered_once() -> None:
    assert len(_run(lambda _: Settled([], []), 50, in_flight=4)) == 50


def test_requests_run_side_by_side_and_the_queue_stays_short() -> None:
    running, peak, taken = 0, 0, []
    lock = threading.Lock()

    def settle(_: Sequence[Row]) -> Settled:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        assert len(taken) <= 20
        time.sleep(0.01)
        with lock:
            running -= 1
        return Settled([], [])

    held: list[int] = []
    taken = held
    _run(settle, 20, in_flight=3, taken=held)
    assert peak == 3


def test_a_failure_ends_the_run_without_reading_on() -> None:
    taken: list[int] = []

    def settle(batch: Sequence[Row]) -> Settled:
        raise ServiceUnavailable("x", object_name="", expected="", found="", remedy="")

    with pytest.raises(ServiceUnavailable):
        _run(settle, 1000, taken=taken)
    assert len(taken) <= 6


def test_a_hanging_request_is_given_up_by_the_watchdog() -> None:
    release = threading.Event()

    def settle(batch: Sequence[Row]) -> Settled:
        release.wait(10)
        return Settled([], [])

    started = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="no progress"):
        _run(settle, stall=0.2)
    release.set()
    assert time.monotonic() - started < 2
