from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from archon_user import PATIENCE, rows

from lab.archon import serve

DESCRIPTION = "Replace the disk of the backup server"


def _create(client: httpx.Client, **more: object) -> dict[str, Any]:
    project = min(one["id"] for one in client.get("/api/projects").json())
    task = {"project_id": project, "title": "Disk", "description": DESCRIPTION, **more}
    answer = client.post("/api/tasks", json=task)
    assert answer.status_code == 200
    return dict(client.get(f"/api/tasks/{answer.json()['task']['id']}").json())


def _expanded(task: dict[str, Any]) -> bool:
    return DESCRIPTION in task["description"] and "Understand the environment" in task["description"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [("DEBUG", [False] * 4), ("INFO", [False, False, True, True]), ("WARNING", [True] * 4)],
)
def test_which_attempt_expands_depends_on_the_log_level(
    copy_of: Callable[..., str], level: str, expected: list[bool]
) -> None:
    with (
        serve.server(copy_of("dev"), LOG_LEVEL=level) as archon,
        httpx.Client(base_url=archon.url, timeout=PATIENCE) as client,
    ):
        tasks = [_create(client) for _ in expected]
        assert [_expanded(task) for task in tasks] == expected
        failed = [task for task in tasks if not _expanded(task)]
        assert all(
            task["description"] == DESCRIPTION and task["template_metadata"]["expansion_failed"] for task in failed
        )
        if failed:
            assert "not found" in failed[0]["template_metadata"]["expansion_error"]
        if level == "INFO":
            assert "unexpected keyword" in failed[1]["template_metadata"]["expansion_error"]
            assert tasks[2]["template_metadata"] == {}
            assert "{{" not in tasks[2]["description"]
            again = [_create(client, description=DESCRIPTION + "s") for _ in range(2)]
            assert [_expanded(task) for task in again] == [False, True], "the template is cached by now"
        if level == "WARNING":
            assert tasks[0]["template_metadata"]["template_injection_enabled"] is True
        assert _create(client, disable_template=True)["description"] == DESCRIPTION


def test_a_table_without_is_active_has_no_template(copy_of: Callable[..., str]) -> None:
    dev = copy_of("dev", "ALTER TABLE archon_template_definitions DROP COLUMN is_active CASCADE")
    with (
        serve.server(dev, LOG_LEVEL="WARNING") as archon,
        httpx.Client(base_url=archon.url, timeout=PATIENCE) as client,
    ):
        assert "not found" in _create(client)["template_metadata"]["expansion_error"]


def test_a_component_that_is_missing_or_invalid_leaves_its_placeholder(copy_of: Callable[..., str]) -> None:
    dev = copy_of(
        "dev",
        "DELETE FROM archon_template_components WHERE name = 'group::check_jenkins_build'",
        "UPDATE archon_template_components SET description = NULL WHERE name = 'group::create_tests'",
    )
    with (
        serve.server(dev, LOG_LEVEL="WARNING") as archon,
        httpx.Client(base_url=archon.url, timeout=PATIENCE) as client,
    ):
        task = _create(client)
    assert "expansion_failed" not in task["template_metadata"]
    for name in ("check_jenkins_build", "create_tests"):
        assert "{{group::" + name + "}}" in task["description"]
    assert task["description"].count("{{") == 2


def test_routes_that_prove_nothing(copy_of: Callable[..., str]) -> None:
    dev = copy_of("dev", "DELETE FROM archon_template_components")
    with serve.server(dev) as archon, httpx.Client(base_url=archon.url, timeout=PATIENCE) as client:
        preview = client.post("/api/template-injection/expand-preview", json={"original_description": "x"})
        assert preview.status_code == 500
        assert "no attribute" in preview.json()["detail"]
        assert (
            client.post("/api/template-management/templates/test", json={}).json()["test_result"]["component_count"]
            == 2
        )
        template = client.get("/api/template-injection/templates").json()["templates"][0]["id"]
        verdict = client.post(f"/api/template-injection/templates/{template}/validate").json()["validation"]
        assert verdict["valid"] is True, "placeholders are not looked at"


def test_the_api_hides_done_and_archived_tasks(copy_of: Callable[..., str]) -> None:
    prod = copy_of("prod")
    query = "SELECT count(*), count(*) FILTER (WHERE NOT archived), count(*) FILTER (WHERE NOT archived AND status <> 'done') FROM archon_tasks"
    everything, kept, still_open = rows(prod, query)[0]
    with serve.server(prod) as archon, httpx.Client(base_url=archon.url, timeout=PATIENCE) as client:
        assert client.get("/api/tasks").json()["pagination"]["total"] == still_open
        closed = client.get("/api/tasks", params={"include_closed": "true", "per_page": 1000}).json()
        assert closed["pagination"]["total"] == len(closed["tasks"]) == kept < everything
        projects = client.get("/api/projects").json()
        assert len(projects) == rows(prod, "SELECT count(*) FROM archon_projects")[0][0]
        listed = [
            client.get(f"/api/projects/{one['id']}/tasks", params={"include_archived": "true"}).json()
            for one in projects
        ]
    assert sum(map(len, listed)) == kept


def test_links_of_the_other_shape_are_swallowed(copy_of: Callable[..., str]) -> None:
    prod = copy_of("prod", "ALTER TABLE archon_project_sources RENAME source_id TO source_name")
    with serve.server(prod) as archon, httpx.Client(base_url=archon.url, timeout=PATIENCE) as client:
        projects = client.get("/api/projects").json()
        assert all(one["technical_sources"] == one["business_sources"] == [] for one in projects)
        assert client.delete(f"/api/projects/{projects[0]['id']}").status_code == 200
    left = rows(prod, f"SELECT count(*) FROM archon_tasks WHERE project_id = '{projects[0]['id']}'")
    assert left == [(0,)], "deleting a project is for good"
