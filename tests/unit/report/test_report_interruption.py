"""What the report says of a phase that was interrupted, from what lies in the run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from archon_align import report
from archon_align.context import Run
from archon_align.report import interrupted

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "report.schema.json").read_text())
RUN_ID = "20260101-000000-abcdef"
AT = "2026-01-01T00:00:09.000Z"


def events(folder: Path, *found: dict[str, Any]) -> None:
    lines = [json.dumps({"at": AT, "kind": "progress", **event}) for event in found]
    (folder / "events.jsonl").write_text("\n".join(lines) + '\n{"kind": "prog')


def ledger(folder: Path, phase: str, *, committed: bool) -> None:
    path = folder / "restore-points" / f"{phase}.jsonl"
    path.parent.mkdir(exist_ok=True)
    identity = {"name": "archon", "oid": 1, "system_identifier": "2", "where": "h:1/archon"}
    head = {"line": "point", "format": 1, "run_id": RUN_ID, "phase": phase, "created_at": AT}
    lines: list[dict[str, Any]] = [
        {**head, "database": "PROD", "identity": identity},
        {"line": "entry", "kind": "structure", "database": "PROD", "xid": "7", "payload": {"statements": []}},
    ]
    if committed:
        lines.append({"line": "committed", "database": "PROD", "xid": "7"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def summary(folder: Path, *results: dict[str, Any], run_id: str = RUN_ID) -> tuple[dict[str, Any], str]:
    built = report.build(Run(run_id, folder), results, AT, AT, before={}, after={})
    jsonschema.validate(built, SCHEMA)
    return built, " ".join(report.summary(built, folder).split())


def test_a_rebuild_is_resumable_and_tells_its_last_counters(tmp_path: Path) -> None:
    events(
        tmp_path,
        {"phase": "embeddings", "text": "…", "done": 64, "total": 93000, "quarantined": 0},
        {"phase": "embeddings", "text": "…", "done": 45120, "total": 93000, "quarantined": 3},
        {"phase": "embeddings", "text": "pull 45 %"},
        {"phase": "search", "text": "…", "done": 1, "total": 2, "quarantined": 0},
    )
    found = interrupted(Run(RUN_ID, tmp_path), "embeddings", "embeddings : Rebuild", "Ctrl-C")
    built, words = summary(tmp_path, found)
    assert built["result"] == "resumable"
    assert built["embeddings"]["rebuilt"] == 45120
    assert built["embeddings"]["missing_before"] == 93000
    assert built["embeddings"]["missing_after"] is None  # nobody has counted
    assert "45,120 of 93,000 rows embedded, 3 quarantined when they were last counted; all of them are kept" in words
    assert "Committed and kept: embeddings. The interrupted phase left nothing half-done" in words
    assert "Next: Run the same command again (make align, or ansible-playbook align.yml --tags embeddings)" in words
    assert "failed" not in words


def test_the_proof_of_search_belongs_to_the_embeddings_phase_and_does_not_overwrite_its_counts(tmp_path: Path) -> None:
    events(tmp_path, {"phase": "embeddings", "text": "…", "done": 64, "total": 107, "quarantined": 0})
    rebuilt = {"phase": "embeddings", "changed": True, "details": {"embeddings": {"rebuilt": 107, "missing_after": 0}}}
    built, _ = summary(tmp_path, rebuilt, interrupted(Run(RUN_ID, tmp_path), "search", "See to the index", "SIGTERM"))
    assert [phase["name"] for phase in built["phases"]] == ["embeddings"]
    assert built["embeddings"]["rebuilt"] == 107
    assert built["result"] == "resumable"


@pytest.mark.parametrize("committed", [True, False])
def test_another_phase_failed_and_names_its_restore_point(tmp_path: Path, committed: bool) -> None:
    ledger(tmp_path, "schema", committed=committed)
    found = interrupted(Run(RUN_ID, tmp_path), "schema", "schema : Bring", "Ctrl-C")
    built, words = summary(tmp_path, found)
    assert built["result"] == "failed"
    assert found["changed"] is committed
    assert [point["name"] for point in built["restore_points"]] == [f"{RUN_ID}:schema"]
    assert f"restore_point={RUN_ID}:schema" in words


def test_between_phases_nothing_was_at_work(tmp_path: Path) -> None:
    built, words = summary(tmp_path, interrupted(Run(RUN_ID, tmp_path), "", "(none)", "Ctrl-C"))
    assert built["result"] == "resumable"
    assert "no phase was at work" in words


def test_a_check_wrote_nothing(tmp_path: Path) -> None:
    run_id = f"{RUN_ID}-check"
    found = interrupted(Run(run_id, tmp_path), "embeddings", "Rebuild", "Ctrl-C")
    _, words = summary(tmp_path, found, run_id=run_id)
    assert "Nothing was written to any database." in words
    assert "Next: Run the same command again (make check)." in words
