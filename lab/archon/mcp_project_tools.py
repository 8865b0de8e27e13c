"""The tools of archon-mcp for projects, tasks, templates and issues."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from .mcp_tools import JSON, Api, Tools, refused, said, told


def project_tools(api: Api) -> Tools:
    """Projects and what belongs to them."""

    async def manage_project(
        action: str,
        project_id: str | None = None,
        title: str | None = None,
        prd: dict[str, Any] | None = None,
        github_repo: str | None = None,
    ) -> str:
        """Manage projects: create, list, get or delete. Deleting is for good."""

        async def work() -> JSON:
            if action == "list":
                return {"projects": await api.ask("GET", "/api/projects")}
            if action == "create":
                body = said(title=title, prd=prd, github_repo=github_repo)
                return {"project": await api.ask("POST", "/api/projects", json=body)}
            if action == "get":
                return {"project": await api.ask("GET", _project(project_id))}
            await api.ask("DELETE", _project(project_id))
            return {"message": "Project deleted successfully"}

        if action not in ("list", "create", "get", "delete"):
            return refused(f"Invalid action '{action}'. Must be one of: create, list, get, delete")
        if action in ("get", "delete") and not project_id:
            return refused(f"project_id is required for {action} action")
        return await told(work())

    async def manage_task(
        action: str,
        task_id: str | None = None,
        project_id: str | None = None,
        filter_by: str | None = None,
        filter_value: str | None = None,
        title: str | None = None,
        description: str = "",
        assignee: str = "User",
        task_order: int = 0,
        feature: str | None = None,
        sources: list[dict[str, Any]] | None = None,
        code_examples: list[dict[str, Any]] | None = None,
        update_fields: dict[str, Any] | None = None,
        include_closed: bool = False,
        page: int = 1,
        per_page: int = 50,
        template_name: str | None = None,
        disable_template: bool = False,
        template_context: dict[str, Any] | None = None,
        preserve_original: bool = False,
    ) -> str:
        """Manage tasks: create, list, get, update, delete or archive."""

        async def work() -> JSON:
            if action == "list":
                return await listed()
            if action == "create":
                body = said(
                    project_id=project_id,
                    title=title,
                    description=description,
                    assignee=assignee,
                    task_order=task_order,
                    feature=feature,
                    sources=sources,
                    code_examples=code_examples,
                    template_name=template_name,
                    disable_template=disable_template,
                    template_context=template_context,
                    preserve_original=preserve_original,
                )
                return dict(await api.ask("POST", "/api/tasks", json=body))
            where = f"/api/tasks/{quote(task_id or '', safe='')}"
            if action == "get":
                return {"task": await api.ask("GET", where)}
            if action == "update":
                return dict(await api.ask("PUT", where, json=update_fields or {}))
            return dict(await api.ask("DELETE", where))

        async def listed() -> JSON:
            if filter_by == "project" and filter_value:
                tasks = await api.ask("GET", f"{_project(filter_value)}/tasks")
                pagination = None
            else:
                query = said(page=page, per_page=per_page, project_id=project_id, include_closed=include_closed)
                if filter_by == "status" and filter_value:
                    query["status"] = filter_value
                found = await api.ask("GET", "/api/tasks", params=query)
                tasks, pagination = found["tasks"], found["pagination"]
            if not include_closed and filter_value != "done":
                tasks = [task for task in tasks if task["status"] != "done"]
            if filter_by == "assignee":
                tasks = [task for task in tasks if task["assignee"] == filter_value]
            total = pagination["total"] if pagination else len(tasks)
            return {"tasks": tasks, "pagination": pagination, "total_count": total}

        if action not in ("list", "create", "get", "update", "delete", "archive"):
            return refused(f"Invalid action '{action}'")
        if action not in ("list", "create") and not task_id:
            return refused(f"task_id is required for {action} action")
        return await told(work())

    async def manage_document(
        action: str,
        project_id: str,
        doc_id: str | None = None,
        document_type: str | None = None,
        title: str | None = None,
        content: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Manage documents of a project: add, list, get, update or delete."""

        async def work() -> JSON:
            where = f"{_project(project_id)}/docs"
            body = said(document_type=document_type, title=title, content=content, metadata=metadata)
            if action == "list":
                return {"documents": (await api.ask("GET", where))["documents"]}
            if action == "add":
                return {"document": await api.ask("POST", where, json=body)}
            method = {"get": "GET", "update": "PUT", "delete": "DELETE"}[action]
            parts: JSON = {"json": body} if action == "update" else {}
            return {"document": await api.ask(method, f"{where}/{quote(doc_id or '', safe='')}", **parts)}

        if action not in ("add", "list", "get", "update", "delete"):
            return refused(f"Invalid action '{action}'")
        return await told(work())

    async def manage_versions(
        action: str,
        project_id: str,
        field_name: str,
        version_number: int | None = None,
        content: dict[str, Any] | None = None,
        change_summary: str | None = None,
        document_id: str | None = None,
        created_by: str = "system",
    ) -> str:
        """Manage versions of a project's fields: create, list, get or restore."""

        async def work() -> JSON:
            where = f"{_project(project_id)}/versions"
            if action == "list":
                return {"versions": (await api.ask("GET", where, params={"field_name": field_name}))["versions"]}
            if action == "create":
                body = said(
                    field_name=field_name,
                    content=content,
                    change_summary=change_summary,
                    document_id=document_id,
                    created_by=created_by,
                )
                return {"version": await api.ask("POST", where, json=body)}
            one = f"{where}/{quote(field_name, safe='')}/{version_number}"
            if action == "get":
                return {"version": (await api.ask("GET", one))["version"]}
            return dict(await api.ask("POST", f"{one}/restore"))

        if action not in ("create", "list", "get", "restore"):
            return refused(f"Invalid action '{action}'")
        return await told(work())

    async def get_project_features(project_id: str) -> str:
        """Get the features of a project."""
        return await told(api.ask("GET", f"{_project(project_id)}/features"))

    return [manage_project, manage_task, manage_document, manage_versions, get_project_features]


def template_tools(api: Api) -> Tools:
    """Template definitions and components."""

    async def manage_template_injection(
        action: str,
        template_id: str | None = None,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        template_type: str | None = None,
        template_data: dict[str, Any] | None = None,
        category: str = "general",
        tags: list[str] | None = None,
        is_public: bool = True,
        created_by: str | None = None,
        filter_by: str | None = None,
        filter_value: str | None = None,
        page: int = 1,
        per_page: int = 20,
    ) -> str:
        """Manage templates: create, list, get, update, delete or validate."""
        body = said(
            name=name,
            title=title,
            description=description,
            template_type=template_type,
            template_data=template_data,
            category=category,  # sent with every update, too, which resets it
            tags=tags,
            is_public=is_public,
            created_by=created_by,
        )
        query = {"page": page, "per_page": per_page, **_filter(filter_by, filter_value)}
        return await _managed(api, "templates", action, template_id, body, query)

    async def manage_template_components(
        action: str,
        component_id: str | None = None,
        name: str | None = None,
        description: str | None = None,
        component_type: str | None = None,
        instruction_text: str | None = None,
        required_tools: list[str] | None = None,
        estimated_duration: int | None = None,
        category: str | None = None,
        priority: str | None = None,
        tags: list[str] | None = None,
        filter_by: str | None = None,
        filter_value: str | None = None,
        page: int = 1,
        per_page: int = 20,
    ) -> str:
        """Manage template components: create, list, get, update, delete or validate."""
        body = said(
            name=name,
            description=description,
            component_type=component_type,
            instruction_text=instruction_text,
            required_tools=required_tools,
            estimated_duration=estimated_duration,
            category=category,
            priority=priority,
            tags=tags,
        )
        query = {"page": page, "per_page": per_page, **_filter(filter_by, filter_value)}
        return await _managed(api, "components", action, component_id, body, query)

    async def expand_template_preview(
        original_description: str,
        template_name: str = "workflow_default",
        project_id: str | None = None,
        context_data: dict[str, Any] | None = None,
    ) -> str:
        """Preview the expansion of a task's description."""
        body = said(
            original_description=original_description,
            template_name=template_name,
            project_id=project_id,
            context_data=context_data,
        )
        return await told(api.ask("POST", "/api/template-injection/expand-preview", json=body))

    return [manage_template_injection, manage_template_components, expand_template_preview]


async def _managed(api: Api, kind: str, action: str, one: str | None, body: JSON, query: JSON) -> str:
    base = f"/api/template-injection/{kind}"
    requests: dict[str, tuple[str, str, JSON]] = {
        "list": ("GET", base, {"params": query}),
        "create": ("POST", base, {"json": body}),
        "get": ("GET", f"{base}/{one}", {}),
        "update": ("PUT", f"{base}/{one}", {"json": body}),
        "delete": ("DELETE", f"{base}/{one}", {}),
        "validate": ("POST", f"{base}/{one}/validate", {}),
    }
    if action not in requests:
        return refused(f"Invalid action '{action}'")
    if action not in ("list", "create") and not one:
        return refused(f"{kind[:-1]}_id is required for {action} action")
    method, path, parts = requests[action]
    return await told(api.ask(method, path, **parts))


def _filter(name: str | None, value: str | None) -> JSON:
    return {f"filter_{name}": value} if name and value else {}


def _project(project_id: str | None) -> str:
    return f"/api/projects/{quote(project_id or '', safe='')}"


def _no_issues(*wanted: str | None) -> str:
    return refused(f"Issue integration is not configured ({', '.join(filter(None, wanted))})")


def issue_tools() -> Tools:
    """A placeholder module: listed, and of no use."""

    async def create_issue_from_task(task_id: str, project_id: str | None = None) -> str:
        """Create an issue from a task."""
        return _no_issues(task_id, project_id)

    async def sync_task_to_issue(task_id: str, issue_id: str) -> str:
        """Synchronise a task with an issue."""
        return _no_issues(task_id, issue_id)

    async def query_issues_by_project(project_id: str) -> str:
        """Query the issues of a project."""
        return _no_issues(project_id)

    async def update_issue_status(issue_id: str, status: str) -> str:
        """Update the status of an issue."""
        return _no_issues(issue_id, status)

    async def get_issue_history(issue_id: str) -> str:
        """Get the history of an issue."""
        return _no_issues(issue_id)

    return [
        create_issue_from_task,
        sync_task_to_issue,
        query_issues_by_project,
        update_issue_status,
        get_issue_history,
    ]
