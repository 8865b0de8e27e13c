"""HTTP to one embedding service: bounded in time and size, its failures told by what can be done about them."""

from __future__ import annotations

import json
import os
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

import httpcore  # noqa: F401 - httpx would load it with the first request, when time counts
import httpx
import orjson

from .endpoint import Endpoint
from .failures import RequestRejected, ServiceUnavailable, ServiceUnusable

# Replies besides vectors (lists of models, errors).
REPLY_BYTES = 1 << 20
REFUSED = "embedding_refused"
_CONNECTIONS = 32
# Below the 5 s after which servers like uvicorn close an idle connection: whoever closes second loses a request.
_KEEP_IDLE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply, whatever its status."""

    url: str
    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def is_page(self) -> bool:
        """Whether it is a web page rather than an API's answer."""
        return "html" in self.headers.get("content-type", "").lower() or self.content.lstrip()[:1] == b"<"

    def parsed(self) -> object:
        """The JSON in it. Raises ServiceUnusable for a web page, ServiceUnavailable for JSON that breaks off."""
        try:
            return orjson.loads(self.content)
        except orjson.JSONDecodeError as error:
            if b"NaN" in self.content or b"Infinity" in self.content:
                # No JSON, but what Python's servers write for such numbers: a text's fault, not the connection's.
                with suppress(ValueError):
                    return json.loads(self.content)
            if self.is_page:
                start = self.content.lstrip()[:60].decode("utf-8", "replace")
                raise unusable(self.url, "JSON", f"a web page: {start!r}", "embedding_not_json") from error
            raise unavailable(
                self.url,
                "complete JSON",
                f"{len(self.content)} bytes that end or err: {error}",
                "embedding_malformed",
            ) from error


class Transport:
    """Reused connections to one service; safe to use from several threads.

    `transport` replaces the network in tests. Raises ServiceUnusable where the environment's proxy or TLS variables
    cannot be used.
    """

    def __init__(self, endpoint: Endpoint, *, transport: httpx.BaseTransport | None = None) -> None:
        self.endpoint = endpoint
        # Vectors hardly shrink, and unpacking them would cost more time than the network does.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if endpoint.token:
            headers["Authorization"] = f"Bearer {endpoint.token}"
        try:
            self._http = httpx.Client(
                headers=headers,
                transport=transport,
                verify=_trust(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
                # A proxy that environment variables name must not get between us and this very machine.
                trust_env=not endpoint.loopback,
                follow_redirects=False,
                limits=httpx.Limits(
                    max_connections=_CONNECTIONS,
                    max_keepalive_connections=_CONNECTIONS,
                    keepalive_expiry=_KEEP_IDLE_SECONDS,
                ),
            )
        except (ValueError, ImportError, OSError) as error:
            raise unusable(
                endpoint.base_url,
                "usable proxy and TLS variables in the environment",
                type(error).__name__,  # the text may quote a proxy's password
                "embedding_environment",
                "Correct or unset HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE.",
            ) from error

    def close(self) -> None:
        self._http.close()

    def send(self, method: str, url: str, body: bytes = b"", *, limit: int = REPLY_BYTES) -> Reply:
        """One request and its whole reply of at most `limit` bytes. Raises ServiceUnavailable or ServiceUnusable."""
        deadline = time.monotonic() + self.endpoint.timeout
        chunks: list[bytes] = []
        received = 0
        with self._translated(url), self._request(method, url, body) as response:
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                received += len(chunk)
                # httpx's read timeout starts anew with every byte, so a dripping server needs a second bound.
                if time.monotonic() > deadline:
                    raise unavailable(url, "an answer within its time", self._late(), "embedding_timeout")
                if received > limit:
                    raise unusable(url, f"at most {limit} bytes", "a longer reply", "embedding_reply_size")
            return Reply(url, response.status_code, response.headers, b"".join(chunks))

    @contextmanager
    def lines(self, url: str, body: bytes, *, silence: float) -> Iterator[tuple[Reply | None, Iterator[str]]]:
        """POST, then the lines of a reply that comes bit by bit; or the whole reply where its status is not 200.

        Raises as `send` does, also while lines are read, and when nothing comes for `silence` seconds.
        """
        with self._translated(url, silence), self._request("POST", url, body, silence=silence) as response:
            refused = None
            if response.status_code != 200:
                refused = Reply(url, response.status_code, response.headers, response.read())
            yield refused, response.iter_lines()

    @contextmanager
    def _request(self, method: str, url: str, body: bytes, *, silence: float | None = None) -> Iterator[httpx.Response]:
        headers = {"Content-Type": "application/json"} if body else {}
        timeout = self._times(self.endpoint.timeout if silence is None else silence)
        with self._http.stream(method, url, content=body or None, headers=headers, timeout=timeout) as response:
            yield response
            if body and response.status_code != 200 and (stream := response.extensions.get("network_stream")):
                # Who refuses a request without reading it whole (http.server does) takes the rest of it for the next one.
                stream.close()

    def _times(self, seconds: float) -> httpx.Timeout:
        return httpx.Timeout(seconds, connect=min(self.endpoint.connect_timeout, self.endpoint.timeout))

    @contextmanager
    def _translated(self, url: str, seconds: float | None = None) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise unavailable(url, "an answer within its time", self._late(seconds), "embedding_timeout") from error
        except httpx.ConnectError as error:
            raise self._not_connected(url, error) from error
        except httpx.ProxyError as error:
            raise unavailable(
                url,
                "a proxy that lets the request through (see HTTP_PROXY, NO_PROXY)",
                str(error),
                "embedding_proxy",
            ) from error
        except httpx.DecodingError as error:
            raise unavailable(url, "a reply that can be decompressed", str(error), "embedding_truncated") from error
        except httpx.TransportError as error:
            said = str(error) or type(error).__name__
            if url.startswith("http:") and ("without sending a response" in said or "reset" in said):
                said += " (a port that speaks https does that, too)"
            raise unavailable(url, "a complete reply", said, "embedding_cut") from error

    def _not_connected(self, url: str, error: httpx.ConnectError) -> ServiceUnavailable | ServiceUnusable:
        said = str(error)
        if "WRONG_VERSION_NUMBER" in said or "RECORD_LAYER" in said:
            return unusable(
                url,
                "a service that speaks TLS",
                said,
                "embedding_tls",
                "Write http:// in archon_embedding_base_url where the service has no TLS.",
            )
        if isinstance(error.__cause__, ssl.SSLError) or "CERTIFICATE" in said or "SSL" in said:
            return unusable(
                url,
                "a TLS certificate that this machine trusts and that names this host",
                said,
                "embedding_tls",
                "Set SSL_CERT_FILE to the CA that signed the certificate, or use the name that stands in it.",
            )
        if not self.endpoint.loopback and (variable := _proxy_variable(url)):
            return unavailable(url, f"a proxy listening where {variable} says", said, "embedding_proxy")
        return unavailable(url, "a service listening there", said, "embedding_unreachable")

    def _late(self, seconds: float | None = None) -> str:
        waited = self.endpoint.timeout if seconds is None else seconds
        return f"none within {waited:g} s (connecting: {self.endpoint.connect_timeout:g} s)"


@cache
def _trust(cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    """The certificates that the environment names, else the usual ones; loading them takes 20 ms, hence the cache."""
    if cert_file or cert_dir:
        return ssl.create_default_context(cafile=cert_file or None, capath=cert_dir or None)
    return httpx.create_ssl_context(trust_env=False)


def _proxy_variable(url: str) -> str | None:
    """The variable that puts a proxy before `url`, if one does."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return next((f"{name.upper()}_PROXY" for name in (parts.scheme, "all") if name in proxies), None)


def unavailable(url: str, expected: str, found: str, code: str) -> ServiceUnavailable:
    """The service does not answer properly at the moment."""
    return ServiceUnavailable(
        "The embedding service does not answer.",
        object_name=url,
        expected=expected,
        found=found,
        remedy="Check that the service runs and is reachable from this host, then run again.",
        code=code,
    )


def unusable(
    url: str, expected: str, found: str, code: str, remedy: str = "Correct archon_embedding_base_url."
) -> ServiceUnusable:
    """The service will not answer rightly as things are configured."""
    return ServiceUnusable(
        "The embedding service cannot be used.",
        object_name=url,
        expected=expected,
        found=found,
        remedy=remedy,
        code=code,
    )


def rejected(url: str, expected: str, found: str, code: str = REFUSED) -> RequestRejected:
    """The service refused one request."""
    return RequestRejected(
        "The embedding service refused a request.",
        object_name=url,
        expected=expected,
        found=found,
        remedy="Check the service's log; that the model is an embedding model; and the texts named.",
        code=code,
    )
