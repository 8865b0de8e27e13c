"""What a report says of phases that were rolled back, and of a rollback."""

from __future__ import annotations

from typing import Any

import pytest
from archon_align.report.wording import database_state, headline

POINT = {
    "name": "R:schema",
    "phase": "schema",
    "created_at": "2026-01-01",
    "restore_with": "ansible-playbook playbooks/rollback.yml -e restore_point=R:schema",
}
ERROR = {"code": "x", "what": "It failed."}


def report(result: str, *phases: tuple[str, str, bool], mode: str = "apply", **others: Any) -> dict[str, Any]:
    told = [
        {
            "name": name,
            "status": status,
            "changed": changed,
            "error": ERROR if status in ("failed", "rolled_back") else None,
        }
        for name, status, changed in phases
    ]
    return {
        "result": result,
        "mode": mode,
        "phases": told,
        "restore_points": [],
        "details": {},
        "criteria": [],
    } | others


def test_only_a_run_that_left_nothing_says_that_prod_is_as_it_was() -> None:
    alone = report("rolled_back", ("preflight", "aligned", False), ("schema", "rolled_back", False))
    assert database_state(alone) == "PROD is as it was before the run."
    assert "PROD is as it was before the run" in headline(alone)
    later = report("rolled_back", ("schema", "changed", True), ("data", "rolled_back", False), restore_points=[POINT])
    assert "as it was before the run" not in database_state(later) + headline(later)
    assert "Committed and kept: schema." in database_state(later)
    assert POINT["restore_with"] in database_state(later)
    assert "phase data failed and was undone" in headline(later)
    users = report("rolled_back", ("data", "rolled_back", True))
    assert "but for what users changed meanwhile" in database_state(users)


def test_a_failed_phase_that_has_left_something_says_so() -> None:
    left = report("failed", ("schema", "failed", False), restore_points=[POINT])
    assert "Committed and kept: schema." in database_state(left)
    assert "nothing half-done" not in database_state(left)
    assert POINT["restore_with"] in database_state(left)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("changed", "was put back to R:schema"),
        ("drift", "would be put back to R:schema"),
        ("aligned", "nothing was left"),
    ],
)
def test_a_rollback_has_a_headline_of_its_own(result: str, words: str) -> None:
    told = report(
        result,
        ("rollback", result, result != "aligned"),
        mode="check" if result == "drift" else "apply",
        details={"rollback": {"rollback": {"point": "R:schema"}}},
    )
    assert words in headline(told)
