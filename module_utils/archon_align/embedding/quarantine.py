"""Isolation of texts that a service refuses: retry, bisect, and blame a row only if it fails alone while a canary succeeds."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from .client import EmbeddingClient
from .failures import RequestRejected, ServiceUnavailable
from .reader import Row
from .vectors import Vectors
from .writer import Embedded

CANARY = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that stays without embedding in this run, and why."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a batch: every row is in one of the two."""

    embedded: Sequence[Embedded]
    quarantined: Sequence[Quarantined] = ()


class PatientClient:
    """A client that waits out failures that are nobody's fault. `pauses` are seconds, one per further try.

    `stop` ends waiting early, when the work was given up elsewhere.
    """

    def __init__(self, client: EmbeddingClient, pauses: Sequence[float], stop: threading.Event) -> None:
        self.client = client
        self._pauses = pauses
        self._stop = stop

    def embed(
        self,
        texts: Sequence[str],
        *,
        introduction: bool = False,
        wait_out: tuple[type[Exception], ...] = (ServiceUnavailable,),
    ) -> Vectors:
        """`EmbeddingClient.embed`, tried again after each pause while it raises one of `wait_out`; then that is raised."""
        request = self.client.introduce if introduction else self.client.embed
        for pause in self._pauses:
            try:
                return request(texts)
            except wait_out:
                # Jitter, so that several workers do not come back in step.
                if self._stop.wait(pause * random.uniform(0.5, 1.5)):  # noqa: S311 - nothing secret
                    raise
        return request(texts)

    def settle(self, rows: Sequence[Row]) -> Settled:
        """Embed `rows`, quarantining those that the service refuses for themselves.

        Raises ServiceUnavailable or ServiceUnusable; then no row is charged.
        """
        try:
            return self._embedded(rows)
        except RequestRejected:
            self._require_canary()
        return self._bisect(rows)

    def _embedded(self, rows: Sequence[Row]) -> Settled:
        vectors = self.embed([row.text for row in rows])
        return Settled([Embedded(row.id, row.text_hash, vector) for row, vector in zip(rows, vectors, strict=True)])

    def _bisect(self, rows: Sequence[Row]) -> Settled:
        try:
            return self._embedded(rows)
        except RequestRejected as error:
            reason = f"{error.found} (expected {error.expected})"
        if len(rows) == 1:
            self._require_canary()
            return Settled((), [Quarantined(rows[0].id, reason)])
        middle = len(rows) // 2
        left, right = self._bisect(rows[:middle]), self._bisect(rows[middle:])
        return Settled([*left.embedded, *right.embedded], [*left.quarantined, *right.quarantined])

    def _require_canary(self) -> None:
        """Raise ServiceUnavailable if the service refuses even a harmless text."""
        try:
            self.embed([CANARY], wait_out=(ServiceUnavailable, RequestRejected))
        except RequestRejected as error:
            raise ServiceUnavailable(
                "The embedding service refuses everything.",
                object_name=error.object_name,
                expected="an embedding of a harmless sentence",
                found=error.found,
                remedy="Check the service's log and its model, then run again.",
                code="embedding_refuses_all",
            ) from error
