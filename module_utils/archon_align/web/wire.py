"""One HTTP client for all servers but the embedding service: bounded in time and size, and silent about secrets."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from ..errors import AlignError
from .trust import Trust

REPLY_BYTES = 8 << 20
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SHOWN = 400


class Unreachable(AlignError):
    """No reply: refused, timed out, name unknown, TLS not trusted, or broken off."""


class BadAnswer(AlignError):
    """A reply that is not what such a server sends."""


class NotAllowed(AlignError):
    """Check mode does not send this request; nothing of it went out."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A request that check mode may send. `path` is a regular expression for the whole path below the base URL."""

    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Server:
    """Where requests go. `name` is what people call it; `headers` may be secret; `socket` is a unix socket's path; seconds."""

    name: str
    base_url: str = field(repr=False)  # may hold a password
    timeout: float = 10.0
    trust: Trust = field(default_factory=Trust)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    socket: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AlignError(
                f"The address of {self.name} cannot be used.",
                object_name=self.name,
                expected="a URL like https://host:port",
                found=self.shown,
                remedy="Correct the address in the inventory.",
                code="bad_variable",
            )

    @property
    def shown(self) -> str:
        """The base URL without user and password."""
        parts = urlsplit(self.base_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl() or "''"


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply, whatever its status. `where` names server, method and path."""

    where: str
    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The JSON in it. Raises BadAnswer."""
        try:
            return orjson.loads(self.content)
        except orjson.JSONDecodeError as error:
            start = self.content.lstrip()[:60].decode("utf-8", "replace")
            raise bad_answer(self.where, "JSON", f"status {self.status}, {start!r}") from error

    def message(self) -> str:
        """The error text in it: Portainer's and Docker's `message` and `details`, FastAPI's `detail`; else its beginning."""
        try:
            found = orjson.loads(self.content)
        except orjson.JSONDecodeError:
            found = self.content[:_SHOWN].decode("utf-8", "replace")
        if isinstance(found, dict):
            parts = [_text(found[key]) for key in ("message", "details", "detail", "error") if found.get(key)]
            found = ": ".join(dict.fromkeys(parts)) or found
        return " ".join(_text(found).split())[:_SHOWN] or f"status {self.status}"


def _text(found: object) -> str:
    if isinstance(found, dict):
        inner = found.get("error") or found.get("message")
        return _text(inner) if inner else orjson.dumps(found, default=str).decode()
    return found if isinstance(found, str) else orjson.dumps(found, default=str).decode()


def bad_answer(where: str, expected: str, found: str) -> BadAnswer:
    return BadAnswer(
        "A server gave an answer that such a server does not give.",
        object_name=where,
        expected=expected,
        found=found,
        remedy="See that the address is this server's own, and that no proxy or log-in page stands before it.",
        code="bad_answer",
    )


class Wire:
    """Reused connections to one server; safe to use from several threads. A context manager.

    With `allowed` (check mode) every other request raises NotAllowed before a byte of it is sent.
    """

    def __init__(self, server: Server, *, allowed: Sequence[Allowed] | None = None) -> None:
        self.server = server
        self._allowed = None if allowed is None else [(one.method, re.compile(one.path)) for one in allowed]
        self._base = server.base_url.rstrip("/")
        loopback = urlsplit(server.base_url).hostname in _LOOPBACK or bool(server.socket)
        transport = None
        if server.socket:
            transport = httpx.HTTPTransport(uds=server.socket)
        verify: ssl.SSLContext | bool = server.trust.context() if server.base_url.startswith("https") else False
        try:
            self._http = httpx.Client(
                headers={"Accept": "application/json", **server.headers},
                timeout=server.timeout,
                verify=verify,
                # With a cookie Portainer wants a CSRF token for every change.
                cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=())),
                # A proxy that environment variables name must not get between us and this very machine.
                trust_env=not loopback,
                transport=transport,
                follow_redirects=False,
            )
        except (ValueError, ImportError, OSError) as error:
            raise self._unreachable("usable proxy variables in the environment", type(error).__name__) from error

    @property
    def restricted(self) -> bool:
        """Whether there is a list of what may be sent, as in check mode."""
        return self._allowed is not None

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: object = None,
        data: Mapping[str, str] | None = None,
        files: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        limit: int = REPLY_BYTES,
    ) -> Reply:
        """One request below the base URL and its whole reply. `timeout` bounds the whole, in seconds, `limit` its size in bytes.

        Raises Unreachable, BadAnswer (too long), NotAllowed. Whatever its status, a reply is returned.
        """
        where = f"{self.server.name} {method} {path}"
        if self._allowed is not None and not any(
            method == verb and pattern.fullmatch(path) for verb, pattern in self._allowed
        ):
            raise NotAllowed(
                "Check mode does not send this request.",
                object_name=where,
                expected="a request that only reads",
                found="one that is not on the list of those",
                remedy="Run without --check to do it. If it only reads, this is an error of archon-align.",
                code="not_allowed_in_check_mode",
            )
        seconds = self.server.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        chunks: list[bytes] = []
        received = 0
        try:
            with self._http.stream(
                method,
                self._base + path,
                params=params,
                data=data,
                files=files,
                timeout=seconds,
                headers={**(headers or {}), **({"Content-Type": "application/json"} if json is not None else {})},
                content=orjson.dumps(json) if json is not None else None,
            ) as response:
                for chunk in response.iter_bytes():
                    chunks.append(chunk)
                    received += len(chunk)
                    # The read timeout starts anew with every byte, so a dripping server needs a second bound.
                    if time.monotonic() > deadline:
                        raise self._unreachable(
                            "a whole reply in time", f"a part of it after {seconds:g} s", where, code="timeout"
                        )
                    if received > limit:
                        raise bad_answer(where, f"at most {limit} bytes", "a longer reply")
                return Reply(where, response.status_code, dict(response.headers), b"".join(chunks))
        except httpx.TimeoutException as error:
            raise self._unreachable("an answer in time", f"none within {seconds:g} s", where, code="timeout") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise self._translated(error, where) from None

    def _translated(self, error: Exception, where: str) -> Unreachable:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return self._unreachable(
                    "a certificate that is trusted",
                    str(cause.verify_message if getattr(cause, "verify_message", "") else cause.args[-1]),
                    where,
                    code="tls_untrusted",
                    remedy="Give the CA file or the fingerprint of the server's certificate; it may also be another server.",
                )
            cause = cause.__cause__ or cause.__context__
        return self._unreachable(
            "a connection and an answer", " ".join(str(error).split()) or type(error).__name__, where
        )

    def _unreachable(
        self, expected: str, found: str, where: str = "", *, code: str = "unreachable", remedy: str = ""
    ) -> Unreachable:
        address = self.server.socket or self.server.shown
        return Unreachable(
            f"{self.server.name} does not answer.",
            object_name=where or self.server.name,
            expected=f"{expected} from {address}",
            found=found,
            remedy=remedy or "See that it runs, that the address is right, and that this machine may reach it.",
            code=code,
        )
