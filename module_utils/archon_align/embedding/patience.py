"""A few requests, in which failures that are nobody's fault are waited out."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from .client import EmbeddingClient
from .failures import ServiceUnavailable
from .vectors import Vectors
from .verification import Embed


def patient(client: EmbeddingClient, pauses: Sequence[float]) -> Embed:
    """`client.embed`, tried again after each of `pauses` (seconds) while it raises ServiceUnavailable; then that is raised."""

    def embed(texts: Sequence[str]) -> Vectors:
        for pause in pauses:
            try:
                return client.embed(texts)
            except ServiceUnavailable:
                # Jitter, so that several who wait do not come back in step.
                time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - nothing secret
        return client.embed(texts)

    return embed
