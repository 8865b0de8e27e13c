"""Tasks, and the expansion of a new task's text."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from .expansion import DEFAULT_TEMPLATE, ExpansionFailed
from .rest import Filter, RestError, Row
from .service import Service, now
from .web import Field, Refused, Tally, body_of, endpoint, number, switch

TASKS = "archon_tasks"
_STATUSES = ("todo", "doing", "review", "done")
_SHOWN = ("id", "project_id", "title", "description", "status", "assignee", "task_order", "created_at", "updated_at")
OPEN: Filter = ("archived", "is", False)
_NEW = {
    "project_id": Field(str, required=True),
    "title": Field(str, required=True),
    "description": Field(str, ""),
    "status": Field(str, "todo"),
    "assignee": Field(str, "User"),
    "task_order": Field(int, 0),
    "feature": Field(str),
    "sources": Field(list),
    "code_examples": Field(list),
    "template_name": Field(str),
    "disable_template": Field(bool, False),
    "template_context": Field(dict),
    "preserve_original": Field(bool, False),
}
_CHANGE = {
    name: Field(kind)
    for name, kind in {
        "title": str,
        "description": str,
        "status": str,
        "assignee": str,
        "task_order": int,
        "feature": str,
        "sources": list,
        "code_examples": list,
    }.items()
}


async def listed(request: Request, service: Service) -> object:
    """GET /api/tasks: without done and archived ones unless closed ones are asked for; archived ones never."""
    filters: list[Filter] = [OPEN]
    given = {name: request.query_params.get(name) for name in ("status", "project_id")}
    filters += [(name, "eq", value) for name, value in given.items() if value]
    if not switch(request, "include_closed") and "status" not in request.query_params:
        filters.append(("status", "neq", "done"))
    tally = Tally(
        number(request, "page", 1), number(request, "per_page", 50), await service.rest.count(TASKS, *filters)
    )
    rows = await service.rest.select(
        TASKS,
        *filters,
        columns=_SHOWN,
        order=[("task_order", "asc"), ("created_at", "asc")],
        limit=max(0, tally.per_page),
        offset=tally.offset,
    )
    pagination = {"total": tally.total, "page": tally.page, "per_page": tally.per_page, "pages": tally.pages}
    return {"tasks": rows, "pagination": pagination}


async def of_project(request: Request, service: Service) -> object:
    """GET /api/projects/{project_id}/tasks: archived ones never, whatever include_archived says."""
    return await service.rest.select(
        TASKS,
        ("project_id", "eq", request.path_params["project_id"]),
        OPEN,
        columns=_SHOWN,
        order=[("task_order", "asc"), ("created_at", "asc")],
    )


async def one(request: Request, service: Service) -> object:
    """GET /api/tasks/{task_id}: the full row."""
    rows = await service.rest.select(TASKS, ("id", "eq", request.path_params["task_id"]))
    if not rows:
        raise Refused(404, {"error": f"Task {request.path_params['task_id']} not found"})
    return rows[0]


async def create(request: Request, service: Service) -> object:
    """POST /api/tasks: a text that cannot be expanded is kept as it is, without an error."""
    given = await body_of(request, _NEW)
    if not given["title"].strip():
        raise Refused(400, {"error": "Task title is required"})
    if given["status"] not in _STATUSES:
        raise Refused(400, {"error": f"Invalid status '{given['status']}'. Must be one of: {', '.join(_STATUSES)}"})
    text, metadata = await _expanded(given, service)
    row: Row = {
        **{name: given[name] for name in ("project_id", "title", "status", "assignee", "task_order")},
        "description": text,
        "sources": given["sources"] or [],
        "code_examples": given["code_examples"] or [],
        "template_metadata": metadata,  # always, so that without this column no task can be made at all
        "created_at": now(),
        "updated_at": now(),
    }
    if given["feature"]:
        row["feature"] = given["feature"]
    try:
        stored = (await service.rest.insert(TASKS, [row]))[0]
    except RestError as error:
        raise Refused(400, {"error": f"Error creating task: {error}"}) from error
    shown = {name: stored[name] for name in (*_SHOWN[:7], "created_at", "template_metadata")}
    return {"message": "Task created successfully", "task": shown}


async def _expanded(given: dict[str, Any], service: Service) -> tuple[str, dict[str, Any]]:
    text: str = given["description"] or ""
    if given["disable_template"]:
        return text, {}
    name = given["template_name"] or DEFAULT_TEMPLATE
    try:
        expansion = await service.expander.expand(text, name, given["project_id"])
    except ExpansionFailed as error:
        return text, {"expansion_failed": True, "expansion_error": str(error), "template_name": name}
    kept = {"original_description": text} if given["preserve_original"] and expansion.metadata else {}
    return expansion.text, {**expansion.metadata, **kept}


async def change(request: Request, service: Service) -> object:
    """PUT /api/tasks/{task_id}"""
    given = {name: value for name, value in (await body_of(request, _CHANGE)).items() if value is not None}
    if not given:
        raise Refused(400, {"error": "No fields to update"})
    try:
        rows = await service.rest.update(
            TASKS, {**given, "updated_at": now()}, ("id", "eq", request.path_params["task_id"])
        )
    except RestError as error:
        raise Refused(500, {"error": str(error)}) from error
    if not rows:
        raise Refused(404, {"error": f"Task {request.path_params['task_id']} not found"})
    return {"message": "Task updated successfully", "task": rows[0]}


async def archive(request: Request, service: Service) -> object:
    """DELETE /api/tasks/{task_id}: archives it."""
    task_id = request.path_params["task_id"]
    found = await service.rest.select(TASKS, ("id", "eq", task_id), columns=("id", "archived"))
    if not found:
        raise Refused(404, {"error": f"Task with ID {task_id} not found"})
    if found[0]["archived"]:
        raise Refused(400, {"error": f"Task with ID {task_id} is already archived"})
    done = {"archived": True, "archived_at": now(), "archived_by": "api", "updated_at": now()}
    await service.rest.update(TASKS, done, ("id", "eq", task_id))
    return {"message": "Task archived successfully", "task_id": task_id}


ROUTES = [
    Route("/api/tasks", endpoint(listed)),
    Route("/api/tasks", endpoint(create), methods=["POST"]),
    Route("/api/tasks/{task_id}", endpoint(one)),
    Route("/api/tasks/{task_id}", endpoint(change), methods=["PUT"]),
    Route("/api/tasks/{task_id}", endpoint(archive), methods=["DELETE"]),
    Route("/api/projects/{project_id}/tasks", endpoint(of_project)),
]
