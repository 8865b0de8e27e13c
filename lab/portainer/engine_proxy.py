"""A real engine at its socket instead of the lab's own Swarm: for the proxy to Docker, and for what Portainer itself does there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .compose import JSON, DeployFailed

_SECONDS = 600.0  # an exec lasts as long as its command
# Of one connection alone, or Portainer's and none of the engine's business.
_DROPPED = {
    *("connection", "content-length", "date", "host", "keep-alive", "server", "transfer-encoding", "upgrade"),
    *("authorization", "cookie", "x-api-key", "x-csrf-token"),
}


class EngineProxy:
    """The engine behind `unix:///path`. The proxy passes on requests, answers and errors unchanged."""

    def __init__(self, url: str) -> None:
        """Raises ValueError for anything but a unix socket."""
        scheme, _, path = url.partition("://")
        if scheme != "unix" or not path.startswith("/"):
            raise ValueError(f"not a unix socket: {url}")
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=path), base_url="http://docker", timeout=_SECONDS
        )

    async def ask(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        params: Mapping[str, str] | None = None,
        content: JSON | None = None,
    ) -> Any:
        """What the engine says to a request of Portainer's own. Raises DeployFailed, in the words of Docker's client."""
        try:
            reply = await self._client.request(method, path, params=params, json=content)
        except httpx.TransportError as error:
            raise DeployFailed(f"Cannot connect to the Docker daemon: {error}") from error
        if reply.is_error:
            raise DeployFailed(f"{doing}: Error response from daemon: {reply.json().get('message', '')}")
        return reply.json() if reply.content else None

    async def answer(self, request: Request, path: str) -> Response:
        """The engine's answer; 502 without a body when it cannot be reached, as of Go's reverse proxy."""
        query = f"?{request.url.query}" if request.url.query else ""
        asked = self._client.build_request(
            request.method, f"{path}{query}", headers=_kept(request.headers.items()), content=await request.body()
        )
        try:
            reply = await self._client.send(asked, stream=True)
        except httpx.TransportError:
            return Response(status_code=502)
        return StreamingResponse(
            reply.aiter_raw(), reply.status_code, _kept(reply.headers.items()), background=BackgroundTask(reply.aclose)
        )


def _kept(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in headers if name.lower() not in _DROPPED}
