"""Where the embedding service is and how to talk to it: URL, model, times, token."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from ..errors import AlignError
from ..findings import Finding

API_PATH = "/v1"
LIST_VARIABLE = "archon_embedding_endpoints"
DEFAULT_PORTS = {"http": 80, "https": 443}


def _bad_url(expected: str, found: str, variable: str) -> AlignError:
    return AlignError(
        "The embedding service's URL cannot be used.",
        object_name=variable,
        expected=expected,
        found=found,
        remedy=f"Set {variable} to something like http://host:11434/v1.",
        code="embedding_url",
    )


def normalised(base_url: str, variable: str = "archon_embedding_base_url") -> str:
    """The URL that `/embeddings` is appended to; a bare host gets `/v1`, a full path loses `/embeddings`.

    Raises AlignError naming `variable`, without quoting the URL where it may hold a password.
    """
    text = base_url.strip()
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _bad_url("an http or https URL", f"a malformed URL ({error})", variable) from error
    if "@" in parts.netloc:
        raise _bad_url(
            "a URL without user and password; a token comes from a file", "user information in the URL", variable
        )
    if parts.scheme not in DEFAULT_PORTS:
        raise _bad_url("scheme http or https", repr(text) if text else "an empty value", variable)
    if not host or port == 0:
        raise _bad_url("a host name and a port above 0", repr(text), variable)
    if parts.query or parts.fragment:
        raise _bad_url("a URL without query and fragment", "a query or fragment in the URL", variable)
    if any(character.isspace() or not character.isprintable() for character in text):
        raise _bad_url("a URL without blanks and control characters", repr(text), variable)
    place = f"[{host}]" if ":" in host else host
    if port not in (None, DEFAULT_PORTS[parts.scheme]):
        place += f":{port}"
    path = parts.path.rstrip("/").removesuffix("/embeddings").rstrip("/")
    return urlunsplit((parts.scheme, place, path or API_PATH, "", ""))


def read_token(file: str) -> str:
    """The bearer token in `file`; raises AlignError when others could read it too, never quoting it."""
    path = Path(file)
    problem = ""
    token = ""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            problem = "not a regular file"
        elif status.st_mode & 0o077:
            problem = f"mode {stat.S_IMODE(status.st_mode):04o}"
        else:
            token = path.read_text(encoding="ascii").strip()
            if not token or not token.isprintable() or " " in token:
                problem = "no single printable word in it"
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "bytes that are not ASCII"
    if problem:
        raise AlignError(
            "The embedding service's token cannot be read.",
            object_name=str(path),
            expected="a file of mode 0600 with the token as its only line",
            found=problem,
            remedy="Put the token there and run chmod 600 on the file.",
            code="embedding_token",
        )
    return token


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One embedding service and the model to use there. Times are in seconds."""

    base_url: str
    model: str
    dimensions: int
    timeout: float = 60.0
    connect_timeout: float = 5.0
    token: str = field(default="", repr=False)

    @classmethod
    def of(cls, base_url: str, model: str, dimensions: int, *, timeout: float, token_file: str | None = None) -> Self:
        """The endpoint with the token read from `token_file`, if one is named. Raises AlignError."""
        token = read_token(token_file) if token_file else ""
        return cls(base_url, model, dimensions, timeout=timeout, token=token)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", normalised(self.base_url))
        if not self.model.strip():
            raise AlignError(
                "No embedding model is named.",
                object_name="archon_embedding_model",
                expected="a model's name, such as nomic-embed-text",
                found="an empty value",
                remedy="Set archon_embedding_model.",
                code="embedding_model",
            )

    @property
    def native_url(self) -> str:
        """Where Ollama's own API would be."""
        return self.base_url.removesuffix(API_PATH)

    @property
    def loopback(self) -> bool:
        """Whether the service is on this machine, so that no proxy may stand between."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")


def endpoints_of(
    base_url: str,
    urls: Sequence[object],
    model: str,
    dimensions: int,
    *,
    timeout: float,
    token_file: str | None = None,
) -> tuple[tuple[Endpoint, ...], list[Finding]]:
    """The endpoints to use: those at `urls`, each once, or the one at `base_url` where the list is empty.

    A URL that comes twice, however it is written, is a finding. Raises AlignError naming the place in the list.
    """
    found: dict[str, Endpoint] = {}
    findings = []
    for place, url in enumerate(urls or [base_url]):
        variable = f"{LIST_VARIABLE}[{place}]" if urls else "archon_embedding_base_url"
        if not isinstance(url, str):
            raise _bad_url("a string", f"{type(url).__name__} {url!r}"[:120], variable)
        normal = normalised(url, variable)
        if normal in found:
            findings.append(
                Finding(
                    "embedding_endpoint_twice",
                    "warning",
                    variable,
                    f"{normal} stands in the list before; it is used once.",
                    "Take it out of the list. How many requests a service gets at a time is found out by itself.",
                )
            )
            continue
        found[normal] = Endpoint.of(normal, model, dimensions, timeout=timeout, token_file=token_file)
    return tuple(found.values()), findings
