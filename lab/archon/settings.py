"""Archon's credential service: the settings as one server process knows them, which is not as they are in the database.

All of them are read once, at the start; the category rag_strategy is read again when its copy is older than the time to live.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import keys
from .rest import Rest, RestError, Row

logger = logging.getLogger("archon.credentials")

TABLE = "archon_settings"
RAG = "rag_strategy"
# A value of these in the database replaces the process's environment at the start.
_TO_ENVIRONMENT = (
    "OPENAI_API_KEY",
    "HOST",
    "PORT",
    "MCP_TRANSPORT",
    "LOGFIRE_ENABLED",
    "PROJECTS_ENABLED",
    "GOOGLE_API_KEY",
    "LLM_PROVIDER",
    "LLM_BASE_URL",
    "EMBEDDING_MODEL",
    "MODEL_CHOICE",
    "EMBEDDING_BASE_URL",
)


@dataclass(frozen=True)
class Encrypted:
    """A value that is kept encrypted until somebody asks for it."""

    value: str | None
    category: str | None
    description: str | None


class Expiring[T]:
    """One value for so many seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._kept: tuple[float, T] | None = None

    def get(self) -> T | None:
        if self._kept is None or self._clock() - self._kept[0] >= self._seconds:
            return None
        return self._kept[1]

    def set(self, value: T) -> T:
        self._kept = (self._clock(), value)
        return value

    def clear(self) -> None:
        self._kept = None


class Settings:
    """What the process knows of archon_settings, with the caches of the real one."""

    def __init__(self, rest: Rest, service_key: str, ttl: float) -> None:
        self._rest = rest
        self._key = service_key
        self._all: dict[str, str | Encrypted | None] = {}
        self._rag: Expiring[list[Row]] = Expiring(ttl)
        self.ttl = ttl

    async def load(self) -> None:
        """Read everything, and put into the environment what belongs there. Raises RestError."""
        for row in await self._rest.select(TABLE):
            self._all[row["key"]] = _kept(row)
        for name in _TO_ENVIRONMENT:
            if value := self.get(name):
                os.environ[name] = value
        logger.info("Loaded %d credentials from the database", len(self._all))

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value as of the start or of the last write through the API; None as well when it cannot be decrypted."""
        value = self._all.get(name, default)
        return self.decrypted(value) if isinstance(value, Encrypted) else value

    def flag(self, name: str, default: bool = False) -> bool:
        """A switch, from the settings and else from the environment."""
        value = self._all.get(name)
        text = value if isinstance(value, str) else os.environ.get(name)
        return default if text is None else text.lower() in ("true", "1", "yes", "on")

    def decrypted(self, value: Encrypted) -> str | None:
        try:
            return keys.decrypt(value.value or "", self._key)
        except ValueError:
            logger.error("Error decrypting value: the key does not fit or the value is none of ours")
            return None

    def encrypted(self, value: str) -> str:
        """The value as it is stored by this server."""
        return keys.encrypt(value, self._key)

    async def rag(self) -> dict[str, str | None]:
        """The plain values of the category rag_strategy."""
        return {row["key"]: row["value"] for row in await self.category(RAG) if not row["is_encrypted"]}

    async def category(self, name: str) -> list[Row]:
        """The rows of a category, rag_strategy from its copy while that is young; nothing when they cannot be read."""
        known = self._rag.get() if name == RAG else None
        if known is not None:
            return known
        try:
            rows = await self._rest.select(TABLE, ("category", "eq", name))
        except RestError as error:
            logger.error("Error getting credentials for category %s: %s", name, error)
            return []
        return self._rag.set(rows) if name == RAG else rows

    def kept(self, name: str) -> str | Encrypted | None:
        """What is remembered of a setting, as it is stored."""
        return self._all.get(name)

    def written(self, row: Row) -> None:
        """Take over what the API wrote; a direct write to the database is never seen."""
        self._all[row["key"]] = _kept(row)
        if row["category"] == RAG:
            self._rag.clear()

    def removed(self, name: str) -> None:
        self._all.pop(name, None)
        self._rag.clear()


def _kept(row: Row) -> str | Encrypted | None:
    if row["is_encrypted"]:
        return Encrypted(row["encrypted_value"], row["category"], row["description"])
    value: str | None = row["value"]
    return value
