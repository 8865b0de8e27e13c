"""A client for a few requests, which waits out failures that are nobody's fault."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

from .client import EmbeddingClient
from .failures import ServiceUnavailable
from .vectors import Vectors


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
