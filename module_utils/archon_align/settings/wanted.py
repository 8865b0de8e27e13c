"""What the configuration shall be, from the variables: validated, and told apart into secret and plain."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ..errors import AlignError

CREDENTIALS_CATEGORY = "embedding"
SETTINGS_CATEGORY = "rag_strategy"
OLLAMA = "ollama"
HIDDEN = "(secret, not shown)"
# Archon finds these by key alone; all other keys it looks up within the category rag_strategy.
FOUND_BY_KEY = frozenset(
    (
        "HOST",
        "LOGFIRE_ENABLED",
        "MCP_TRANSPORT",
        "PORT",
        "PROJECTS_ENABLED",
        "TEMPLATE_INJECTION_ENABLED",
    )
)
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,199}")
_PROVIDER = re.compile(r"[a-z][a-z0-9_-]*")
_MAX_DIMENSIONS = 16_000  # what pgvector can store in a vector column


@dataclass(frozen=True, slots=True)
class Options:
    """The plan's four values, and `extra` keys with text, number or boolean values; `extra` may not repeat the four."""

    embedding_provider: str
    embedding_base_url: str
    embedding_model: str
    embedding_dimensions: int
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Values by key: `credentials` for archon_credentials, `settings` for archon_settings.

    `withheld` names the keys that are not put into archon_settings because Archon keeps secrets encrypted there.
    """

    credentials: Mapping[str, str] = field(repr=False)
    settings: Mapping[str, str] = field(repr=False)
    withheld: tuple[str, ...] = ()


def secret_name(key: str) -> bool:
    """Whether a key's name says that its value is secret."""
    return _SECRET_NAME.search(key) is not None


def is_secret(key: str, value: str | None) -> bool:
    """Whether a value must never be shown: its key says so, or it is a URL with a password or user in it."""
    return secret_name(key) or (value is not None and re.search(r"://[^/?#]*@", value) is not None)


def shown(key: str, value: str | None) -> str:
    """A value as people may see it."""
    if value is None:
        return "(no value)"
    return HIDDEN if is_secret(key, value) else value


def _bad(key: str, expected: str, found: str, remedy: str) -> AlignError:
    return AlignError(
        "A configuration value cannot be used.",
        object_name=key,
        expected=expected,
        found=found,
        remedy=remedy,
        code="bad_setting",
    )


def _storable(key: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _bad(
            key, "text in Unicode", "a lone surrogate", "Correct the value in archon_credentials_extra."
        ) from None
    if "\0" in value:
        raise _bad(
            key, "text PostgreSQL can store", "a NUL character", "Correct the value in archon_credentials_extra."
        )
    return value


def _text(key: str, value: object) -> str:
    """An extra value as the text Archon stores. Raises AlignError, never quoting the value."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise _bad(
            repr(key),
            "a key of letters, digits, '_', '.', '-', at most 200 of them",
            "another name",
            "Correct the key in archon_credentials_extra.",
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return _storable(key, value)
    found = "no value" if value is None else f"a value of type {type(value).__name__}"
    raise _bad(key, "text, a number or a boolean", found, "Give a plain value, or leave the key out.")


def _checked_url(url: str) -> str:
    expected = "http(s)://host[:port]/v1"
    remedy = "Set archon_embedding_base_url to the service's OpenAI-compatible address, such as http://host:11434/v1."
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise _bad("EMBEDDING_BASE_URL", expected, repr(shown("EMBEDDING_BASE_URL", url)), remedy)
    return _storable("EMBEDDING_BASE_URL", url)


def wanted(options: Options) -> Wanted:
    """The values both tables shall hold. Raises AlignError for a value that cannot be meant."""
    if not _PROVIDER.fullmatch(options.embedding_provider):
        raise _bad(
            "EMBEDDING_PROVIDER",
            "a provider's lower-case name, such as ollama",
            repr(options.embedding_provider),
            "Set archon_embedding_provider.",
        )
    model = options.embedding_model
    if not model or model != model.strip() or not model.isprintable():
        raise _bad("EMBEDDING_MODEL", "a model's name", repr(model), "Set archon_embedding_model.")
    dimensions = options.embedding_dimensions
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise _bad(
            "EMBEDDING_DIMENSIONS", f"1 to {_MAX_DIMENSIONS}", str(dimensions), "Set archon_embedding_dimensions."
        )
    plan = {
        "EMBEDDING_PROVIDER": options.embedding_provider,
        "EMBEDDING_MODEL": model,
        "EMBEDDING_DIMENSIONS": str(dimensions),
        "EMBEDDING_BASE_URL": _checked_url(options.embedding_base_url),
    }
    extra = {key: _text(key, value) for key, value in options.extra.items()}
    for key in extra:
        if key in plan and extra[key] != plan[key]:
            raise _bad(
                key,
                "one value",
                "another one in archon_credentials_extra",
                "Remove it from archon_credentials_extra, or set the variable of its own.",
            )
    # Search embeds its query through LLM_BASE_URL and ignores EMBEDDING_BASE_URL when the provider is Ollama.
    derived = {"LLM_BASE_URL": plan["EMBEDDING_BASE_URL"]} if plan["EMBEDDING_PROVIDER"] == OLLAMA else {}
    return Wanted(
        credentials={**plan, **extra},
        settings={**plan, **derived, **{key: value for key, value in extra.items() if not secret_name(key)}},
        withheld=tuple(sorted(key for key in extra if secret_name(key))),
    )
