"""A rebuild as the whole run sees it: the counters of all its workers, summed, with the rate and the time that is left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..embedding.progress import STATES, Counts, Endpoints, Pace, State, parse, rate_text
from .sessions import RunSession

# The keeper looks twice a second: what has changed is told once a second, what has not still before two are over.
CHANGED_SECONDS = 0.9
UNCHANGED_SECONDS = 1.4
_WORKING: frozenset[State] = frozenset({"ok", "busy"})


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a rebuild has come. `rate` in rows per second and `eta` in seconds are None while nobody can know them."""

    counts: Counts
    eta: float | None
    workers: int
    endpoints: Counter[State]
    states: tuple[State, ...] = ()

    def as_fields(self) -> dict[str, Any]:
        """The fields of a progress event; what is not known is not among them."""
        known = {
            "rate": self.counts.rate if self.counts.rate is None else round(self.counts.rate, 1),
            "eta_seconds": self.eta if self.eta is None else round(self.eta),
            "endpoints": {state: self.endpoints[state] for state in STATES if self.endpoints[state]} or None,
        }
        return {
            "text": self.text(),
            "done": self.counts.done,
            "total": self.counts.total,
            "quarantined": self.counts.quarantined,
            "workers": self.workers,
            **{name: value for name, value in known.items() if value is not None},
        }

    def text(self) -> str:
        """`45,120/93,000 rows, 3 quarantined, 812 rows/s, 59 s left, 2 of 3 endpoints`."""
        counts = self.counts
        parts = [f"{counts.done:,}/{counts.total:,} rows"]
        if counts.quarantined:
            parts.append(f"{counts.quarantined:,} quarantined")
        if counts.rate is not None:
            parts.append(f"{rate_text(counts.rate)} rows/s")
        if self.eta is not None:
            parts.append(f"{duration(self.eta)} left")
        if self.workers > 1:
            parts.append(f"{self.workers} workers")
        return ", ".join((*parts, *self._endpoints()))

    def _endpoints(self) -> list[str]:
        total = self.endpoints.total()
        working = sum(self.endpoints[state] for state in _WORKING)
        if working == total:
            return [f"{total} endpoints"] if total > 1 else []
        if total == 1:
            return [f"endpoint {next(iter(self.endpoints))}"]
        which = [f"no. {number} {state}" for number, state in enumerate(self.states, 1) if state not in _WORKING]
        return [f"{working} of {total} endpoints" + (f" ({', '.join(which)})" if which else "")]


class Rebuild:
    """One phase's workers, as their sessions show them. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pace = Pace(clock)
        self._workers: dict[int, Counts] = {}
        self._ended = Counts(0, 0)
        self._told_at = float("-inf")
        self._told: Counts | None = None

    def look(self, sessions: Iterable[RunSession]) -> Standing | None:
        """Take in what the phase's sessions show now; where they stand if that is to be told now, else None."""
        shown = {found.pid: parse(found.progress) for found in sessions}
        for pid in self._workers.keys() - shown.keys():
            self._ended = _sum((self._ended, self._workers.pop(pid)))
        counting = {pid: said for pid, said in shown.items() if isinstance(said, Counts)}
        self._workers.update(counting)
        summed = _sum((self._ended, *self._workers.values()))
        if not counting or not summed.total:
            return None
        self._pace.see(summed.done)
        since = self._clock() - self._told_at
        if since < (UNCHANGED_SECONDS if summed == self._told else CHANGED_SECONDS):
            return None
        self._told_at, self._told = self._clock(), summed
        rate = self._pace.per_second()
        left = summed.total - summed.done - summed.quarantined
        endpoints = [said for said in shown.values() if isinstance(said, Endpoints)]
        return Standing(
            Counts(summed.done, summed.total, summed.quarantined, rate),
            left / rate if rate and left else None,
            len(counting),
            sum((Counter(dict(said.counts)) for said in endpoints), Counter()),
            endpoints[0].states if len(endpoints) == len(counting) == 1 else (),
        )


def _sum(parts: Iterable[Counts]) -> Counts:
    """Each worker counts what it did itself, and as its total whatever was missing when it looked: the first saw it all."""
    parts = tuple(parts)
    done, quarantined = sum(part.done for part in parts), sum(part.quarantined for part in parts)
    return Counts(done, max(done + quarantined, *(part.total for part in parts)), quarantined)


def duration(seconds: float) -> str:
    """`59 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
