"""The embedding service's client: OpenAI's `/embeddings`, as Archon calls it, with bounded time and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import orjson

from .endpoint import Endpoint
from .failures import RequestRejected, ServiceUnavailable, ServiceUnusable
from .refusals import MODEL_MISSING, refusal
from .transport import REFUSED, REPLY_BYTES, Reply, Transport, rejected, unusable
from .vectors import Vectors, openai_items, unit_length, vectors_of

# A vector of 768 floats is 4 KB in base64 and up to 20 KB in digits; a runaway reply must not fill the memory.
REPLY_BYTES_PER_NUMBER = 64


@dataclass(frozen=True, slots=True)
class Identity:
    """What answers: Ollama's version and the model's digest, or '' where the service does not tell."""

    version: str
    digest: str


class EmbeddingClient:
    """One service, one model, reused connections; safe to use from several threads.

    `transport` replaces the network in tests.
    """

    def __init__(self, endpoint: Endpoint, *, transport: httpx.BaseTransport | None = None) -> None:
        self.endpoint = endpoint
        self.url = f"{endpoint.base_url}/embeddings"
        self.unit = False
        self._encoding: Literal["base64", "float"] = "base64"
        self._transport = Transport(endpoint, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    @property
    def transport(self) -> Transport:
        """The connections, for what else is asked of the same service."""
        return self._transport

    def introduce(self, texts: Sequence[str]) -> Vectors:
        """The first request: finds out whether base64 is understood and whether vectors have length one.

        Raises ServiceUnavailable, ServiceUnusable or RequestRejected.
        """
        try:
            vectors = self.embed(texts)
        except RequestRejected as error:
            # A server that does not know base64 may refuse the request for that alone.
            if error.code != REFUSED:
                raise
            self._encoding = "float"
            vectors = self.embed(texts)
        self.unit = unit_length(vectors)
        return vectors

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector per text, in order, each checked.

        Raises ServiceUnavailable, ServiceUnusable or RequestRejected (RequestTooLong where the service's words say so).
        """
        reply = self.post(self.url, {"encoding_format": self._encoding}, texts)
        content = reply.parsed()
        if isinstance(content, dict) and content.get("error") and "data" not in content:
            raise self._refusal(reply)
        if isinstance(content, dict) and "embedding" in content and "data" not in content:
            raise unusable(
                self.url,
                "OpenAI's `/embeddings`",
                "Ollama's older /api/embeddings, which reads no list of texts",
                "embedding_path",
                "Correct archon_embedding_base_url; with Ollama it ends in /v1.",
            )
        return vectors_of(
            openai_items(content, len(texts), self.url),
            dimensions=self.endpoint.dimensions,
            url=self.url,
            unit=self.unit,
        )

    def post(self, url: str, options: dict[str, object], texts: Sequence[str]) -> Reply:
        """Send `texts` to be embedded; a reply of status 200. Raises as `embed` does."""
        try:
            body = orjson.dumps({"model": self.endpoint.model, "input": list(texts), **options})
        except orjson.JSONEncodeError as error:
            raise rejected(url, "texts in valid Unicode", str(error), "embedding_text_encoding") from error
        limit = REPLY_BYTES + len(texts) * self.endpoint.dimensions * REPLY_BYTES_PER_NUMBER
        reply = self._transport.send("POST", url, body, limit=limit)
        if reply.status != 200:
            raise self._refusal(reply)
        return reply

    def _refusal(self, reply: Reply) -> ServiceUnavailable | ServiceUnusable | RequestRejected:
        error = refusal(self.endpoint, reply)
        if error.code == MODEL_MISSING and (there := self.models()):
            error.found += f"; present: {', '.join(there[:20])}"
        return error

    def is_the_model(self, told: Mapping[str, object]) -> bool:
        """Whether an entry of Ollama's lists is this endpoint's model, whose tag may be left out."""
        wanted = self.endpoint.model if ":" in self.endpoint.model else f"{self.endpoint.model}:latest"
        return wanted.lower() in (str(told.get("name")).lower(), str(told.get("model")).lower())

    def models(self) -> list[str]:
        """The models the service says it has, or an empty list."""
        return [str(model.get("id")) for model in self._listed()]

    def context_length(self) -> int | None:
        """Tokens of the model as vLLM and the like tell them (`max_model_len`), or None."""
        for model in self._listed():
            told = model.get("max_model_len")
            if model.get("id") == self.endpoint.model and type(told) is int and told > 0:
                return told
        return None

    def _listed(self) -> list[dict[str, Any]]:
        data = self.told("GET", f"{self.endpoint.base_url}/models").get("data")
        return [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []

    def told(self, method: str, url: str, body: bytes = b"") -> dict[str, Any]:
        """What the service says of itself there; any failure gives {}, because not every server has every path."""
        try:
            reply = self._transport.send(method, url, body)
            content = reply.parsed() if reply.status == 200 else {}
        except (ServiceUnavailable, ServiceUnusable):
            return {}
        return content if isinstance(content, dict) else {}

    def identity(self) -> Identity:
        """Version and digest as Ollama's own API tells them, '' where it does not."""
        version = self.told("GET", f"{self.endpoint.native_url}/api/version")
        tags = self.told("GET", f"{self.endpoint.native_url}/api/tags").get("models")
        digests = [
            str(model.get("digest", ""))
            for model in (tags if isinstance(tags, list) else [])
            if isinstance(model, dict) and self.is_the_model(model)
        ]
        return Identity(str(version.get("version", "")), digests[0] if digests else "")
