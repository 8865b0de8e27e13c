"""A lane: one endpoint, what is known of it, and one request at it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import AlignError
from ..findings import Finding
from .breaker import Breaker
from .client import EmbeddingClient, Identity
from .failures import RequestRejected, ServiceUnavailable, ServiceUnusable
from .inflight import InFlight
from .jobs import Job
from .overlong import LimitedVectors, Policy, TextLimit
from .progress import State
from .pull import ensure_model
from .quarantine import CANARY
from .same_model import require_same_model
from .vectors import Vectors
from .verification import again, require_order

OTHER_MODEL = "embedding_other_model"
_LASTING = (OTHER_MODEL, "embedding_dimension")
_STRIKES = 5
_PROVED_SECONDS = 30.0
# Failures that say that there was too much at a time, not that nobody is there.
_TOO_MUCH = ("embedding_busy", "embedding_timeout")


@dataclass(frozen=True, slots=True)
class Manner:
    """How endpoints are used: the policy for texts that are too long, whether a missing model may be pulled, and the most
    requests at a time at one endpoint."""

    overlong: Policy
    pull: bool
    most: int


class Lane:
    """One endpoint. Its counters are changed under the pool's lock, its requests sent without."""

    def __init__(self, number: int, client: EmbeddingClient, manner: Manner) -> None:
        self.number = number
        self.endpoint = client.endpoint
        self.client = client
        self.inflight = InFlight(manner.most)
        self.breaker = Breaker(time.monotonic)
        self.identity = Identity("", "")
        self.introduced = False
        self.active = 0
        self.threads = 0
        self.rows = 0
        self.outages = 0
        self.strikes = 0
        self.proved = 0.0
        self.off: ServiceUnusable | None = None
        self.last_failure: ServiceUnavailable | None = None
        self.findings: list[Finding] = []
        self._manner = manner
        self._limit: TextLimit | None = None

    @property
    def allowed(self) -> int:
        """Requests that may be in flight now."""
        return self.inflight.limit if self.introduced and not self.breaker.open else 1

    @property
    def state(self) -> State:
        if self.off is not None:
            return "off"
        if self.breaker.open:
            paused: State = "busy" if self.last_failure and self.last_failure.code in _TOO_MUCH else "paused"
            return paused
        return "ok"

    def introduce(self, say: Callable[[str], None], moved: Callable[[], None]) -> Vectors:
        """Find out how the endpoint is to be spoken to, and that it gives each text its own vector; what it gives, by which
        endpoints can be compared. `say` is told what a pull has reached, `moved` that a request was answered.

        Raises ServiceUnavailable or ServiceUnusable.
        """
        pulled = ensure_model(
            self.client, allowed=self._manner.pull, check=False, progress=say, timeout=self.endpoint.timeout
        )
        if pulled is not None:
            self.findings.append(pulled)

        def embed(texts: Sequence[str]) -> Vectors:
            found = self.client.embed(texts)
            moved()
            return found

        try:
            self.client.introduce([CANARY])
            moved()
            found = require_order(embed, self.client.url)
        except RequestRejected as error:
            raise _refuses_all(error, error.code) from error
        self.identity = self.client.identity()
        self._limit = TextLimit.of(self.client, self._manner.overlong)
        self.proved = time.monotonic()
        return found

    def embed(self, job: Job) -> LimitedVectors:
        """One batch. Raises ServiceUnavailable, ServiceUnusable or RequestRejected."""
        assert self._limit is not None  # introduced before
        return self._limit.embed(job.texts)

    def wants_proof(self) -> bool:
        """Whether it is time to see that it is still the same model: after a failure, and every now and then."""
        return time.monotonic() - self.proved > _PROVED_SECONDS

    def prove(self, reference: Vectors) -> None:
        """Raise AlignError unless the endpoint still gives what it gave; also ServiceUnavailable or ServiceUnusable."""
        try:
            require_same_model(reference, again(self.client.embed), self.client.url)
        except RequestRejected as error:
            raise _refuses_all(error, error.code) from error
        except ServiceUnusable as error:
            if error.code != OTHER_MODEL or not self.rows:
                raise
            raise AlignError(
                "The embedding model changed while the rebuild ran.",
                object_name=f"model {self.endpoint.model} at {self.endpoint.base_url}",
                expected=error.expected,
                found=error.found,
                remedy="Up to a minute's vectors may be the other model's. Have the service give the right model, then run with"
                " archon_embeddings_scope: stale, which finds and rebuilds them.",
                code="embedding_model_changed",
            ) from error
        self.proved = time.monotonic()

    def mistaken(self, error: ServiceUnusable) -> ServiceUnavailable | None:
        """A proven endpoint may answer nonsense for a while, as behind a proxy whose backend restarts: then the failure to
        wait out; None when that was too often, or nothing that passes."""
        self.strikes += 1
        if not self.rows or error.code in _LASTING or self.strikes > _STRIKES:
            return None
        self.introduced = False
        return ServiceUnavailable(
            error.what,
            object_name=error.object_name,
            expected=error.expected,
            found=error.found,
            remedy=error.remedy,
            code=error.code,
        )

    def require_canary(self) -> None:
        """Raise ServiceUnavailable if the endpoint refuses even a harmless text."""
        try:
            self.client.embed([CANARY])
        except RequestRejected as error:
            raise _refuses_all(error, "embedding_refuses_all") from error

    def failed(self, error: ServiceUnavailable) -> None:
        self.outages += 1
        self.last_failure = error
        self.proved = -math.inf
        self.breaker.failed()
        if error.code in _TOO_MUCH:
            self.inflight.overloaded()

    def answered(self, job: Job, seconds: float, limit: int) -> None:
        self.breaker.succeeded()
        self.strikes = 0
        self.last_failure = None
        self.inflight.answered(job.work, seconds, limit)

    def as_dict(self) -> dict[str, Any]:
        """The endpoint's part of the report."""
        return {
            "url": self.endpoint.base_url,
            "state": self.state,
            "rows": self.rows,
            "in_flight": self.inflight.limit,
            "outages": self.outages,
            "version": self.identity.version,
            "digest": self.identity.digest,
        }


def _refuses_all(error: RequestRejected, code: str) -> ServiceUnavailable:
    return ServiceUnavailable(
        "The embedding service refuses everything.",
        object_name=error.object_name,
        expected="an embedding of a harmless sentence",
        found=error.found,
        remedy="Check the service's log and its model, then run again.",
        code=code,
    )
