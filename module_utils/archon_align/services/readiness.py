"""Whether an archon-server is ready: GET /health says `ready: true`, asked by HTTP or from inside its container."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..application.server import Archon
from ..docker.engine import Engine, EngineRefused
from ..errors import AlignError
from ..web.trust import Trust
from . import inside

PAUSE_SECONDS = 0.25
_ASK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """How to ask: `url` is archon-server's address, '' when unknown; then it is asked from inside."""

    url: str = ""
    trust: Trust = field(default_factory=Trust)

    def ask(self, engine: Engine, container_id: str, port: int) -> str:
        """'' when it is ready, or else what it said."""
        return self.by_http() if self.url else by_exec(engine, container_id, port)

    def by_http(self) -> str:
        """The same by HTTP."""
        with Archon(self.url, self.trust, check=True, timeout=_ASK_SECONDS) as archon:
            seen = archon.health()
        # Nothing listens before the start-up is complete.
        return "" if seen.ready else f"/health: {seen.condition.replace('_', ' ')} ({seen.text})"


def by_exec(engine: Engine, container_id: str, port: int) -> str:
    """The same from inside. Where nobody may run a command there, that the task runs has to do."""
    try:
        told = inside.run(engine, container_id, inside.HEALTH, str(port), timeout=_ASK_SECONDS * 4)
    except EngineRefused as refused:
        if refused.http_status == 403:
            return ""
        return refused.found
    except AlignError as error:
        return error.found
    return "" if told.get("ready") is True else f"/health, from inside: {told.get('error') or 'not ready'}"
