"""An embedding service in a function: a token is a word, and vectors tell which text, and how much of it, was read."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from archon_align.embedding.client import EmbeddingClient
from archon_align.embedding.endpoint import Endpoint

URL = "http://127.0.0.1:11434"
MODEL = "nomic-embed-text"
MARKS = 2  # tokens that the model puts around a text


def vector(text: str) -> list[float]:
    """A unit vector that differs from text to text."""
    numbers = np.random.default_rng(abs(hash(text))).standard_normal(3)
    return [float(number) for number in (numbers / np.linalg.norm(numbers)).astype("<f4")]


@dataclass
class FakeService:
    """Ollama's two APIs as far as texts' lengths matter; with `native` False a server that has /v1 alone."""

    context: int = 16
    native: bool = True
    cuts: bool = True  # whether /v1 cuts texts that are too long
    refusal: str = "the input length exceeds the context length"
    status: int = 400
    parameters: str = "num_ctx                        8192"
    loaded: int | None = None
    capabilities: list[str] | None = field(default_factory=lambda: ["embedding"])
    listed: dict[str, Any] = field(default_factory=dict)
    poison: str = ""
    requests: list[tuple[str, list[str]]] = field(default_factory=list)

    def client(self) -> EmbeddingClient:
        endpoint = Endpoint(URL, MODEL, 3, timeout=5)
        return EmbeddingClient(endpoint, transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        if path == "/v1/embeddings":
            return self._openai(body)
        if path == "/v1/models":
            return httpx.Response(200, json={"object": "list", "data": [{"id": MODEL, **self.listed}]})
        if not self.native:
            return httpx.Response(404, text="404 page not found")
        if path == "/api/embed":
            return self._ollama(body)
        if path == "/api/show":
            shown: dict[str, Any] = {
                "model_info": {"general.architecture": "bert", "bert.context_length": self.context},
                "parameters": self.parameters,
            }
            if self.capabilities is not None:
                shown["capabilities"] = self.capabilities
            return httpx.Response(200, json=shown)
        if path == "/api/ps":
            row = {"name": f"{MODEL}:latest", "model": f"{MODEL}:latest", "context_length": self.loaded}
            return httpx.Response(200, json={"models": [row] if self.loaded else []})
        return httpx.Response(404, text="404 page not found")

    def paths(self) -> list[str]:
        """Where texts were sent, with their number."""
        return [f"{path} {len(texts)}" for path, texts in self.requests]

    def _read(self, text: str, *, cut: bool) -> str | None:
        read = text.split()
        if len(read) + MARKS <= self.context:
            return text
        return " ".join(read[: self.context - MARKS]) if cut else None

    def _vectors(self, path: str, texts: list[str], *, cut: bool) -> list[list[float]] | httpx.Response:
        self.requests.append((path, texts))
        if self.poison and any(self.poison in text for text in texts):
            return httpx.Response(400, json={"error": "failed to create embedding: EOF"})
        read = [self._read(text, cut=cut) for text in texts]
        if None in read:
            longest = max(len(text.split()) for text in texts) + MARKS
            said = self.refusal.format(given=longest, limit=self.context)
            return httpx.Response(self.status, json={"error": said})
        return [vector(text) for text in read if text is not None]

    def _openai(self, body: dict[str, Any]) -> httpx.Response:
        found = self._vectors("v1", body["input"], cut=self.cuts)
        if isinstance(found, httpx.Response):
            return found
        data = [
            {"index": place, "embedding": base64.b64encode(np.asarray(row, "<f4").tobytes()).decode()}
            for place, row in enumerate(found)
        ]
        return httpx.Response(200, json={"data": data})

    def _ollama(self, body: dict[str, Any]) -> httpx.Response:
        assert body["truncate"] is False
        found = self._vectors("native", body["input"], cut=False)
        return found if isinstance(found, httpx.Response) else httpx.Response(200, json={"embeddings": found})
