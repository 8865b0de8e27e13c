"""What the report tells of the running Archon, and of rows that a killed run had left in a protected table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from archon_align.context import Run
from archon_align.report import build, summary
from archon_align.report.markdown import markdown
from archon_align.report.protected import Observation, protected_section
from archon_align.report.wording import running

RUN = Run("20260101-000000-abcdef", Path("artifacts"))


def check(name: str, verdict: str) -> dict[str, Any]:
    return {
        "name": name,
        "verdict": verdict,
        "evidence": f"seen | {name}",
        "defect": "",
        "mendable": False,
        "seconds": 1.0,
    }


def test_what_is_broken_is_told_first() -> None:
    told = running(
        [
            check("search", "works"),
            check("mcp", "not_reachable"),
            check("upload", "broken_by_data"),
            check("code_examples", "works"),
        ]
    )
    assert told == "broken by data: upload; works: search, code examples; not reachable: mcp"


def test_the_report_has_every_check_and_the_summary_a_line() -> None:
    section = {
        "checks": [check("search", "works"), check("template_expansion", "broken_in_archon")],
        "created": 4,
        "removed": 4,
    }
    result = {"phase": "validate", "status": "aligned", "seconds": 1.0, "details": {"functional": section}}
    report = build(RUN, [result], "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", before={}, after={})
    assert report["functional"] == section
    assert "functional" not in report["details"].get("validate", {})
    assert "archon       broken in archon: template expansion; works: search" in summary(report, Path("artifacts"))
    text = markdown(report, Path("artifacts"))
    assert "| search | works | seen \\| search | 1.0 |" in text
    assert "4 rows were created in PROD, and 4 removed again" in text


def test_rows_of_our_own_that_a_killed_run_left_are_nobody_elses_change() -> None:
    proof = {
        "table": "t", "rows_before": 10, "rows_after": 10, "fingerprint_before": "clean", "fingerprint_after": "clean", "preserved": True,
        "method": "scan", "strays_removed": 2, "fingerprint_found": "littered",
    }  # fmt: skip
    columns = ("id",)
    before, after = Observation(12, "littered", columns), Observation(10, "clean", columns)
    entry = protected_section({"t": before}, [proof], {"t": after})["t"]
    assert (entry["preserved"], entry["changed_by_users"], entry["changed_by_run"]) == (True, False, False)
    assert entry["rows_added_by_users"] == 0
    more = Observation(13, "littered and more", columns)
    entry = protected_section({"t": more}, [proof], {"t": after})["t"]
    assert (entry["preserved"], entry["changed_by_users"]) == (True, True)
