"""Template definitions and components, by both routers of Archon; and two routes that prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from .expansion import COMPONENTS, DEFINITIONS, problems_of_component, problems_of_template
from .rest import Filter, RestError, Row
from .service import Service, now
from .web import Field, Refused, Tally, body_of, endpoint, number

_ASSIGNMENTS = "archon_template_assignments"
_TEXT, _LIST, _DICT, _BOOL, _INT = (Field(kind) for kind in (str, list, dict, bool, int))


@dataclass(frozen=True)
class Kind:
    """Templates or components: where they are and what can be said of them."""

    one: str
    table: str
    filters: dict[str, str]  # query parameter → column
    fields: dict[str, Field]
    problems: Callable[[Row], list[str]]

    @property
    def many(self) -> str:
        return f"{self.one}s"


TEMPLATES = Kind(
    "template",
    DEFINITIONS,
    {
        "filter_name": "name",
        "filter_type": "template_type",
        "filter_category": "category",
        "filter_created_by": "created_by",
    },
    {
        **dict.fromkeys(("name", "title", "description", "template_type", "category", "created_by"), _TEXT),
        "template_data": _DICT,
        "tags": _LIST,
        "is_public": _BOOL,
    },
    problems_of_template,
)
COMPONENT_KIND = Kind(
    "component",
    COMPONENTS,
    {
        "filter_name": "name",
        "filter_type": "component_type",
        "filter_category": "category",
        "filter_priority": "priority",
    },
    {
        **dict.fromkeys(("name", "description", "component_type", "instruction_text", "category", "priority"), _TEXT),
        "required_tools": _LIST,
        "estimated_duration": _INT,
        "tags": _LIST,
    },
    problems_of_component,
)


def _routes(kind: Kind) -> list[BaseRoute]:
    label = kind.one.capitalize()

    async def listed(request: Request, service: Service) -> object:
        page, per_page = number(request, "page", 1), number(request, "per_page", 20, highest=100)
        filters: list[Filter] = [
            (column, "ilike" if column == "name" else "eq", f"%{text}%" if column == "name" else text)
            for name, column in kind.filters.items()
            if (text := request.query_params.get(name))
        ]
        offset = Tally(page, per_page).offset
        rows = await service.rest.select(kind.table, *filters, order=[("name", "asc")], limit=per_page, offset=offset)
        pagination = {"page": page, "per_page": per_page, "total": len(rows)}  # of this page only
        return {
            "success": True,
            kind.many: rows,
            "pagination": pagination,
            "message": f"Retrieved {len(rows)} {kind.many}",
        }

    async def one(request: Request, service: Service) -> object:
        row = await found(request, service)
        return {"success": True, kind.one: row, "message": f"{label} retrieved"}

    async def found(request: Request, service: Service) -> Row:
        rows = await service.rest.select(kind.table, ("id", "eq", request.path_params["id"]))
        if not rows:
            raise Refused(404, f"{label} not found")
        return rows[0]

    async def create(request: Request, service: Service) -> object:
        given = _given(await body_of(request, kind.fields))
        if problems := kind.problems({"template_type": "project", "template_data": {}, **given}):
            raise Refused(400, "; ".join(problems))
        try:
            rows = await service.rest.insert(kind.table, [given])
        except RestError as error:
            raise Refused(400, str(error)) from error
        return {"success": True, kind.one: rows[0], "message": f"{label} created"}

    async def change(request: Request, service: Service) -> object:
        row = await found(request, service)
        given = _given(await body_of(request, kind.fields))
        rows = await service.rest.update(kind.table, {**given, "updated_at": now()}, ("id", "eq", row["id"]))
        return {"success": True, kind.one: rows[0], "message": f"{label} updated"}

    async def delete(request: Request, service: Service) -> object:
        row = await found(request, service)
        await service.rest.delete(kind.table, ("id", "eq", row["id"]))
        return {"success": True, "message": f"{label} deleted"}

    async def validate(request: Request, service: Service) -> object:
        problems = kind.problems(await found(request, service))
        verdict = {"valid": not problems, "errors": problems, "warnings": []}
        return {"success": True, "validation": verdict, "message": f"{label} validated"}

    base = f"/api/template-injection/{kind.many}"
    return [
        Route(base, endpoint(listed)),
        Route(base, endpoint(create), methods=["POST"]),
        Route(f"{base}/{{id}}", endpoint(one)),
        Route(f"{base}/{{id}}", endpoint(change), methods=["PUT"]),
        Route(f"{base}/{{id}}", endpoint(delete), methods=["DELETE"]),
        Route(f"{base}/{{id}}/validate", endpoint(validate), methods=["POST"]),
        *_managed(kind.many, kind.table),
    ]


def _given(content: dict[str, Any]) -> Row:
    return {name: value for name, value in content.items() if value is not None}


def _managed(many: str, table: str) -> list[BaseRoute]:
    """The read-only routes of template management."""

    async def listed(request: Request, service: Service) -> object:
        filters = _management_filters(request, by_project=many == "assignments")
        total = await service.rest.count(table, *filters)
        tally = Tally(number(request, "page", 1), number(request, "per_page", 50), total)
        rows = await service.rest.select(
            table,
            *filters,
            order=[("created_at" if many == "assignments" else "name", "asc")],
            limit=max(0, tally.per_page),
            offset=tally.offset,
        )
        pagination = {
            "page": tally.page,
            "per_page": tally.per_page,
            "total_count": total,
            "total_pages": tally.pages,
        }
        return {"success": True, many: rows, "pagination": pagination}

    async def one(request: Request, service: Service) -> object:
        rows = await service.rest.select(table, ("id", "eq", request.path_params["id"]))
        if not rows:
            raise Refused(404, f"{many[:-1].capitalize()} not found")
        return {"success": True, many[:-1]: rows[0]}

    base = f"/api/template-management/{many}"
    return [Route(base, endpoint(listed)), *([Route(f"{base}/{{id}}", endpoint(one))] if many != "assignments" else [])]


def _management_filters(request: Request, *, by_project: bool) -> list[Filter]:
    column, value = request.query_params.get("filter_by"), request.query_params.get("filter_value")
    filters: list[Filter] = [(column, "eq", value)] if column and value else []
    if by_project and (project := request.query_params.get("project_id")):
        filters.append(("entity_id", "eq", project))  # a column that most databases do not have
    return filters


async def preview(request: Request, _service: Service) -> object:
    """POST /api/template-injection/expand-preview: calls a method that does not exist."""
    await body_of(request, {"original_description": Field(str, required=True)})
    raise Refused(500, "'TemplateInjectionService' object has no attribute 'expand_template'")


async def mock_test(_request: Request, _service: Service) -> object:
    """POST /api/template-management/templates/test: always the same, and no data are touched."""
    return {
        "success": True,
        "test_result": {
            "expanded_content": "**Understand the environment**\n\n{{USER_TASK}}\n\n**Send the task to review**",
            "components_used": ["group::understand_homelab_env", "group::send_task_to_review"],
            "component_count": 2,
            "validation_passed": True,
        },
    }


ROUTES = [
    Route("/api/template-injection/expand-preview", endpoint(preview), methods=["POST"]),
    Route("/api/template-management/templates/test", endpoint(mock_test), methods=["POST"]),
    *_routes(TEMPLATES),
    *_routes(COMPONENT_KIND),
    *_managed("assignments", _ASSIGNMENTS),
]
