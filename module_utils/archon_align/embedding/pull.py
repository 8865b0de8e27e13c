"""A model that the service lacks: offered, foretold in check mode, or pulled where that is allowed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import AlignError
from ..findings import Finding
from .client import EmbeddingClient
from .failures import ServiceUnavailable, ServiceUnusable
from .native import OllamaApi, PullStep
from .refusals import is_model_missing
from .transport import unavailable, unusable

# Seconds before each further try; a pull continues where the one before it ended.
_PAUSES = (0.5, 2.0, 5.0, 10.0)
# Registry and disk will say the same next time.
_FINAL = re.compile(
    r"file does not exist|not found|unauthorized|forbidden|denied|no space left|newer version|requires a|invalid"
    r"|permission|read-only",
    re.IGNORECASE,
)


def ensure_model(
    client: EmbeddingClient, *, allowed: bool, check: bool, progress: Callable[[str], None], timeout: float
) -> Finding | None:
    """Make sure that an Ollama has the model; a finding where it was pulled, or would be (`check`).

    Services without Ollama's own API are left alone. `progress` is told "pull 45 %". A pull that does not advance for
    `timeout` seconds is tried again, more patiently each time. Raises ServiceUnusable (the model is missing and must not
    be pulled, cannot be pulled, or is no embedding model) and ServiceUnavailable.
    """
    native = OllamaApi(client)
    try:
        native.describe()
    except ServiceUnusable as error:
        if not is_model_missing(error) or not allowed:
            raise
    else:
        return None
    name, url = client.endpoint.model, client.endpoint.base_url
    if check:
        return Finding(
            "embedding_model_to_pull",
            "warning",
            url,
            f"The service lacks the model {name}; a run pulls it, check mode does not.",
            "Nothing to do, or pull it beforehand, so that check mode can ask the service.",
        )
    _Pull(native, progress, timeout).run()
    native.describe()
    return Finding(
        "embedding_model_pulled", "info", url, f"The service lacked the model {name}; it was pulled.", "Nothing to do."
    )


@dataclass(slots=True)
class _Pull:
    """One pull with its further tries."""

    native: OllamaApi
    progress: Callable[[str], None]
    timeout: float
    shown: int = -1
    reached: int = 0

    def run(self) -> None:
        tries = 0
        while True:
            before = self.reached
            try:
                # Checking a large download takes a while in which nothing is said; the next try waits longer for it.
                self._follow(self.native.pull(self.timeout * 2**tries), self.timeout * 2**tries)
            except ServiceUnavailable:
                tries = 0 if self.reached > before else tries
                if tries == len(_PAUSES):
                    raise
            else:
                return
            time.sleep(_PAUSES[tries])
            tries += 1

    def _follow(self, steps: Iterator[PullStep], patience: float) -> None:
        """Read one pull to its end. Raises ServiceUnavailable where another try may gain something."""
        layers: dict[str, tuple[int, int]] = {}
        last, since = None, time.monotonic()
        for step in steps:
            if step.error:
                raise self._failed(step.error)
            if step.status == "success":
                self._show(100)
                return
            # Ollama repeats itself while nothing comes, so that a line alone is no sign of life.
            if step != last:
                last, since = step, time.monotonic()
            elif time.monotonic() - since > patience:
                raise unavailable(
                    self.native.pull_url,
                    f"a download that advances within {patience:g} s",
                    f"none: {step.status}",
                    "embedding_pull_stalled",
                )
            if step.total:
                layers[step.layer] = (step.completed, step.total)
                done = sum(completed for completed, _ in layers.values())
                self.reached = max(self.reached, done)
                self._show(100 * done // sum(total for _, total in layers.values()))
        raise unavailable(
            self.native.pull_url, "a pull that ends in success", "its end is missing", "embedding_pull_cut"
        )

    def _show(self, percent: int) -> None:
        # The total grows with each layer; what is shown does not go back.
        if percent > self.shown:
            self.shown = percent
            self.progress(f"pull {percent} %")

    def _failed(self, said: str) -> AlignError:
        if _FINAL.search(said):
            return unusable(
                self.native.pull_url,
                "a model that can be pulled",
                said,
                "embedding_pull_failed",
                "Correct archon_embedding_model, or see to the cause on the service's host.",
            )
        return unavailable(self.native.pull_url, "a pull without error", said, "embedding_pull_failed")
