"""Health, MCP status and metrics: most of it says yes whatever is the case."""

from __future__ import annotations

import os
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from .rest import RestError
from .service import Service, now
from .web import Refused, endpoint


async def health(_request: Request, _service: Service) -> object:
    """GET /health, the only sign of readiness."""
    return {
        "status": "healthy",
        "service": "archon-backend",
        "timestamp": now(),
        "ready": True,
        "credentials_loaded": True,
    }


async def knowledge_health(_request: Request, _service: Service) -> object:
    """GET /api/health: the knowledge router's, registered first."""
    return {"status": "healthy", "service": "knowledge-api", "timestamp": now()}


async def settings_health(_request: Request, _service: Service) -> object:
    """GET /api/settings/health"""
    return {"status": "healthy", "service": "settings"}


async def mcp_health(_request: Request, _service: Service) -> object:
    """GET /api/mcp/health"""
    return {"status": "healthy", "service": "mcp"}


async def projects_health(_request: Request, service: Service) -> object:
    """GET /api/projects/health"""
    there: dict[str, Any] = {}
    for name in ("projects", "tasks"):
        try:
            await service.rest.select(f"archon_{name}", columns=("id",), limit=1)
            there[f"{name}_table"] = True
        except RestError:
            there[f"{name}_table"] = False
    valid = all(there.values())
    schema = {**there, "valid": valid}
    return {"status": "healthy" if valid else "schema_missing", "service": "projects", "schema": schema}


async def template_health(_request: Request, service: Service) -> object:
    """GET /api/template-management/health"""
    enabled = service.settings.get("TEMPLATE_INJECTION_ENABLED", "false") == "true"
    return {
        "status": "healthy",
        "service": "template-management",
        "template_injection_enabled": enabled,
        "timestamp": now(),
    }


async def root(_request: Request, _service: Service) -> object:
    """GET /"""
    modules = ["settings", "mcp", "knowledge", "projects"]
    return {"name": "Archon Knowledge Engine API", "version": "1.0.0", "status": "healthy", "modules": modules}


async def metrics(_request: Request, service: Service) -> object:
    """GET /api/database/metrics: the settings router's."""
    tables = {
        name: await service.rest.count(f"archon_{name}") for name in ("projects", "tasks", "crawled_pages", "settings")
    }
    return {
        "status": "healthy",
        "database": "supabase",
        "tables": tables,
        "total_records": sum(tables.values()),
        "timestamp": now(),
    }


async def mcp_status(_request: Request, _service: Service) -> object:
    """GET /api/mcp/status: it would need Docker's socket to see more."""
    return {"status": "stopped", "uptime": None, "logs": [], "container_status": "not_found"}


async def mcp_config(_request: Request, service: Service) -> object:
    """GET /api/mcp/config: the transport is wrong."""
    names = ("USE_CONTEXTUAL_EMBEDDINGS", "USE_HYBRID_SEARCH", "USE_AGENTIC_RAG", "USE_RERANKING")
    return {
        "host": os.environ.get("ARCHON_MCP_HOST", "localhost"),
        "port": int(os.environ.get("ARCHON_MCP_PORT") or 8051),
        "transport": "sse",
        "model_choice": service.settings.get("MODEL_CHOICE", "gpt-4o-mini"),
        **{name.lower(): service.settings.flag(name) for name in names},
    }


async def mcp_tools(_request: Request, _service: Service) -> object:
    """GET /api/mcp/tools: none while MCP is not seen running, and here it never is."""
    return {
        "tools": [],
        "count": 0,
        "server_running": False,
        "source": "server_not_running",
        "message": "MCP server is not running",
    }


async def mcp_call(request: Request, _service: Service) -> object:
    """POST /api/mcp/tools/call"""
    try:
        content = await request.json()
    except ValueError:
        content = None
    named = isinstance(content, dict) and (content.get("tool_name") or content.get("name"))
    raise (
        Refused(503, {"error": "MCP server is not running"})
        if named
        else Refused(400, {"error": "Tool name is required"})
    )


ROUTES = [
    Route("/", endpoint(root)),
    Route("/health", endpoint(health)),
    Route("/api/health", endpoint(knowledge_health)),
    Route("/api/settings/health", endpoint(settings_health)),
    Route("/api/projects/health", endpoint(projects_health)),
    Route("/api/mcp/health", endpoint(mcp_health)),
    Route("/api/template-management/health", endpoint(template_health)),
    Route("/api/database/metrics", endpoint(metrics)),
    Route("/api/mcp/status", endpoint(mcp_status)),
    Route("/api/mcp/config", endpoint(mcp_config)),
    Route("/api/mcp/tools", endpoint(mcp_tools)),
    Route("/api/mcp/tools/call", endpoint(mcp_call), methods=["POST"]),
]
