"""Settings, which Archon calls credentials, and the providers' health."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from .embeddings import EmbeddingFailed, Provider, embed
from .rest import Row
from .service import Service
from .settings import TABLE, Encrypted
from .web import Field, Refused, body_of, endpoint

_NEW = {
    "key": Field(str, required=True),
    "value": Field(str, required=True),
    "is_encrypted": Field(bool, False),
    "category": Field(str),
    "description": Field(str),
}
_CHANGE = {"value": Field(str, ""), "is_encrypted": Field(bool), "category": Field(str), "description": Field(str)}
_PROVIDER = {
    "provider": Field(str, required=True),
    "api_key": Field(str),
    "base_url": Field(str),
    "model": Field(str),
}
_DEFAULTS = {"DISCONNECT_SCREEN_ENABLED": "true", "PROJECTS_ENABLED": "false", "LOGFIRE_ENABLED": "false"}
_UNREADABLE = "[DECRYPTION ERROR]"


async def listed(request: Request, service: Service) -> object:
    """GET /api/credentials: secrets in clear."""
    category = request.query_params.get("category")
    rows = await service.rest.select(TABLE, *([("category", "eq", category)] if category else []))
    return [
        {
            "key": row["key"],
            "value": _clear(row, service),
            "encrypted_value": None,
            "is_encrypted": row["is_encrypted"],
            "category": row["category"],
            "description": row["description"],
        }
        for row in rows
    ]


def _clear(row: Row, service: Service) -> str | None:
    if not row["is_encrypted"]:
        value: str | None = row["value"]
        return value
    clear = service.settings.decrypted(Encrypted(row["encrypted_value"], row["category"], row["description"]))
    return _UNREADABLE if clear is None else clear


async def of_category(request: Request, service: Service) -> object:
    """GET /api/credentials/categories/{category}"""
    rows = await service.settings.category(request.path_params["category"])
    return {"credentials": {row["key"]: _as_kept(row) for row in rows}}


def _as_kept(row: Row) -> object:
    if not row["is_encrypted"]:
        return row["value"]
    return {"encrypted_value": row["encrypted_value"], "is_encrypted": True, "description": row["description"]}


async def one(request: Request, service: Service) -> object:
    """GET /api/credentials/{key}: as the process remembers it, which direct writes to the database do not change."""
    name = request.path_params["key"]
    kept = service.settings.kept(name)
    if isinstance(kept, Encrypted) and request.query_params.get("decrypt", "true").lower() == "false":
        about = {"key": name, "is_encrypted": True, "category": kept.category, "description": kept.description}
        return {**about, "has_value": bool(kept.value)}
    value = service.settings.get(name)
    if value is None:
        if name in _DEFAULTS:
            return {
                "key": name,
                "value": _DEFAULTS[name],
                "is_default": True,
                "category": "features",
                "description": f"Default value for {name}",
            }
        raise Refused(404, {"error": f"Credential {name} not found"})
    return {"key": name, "value": value, "is_encrypted": False}


async def create(request: Request, service: Service) -> object:
    """POST /api/credentials: an upsert; a category left out becomes NULL."""
    given = await body_of(request, _NEW)
    await _write(given["key"], given, service)
    return {"success": True, "message": f"Credential {given['key']} created successfully"}


async def put(request: Request, service: Service) -> object:
    """PUT /api/credentials/{key}: what is left out is kept, but a missing value becomes empty."""
    name = request.path_params["key"]
    given = await body_of(request, _CHANGE)
    rows = await service.rest.select(TABLE, ("key", "eq", name))
    before: Row = rows[0] if rows else {"is_encrypted": False, "category": None, "description": None}
    kept = {
        part: before[part] if given[part] is None else given[part]
        for part in ("is_encrypted", "category", "description")
    }
    await _write(name, {**kept, "value": given["value"]}, service)
    return {"success": True, "message": f"Credential {name} updated successfully"}


async def _write(name: str, given: dict[str, Any], service: Service) -> None:
    secret = bool(given["is_encrypted"])
    row = {
        "key": name,
        "value": None if secret else given["value"],
        "encrypted_value": service.settings.encrypted(given["value"]) if secret else None,
        "is_encrypted": secret,
        "category": given["category"],
        "description": given["description"],
    }
    stored = await service.rest.insert(TABLE, [row], on_conflict="key")
    service.settings.written(stored[0])


async def delete(request: Request, service: Service) -> object:
    """DELETE /api/credentials/{key}: also when there is none."""
    name = request.path_params["key"]
    await service.rest.delete(TABLE, ("key", "eq", name))
    service.settings.removed(name)
    return {"success": True, "message": f"Credential {name} deleted successfully"}


async def initialize(_request: Request, _service: Service) -> object:
    """POST /api/credentials/initialize: calls a method that does not exist."""
    raise Refused(500, {"error": "'CredentialService' object has no attribute 'initialize_credentials'"})


async def provider_health(_request: Request, service: Service) -> object:
    """GET /api/provider-health"""
    known = service.embedder.health
    providers = {
        name: {
            "healthy": health.usable,
            "consecutive_failures": health.failures,
            "last_error": health.last_error or None,
        }
        for name, health in known.items()
    }
    healthy = sum(health.usable for health in known.values())
    return {
        "providers": providers,
        "summary": {"total": len(known), "healthy": healthy, "unhealthy": len(known) - healthy},
    }


async def reset_health(_request: Request, service: Service) -> object:
    """POST /api/provider-health/reset"""
    service.embedder.health.clear()
    return {"success": True, "message": "Provider health reset"}


async def try_provider(request: Request, _service: Service) -> object:
    """POST /api/test-embedding-provider: without dimensions and with the URL that is given, so it may pass where all fails."""
    given = await body_of(request, _PROVIDER)
    provider = Provider(given["provider"], given["base_url"] or "", given["model"] or "", given["api_key"] or "")
    try:
        vectors = await embed(provider, ["test"], None)
    except EmbeddingFailed as error:
        return {"success": False, "error": str(error), "provider": given["provider"]}
    return {"success": True, "provider": given["provider"], "embedding_dimensions": len(vectors[0])}


ROUTES = [
    Route("/api/credentials", endpoint(listed)),
    Route("/api/credentials", endpoint(create), methods=["POST"]),
    Route("/api/credentials/initialize", endpoint(initialize), methods=["POST"]),
    Route("/api/credentials/categories/{category}", endpoint(of_category)),
    Route("/api/credentials/{key}", endpoint(one)),
    Route("/api/credentials/{key}", endpoint(put), methods=["PUT"]),
    Route("/api/credentials/{key}", endpoint(delete), methods=["DELETE"]),
    Route("/api/provider-health", endpoint(provider_health)),
    Route("/api/provider-health/reset", endpoint(reset_health), methods=["POST"]),
    Route("/api/test-embedding-provider", endpoint(try_provider), methods=["POST"]),
]
