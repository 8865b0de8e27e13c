"""What a rebuild says of itself in the 23 bytes that `application_name` leaves it: one grammar, written by workers and read by the keeper.

The session that writes shows counters, `45120/93000 q3 812/s`; the one that reads shows the endpoints, `ep 1:ok 2:paused 3:ok`.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..context import APPLICATION_NAME_BYTES

State = Literal["ok", "busy", "paused", "off"]
STATES: tuple[State, ...] = get_args(State)
# `align embeddings YYYYMMDD-HHMMSS-xxxxxx ` comes before it.
ROOM = APPLICATION_NAME_BYTES - len("align embeddings ") - len("YYYYMMDD-HHMMSS-xxxxxx ")
WINDOW_SECONDS = 10.0
# Two counts of this size and a slash are all there is room for.
_MOST = 10**10
_MOST_ENDPOINTS = 9999
_STEP_SECONDS = 0.25
_SHORTEST_SECONDS = 1.0

_NUMBER = r"(?:0|[1-9][0-9]{0,10})"
_COUNTS = re.compile(
    rf"(?P<done>{_NUMBER})/(?P<total>{_NUMBER})(?: q(?P<quarantined>{_NUMBER}))?(?: (?P<rate>{_NUMBER}(?:\.[0-9])?)/s)?"
)
_STATE = "|".join(STATES)
_EACH = re.compile(rf"(?P<number>[1-9][0-9]*):(?P<state>{_STATE})")
_MANY = re.compile(rf"(?P<count>[1-9][0-9]*) (?P<state>{_STATE})")
_SHORT = re.compile("/".join(f"(?P<{state}>{_NUMBER})" for state in STATES))
_ENDPOINTS = "ep "


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of a rebuild: embedded, missing when it began, set aside; `rate` in rows per second, None while that is unknown."""

    done: int
    total: int
    quarantined: int = 0
    rate: float | None = None

    def text(self) -> str:
        """`done/total q<quarantined> <rate>/s`, as far as 23 bytes go; without what is not there or not known."""
        text = f"{self.done}/{self.total}"
        for part in (
            f" q{self.quarantined}" * bool(self.quarantined),
            "" if self.rate is None else f" {rate_text(self.rate)}/s",
        ):
            if len(text) + len(part) <= ROOM:
                text += part
        return text


@dataclass(frozen=True, slots=True)
class Endpoints:
    """How many of a worker's endpoints are in which state; `states` names each in the order of the list, where there was room for it."""

    counts: tuple[tuple[State, int], ...]
    states: tuple[State, ...] = ()


def rate_text(rate: float) -> str:
    """Slow ones with a decimal, as 0.4 rows a second are something else than none."""
    return f"{rate:.1f}" if 0 < round(rate, 1) < 10 else f"{min(rate, _MOST):.0f}"


class Pace:
    """How fast a count grows, over a sliding window. `clock` gives seconds; one thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, window: float = WINDOW_SECONDS) -> None:
        self._clock = clock
        self._window = window
        self._began: float | None = None
        self._steps: deque[tuple[float, int]] = deque()

    def see(self, count: int) -> None:
        """What the count is now."""
        now = self._clock()
        if self._began is None:
            self._began = now
        if len(self._steps) > 1 and now - self._steps[-2][0] < _STEP_SECONDS:
            self._steps.pop()
        self._steps.append((now, count))
        self._forget(now)

    def per_second(self) -> float | None:
        """None within the first second, when nobody can know."""
        now = self._clock()
        if self._began is None or now - self._began < _SHORTEST_SECONDS:
            return None
        self._forget(now)
        # Between two looks a count stands still: what the oldest step says is what it was when the window began.
        return max(0, self._steps[-1][1] - self._steps[0][1]) / min(now - self._began, self._window)

    def _forget(self, now: float) -> None:
        while len(self._steps) > 1 and self._steps[1][0] <= now - self._window:
            self._steps.popleft()


class Counters:
    """One worker's rows of a rebuild. `total` is how many were missing when it began; rows that appear later raise it."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self.quarantined = 0
        self._pace = Pace(clock)
        self._pace.see(0)

    def add(self, *, done: int = 0, quarantined: int = 0) -> None:
        """Rows that have got their vector, and rows that were set aside."""
        self.done += done
        self.quarantined += quarantined
        self.total = max(self.total, self.done + self.quarantined)
        self._pace.see(self.done)

    def counts(self) -> Counts:
        """What is known now."""
        return Counts(
            min(self.done, _MOST), min(self.total, _MOST), min(self.quarantined, _MOST), self._pace.per_second()
        )

    def text(self) -> str:
        """The same for Session.progress, 23 bytes at most."""
        return self.counts().text()


def endpoints_text(states: Sequence[State]) -> str:
    """The endpoints' states for Session.progress, 23 bytes at most: each, or how many of each, or `ok/busy/paused/off` in figures."""
    if not states:
        return ""
    counts = Counter(states)
    each = " ".join(f"{number}:{state}" for number, state in enumerate(states, 1))
    many = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    short = "/".join(str(min(counts[state], _MOST_ENDPOINTS)) for state in STATES)
    return next(text for text in (_ENDPOINTS + each, _ENDPOINTS + many, _ENDPOINTS + short) if len(text) <= ROOM)


def parse(text: str) -> Counts | Endpoints | None:
    """What a session of a rebuild shows; None for anything else, such as another phase's words."""
    if text.startswith(_ENDPOINTS):
        return _parse_endpoints(text.removeprefix(_ENDPOINTS))
    found = _COUNTS.fullmatch(text)
    if found is None:
        return None
    done, total = int(found["done"]), int(found["total"])
    rate = None if found["rate"] is None else float(found["rate"])
    return Counts(done, total, int(found["quarantined"] or 0), rate) if done <= total else None


def _parse_endpoints(text: str) -> Endpoints | None:
    each = [_EACH.fullmatch(part) for part in text.split(" ")]
    if all(one is not None and int(one["number"]) == number for number, one in enumerate(each, 1)):
        states = tuple(_state(one["state"]) for one in each if one is not None)
        return Endpoints(_counted(Counter(states)), states)
    many = [_MANY.fullmatch(part) for part in text.split(", ")]
    if all(one is not None for one in many):
        return Endpoints(
            _counted(Counter({_state(one["state"]): int(one["count"]) for one in many if one is not None}))
        )
    short = _SHORT.fullmatch(text)
    return short and Endpoints(_counted(Counter({state: int(short[state]) for state in STATES})))


def _state(name: str) -> State:
    return next(state for state in STATES if state == name)


def _counted(counts: Counter[State]) -> tuple[tuple[State, int], ...]:
    return tuple((state, counts[state]) for state in STATES if counts[state])
