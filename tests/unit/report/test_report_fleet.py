"""The summary of a fleet, from the reports of its PRODs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from archon_align.report import fleet
from archon_align.report.fleet import Member
from archon_align.report.fleet_log import LATEST, FleetLog
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[3]
VALIDATOR = Draft202012Validator(json.loads((ROOT / "docs" / "fleet.schema.json").read_text()))
NAME = "fleet-20260101-120000-abcdef"
ERROR = {
    "code": "decision_needed",
    "what": "Somebody | must decide.",
    "object": "table t",
    "expected": "x",
    "found": "y",
    "remedy": "Set archon_schema_decisions.",
}


def report(result: str = "changed", *, error: dict[str, str] | None = None, rows: int = 10) -> dict[str, Any]:
    return {
        "run_id": "20260101-120001-abcdef",
        "result": result,
        "phases": [{"error": None}, {"error": error}],
        "protected": {
            "public.a": {"rows_after": rows, "preserved": True},
            "public.b": {"rows_after": 7, "preserved": None},
        },
        "embeddings": {"rebuilt": 5},
        "schema": {"dev_statements": []},
        "credentials": {"changed_keys": ["prod:archon_settings:a/B"]},
    }


def build(*members: Member, because: str = "") -> dict[str, Any]:
    summary = fleet.build(
        NAME,
        members,
        started_at="2026-01-01T12:00:00Z",
        finished_at="2026-01-01T12:01:30Z",
        ended_because=because,
    )
    VALIDATOR.validate(summary)
    return summary


def test_each_prod_is_told_with_what_its_report_says() -> None:
    dev = report() | {
        "schema": {"dev_statements": ["CREATE TABLE x ()"]},
        "credentials": {"changed_keys": ["dev:t:a/B"]},
    }
    summary = build(
        Member("first", "passed", 1, Path("/a"), dev, seconds=12.34),
        Member("bad", "failed", 2, Path("/b"), report("decision_needed", error=ERROR), seconds=3.0),
        Member("away", "failed", 2, error=ERROR),
    )
    assert summary["counts"] == {
        "prods": 3, "passed": 1, "failed": 2, "interrupted": 0, "not_started": 0,
        "results": {"changed": 1, "decision_needed": 1}, "rows_proved": 20, "embeddings_rebuilt": 10,
    }  # fmt: skip
    assert (summary["result"], summary["waves"]) == ("failed", [["first"], ["bad", "away"]])
    assert summary["dev"] == {"statements": ["CREATE TABLE x ()"], "changed_keys": ["dev:t:a/B"], "by": ["first"]}
    first, bad, away = summary["prods"]
    assert (first["seconds"], first["error"], first["report"]) == (12.3, None, "/a/report.md")
    assert (bad["error"]["remedy"], bad["rows_proved"]) == (ERROR["remedy"], 10)
    assert (away["report"], away["result"], away["error"]) == (None, None, ERROR)
    told = fleet.terminal(summary, Path("/f/fleet.md"))
    assert "1 of 3 PRODs passed, 2 did not (90 s)" in told
    assert "DEV was written to by the run of first\n" in told
    assert told.index("bad ") < told.index("first "), "what has to be seen to comes first"
    assert told.endswith("Fleet: /f/fleet.md")
    assert "| bad | 2 | failed | decision_needed | 3.0 | 10 | 5 | `/b/report.md` |" in fleet.markdown(summary)


@pytest.mark.parametrize(
    ("outcomes", "result"),
    [
        (["passed"], "passed"),
        (["passed", "failed"], "failed"),
        (["failed", "not_started"], "ended_early"),
        (["failed", "not_started", "interrupted"], "interrupted"),
    ],
)
def test_the_result_is_the_gravest_of_what_became_of_the_prods(outcomes: list[fleet.Outcome], result: str) -> None:
    members = [Member(f"p{number}", outcome) for number, outcome in enumerate(outcomes)]
    assert build(*members)["result"] == result


def test_a_thousand_prods_fit_on_a_screen_and_all_are_in_the_file() -> None:
    members = [Member(f"prod-{number}", "passed", 1, Path("/a"), report()) for number in range(700)]
    members += [
        Member(f"bad-{number}", "failed", 1, Path("/a"), report("failed", error=ERROR)) for number in range(100)
    ]
    members += [Member(f"late-{number}", "not_started", why="x") for number in range(200)]
    summary = build(*members, because="800 of 800 PRODs did not pass")
    lines = fleet.terminal(summary, Path("/f")).splitlines()
    assert len(lines) < 6 * fleet.TOLD
    assert max(map(len, lines)) <= fleet.COLUMNS
    assert "  … and 720 PRODs more in the summary" in lines
    assert all(f"late-{number}" in fleet.markdown(summary) for number in range(200))


def test_the_log_tells_how_far_the_fleet_has_come(tmp_path: Path) -> None:
    log = FleetLog(["a", "b", "c"], check=True)
    assert log.save() is None, "no folder is known before a run has begun"
    log.root = tmp_path
    log.started("a", 1)
    for at, begins in ((10.0, True), (12.0, False), (15.0, True), (18.5, False)):
        log.worked("a", at, begins=begins)
    log.reported("a", tmp_path / "run", report("drift"))
    log.passed("a")
    log.close_wave()
    log.worked("a", 99.0, begins=True)
    log.started("b", 2)
    log.stopped_by("b", ERROR)
    log.stopped_by("b", ERROR | {"what": "a later one"})
    saved = log.save()
    assert saved is not None
    path, summary = saved
    VALIDATOR.validate(summary)
    assert [(prod["outcome"], prod["seconds"]) for prod in summary["prods"]] == [
        ("passed", 8.5), ("interrupted", None), ("not_started", None),
    ]  # fmt: skip
    assert (summary["mode"], summary["result"]) == ("check", "interrupted")
    assert summary["prods"][1]["error"] == ERROR
    assert path.samefile(tmp_path / LATEST / "fleet.md")
    assert json.loads((path.parent / "fleet.json").read_text()) == summary
    assert [file.stat().st_mode & 0o777 for file in (path, path.parent)] == [0o600, 0o700]
