"""What a rebuild says of itself fits, is understood again, and says no more than is known."""

from __future__ import annotations

from collections import Counter

import pytest
from archon_align.context import APPLICATION_NAME_BYTES, Run
from archon_align.embedding.progress import ROOM, STATES, Counters, Counts, Endpoints, Pace, endpoints_text, parse
from hypothesis import given
from hypothesis import strategies as st

RUN_ID = "20260101-000000-abcdef"
numbers = st.integers(0, 10**10)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(numbers, numbers, numbers, st.none() | st.floats(0, 1e12))
def test_counts_fit_and_are_understood_again(done: int, total: int, quarantined: int, rate: float | None) -> None:
    said = Counts(min(done, total), max(done, total), quarantined, rate)
    text = said.text()
    understood = parse(text)
    assert len(text.encode()) <= ROOM == 23
    assert isinstance(understood, Counts)
    assert (understood.done, understood.total) == (said.done, said.total)
    # What there was no room for is missing, never wrong.
    assert understood.quarantined in (quarantined, 0)
    if understood.rate is not None:
        assert rate is not None
        assert understood.rate == pytest.approx(min(rate, 10**10), rel=0.05, abs=0.06)
    assert understood.text() == text


def test_a_table_of_ordinary_size_has_room_for_everything() -> None:
    assert Counts(45120, 93000, 3, 812.4).text() == "45120/93000 q3 812/s"
    assert Counts(10_000_000, 10_000_000, 100, 8000.0).text() == "10000000/10000000 q100"
    assert Counts(1, 93, 0, 0.42).text() == "1/93 0.4/s"


@given(st.lists(st.sampled_from(STATES), min_size=1, max_size=40))
def test_endpoints_fit_and_are_understood_again(states: list[str]) -> None:
    text = endpoints_text(states)
    understood = parse(text)
    assert len(text.encode()) <= ROOM
    assert isinstance(understood, Endpoints)
    assert dict(understood.counts) == Counter(states)
    assert understood.states in (tuple(states), ())


@pytest.mark.parametrize(
    ("states", "text"),
    [
        (["ok", "paused", "ok"], "ep 1:ok 2:paused 3:ok"),
        (["ok"] * 7 + ["paused"], "ep 7 ok, 1 paused"),
        (["ok"] * 10 + ["busy"] * 10 + ["paused", "off"], "ep 10/10/1/1"),
        (["off"] * 123_456, "ep 123456 off"),
        ([], ""),
    ],
)
def test_endpoints_are_named_while_there_is_room(states: list[str], text: str) -> None:
    assert endpoints_text(states) == text


@pytest.mark.parametrize(
    "text",
    ["", "index archon_crawled_pages", "pull 45 %", "backup 12 MB", "3/40 tables", "12 statements", "5/4", "05/7", "1/2 q",
     "ep", "ep ", "ep 2:ok", "ep 1:fine", "ep 0 ok", "1/2 3/s q4", "\uff11/\uff12", "1/2\n"],
)  # fmt: skip
def test_other_words_are_no_counters(text: str) -> None:
    assert parse(text) is None


@given(st.text(max_size=23))
def test_nothing_that_a_session_may_call_itself_breaks_the_parser(text: str) -> None:
    parse(text)
    parse("ep " + text)


def test_with_the_run_id_it_is_exactly_what_the_server_keeps(tmp_path: object) -> None:
    name = Run(RUN_ID, tmp_path).application_name("embeddings", Counts(10**10, 10**10).text())  # type: ignore[arg-type]
    assert len(name) == APPLICATION_NAME_BYTES
    assert name.endswith(" 10000000000/10000000000")


def test_counters_count() -> None:
    clock = Clock()
    counters = Counters(100, clock)
    assert counters.text() == "0/100"
    clock.now += 2
    counters.add(done=40)
    counters.add(quarantined=2)
    assert counters.text() == "40/100 q2 20/s"
    assert counters.total == 100


def test_rows_that_appear_meanwhile_raise_the_total() -> None:
    counters = Counters(10, Clock())
    counters.add(done=12, quarantined=1)
    assert counters.text() == "12/13 q1"


def test_the_rate_is_that_of_the_last_seconds_and_falls_in_a_stall() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.per_second() is None
    count = 0
    for _ in range(200):
        clock.now += 0.1
        count += 5
        pace.see(count)
    assert pace.per_second() == pytest.approx(50, rel=0.06)
    for _ in range(100):
        clock.now += 0.1
        count += 100
        pace.see(count)
    assert pace.per_second() == pytest.approx(1000, rel=0.06)
    clock.now += 5
    assert pace.per_second() == pytest.approx(500, rel=0.06)
    clock.now += 600
    assert pace.per_second() == 0
    pace.see(count + 30)
    assert pace.per_second() == 3


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000)), max_size=300))
def test_the_rate_never_exceeds_what_was_counted(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.see(0)
    count = 0
    for seconds, more in steps:
        clock.now += seconds
        count += more
        pace.see(count)
        rate = pace.per_second()
        assert rate is None or 0 <= rate <= count / min(clock.now - 1000.0, 10.0) + 1e-6
    assert len(pace._steps) <= 84
