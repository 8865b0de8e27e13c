"""The tools of archon-mcp: each asks archon-server over HTTP and answers with a JSON text. What fails is told in that text,
never as an error of the protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

_TIMEOUT = 30.0
_UPLOAD_TIMEOUT = 60.0

JSON = dict[str, Any]
Tools = list[Callable[..., Awaitable[str]]]


class ApiError(Exception):
    """archon-server refused, or did not answer."""


class Api:
    """archon-server as the tools see it."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self.started = time.monotonic()

    async def ask(self, method: str, path: str, *, timeout: float = _TIMEOUT, **parts: Any) -> Any:
        """The JSON of an answer. Raises ApiError."""
        try:
            async with httpx.AsyncClient(base_url=self._base_url, timeout=timeout, trust_env=False) as client:
                answer = await client.request(method, path, **parts)
        except httpx.HTTPError as error:
            raise ApiError(f"{type(error).__name__}: {error}") from error
        if not answer.is_success:
            raise ApiError(f"HTTP {answer.status_code}: {_detail(answer)}")
        return answer.json()


def _detail(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
    return str(detail.get("error", detail)) if isinstance(detail, dict) else str(detail)


async def told(work: Awaitable[JSON], **otherwise: object) -> str:
    """A tool's answer from its work; `otherwise` is said besides the error when that fails."""
    try:
        content = {"success": True, **await work}
    except ApiError as error:
        content = {"success": False, **otherwise, "error": str(error)}
    return json.dumps(content)


def refused(message: str) -> str:
    """A tool's answer that says why not."""
    return json.dumps({"success": False, "error": message})


def _now() -> str:
    return datetime.now(UTC).isoformat()


def said(**fields: object) -> JSON:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def health_tools(api: Api) -> Tools:
    """Of the process itself."""

    async def health_check() -> str:
        """Check the health of the MCP server and of the services behind it."""
        try:
            reachable = (await api.ask("GET", "/health"))["status"] == "healthy"
        except ApiError:
            reachable = False
        health = {
            "status": "healthy" if reachable else "degraded",
            "api_service": reachable,
            "agents_service": False,
            "last_health_check": _now(),
        }
        uptime = time.monotonic() - api.started
        return json.dumps({"success": True, "health": health, "uptime_seconds": uptime, "timestamp": _now()})

    async def session_info() -> str:
        """Get information about sessions."""
        sessions = {
            "active_sessions": 0,
            "session_timeout": 3600,
            "server_uptime_seconds": time.monotonic() - api.started,
        }
        return json.dumps({"success": True, "session_management": sessions, "timestamp": _now()})

    return [health_check, session_info]


def rag_tools(api: Api) -> Tools:
    """Knowledge and search."""

    async def get_available_sources() -> str:
        """Get the list of available sources."""

        async def work() -> JSON:
            found = (await api.ask("GET", "/api/rag/sources"))["sources"]
            return {"sources": found, "count": len(found)}

        return await told(work())

    async def perform_rag_query(query: str, source: str | None = None, match_count: int = 5) -> str:
        """Search the knowledge base."""

        async def work() -> JSON:
            body = said(query=query, source=source, match_count=match_count)
            found = await api.ask("POST", "/api/rag/query", json=body)
            # Reads a field that the API calls otherwise.
            return {"results": found["results"], "reranked": found.get("reranked", False), "error": None}

        return await told(work(), results=[])

    async def search_code_examples(query: str, source_id: str | None = None, match_count: int = 5) -> str:
        """Search code examples."""

        async def work() -> JSON:
            body = said(query=query, source=source_id, match_count=match_count)
            found = await api.ask("POST", "/api/rag/code-examples", json=body)
            return {"results": found["results"], "reranked": found.get("reranked", False), "error": None}

        return await told(work(), results=[])

    async def upload_document(file_path: str, knowledge_type: str = "technical", tags: list[str] | None = None) -> str:
        """Upload a document from the disk of the MCP server."""
        path = Path(file_path)
        try:
            content = path.read_bytes()
        except OSError as error:
            return refused(f"File not found: {file_path} ({error.strerror})")
        form = {"knowledge_type": knowledge_type, "tags": json.dumps(tags or [])}
        parts = {"files": {"file": (path.name, content)}, "data": form}
        return await told(api.ask("POST", "/api/documents/upload", timeout=_UPLOAD_TIMEOUT, **parts))

    return [get_available_sources, perform_rag_query, search_code_examples, upload_document]
