"""Only MCP tools that read can be named at all."""

from __future__ import annotations

import pytest
from archon_align.application.mcp import Call
from archon_align.web.wire import NotAllowed

REFUSED = [
    ("manage_project", {"action": "delete", "project_id": "1"}),
    ("manage_project", {"action": "create", "title": "x"}),
    ("manage_project", {}),
    ("manage_task", {"action": "archive"}),
    ("manage_task", {"action": "update"}),
    ("manage_document", {"action": "add"}),
    ("manage_versions", {"action": "restore"}),
    ("manage_template_injection", {"action": "update"}),
    ("health_check", {"action": "anything"}),
    ("upload_document", {"file_path": "/etc/passwd"}),
    ("create_issue_from_task", {}),
    ("execute_shell_command", {"command": "true"}),
]


@pytest.mark.parametrize(("tool", "arguments"), REFUSED)
def test_whatever_writes_or_runs_commands_is_refused(tool: str, arguments: dict[str, str]) -> None:
    with pytest.raises(NotAllowed):
        Call(tool, arguments)


@pytest.mark.parametrize(
    ("tool", "arguments"), [("health_check", {}), ("manage_task", {"action": "list", "per_page": 5})]
)
def test_what_reads_is_allowed(tool: str, arguments: dict[str, str]) -> None:
    assert Call(tool, arguments).tool == tool
