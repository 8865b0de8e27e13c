"""The stand-in for archon-mcp. Run it with `python -m lab.archon.mcp --fd N` or `--port N`; see the package."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from .command import listen, run

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATH = "/mcp"
_SESSION = b"mcp-session-id"
_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18")
_REFUSED = {"code": -32600, "message": "Bad Request: Missing session ID"}
_NO_SESSION = JSONResponse({"jsonrpc": "2.0", "id": "server-error", "error": _REFUSED}, 400)


class Legacy:
    """The library of the real one, which is older than ours: it wants a session, and knows no newer protocol.

    And its defect: whoever speaks first without a session and does not initialize has spoiled the process. The next
    `initialize` and all that comes after it are never answered, while connections are accepted as ever.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._initialized = False
        self._spoiled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != _PATH or scope["method"] not in ("GET", "POST"):
            await self._app(scope, receive, send)
            return
        if self._spoiled and self._initialized:
            await asyncio.Event().wait()
        if _SESSION in dict(scope["headers"]):
            await self._app(scope, receive, send)
            return
        wanted = _initialize(await _content(receive)) if scope["method"] == "POST" else None
        if wanted is None:
            self._spoiled = self._spoiled or not self._initialized
            await _NO_SESSION(scope, receive, send)
            return
        self._initialized = True
        if self._spoiled:
            await asyncio.Event().wait()
        body = json.dumps(wanted).encode()
        kept = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        headers = [*kept, (b"content-length", str(len(body)).encode())]
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return unread.pop() if unread else await receive()

        await self._app({**scope, "headers": headers}, again, send)


async def _content(receive: Receive) -> object:
    parts = [message := await receive()]
    while message.get("more_body"):
        parts.append(message := await receive())
    try:
        return json.loads(b"".join(part.get("body", b"") for part in parts))
    except ValueError:
        return None


def _initialize(content: object) -> dict[str, Any] | None:
    """The message if it initializes, with a protocol version that the real one knows: it answers a newer one with its own."""
    if not isinstance(content, dict) or content.get("method") != "initialize":
        return None
    given = content.get("params")
    parameters = given if isinstance(given, dict) else {}
    version = parameters.get("protocolVersion")
    return {**content, "params": {**parameters, "protocolVersion": version if version in _VERSIONS else _VERSIONS[-1]}}


def create_app(server_url: str, *, projects: bool) -> ASGIApp:
    """The ASGI application in front of an archon-server."""
    from mcp.server import MCPServer
    from mcp.server.transport_security import TransportSecuritySettings

    from . import mcp_project_tools, mcp_tools

    api = mcp_tools.Api(server_url)
    tools = [*mcp_tools.health_tools(api), *mcp_tools.rag_tools(api), *mcp_project_tools.issue_tools()]
    if projects:
        tools += [*mcp_project_tools.project_tools(api), *mcp_project_tools.template_tools(api)]
    server = MCPServer("archon-mcp-server", log_level="WARNING")
    for tool in tools:
        server.add_tool(tool, structured_output=False)
    # Reached by whatever name a container network gives it.
    anywhere = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    return Legacy(server.streamable_http_app(streamable_http_path=_PATH, transport_security=anywhere))


async def _serve(listener: socket.socket) -> int:
    environment = os.environ
    host = environment.get("ARCHON_SERVER_HOST") or "archon-server"
    url = f"http://{host}:{environment.get('ARCHON_SERVER_PORT') or 8181}"
    projects = environment.get("PROJECTS_ENABLED", "true").lower() in ("true", "1", "yes", "on")
    await listen(create_app(url, projects=projects), listener, websockets=False)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal ends it."""
    return run(arguments, "lab.archon.mcp", (), _serve)


if __name__ == "__main__":
    sys.exit(main())
