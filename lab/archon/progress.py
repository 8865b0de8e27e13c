"""Progress by Socket.IO: rooms named by progress id. Events are not kept: who subscribes late has missed them."""

from __future__ import annotations

import logging
import time
from typing import Any

import socketio

logger = logging.getLogger("archon.progress")

_ALWAYS = ("starting", "completed", "complete", "error")
_SHORTEST = 0.1


def new_server() -> socketio.AsyncServer:
    """The Socket.IO server of one process."""
    server = socketio.AsyncServer(
        async_mode="asgi", cors_allowed_origins="*", ping_interval=60, ping_timeout=300, logger=False
    )

    async def subscribe(sid: str, data: Any = None) -> None:
        progress_id = data.get("progress_id") if isinstance(data, dict) else None
        if not progress_id:
            await server.emit("error", {"message": "progress_id required"}, to=sid)
            return
        await server.enter_room(sid, progress_id)
        await server.emit("crawl_subscribe_ack", {"progress_id": progress_id, "status": "subscribed"}, to=sid)

    async def unsubscribe(sid: str, data: Any = None) -> None:
        if isinstance(data, dict) and data.get("progress_id"):
            await server.leave_room(sid, data["progress_id"])

    server.on("crawl_subscribe", subscribe)
    server.on("crawl_unsubscribe", unsubscribe)
    return server


class Progress:
    """Reports one piece of work. Updates that follow too fast are dropped, except its begin and end."""

    def __init__(self, server: socketio.AsyncServer, progress_id: str) -> None:
        self._server = server
        self._id = progress_id
        self._last = 0.0

    async def tell(self, status: str, percentage: int, log: str, **more: object) -> None:
        now = time.monotonic()
        if status not in _ALWAYS and now - self._last < _SHORTEST:
            return
        self._last = now
        event = {"progressId": self._id, "status": status, "percentage": percentage, "log": log, **more}
        await self._server.emit("crawl_progress", event, room=self._id)
