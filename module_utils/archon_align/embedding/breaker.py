"""A circuit breaker: an endpoint that fails is left alone for a while, and is then tried with a single request."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


class Breaker:
    """Times are in seconds, of a monotonic `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._until = 0.0

    @property
    def open(self) -> bool:
        """Whether the endpoint has failed since it last succeeded."""
        return self._failures > 0

    @property
    def pause(self) -> float:
        """Seconds until the endpoint may be tried again; 0 when it may be now."""
        return max(0.0, self._until - self._clock()) if self._failures else 0.0

    def failed(self) -> None:
        """A request failed. Several that were under way at the same time count as one failure."""
        if self.pause:
            return
        self._failures += 1
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._failures - 1))
        # Jitter, so that several workers do not come back in step.
        self._until = self._clock() + longest * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret

    def succeeded(self) -> None:
        self._failures = 0
