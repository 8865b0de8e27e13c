"""What an archon-server really uses, by Archon's own precedence of environment, settings and defaults. Pure.

Ingest and search read different things, and each value has a cache of its own (see `Seen`), so a server that was started
before a change works with a mixture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from ..settings.wanted import SETTINGS_CATEGORY, shown

OLLAMA_URL = "http://localhost:11434/v1"
DEFAULT_PROVIDER = "openai"
DEFAULT_FALLBACKS = "openai,ollama,tei,local"
DEFAULT_DIMENSIONS = "1536"
DEFAULT_BATCH = "100"
# Where the category rag_strategy is read again.
CACHE_SECONDS = 300
URLS = {"openai": "https://api.openai.com/v1"}
MODELS = {"openai": "text-embedding-3-small", "google": "text-embedding-004", "ollama": "nomic-embed-text"}
# A value of these in the database replaces the process's environment at its start, whatever its category.
TO_ENVIRONMENT = frozenset(
    (
        "EMBEDDING_BASE_URL",
        "EMBEDDING_MODEL",
        "GOOGLE_API_KEY",
        "HOST",
        "LLM_BASE_URL",
        "LLM_PROVIDER",
        "LOGFIRE_ENABLED",
        "MCP_TRANSPORT",
        "MODEL_CHOICE",
        "OPENAI_API_KEY",
        "PORT",
        "PROJECTS_ENABLED",
    )
)
FLAGS = frozenset(("TEMPLATE_INJECTION_ENABLED", "USE_AGENTIC_RAG", "USE_HYBRID_SEARCH"))
# In no stack file does anything read these from the environment: the settings alone decide.
UNREAD_IN_ENVIRONMENT = ("EMBEDDING_DIMENSIONS", "EMBEDDING_FALLBACK_PROVIDERS")
UNKNOWN = "(encrypted, not read)"

Origin = Literal["environment", "settings", "default"]
# When a process that runs already comes to know a changed setting: at once, within CACHE_SECONDS, or never.
Seen = Literal["now", "soon", "restart"]


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of archon_settings. `value` is None when NULL, and always when `encrypted`. `updated_at` is the database's time."""

    key: str
    category: str | None
    value: str | None = field(repr=False)
    encrypted: bool = False
    updated_at: datetime | None = None

    @property
    def read(self) -> str:
        """What Archon finds: the text, '' for none, or a mark for what only Archon can decrypt."""
        return UNKNOWN if self.encrypted else self.value or ""


@dataclass(frozen=True, slots=True)
class Used:
    """A value with where it comes from. `certain` is False where an environment that nobody could read might decide otherwise.

    `seen` says when the process that runs now knows it; `key` is the variable or setting that decides.
    """

    value: str = field(repr=False)
    origin: Origin
    key: str
    seen: Seen = "now"
    certain: bool = True

    @property
    def source(self) -> str:
        where = {
            "environment": f"container environment {self.key}",
            "settings": f"settings {self.key}",
            "default": f"Archon's default, since {self.key} is not set",
        }[self.origin]
        return where if self.certain else f"{where}, unless the container's environment says otherwise"

    def as_dict(self) -> dict[str, Any]:
        value = shown(self.key, self.value)
        return {"value": value, "source": self.source, "running_process_knows_it": self.seen}


@dataclass(frozen=True, slots=True)
class Ingest:
    """What an upload or crawl is embedded with."""

    provider: Used
    base_url: Used
    model: Used
    dimensions: Used
    batch_size: Used


@dataclass(frozen=True, slots=True)
class Search:
    """What a query is embedded with, and how its results are found. No dimensions are sent."""

    provider: Used
    base_url: Used
    model: Used
    fallback_providers: Used
    hybrid: Used
    agentic: Used


@dataclass(frozen=True, slots=True)
class Effective:
    """Everything that decides. `template_injection` is what task code reads, `template_injection_shown` what a health route does."""

    ingest: Ingest
    search: Search
    template_injection: Used
    template_injection_shown: Used

    def as_dict(self) -> dict[str, Any]:
        def group(values: Ingest | Search) -> dict[str, Any]:
            return {name: getattr(values, name).as_dict() for name in values.__dataclass_fields__}

        return {
            "ingest": group(self.ingest),
            "search": group(self.search),
            "templates": {
                "injection_in_tasks": self.template_injection.as_dict(),
                "injection_in_health": self.template_injection_shown.as_dict(),
            },
        }


class _Reading:
    """One server's view of its environment and the settings."""

    def __init__(
        self,
        settings: Iterable[Setting],
        environment: Mapping[str, str] | None,
        started: datetime | None,
        now: datetime,
    ) -> None:
        rows = list(settings)
        self.all = {row.key: row for row in rows}
        self.rag = {row.key: row for row in rows if row.category == SETTINGS_CATEGORY}
        self.environment = environment or {}
        self.known = environment is not None
        self._started = started
        self._now = now

    def seen(self, row: Setting | None, *, cached: bool) -> Seen:
        """`cached` for life, or else for CACHE_SECONDS."""
        if row is None or row.updated_at is None or self._started is None or row.updated_at < self._started:
            return "now"
        if cached:
            return "restart"
        return "soon" if self._now - row.updated_at < timedelta(seconds=CACHE_SECONDS) else "now"

    def from_environment(self, key: str) -> Used | None:
        value = self.environment.get(key, "")
        return Used(value, "environment", key) if value else None

    def from_rag(self, key: str, *, certain: bool = True) -> Used | None:
        """Read anew every CACHE_SECONDS. An encrypted row is not found this way."""
        row = self.rag.get(key)
        if row is None or row.encrypted or not row.value:
            return None
        return Used(row.value, "settings", key, self.seen(row, cached=False), certain)

    def from_start(self, key: str, *, certain: bool = True) -> Used | None:
        """Read from the database into the environment, or cached, when the process started."""
        row = self.all.get(key)
        if row is None or not row.read:
            return None
        return Used(row.read, "settings", key, self.seen(row, cached=True), certain)

    def default(self, key: str, value: str, *, certain: bool = True) -> Used:
        return Used(value, "default", key, certain=certain)


def effective(
    settings: Iterable[Setting], environment: Mapping[str, str] | None, *, started: datetime | None, now: datetime
) -> Effective:
    """What a server with this container environment (None: unknown) uses by these settings once it is restarted.

    `started` is when its process was started, None when unknown, and `now`, both by the database's clock.
    """
    reading = _Reading(settings, environment, started, now)
    provider = _provider(reading)
    return Effective(
        Ingest(
            provider,
            _ingest_url(reading, provider),
            reading.from_rag("EMBEDDING_MODEL")
            or reading.default("EMBEDDING_MODEL", MODELS.get(provider.value, ""), certain=provider.certain),
            reading.from_rag("EMBEDDING_DIMENSIONS") or reading.default("EMBEDDING_DIMENSIONS", DEFAULT_DIMENSIONS),
            reading.from_rag("EMBEDDING_BATCH_SIZE") or reading.default("EMBEDDING_BATCH_SIZE", DEFAULT_BATCH),
        ),
        Search(
            provider,
            _search_url(reading, provider),
            _search_model(reading, provider),
            reading.from_rag("EMBEDDING_FALLBACK_PROVIDERS")
            or reading.default("EMBEDDING_FALLBACK_PROVIDERS", DEFAULT_FALLBACKS),
            _flag(reading, "USE_HYBRID_SEARCH", "true"),
            _flag(reading, "USE_AGENTIC_RAG", "true"),
        ),
        reading.from_environment("TEMPLATE_INJECTION_ENABLED")
        or reading.default("TEMPLATE_INJECTION_ENABLED", "", certain=reading.known),
        reading.from_start("TEMPLATE_INJECTION_ENABLED") or reading.default("TEMPLATE_INJECTION_ENABLED", ""),
    )


def _provider(reading: _Reading) -> Used:
    """Only here does the container's environment win over the database."""
    found = (
        reading.from_environment("EMBEDDING_PROVIDER")
        or reading.from_rag("EMBEDDING_PROVIDER", certain=reading.known)
        or reading.from_rag("LLM_PROVIDER", certain=reading.known)
        or reading.default("EMBEDDING_PROVIDER", DEFAULT_PROVIDER, certain=reading.known)
    )
    return Used(found.value.strip().lower(), found.origin, found.key, found.seen, found.certain)


def _ingest_url(reading: _Reading, provider: Used) -> Used:
    return (
        reading.from_start("EMBEDDING_BASE_URL")
        or reading.from_environment("EMBEDDING_BASE_URL")
        or reading.default("EMBEDDING_BASE_URL", URLS.get(provider.value, OLLAMA_URL), certain=reading.known)
    )


def _search_url(reading: _Reading, provider: Used) -> Used:
    if provider.value == "tei":
        return _ingest_url(reading, provider)
    return reading.from_rag("LLM_BASE_URL") or reading.default("LLM_BASE_URL", URLS.get(provider.value, OLLAMA_URL))


def _search_model(reading: _Reading, provider: Used) -> Used:
    return (
        reading.from_start("EMBEDDING_MODEL")
        or reading.from_environment("EMBEDDING_MODEL")
        or reading.default("EMBEDDING_MODEL", MODELS.get(provider.value, ""), certain=reading.known)
    )


def _flag(reading: _Reading, key: str, default: str) -> Used:
    return (
        reading.from_start(key) or reading.from_environment(key) or reading.default(key, default, certain=reading.known)
    )
