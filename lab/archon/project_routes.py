"""Projects and what belongs to them."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from .rest import Rest, RestError, Row
from .service import Service, now
from .task_routes import TASKS
from .web import Field, Refused, body_of, endpoint

logger = logging.getLogger("archon.projects")

PROJECTS = "archon_projects"
_LINKS = "archon_project_sources"
_VERSIONS = "archon_document_versions"
_SHOWN = (
    "id",
    "title",
    "description",
    "github_repo",
    "created_at",
    "updated_at",
    "docs",
    "features",
    "data",
    "pinned",
)
_NEW = {
    "title": Field(str, required=True),
    "description": Field(str, ""),
    "github_repo": Field(str),
    "docs": Field(list),
    "features": Field(list),
    "data": Field(list),
    "technical_sources": Field(list),
    "business_sources": Field(list),
    "pinned": Field(bool),
}
_CHANGE = {name: Field(field.kind) for name, field in _NEW.items()}
_KINDS = ("technical", "business")


async def listed(_request: Request, service: Service) -> object:
    """GET /api/projects: a bare array."""
    rows = await service.rest.select(PROJECTS, order=[("created_at", "desc")])
    return [{**{name: row.get(name) for name in _SHOWN}, **await _sources(row["id"], service.rest)} for row in rows]


async def _sources(project_id: str, rest: Rest) -> dict[str, list[str]]:
    """Linked sources by kind; empty when the table is missing or has the other shape: the error is swallowed."""
    named: dict[str, list[str]] = {f"{kind}_sources": [] for kind in _KINDS}
    try:
        rows = await rest.select(_LINKS, ("project_id", "eq", project_id), columns=("source_id", "notes"))
    except RestError as error:
        logger.warning("Failed to retrieve linked sources of project %s: %s", project_id, error)
        return named
    for row in rows:
        if row["notes"] in _KINDS:
            named[f"{row['notes']}_sources"].append(row["source_id"])
    return named


async def one(request: Request, service: Service) -> object:
    """GET /api/projects/{project_id}: all columns"""
    row = await _found(request, service)
    return {**row, **await _sources(row["id"], service.rest)}


async def _found(request: Request, service: Service) -> Row:
    project_id = request.path_params["project_id"]
    rows = await service.rest.select(PROJECTS, ("id", "eq", project_id))
    if not rows:
        raise Refused(404, {"error": f"Project with ID {project_id} not found"})
    return rows[0]


async def create(request: Request, service: Service) -> object:
    """POST /api/projects: answers at once with a progress id, and never with the project's own."""
    given = await body_of(request, _NEW)
    if not given["title"].strip():
        raise Refused(422, {"error": "Title is required"})
    progress_id = secrets.token_hex(16)
    service.later(_create(given, progress_id, service))
    message = "Project creation started. Connect to Socket.IO for progress updates."
    return {"progress_id": progress_id, "status": "started", "message": message}


async def _create(given: dict[str, Any], progress_id: str, service: Service) -> None:
    row: Row = {
        "title": given["title"],
        "description": given["description"],
        **{name: given[name] or [] for name in ("docs", "features", "data")},
        "github_repo": given["github_repo"],
        "pinned": bool(given["pinned"]),
        "created_at": now(),
        "updated_at": now(),
    }
    try:
        stored = (await service.rest.insert(PROJECTS, [row]))[0]
        await _link(stored["id"], given, service.rest)
    except RestError as error:
        logger.error("Project creation failed: %s", error)
        event: dict[str, Any] = {"status": "error", "error": str(error)}
    else:
        event = {"status": "completed", "percentage": 100, "project": {"id": stored["id"], "title": stored["title"]}}
    await service.sockets.emit("project_progress", {"progressId": progress_id, **event}, room=progress_id)


async def _link(project_id: str, given: dict[str, Any], rest: Rest) -> None:
    rows = [
        {"project_id": project_id, "source_id": source_id, "notes": kind}
        for kind in _KINDS
        for source_id in given[f"{kind}_sources"] or []
    ]
    if rows:
        await rest.insert(_LINKS, rows)


async def change(request: Request, service: Service) -> object:
    """PUT /api/projects/{project_id}"""
    row = await _found(request, service)
    given = await body_of(request, _CHANGE)
    changed = {name: value for name, value in given.items() if value is not None and not name.endswith("_sources")}
    stored = await service.rest.update(PROJECTS, {**changed, "updated_at": now()}, ("id", "eq", row["id"]))
    for kind in _KINDS:
        if given[f"{kind}_sources"] is not None:
            await service.rest.delete(_LINKS, ("project_id", "eq", row["id"]), ("notes", "eq", kind))
    await _link(row["id"], given, service.rest)
    return {**stored[0], **await _sources(row["id"], service.rest)}


async def delete(request: Request, service: Service) -> object:
    """DELETE /api/projects/{project_id}: for good, with all that belongs to it."""
    row = await _found(request, service)
    tasks = await service.rest.count(TASKS, ("project_id", "eq", row["id"]))
    await service.rest.delete(PROJECTS, ("id", "eq", row["id"]))
    return {"message": "Project deleted successfully", "deleted_tasks": tasks}


async def documents(request: Request, service: Service) -> object:
    """GET /api/projects/{project_id}/docs"""
    found = (await _found(request, service))["docs"] or []
    return {"documents": found, "total_count": len(found)}


async def document(request: Request, service: Service) -> object:
    """GET /api/projects/{project_id}/docs/{doc_id}"""
    doc_id = request.path_params["doc_id"]
    found = [one for one in (await _found(request, service))["docs"] or [] if one.get("id") == doc_id]
    if not found:
        raise Refused(404, {"error": f"Document with ID {doc_id} not found in project"})
    return found[0]


async def features(request: Request, service: Service) -> object:
    """GET /api/projects/{project_id}/features"""
    found = (await _found(request, service))["features"] or []
    return {"features": found, "count": len(found)}


async def versions(request: Request, service: Service) -> object:
    """GET /api/projects/{project_id}/versions"""
    field = request.query_params.get("field_name")
    rows = await service.rest.select(
        _VERSIONS,
        ("project_id", "eq", request.path_params["project_id"]),
        *([("field_name", "eq", field)] if field else []),
        order=[("version_number", "desc")],
    )
    return {"versions": rows, "total_count": len(rows)}


async def version(request: Request, service: Service) -> object:
    """GET /api/projects/{project_id}/versions/{field_name}/{version_number}"""
    names = ("project_id", "field_name", "version_number")
    rows = await service.rest.select(_VERSIONS, *((name, "eq", request.path_params[name]) for name in names))
    if not rows:
        raise Refused(404, {"error": "Version not found"})
    return {"content": rows[0]["content"], "version": rows[0]}


ROUTES = [
    Route("/api/projects", endpoint(listed)),
    Route("/api/projects", endpoint(create), methods=["POST"]),
    Route("/api/projects/{project_id}", endpoint(one)),
    Route("/api/projects/{project_id}", endpoint(change), methods=["PUT"]),
    Route("/api/projects/{project_id}", endpoint(delete), methods=["DELETE"]),
    Route("/api/projects/{project_id}/docs", endpoint(documents)),
    Route("/api/projects/{project_id}/docs/{doc_id}", endpoint(document)),
    Route("/api/projects/{project_id}/features", endpoint(features)),
    Route("/api/projects/{project_id}/versions", endpoint(versions)),
    Route("/api/projects/{project_id}/versions/{field_name}/{version_number:int}", endpoint(version)),
]
