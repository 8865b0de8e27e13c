"""The embedding service's client: OpenAI's `/embeddings`, as Archon calls it, with bounded time and size."""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import orjson

from .endpoint import Endpoint
from .failures import RequestRejected, ServiceUnavailable, ServiceUnusable
from .vectors import Vectors, unit_length, vectors_of

# A vector of 768 floats is 4 KB in base64 and up to 20 KB in digits; a runaway reply must not fill the memory.
REPLY_BYTES_PER_NUMBER = 64
REPLY_BYTES_BESIDES = 1 << 20
_BUSY = (408, 425, 429, 502, 503, 504)


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
        headers = {"Accept": "application/json"}
        if endpoint.token:
            headers["Authorization"] = f"Bearer {endpoint.token}"
        try:
            self._http = httpx.Client(
                headers=headers,
                transport=transport,
                # A proxy that environment variables name must not get between us and this very machine.
                trust_env=not endpoint.loopback,
                follow_redirects=False,
                timeout=httpx.Timeout(endpoint.timeout, connect=min(endpoint.connect_timeout, endpoint.timeout)),
            )
        except (ValueError, ImportError, OSError) as error:
            raise self._unusable(
                "usable proxy and TLS variables in the environment",
                type(error).__name__,  # the text may quote a proxy's password
                "embedding_environment",
                "Correct or unset HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE.",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def introduce(self, texts: Sequence[str]) -> Vectors:
        """The first request: finds out whether base64 is understood and whether vectors have length one.

        Raises ServiceUnavailable, ServiceUnusable or RequestRejected.
        """
        try:
            vectors = self.embed(texts)
        except RequestRejected:
            # A server that does not know base64 may refuse the request for that alone.
            self._encoding = "float"
            vectors = self.embed(texts)
        self.unit = unit_length(vectors)
        return vectors

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector per text, in order, each checked.

        Raises ServiceUnavailable, ServiceUnusable or RequestRejected.
        """
        body = {"model": self.endpoint.model, "input": list(texts), "encoding_format": self._encoding}
        limit = REPLY_BYTES_BESIDES + len(texts) * self.endpoint.dimensions * REPLY_BYTES_PER_NUMBER
        status, headers, content = self._send("POST", self.url, orjson.dumps(body), limit)
        if status != 200:
            raise self._refusal(status, headers, content)
        return vectors_of(
            self._parsed(headers, content),
            count=len(texts),
            dimensions=self.endpoint.dimensions,
            url=self.url,
            unit=self.unit,
        )

    def identity(self) -> Identity:
        """Version and digest as Ollama's own API tells them; any failure gives '', because other servers have no such API."""
        version = self._told("/api/version")
        tags = self._told("/api/tags")
        wanted = self.endpoint.model if ":" in self.endpoint.model else f"{self.endpoint.model}:latest"
        models = tags.get("models")
        digests = [
            str(model.get("digest", ""))
            for model in (models if isinstance(models, list) else [])
            if isinstance(model, dict) and wanted in (model.get("name"), model.get("model"))
        ]
        return Identity(str(version.get("version", "")), digests[0] if digests else "")

    def models(self) -> list[str]:
        """The models the service says it has, or an empty list."""
        data = self._told("/models", self.endpoint.base_url).get("data")
        return [str(item.get("id")) for item in data if isinstance(item, dict)] if isinstance(data, list) else []

    def _told(self, path: str, base: str | None = None) -> dict[str, Any]:
        try:
            status, _, content = self._send("GET", (base or self.endpoint.native_url) + path, b"", REPLY_BYTES_BESIDES)
            reply = orjson.loads(content) if status == 200 else {}
        except (ServiceUnavailable, ServiceUnusable, RequestRejected, orjson.JSONDecodeError):
            return {}
        return reply if isinstance(reply, dict) else {}

    def _send(self, method: str, url: str, body: bytes, limit: int) -> tuple[int, httpx.Headers, bytes]:
        deadline = time.monotonic() + self.endpoint.timeout
        received = bytearray()
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            with self._http.stream(method, url, content=body or None, headers=headers) as response:
                for chunk in response.iter_bytes():
                    received += chunk
                    # httpx's read timeout starts anew with every byte, so a dripping server needs a second bound.
                    if time.monotonic() > deadline:
                        raise self._unavailable("an answer within its time", self._late(), "embedding_timeout")
                    if len(received) > limit:
                        raise self._unusable(f"at most {limit} bytes", "a longer reply", "embedding_reply_size")
                return response.status_code, response.headers, bytes(received)
        except httpx.TimeoutException as error:
            raise self._unavailable("an answer within its time", self._late(), "embedding_timeout") from error
        except httpx.ConnectError as error:
            if isinstance(error.__cause__, ssl.SSLError) or "CERTIFICATE" in str(error) or "SSL" in str(error):
                raise self._unusable(
                    "a TLS certificate this machine trusts",
                    str(error),
                    "embedding_tls",
                    "Use http where the service has no TLS, or set SSL_CERT_FILE to the CA that signed its certificate.",
                ) from error
            raise self._unavailable("a service listening there", str(error), "embedding_unreachable") from error
        except httpx.ProxyError as error:
            raise self._unavailable(
                "a proxy that lets the request through (see HTTP_PROXY, NO_PROXY)", str(error), "embedding_proxy"
            ) from error
        except httpx.DecodingError as error:
            raise self._unavailable("a reply that can be decompressed", str(error), "embedding_truncated") from error
        except httpx.TransportError as error:
            raise self._unavailable("a complete reply", str(error) or type(error).__name__, "embedding_cut") from error

    def _late(self) -> str:
        return f"none within {self.endpoint.timeout:g} s (connecting: {self.endpoint.connect_timeout:g} s)"

    def _parsed(self, headers: httpx.Headers, content: bytes) -> object:
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            start = content.lstrip()[:60].decode("utf-8", "replace")
            if "html" in headers.get("content-type", "").lower() or start.startswith("<"):
                raise self._unusable("JSON", f"a web page: {start!r}", "embedding_not_json") from error
            raise self._unavailable(
                "complete JSON", f"{len(content)} bytes that end or err: {error}", "embedding_malformed"
            ) from error

    def _refusal(
        self, status: int, headers: httpx.Headers, content: bytes
    ) -> ServiceUnavailable | ServiceUnusable | RequestRejected:
        said = self._message(content)
        found = f"HTTP {status}" + (f": {said}" if said else "")
        if 300 <= status < 400:
            location = headers.get("location", "").split("?")[0]
            return self._unusable("an answer, not a redirect", f"{found} to {location!r}", "embedding_redirect")
        if status in (401, 403, 407):
            return self._unusable(
                "a log-in the service accepts",
                found,
                "embedding_forbidden",
                "Put the service's token into a file of mode 0600 and name it in archon_embedding_token_file.",
            )
        if status == 404 and "model" in said.lower():
            there = self.models()
            return self._unusable(
                f"model {self.endpoint.model} present",
                found + (f"; present: {', '.join(there[:20])}" if there else ""),
                "embedding_model_missing",
                f"On the service's host run: ollama pull {self.endpoint.model}",
            )
        if status in (404, 405, 410, 501):
            return self._unusable(
                "an OpenAI-compatible path /embeddings",
                found,
                "embedding_path",
                "Correct archon_embedding_base_url; with Ollama it ends in /v1.",
            )
        if status in _BUSY:
            return self._unavailable("a service that has capacity", found, "embedding_busy")
        return RequestRejected(
            "The embedding service refused a request.",
            object_name=self.url,
            expected="HTTP 200",
            found=found,
            remedy="Check the service's log; that the model is an embedding model; and the texts named.",
            code="embedding_refused",
        )

    def _message(self, content: bytes) -> str:
        """The service's own words, on one line and short."""
        try:
            reply = orjson.loads(content)
        except orjson.JSONDecodeError:
            reply = content.decode("utf-8", "replace")
        if isinstance(reply, dict):
            error = reply.get("error", reply.get("detail", reply))
            reply = error.get("message", error) if isinstance(error, dict) else error
        text = " ".join(str(reply).split())
        if self.endpoint.token:
            text = text.replace(self.endpoint.token, "********")
        return text if len(text) <= 200 else text[:200] + " …"

    def _unavailable(self, expected: str, found: str, code: str) -> ServiceUnavailable:
        return ServiceUnavailable(
            "The embedding service does not answer.",
            object_name=self.url,
            expected=expected,
            found=found,
            remedy="Check that the service runs and is reachable from this host, then run again.",
            code=code,
        )

    def _unusable(
        self, expected: str, found: str, code: str, remedy: str = "Correct archon_embedding_base_url."
    ) -> ServiceUnusable:
        return ServiceUnusable(
            "The embedding service cannot be used.",
            object_name=self.url,
            expected=expected,
            found=found,
            remedy=remedy,
            code=code,
        )
