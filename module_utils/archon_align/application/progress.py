"""An upload's progress as Archon tells it by Socket.IO. It is told once and never again, and it may be wrong: the table decides."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ..web.trust import Trust

ENDED = frozenset(("completed", "complete", "error", "cancelled"))
_CONNECT_SECONDS = 5
# For a whole beginning or end: connecting is several requests, and the library's own end waits minutes for a server that hangs.
_MOST_SECONDS = 15.0


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
    _last: Event | None = None
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
        return self._last

    def _heard(self, given: Any) -> None:
        # Each message comes in a thread of its own, so the last one may be overtaken.
        event = _event(given)
        if event is not None:
            self.events.append(event)
            if event.last:
                self._last = event
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
    """Connect before an upload, so that nothing of it is missed. A server without Socket.IO, or one that hangs, is no failure:
    there is just less to tell. Raises AlignError for a CA file that cannot be used.
    """
    # Only where progress is wanted: it brings an HTTP client of its own.
    import socketio

    quiet = logging.getLogger("archon_align.silent")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    parts = urlsplit(url)
    context = trust.context() if parts.scheme == "https" else None
    web = _web(parts.hostname or "", context)
    client = socketio.Client(
        reconnection=False, http_session=web, logger=quiet, engineio_logger=quiet, handle_sigint=False,
        request_timeout=_CONNECT_SECONDS, websocket_extra_options={"sslopt": {"context": context}} if context else None,
    )  # fmt: skip
    follower = Follower(_client=client)
    client.on("crawl_progress", follower._heard)
    _at_most(
        lambda: client.connect(
            parts._replace(path="", query="", fragment="").geturl(),
            socketio_path=f"{parts.path.rstrip('/')}/socket.io",
            wait_timeout=_CONNECT_SECONDS,
        )
    )
    follower.connected = bool(client.connected)
    try:
        yield follower
    finally:
        _at_most(client.disconnect)
        web.close()


def _web(host: str, context: ssl.SSLContext | None) -> Any:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import disable_warnings
    from urllib3.exceptions import InsecureRequestWarning

    class Trusting(HTTPAdapter):
        """Trusts as everything else here does, pinned certificates included."""

        def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
            return super().init_poolmanager(*args, **kwargs, ssl_context=context)

        def cert_verify(self, *_: Any) -> None:
            """The context says it all; the library would add authorities of its own."""

    web = requests.Session()
    web.max_redirects = 0
    web.trust_env = host not in ("127.0.0.1", "::1", "localhost")
    if context:
        web.mount("https://", Trusting())
        # As the context has it: a pinned certificate is checked without authorities.
        web.verify = context.verify_mode is not ssl.CERT_NONE
        if not web.verify:
            disable_warnings(InsecureRequestWarning)
    return web


def _at_most(act: Callable[[], object]) -> None:
    """Do it, but do not wait for its end for ever; whatever it raises does not matter, because the table tells."""

    def work() -> None:
        with suppress(Exception):
            act()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_MOST_SECONDS)
