from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from archon_user import PATIENCE, rows

from lab.archon import serve

Call = tuple[str, dict[str, object]]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2099-01-01", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


def _ask(url: str, *calls: Call) -> tuple[list[str], list[Any]]:
    """The names of all tools, and the answers to these calls, by the official SDK."""
    from mcp import Client

    async def talk() -> tuple[list[str], list[Any]]:
        async with Client(url, mode="legacy") as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            return tools, [await client.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(asyncio.wait_for(talk(), PATIENCE))


def test_tools_answer_with_what_the_server_says(copy_of: Callable[..., str]) -> None:
    dev = copy_of("dev")
    project = str(rows(dev, "SELECT id FROM archon_projects ORDER BY id")[0][0])
    with serve.server(dev) as archon, serve.mcp(archon.url) as mcp:
        tools, answers = _ask(
            mcp.url,
            ("health_check", {}),
            ("get_available_sources", {}),
            ("manage_project", {"action": "list"}),
            ("manage_task", {"action": "list", "include_closed": True}),
            ("manage_task", {"action": "list", "filter_by": "project", "filter_value": project}),
            ("manage_template_injection", {"action": "list"}),
            ("perform_rag_query", {"query": "python dictionary"}),
            ("expand_template_preview", {"original_description": "x"}),
            ("manage_project", {"action": "get", "project_id": "00000000-0000-0000-0000-000000000000"}),
            ("manage_component", {"action": "list"}),
        )
    assert len(tools) == 19
    assert not {"manage_template", "apply_template", "manage_component"} & set(tools)
    assert [answer.is_error for answer in answers] == [False] * 9 + [True]
    health, sources, projects, tasks, of_project, templates, found, preview, missing = (
        json.loads(answer.content[0].text) for answer in answers[:-1]
    )
    assert health["health"]["api_service"] is True
    assert sources["count"] == rows(dev, "SELECT count(*) FROM archon_sources")[0][0]
    assert len(projects["projects"]) == rows(dev, "SELECT count(*) FROM archon_projects")[0][0]
    assert tasks["total_count"] == rows(dev, "SELECT count(*) FROM archon_tasks WHERE NOT archived")[0][0]
    counted = "SELECT count(*) FROM archon_tasks WHERE NOT archived AND status <> 'done' AND project_id = '%s'"
    assert of_project["total_count"] == rows(dev, counted % project)[0][0]
    assert len(templates["templates"]) == rows(dev, "SELECT count(*) FROM archon_template_definitions")[0][0]
    assert found["success"]
    assert found["results"]
    assert found["reranked"] is False
    assert (preview["success"], missing["success"]) == (False, False)
    assert "no attribute" in preview["error"]
    assert "404" in missing["error"]


@pytest.mark.parametrize("first", ["GET", "POST"])
def test_whoever_speaks_before_initialize_hangs_it_for_good(first: str) -> None:
    with serve.mcp("http://127.0.0.1:9") as mcp:
        discover = {"jsonrpc": "2.0", "id": 1, "method": "server/discover"} if first == "POST" else None
        assert httpx.request(first, mcp.url, json=discover, headers=ACCEPT, timeout=PATIENCE).status_code == 400
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(mcp.url, json=INITIALIZE, headers=ACCEPT, timeout=1)
        assert mcp.listens()


def test_tools_of_projects_are_there_only_with_projects() -> None:
    with serve.mcp("http://127.0.0.1:9", PROJECTS_ENABLED="false") as mcp:
        tools, (health,) = _ask(mcp.url, ("health_check", {}))
        answer = httpx.post(mcp.url, json=INITIALIZE, headers=ACCEPT, timeout=PATIENCE)
        assert (
            httpx.post(mcp.url, json=INITIALIZE | {"method": "ping"}, headers=ACCEPT, timeout=PATIENCE).status_code
            == 400
        )
    assert answer.headers["mcp-session-id"]
    assert answer.text.startswith("event: message")
    assert '"protocolVersion":"2025-06-18"' in answer.text, "it knows no newer one"
    assert "manage_task" not in tools
    assert json.loads(health.content[0].text)["health"]["status"] == "degraded"
