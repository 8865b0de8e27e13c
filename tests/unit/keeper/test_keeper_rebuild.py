"""What the keeper makes of the counters that the workers of a rebuild show."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from archon_align.embedding.progress import Counts, endpoints_text
from archon_align.keeper.rebuild import Rebuild, Standing, duration
from archon_align.keeper.sessions import RunSession
from hypothesis import given
from hypothesis import strategies as st

RUN_ID = "20260101-000000-abcdef"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def sessions(shown: dict[int, str]) -> list[RunSession]:
    return [RunSession(pid, "embeddings", RUN_ID, progress, True) for pid, progress in shown.items()]


class Watched:
    """A rebuild looked at twice a second, as the keeper does."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.rebuild = Rebuild(self.clock)

    def look(self, shown: dict[int, str], seconds: float = 0.5) -> Standing | None:
        found = self.rebuild.look(sessions(shown))
        self.clock.now += seconds
        return found


def test_one_worker_and_its_endpoints() -> None:
    watched = Watched()
    first = watched.look({1: "44308/93000 q3", 2: "ep 1:ok 2:paused 3:busy"}, 1.0)
    assert first is not None
    # Nobody knows a rate yet: no rate and no time left rather than wrong ones.
    assert first.as_fields() == {
        "text": "44,308/93,000 rows, 3 quarantined, 2 of 3 endpoints (no. 2 paused)",
        "done": 44308, "total": 93000, "quarantined": 3, "workers": 1, "endpoints": {"ok": 1, "busy": 1, "paused": 1},
    }  # fmt: skip
    second = watched.look({1: "45120/93000 q3 99999/s", 2: "ep 3 ok"})
    assert second is not None
    assert second.as_fields() == {
        "text": "45,120/93,000 rows, 3 quarantined, 812 rows/s, 59 s left, 3 endpoints",
        "done": 45120, "total": 93000, "quarantined": 3, "workers": 1, "rate": 812.0, "eta_seconds": 59, "endpoints": {"ok": 3},
    }  # fmt: skip


def test_a_change_is_told_once_a_second_and_a_stall_every_two() -> None:
    watched = Watched()
    told = [watched.look({1: f"{number}/1000"}) is not None for number in range(10)]
    assert told == [True, False] * 5
    still = [watched.look({1: "9/1000"}) is not None for _ in range(12)]
    gaps = [index for index, one in enumerate(still) if one]
    assert all(0.5 * (after - before) <= 2 for before, after in itertools.pairwise(gaps))
    assert 3 <= len(gaps) <= 4


def test_a_stall_shows_a_rate_that_falls_to_nothing_and_no_time_left() -> None:
    watched = Watched()
    for number in range(0, 200, 10):
        watched.look({1: f"{number}/1000"})
    standing = None
    for _ in range(25):
        standing = watched.look({1: "190/1000 20/s"}) or standing
    assert standing is not None
    assert standing.text() == "190/1,000 rows, 0 rows/s"
    assert "eta_seconds" not in standing.as_fields()


def test_workers_are_summed_and_one_that_ends_keeps_what_it_did() -> None:
    watched = Watched()
    watched.look({1: "100/1000", 2: "ep 1:ok"}, 2.0)
    # The second looked later, when a hundred were done: what it saw missing is part of the same thousand.
    both = watched.look({1: "200/1000 q1", 2: "ep 1:ok", 3: "100/900 q2", 4: "ep 1:paused"}, 2.0)
    assert both is not None
    assert (both.counts.done, both.counts.total, both.counts.quarantined) == (300, 1000, 3)
    assert both.text() == "300/1,000 rows, 3 quarantined, 100 rows/s, 7 s left, 2 workers, 1 of 2 endpoints"
    one = watched.look({3: "200/900 q2", 4: "ep 1:ok"}, 2.0)
    assert one is not None
    assert (one.counts.done, one.counts.total, one.counts.quarantined, one.workers) == (400, 1000, 3, 1)
    assert watched.look({}) is None
    late = watched.look({5: "0/597"})
    assert late is not None
    assert (late.counts.done, late.counts.total) == (400, 1000)


@pytest.mark.parametrize("shown", [{}, {1: ""}, {1: "index archon_crawled_pages"}, {1: "ep 1:ok"}, {1: "0/0"}])
def test_without_counters_nothing_is_told(shown: dict[int, str]) -> None:
    assert Watched().look(shown) is None


@given(
    st.lists(
        st.dictionaries(
            st.integers(1, 4),
            st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 9)).map(
                lambda of: Counts(min(of[:2]), max(of[:2]), of[2]).text()
            )
            | st.lists(st.sampled_from(["ok", "paused", "off"]), min_size=1).map(endpoints_text)
            | st.text(max_size=23),
        ),
        max_size=30,
    )
)
def test_whatever_sessions_show_the_sum_makes_sense(looks: list[dict[int, str]]) -> None:
    watched = Watched()
    for shown in looks:
        standing = watched.look(shown)
        if standing is not None:
            fields: dict[str, Any] = standing.as_fields()
            assert 0 <= fields["done"] + fields["quarantined"] <= fields["total"]
            assert fields.get("rate", 0) >= 0
            assert fields.get("eta_seconds", 0) >= 0
            assert "\n" not in fields["text"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (99.4, "99 s"), (99.6, "2 min"), (720, "12 min"), (5980, "1 h 40 min"), (12_000, "3 h 20 min"),
     (187_200, "2 d 4 h")],
)  # fmt: skip
def test_a_time_left_is_told_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_one_endpoint_is_named_only_in_trouble() -> None:
    watched = Watched()
    fine = watched.look({1: "1/10", 2: "ep 1:busy"}, 2.0)
    assert fine is not None
    assert fine.text() == "1/10 rows"
    paused = watched.look({1: "1/10", 2: "ep 1:paused"}, 2.0)
    assert paused is not None
    assert paused.text() == "1/10 rows, 0 rows/s, endpoint paused"
