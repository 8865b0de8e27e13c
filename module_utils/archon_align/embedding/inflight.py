"""How many requests an endpoint is given at a time: as many as it serves in parallel, and some that wait."""

from __future__ import annotations

import statistics

# An answer that took this much longer than the fastest one for the same work has waited in the endpoint's queue.
_QUEUED = 1.25


class InFlight:
    """The limit of requests in flight at one endpoint, found from how long its answers take.

    It begins with two and doubles as long as answers take no longer beside others than alone: then the endpoint serves them
    in parallel. Once they queue, the parallel slots follow from by how much (Little's law), and for each of them one more may
    wait: slots that are started together end together. An endpoint with one slot, such as Ollama's by default, is given two.
    """

    def __init__(self, most: int) -> None:
        self.limit = min(2, most)
        self._most = most
        self._alone = 0.0  # seconds per unit of work, of the fastest answer so far
        self._round: list[float] = []
        self._settled = False

    def answered(self, work: int, seconds: float, limit: int) -> None:
        """An answer to `work` characters came after `seconds`; `limit` was in force when it was asked for."""
        cost = seconds / max(1, work)
        self._alone = min(self._alone or cost, cost)
        if limit != self.limit:
            return  # it waited among fewer or more than there are now
        self._round.append(cost)
        if len(self._round) < self.limit:
            return
        queued = statistics.median(self._round) / self._alone
        if queued < _QUEUED:
            self._set(self.limit + 1 if self._settled else self.limit * 2)
            return
        # Noise makes answers look queued, never the other way round: what was settled on is only ever raised.
        wanted = 2 * max(1, round(self.limit / queued))
        self._set(max(wanted, self.limit) if self._settled else min(wanted, self.limit))
        self._settled = True

    def overloaded(self) -> None:
        """The endpoint could not take what it was given."""
        self._settled = True
        self._set(self.limit // 2)

    def _set(self, limit: int) -> None:
        self.limit = max(1, min(limit, self._most))
        self._round.clear()
