"""How Archon asks for embeddings: one way for what it stores, and quite another for what is searched."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .settings import Expiring, Settings

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("archon.embeddings")

OLLAMA_URL = "http://localhost:11434/v1"
_CONTAINERS = ipaddress.ip_network("198.18.0.0/15")  # for tests of networks (RFC 2544)
_DEFAULT_DIMENSIONS = 1536
_DEFAULT_BATCH = 100
_DEFAULT_FALLBACK = "openai,ollama,tei,local"
_FIXED_MODELS = {
    "openai": "text-embedding-3-small",
    "google": "text-embedding-004",
    "ollama": "nomic-embed-text",
    "tei": "sentence-transformers/all-MiniLM-L6-v2",
}
_KEYS = {"openai": "OPENAI_API_KEY", "google": "GOOGLE_API_KEY"}
_RATE_LIMIT_WAITS = (2.0, 4.0)
# The client library tries again by itself, whatever Archon does.
_CLIENT_WAITS = (0.5, 1.0)
_CLIENT_RETRIES = (408, 409, 429)
_TIMEOUT = 600.0
_FAILURES_UNTIL_UNHEALTHY = 3
_UNHEALTHY_SECONDS = 300.0


class EmbeddingFailed(Exception):
    """A provider did not answer with vectors."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Provider:
    """Where and as what vectors are asked for."""

    name: str
    base_url: str
    model: str
    api_key: str


@dataclass
class Health:
    """What a server remembers of one provider."""

    failures: int = 0
    last_error: str = ""
    unhealthy_since: float | None = None

    @property
    def usable(self) -> bool:
        return self.unhealthy_since is None or time.monotonic() - self.unhealthy_since >= _UNHEALTHY_SECONDS


@dataclass
class Embedder:
    """The embedding calls of one server process."""

    settings: Settings
    health: dict[str, Health] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The provider module keeps a copy of its own, which no write through the API renews.
        self._configured: Expiring[Provider] = Expiring(self.settings.ttl)

    async def for_storage(self, texts: Sequence[str]) -> list[list[float] | None]:
        """A vector for each text, None where there is none: a failed batch is skipped, and no other provider is asked."""
        vectors: list[list[float] | None] = [None] * len(texts)
        rag = await self.settings.rag()
        size = max(1, _integer(rag.get("EMBEDDING_BATCH_SIZE"), _DEFAULT_BATCH))
        dimensions = _integer(rag.get("EMBEDDING_DIMENSIONS"), _DEFAULT_DIMENSIONS)
        for start in range(0, len(texts), size):
            part = list(texts[start : start + size])
            try:
                found = await self._patiently(await self._storing_provider(rag), part, dimensions)
            except EmbeddingFailed as error:
                logger.error("Failed to create embeddings for %d texts: %s", len(part), error)
                if error.code == "insufficient_quota":
                    break
            else:
                vectors[start : start + len(found)] = found
        return vectors

    async def for_query(self, text: str) -> list[float] | None:
        """The vector of a query from the first provider that answers, or None."""
        rag = await self.settings.rag()
        names = _unique(
            [_provider_name(rag), *(rag.get("EMBEDDING_FALLBACK_PROVIDERS") or _DEFAULT_FALLBACK).split(",")]
        )
        for number, name in enumerate(names):
            health = self.health.setdefault(name, Health())
            if not health.usable and number < len(names) - 1:
                continue
            try:
                provider = self._searching_provider(name, rag, primary=number == 0)
                found = await embed(provider, [text], None)
            except EmbeddingFailed as error:
                logger.error("Embedding provider %s failed: %s", name, error)
                health.failures += 1
                health.last_error = str(error)
                if health.failures >= _FAILURES_UNTIL_UNHEALTHY:
                    health.unhealthy_since = time.monotonic()
                continue
            self.health[name] = Health()
            return found[0]
        logger.error("All embedding providers failed")
        return None

    async def _storing_provider(self, rag: dict[str, str | None]) -> Provider:
        known = self._configured.get()
        if known is None:
            name = _provider_name(rag)
            known = self._configured.set(
                Provider(
                    name, _storing_url(rag), rag.get("EMBEDDING_MODEL") or _FIXED_MODELS.get(name, ""), self._key(name)
                )
            )
        # The environment is asked each time, the cached copy of the setting only where it has nothing.
        return Provider(known.name, os.environ.get("EMBEDDING_BASE_URL") or known.base_url, known.model, known.api_key)

    def _searching_provider(self, name: str, rag: dict[str, str | None], *, primary: bool) -> Provider:
        url = _storing_url(rag) if name == "tei" else rag.get("LLM_BASE_URL") or OLLAMA_URL
        fixed = _FIXED_MODELS.get(name, "")
        model = os.environ.get("EMBEDDING_MODEL") or rag.get("EMBEDDING_MODEL") or fixed if primary else fixed
        return Provider(name, url, model, self._key(name))

    def _key(self, name: str) -> str:
        return (self.settings.get(_KEYS[name]) or os.environ.get(_KEYS[name], "")) if name in _KEYS else name

    async def _patiently(self, provider: Provider, texts: list[str], dimensions: int) -> list[list[float]]:
        for wait in _RATE_LIMIT_WAITS:
            try:
                return await embed(provider, texts, dimensions)
            except EmbeddingFailed as error:
                if error.status != 429 or error.code == "insufficient_quota":
                    raise
            await asyncio.sleep(wait)
        return await embed(provider, texts, dimensions)


async def embed(provider: Provider, texts: list[str], dimensions: int | None) -> list[list[float]]:
    """One call of the OpenAI client library. Raises EmbeddingFailed. Nothing outside this machine is ever asked."""
    import httpx

    if provider.name in _KEYS:
        if not provider.api_key:
            raise EmbeddingFailed(f"{_KEYS[provider.name]} not found")
        raise EmbeddingFailed("Connection error.")  # the internet, where the lab never goes
    if provider.name not in ("ollama", "tei"):
        raise EmbeddingFailed(f"Unsupported LLM provider: {provider.name}")
    body: dict[str, object] = {"input": texts, "model": provider.model, "encoding_format": "float"}
    if dimensions is not None:
        body["dimensions"] = dimensions
    url = f"{provider.base_url.rstrip('/')}/embeddings"
    if not await asyncio.to_thread(_is_here, url):
        raise EmbeddingFailed(f"Connection error. ({url})")
    async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:
        answer = await _insistently(client, url, body)
    try:
        data = sorted(answer.json()["data"], key=lambda one: one["index"])
        vectors = [list(map(float, one["embedding"])) for one in data]
    except (ValueError, KeyError, TypeError) as error:
        raise EmbeddingFailed(f"unusable answer of {url}: {type(error).__name__}") from error
    if len(vectors) != len(texts):
        raise EmbeddingFailed(f"{len(vectors)} vectors for {len(texts)} texts from {url}")
    return vectors


async def _insistently(client: httpx.AsyncClient, url: str, body: dict[str, object]) -> httpx.Response:
    import httpx

    for wait in (*_CLIENT_WAITS, None):
        try:
            answer = await client.post(url, json=body, headers={"Authorization": "Bearer ollama"})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if wait is None or isinstance(error, httpx.InvalidURL):
                raise EmbeddingFailed(f"Connection error. ({url})") from error
        else:
            again = answer.status_code in _CLIENT_RETRIES or answer.status_code >= 500
            if not again or wait is None:
                return _checked(answer)
        await asyncio.sleep(wait)
    raise AssertionError("the last round returns or raises")


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    try:
        content: Any = answer.json()
    except ValueError:
        content = answer.text[:200]
    detail = content.get("error") if isinstance(content, dict) else None
    code = str(detail.get("code") or "") if isinstance(detail, dict) else ""
    raise EmbeddingFailed(f"Error code: {answer.status_code} - {content}", answer.status_code, code)


def _is_here(url: str) -> bool:
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None)
    except (OSError, ValueError):
        return False
    addresses = [ipaddress.ip_address(one[4][0]) for one in found]
    return all(one.is_loopback or one in _CONTAINERS for one in addresses)


def _provider_name(rag: dict[str, str | None]) -> str:
    name = os.environ.get("EMBEDDING_PROVIDER") or rag.get("EMBEDDING_PROVIDER") or rag.get("LLM_PROVIDER") or "openai"
    return name.strip().lower()


def _storing_url(rag: dict[str, str | None]) -> str:
    return os.environ.get("EMBEDDING_BASE_URL") or rag.get("EMBEDDING_BASE_URL") or OLLAMA_URL


def _integer(text: str | None, default: int) -> int:
    try:
        return int(text or default)
    except ValueError:
        return default


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.strip().lower() for name in names if name.strip()))
