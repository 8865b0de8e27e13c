"""What one server process is made of, and how it starts."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime

import socketio

from . import keys
from .embeddings import Embedder
from .expansion import Expander
from .progress import new_server
from .rest import Rest
from .settings import Settings

logger = logging.getLogger("archon")


@dataclass
class Service:
    """The parts that routes work with."""

    rest: Rest
    settings: Settings
    embedder: Embedder
    expander: Expander
    sockets: socketio.AsyncServer
    upload_delay: float
    _work: set[asyncio.Task[None]] = field(default_factory=set)

    def later(self, work: Coroutine[object, object, None]) -> None:
        """Let something run in the background; it must say itself what went wrong."""
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def close(self) -> None:
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self.rest.close()


async def start() -> Service:
    """Read the settings, once. Raises InvalidKey, RestError and psycopg.Error: then there is no server."""
    environment = os.environ
    key = environment.get("SUPABASE_SERVICE_KEY", "")
    role = keys.role_of(key, environment["SUPABASE_JWT_SECRET"])
    rest = Rest(environment["SUPABASE_URL"], role, _seconds("LAB_ARCHON_STATEMENT_TIMEOUT", 8))
    await rest.start()
    settings = Settings(rest, key, _seconds("LAB_ARCHON_SETTINGS_TTL", 300))
    await settings.load()
    return Service(
        rest, settings, Embedder(settings), Expander(rest), new_server(), _seconds("LAB_ARCHON_UPLOAD_DELAY", 1)
    )


def now() -> str:
    """The time as Archon writes it."""
    return datetime.now(UTC).isoformat()


def _seconds(name: str, default: float) -> float:
    return float(os.environ.get(name) or default)
