"""Ollama's own API, as far as it tells or does what `/v1` does not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import orjson

from ..errors import AlignError
from .client import EmbeddingClient
from .endpoint import Endpoint
from .failures import ServiceUnavailable
from .refusals import model_missing, not_an_embedding_model, refusal, words
from .transport import Reply, unusable
from .vectors import Vectors, ollama_items, vectors_of

# Ollama's smallest default of num_ctx, for a model and a server that tell nothing.
_DEFAULT_CONTEXT = 2048
_NUM_CTX = re.compile(r"^num_ctx\s+(\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Description:
    """What Ollama tells of a model it has: how many tokens it reads at once, None where that is not told."""

    context_length: int | None


@dataclass(frozen=True, slots=True)
class PullStep:
    """One line of a pull: what it does, or the error it ends with; bytes of one layer."""

    status: str
    error: str = ""
    layer: str = ""
    completed: int = 0
    total: int = 0

    @classmethod
    def of(cls, line: str) -> Self | None:
        """The step that a line tells, or None where it is cut or tells nothing."""
        try:
            told = orjson.loads(line)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(told, dict):
            return None
        completed, total = (value if type(value := told.get(name)) is int else 0 for name in ("completed", "total"))
        return cls(
            str(told.get("status") or ""),
            " ".join(str(told.get("error") or "").split())[:300],
            str(told.get("digest") or ""),
            completed,
            total,
        )


class OllamaApi:
    """The native API of the service that `client` talks to, over the same connections."""

    def __init__(self, client: EmbeddingClient) -> None:
        self._client = client
        self._base = f"{client.endpoint.native_url}/api"
        self.pull_url = f"{self._base}/pull"

    def describe(self) -> Description | None:
        """The model as the service has it, or None where the service is not Ollama.

        Raises ServiceUnusable when the model is missing or no embedding model, and ServiceUnavailable.
        """
        client, url = self._client, f"{self._base}/show"
        reply = client.transport.send("POST", url, orjson.dumps({"model": client.endpoint.model}))
        said = words(client.endpoint, reply.content)
        if reply.status == 404 and "model" in said.lower():
            raise model_missing(client.endpoint, url, f"HTTP 404: {said}")
        if reply.status != 200 or reply.is_page:
            error = refusal(client.endpoint, reply)
            if isinstance(error, ServiceUnavailable):
                raise error
            # Also where a proxy lets /v1 through alone: what /v1 answers decides.
            return None
        content = reply.parsed()
        if not isinstance(content, dict) or not isinstance(content.get("model_info"), dict):
            return None
        capabilities = content.get("capabilities")
        if isinstance(capabilities, list) and capabilities and "embedding" not in capabilities:
            found = f"capabilities {', '.join(map(str, capabilities))}"
            raise not_an_embedding_model(client.endpoint, url, found)
        return Description(self._context(content))

    def _context(self, shown: dict[str, object]) -> int | None:
        """The smallest limit that is told: the model's, its num_ctx, and what it is loaded with at the moment."""
        info = shown["model_info"]
        limits = [value for name, value in info.items() if name.endswith(".context_length")]  # type: ignore[attr-defined]
        served = [int(number) for number in _NUM_CTX.findall(str(shown.get("parameters") or ""))]
        running = self._client.told("GET", f"{self._base}/ps").get("models")
        served += [
            model["context_length"]
            for model in (running if isinstance(running, list) else [])
            if isinstance(model, dict) and self._client.is_the_model(model) and "context_length" in model
        ]
        known = [number for number in (*limits, *(served or [_DEFAULT_CONTEXT])) if type(number) is int and number > 0]
        return min(known, default=None)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector per text, in order, each checked; no text is cut.

        Raises RequestTooLong when one of them exceeds the model's context, else as `EmbeddingClient.embed`.
        """
        client, url = self._client, f"{self._base}/embed"
        content = client.post(url, {"truncate": False}, texts).parsed()
        return vectors_of(
            ollama_items(content, len(texts), url),
            dimensions=client.endpoint.dimensions,
            url=url,
            unit=client.unit,
        )

    def pull(self, silence: float) -> Iterator[PullStep]:
        """Have the service fetch the model, and tell step by step; it changes the service.

        Raises ServiceUnavailable, also when nothing is said for `silence` seconds, and ServiceUnusable.
        """
        client = self._client
        body = orjson.dumps({"model": client.endpoint.model, "stream": True})
        with client.transport.lines(self.pull_url, body, silence=silence) as (reply, lines):
            if reply is not None:
                raise _pull_refused(client.endpoint, reply)
            for line in lines:
                if (step := PullStep.of(line)) is not None:
                    yield step


def _pull_refused(endpoint: Endpoint, reply: Reply) -> AlignError:
    error = refusal(endpoint, reply)
    if isinstance(error, ServiceUnavailable) or reply.status in (401, 403, 407):
        return error
    return unusable(
        reply.url,
        "a service that pulls models",
        error.found,
        "embedding_pull_failed",
        f"Correct archon_embedding_model, or run on the service's host: ollama pull {endpoint.model}",
    )
