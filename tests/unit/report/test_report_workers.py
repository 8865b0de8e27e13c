"""Several workers and PROD's own call make one phase and one section of the report; a worker that is lost is a finding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from archon_align.context import Run
from archon_align.report import build, started_at, summary, write

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "report.schema.json").read_text())
RUN = Run("20260102-030405-abcdef", Path("/artifacts/run"))
PAGES = "public.archon_crawled_pages"
ERROR = {
    "code": "embedding_unreachable",
    "what": "The rebuild of embeddings stopped. The embedding service does not answer.",
    "object": "http://10.0.0.7:11434/v1/embeddings",
    "expected": "a service listening there",
    "found": "connection refused",
    "remedy": "Check that the service runs.",
}
CRASHED = {"phase": "embeddings", "worker": "w2", "failed": True, "msg": "MODULE FAILURE\nSee stdout/stderr", "rc": 137}
UNREACHABLE = {
    "phase": "embeddings",
    "worker": "w2",
    "unreachable": True,
    "msg": "Failed to connect to the host via ssh.",
}


def counted(missing: int, after: int, rebuilt: int, quarantined: int = 0, **more: Any) -> dict[str, Any]:
    numbers = {"missing_before": missing, "missing_after": after, "rebuilt": rebuilt, "quarantined": quarantined}
    return {**numbers, "tables": {PAGES: numbers}, **more}


def result(embeddings: dict[str, Any], *, seconds: float = 2.0, worker: str = "", **fields: Any) -> dict[str, Any]:
    changed = bool(embeddings["rebuilt"])
    details = {"embeddings": embeddings, **fields.pop("details", {})}
    whose = {"worker": worker} if worker else {}
    status = "changed" if changed else "aligned"
    return {
        "phase": "embeddings",
        "status": status,
        "changed": changed,
        "seconds": seconds,
        "details": details,
        **whose,
        **fields,
    }


def report_of(*results: dict[str, Any]) -> dict[str, Any]:
    report = build(RUN, results, started_at(RUN), "2026-01-02T03:05:00+00:00", before={}, after={})
    jsonschema.validate(report, SCHEMA, format_checker=jsonschema.FormatChecker())
    return report


FIRST = result(
    counted(100, 44, 56, rows_per_second=28.0, endpoints=[{"url": "http://a/v1", "rows": 56}], horizon={PAGES: 1}),
    worker="w1",
)
SECOND = result(
    counted(96, 2, 40, 2, rows_per_second=10.0, endpoints=[{"url": "http://b/v1", "rows": 40}], truncated=1),
    worker="w2",
    seconds=4.0,
)
OWN = result(
    counted(
        4, 2, 2, 2, rows_per_second=4.0, model="m", endpoints=[{"url": "http://a/v1", "rows": 2}], horizon={PAGES: 2}
    ),
    seconds=0.5,
)


def test_the_work_of_all_is_summed_and_prods_own_word_is_the_last() -> None:
    report = report_of(FIRST, SECOND, OWN)
    found = report["embeddings"]
    numbers = {"missing_before": 100, "missing_after": 2, "rebuilt": 98, "quarantined": 2}
    assert {key: found[key] for key in numbers} == numbers
    assert found["tables"] == {PAGES: numbers}
    assert found["rows_per_second"] == round(98 / 4.5, 1), "workers are at work side by side, PROD's call after them"
    assert (found["horizon"], found["model"], found["truncated"]) == ({PAGES: 2}, "m", 1)
    assert found["endpoints"] == [{"url": "http://a/v1", "rows": 58}, {"url": "http://b/v1", "rows": 40}]
    assert found["workers"] == [
        {
            "name": "w1",
            "status": "changed",
            "rebuilt": 56,
            "rows_per_second": 28.0,
            "endpoints": FIRST["details"]["embeddings"]["endpoints"],
        },
        {
            "name": "w2",
            "status": "changed",
            "rebuilt": 40,
            "rows_per_second": 10.0,
            "endpoints": SECOND["details"]["embeddings"]["endpoints"],
        },
    ]
    assert [(phase["status"], phase["seconds"]) for phase in report["phases"]] == [("changed", 4.5)]
    assert report["result"] == "changed"


def test_a_call_that_found_nothing_left_does_not_slow_the_rate() -> None:
    found = report_of(FIRST, SECOND, result(counted(0, 0, 0), seconds=30.0))["embeddings"]
    assert found["rows_per_second"] == round(96 / 4.0, 1)
    assert found["missing_after"] == 0


@pytest.mark.parametrize(("lost", "status"), [(CRASHED, "failed"), (UNREACHABLE, "unreachable")])
def test_a_lost_worker_is_a_finding_and_what_it_wrote_is_counted(lost: dict[str, Any], status: str) -> None:
    own = result(counted(44, 0, 20, written_by_workers={"w1": 56, "w2": 24}))
    report = report_of(FIRST, lost, own)
    assert report["result"] == "changed"
    assert report["phases"][0]["error"] is None
    assert [(one["code"], one["severity"], one["object"]) for one in report["findings"]] == [
        ("embedding_worker_lost", "warning", "worker w2")
    ]
    assert lost["msg"].split()[0] in report["findings"][0]["message"]
    assert report["embeddings"]["rebuilt"] == 56 + 24 + 20
    assert "written_by_workers" not in report["embeddings"]
    assert [(one["name"], one["status"], one["rebuilt"]) for one in report["embeddings"]["workers"]] == [
        ("w1", "changed", 56),
        ("w2", status, 24),
    ]


def test_a_worker_whose_service_gave_out_keeps_its_remedy_and_its_rows() -> None:
    stopped = result(counted(96, 60, 36), worker="w2", failed=True, error=ERROR, msg="It stopped.") | {
        "status": "resumable"
    }
    report = report_of(FIRST, stopped, result(counted(8, 0, 8)))
    assert report["result"] == "changed"
    assert report["findings"][0]["remedy"] == ERROR["remedy"]
    assert ERROR["found"] in report["findings"][0]["message"]
    assert report["embeddings"]["rebuilt"] == 100
    assert report["embeddings"]["workers"][1]["status"] == "resumable"


def test_prods_own_failure_is_the_runs_and_the_workers_rows_stay_counted() -> None:
    failed = result(counted(44, 44, 0), failed=True, error=ERROR, msg="It stopped.") | {"status": "resumable"}
    report = report_of(FIRST, failed)
    assert report["result"] == "resumable"
    assert (report["embeddings"]["rebuilt"], report["embeddings"]["missing_after"]) == (56, 44)
    alone = report_of(FIRST, SECOND)
    assert (alone["embeddings"]["missing_after"], alone["embeddings"]["quarantined"]) == (2, 2)


def test_a_restore_point_that_two_tell_of_stands_once() -> None:
    point = {"name": f"{RUN.id}:embeddings-w1", "phase": "embeddings-w1", "holds": "56 vectors"}
    half = {**point, "holds": "24 vectors"}
    first = {**FIRST, "details": {**FIRST["details"], "restore_points": [half]}}
    own = {**OWN, "details": {**OWN["details"], "restore_points": [point]}}
    assert report_of(first, own)["restore_points"] == [point]


def test_the_summary_says_it_in_one_line_and_the_document_by_worker(tmp_path: Path) -> None:
    assert "  embeddings   2 missing, 2 quarantined; 98 rows with 2 workers, 22 a second\n" in summary(
        report_of(FIRST, SECOND, OWN), RUN.artifacts
    )
    lost = report_of(FIRST, CRASHED, OWN)
    assert "58 rows with 1 of 2 workers" in summary(lost, RUN.artifacts)
    run = Run(RUN.id, tmp_path)
    write(run, lost)
    assert "| w2 | failed | 0 | 0.0 |" in (tmp_path / "report.md").read_text()
    assert "workers" not in summary(report_of(OWN), RUN.artifacts)
    assert "workers" not in report_of(OWN)["embeddings"]


def test_vectors_that_stay_are_told_though_the_phase_was_undone_after_them() -> None:
    undone = {
        "phase": "embeddings",
        "status": "rolled_back",
        "changed": False,
        "failed": True,
        "error": ERROR,
        "msg": "It stopped.",
    }
    point = {
        "name": f"{RUN.id}:embeddings-w1",
        "phase": "embeddings-w1",
        "restore_with": "roll back",
        "created_at": "1",
    }
    first = {**FIRST, "details": {**FIRST["details"], "restore_points": [point]}}
    text = summary(report_of(first, OWN, undone), RUN.artifacts)
    assert "failed and was undone; what earlier phases" in text.splitlines()[0]
    assert "PROD is as it was before the run" not in text
    assert "Committed and kept: vectors." in text
    assert "roll back" in text
    assert "PROD is as it was before the run" in summary(report_of(undone), RUN.artifacts)
