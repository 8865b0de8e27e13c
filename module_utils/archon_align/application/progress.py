"""An upload's progress as Archon tells it by Socket.IO. It is told once and never again, and it may be wrong: the table decides."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ..web.trust import Trust

ENDED = frozenset(("completed", "complete", "error", "cancelled"))
_CONNECT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Event:
    """One message. `stored` is what Archon says it has stored, which is what it has computed."""

    status: str
    percentage: float
    text: str = ""
    source_id: str = ""
    stored: int | None = None

    @property
    def last(self) -> bool:
        return self.status in ENDED


@dataclass(slots=True)
class Follower:
    """What has been told so far; `connected` is False where nobody answers."""

    connected: bool = False
    events: list[Event] = field(default_factory=list)
    _client: Any = None
    _ended: threading.Event = field(default_factory=threading.Event)

    def subscribe(self, progress_id: str) -> None:
        """Ask for this upload's events. Archon waits a second before it begins, for just that."""
        if self.connected:
            with suppress(Exception):  # whatever breaks here, the table tells
                self._client.emit("crawl_subscribe", {"progress_id": progress_id})

    def wait(self, seconds: float) -> Event | None:
        """The last event, when it comes within `seconds`."""
        if not self.connected:
            return None
        self._ended.wait(seconds)
        return self.events[-1] if self.events and self.events[-1].last else None

    def _heard(self, given: Any) -> None:
        event = _event(given)
        if event is not None:
            self.events.append(event)
            if event.last:
                self._ended.set()


def _event(given: Any) -> Event | None:
    if not isinstance(given, dict) or not given.get("status"):
        return None
    percentage, stored = given.get("percentage"), given.get("chunksStored")
    return Event(
        status=str(given["status"]),
        percentage=float(percentage) if isinstance(percentage, int | float) else 0.0,
        text=str(given.get("error") or given.get("log") or ""),
        source_id=str(given.get("sourceId") or ""),
        stored=stored if isinstance(stored, int) else None,
    )


@contextmanager
def follow(url: str, trust: Trust) -> Iterator[Follower]:
    """Connect before an upload, so that nothing of it is missed. Raises nothing: without Socket.IO there is just less to tell."""
    follower = Follower()
    # Only where progress is wanted: it brings an HTTP client of its own.
    import requests
    import socketio

    web = requests.Session()
    web.verify = trust.ca_file or not trust.insecure
    web.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "::1", "localhost")
    quiet = logging.getLogger("archon_align.silent")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    client = socketio.Client(
        reconnection=False, http_session=web, logger=quiet, engineio_logger=quiet, handle_sigint=False,
        request_timeout=_CONNECT_SECONDS,
    )  # fmt: skip
    client.on("crawl_progress", follower._heard)
    follower._client = client
    # A certificate that is pinned cannot be checked here, so it is not talked to.
    if not trust.fingerprint:
        with suppress(Exception):  # its libraries raise anything, and none of it matters
            parts = urlsplit(url)
            path = f"{parts.path.rstrip('/')}/socket.io"
            client.connect(
                parts._replace(path="", query="", fragment="").geturl(),
                socketio_path=path,
                wait_timeout=_CONNECT_SECONDS,
            )
            follower.connected = bool(client.connected)
    try:
        yield follower
    finally:
        with suppress(Exception):
            client.disconnect()
        web.close()
