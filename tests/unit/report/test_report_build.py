"""report.json and the texts made of it, against the published schema."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from archon_align.context import Run
from archon_align.errors import AlignError, DecisionNeeded
from archon_align.findings import Finding
from archon_align.outcome import PhaseOutcome, Status
from archon_align.plan import Statement
from archon_align.preservation.proof import Proof
from archon_align.report import build, read, snapshot, started_at, summary, write
from archon_align.report.terminal import COLUMNS, LINES
from hypothesis import given, settings
from hypothesis import strategies as st

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "report.schema.json").read_text())
RUN = Run("20260102-030405-abcdef", Path("/artifacts/run"))
CHECK = Run("20260102-030405-abcdef-check", Path("/artifacts/run"))
END = "2026-01-02T03:05:00+00:00"
PROOF = Proof("public.archon_tasks", 120, 120, "a" * 32, "a" * 32, "scan")


def report_of(results: list[dict[str, Any]], run: Run = RUN) -> dict[str, Any]:
    report = build(run, results, started_at(run), END, before={}, after={})
    jsonschema.validate(report, SCHEMA, format_checker=jsonschema.FormatChecker())
    return report


def phase(name: str, status: Status, **fields: Any) -> dict[str, Any]:
    return PhaseOutcome(name, status, **fields).as_result()


def error(**fields: str) -> AlignError:
    words = {"object_name": "PROD", "expected": "yes", "found": "no", "remedy": "mend it", "code": "c"} | fields
    return AlignError("It broke.", **words)


def statement(number: int) -> Statement:
    return Statement(f"SELECT {number}", "x", "y")


ALIGNED = [
    phase("preflight", "aligned", seconds=1.0),
    phase("backup", "aligned", details={"restore_points": [{"name": "backup", "path": "backup/archon.dump"}]}),
    phase(
        "schema",
        "changed",
        changed=True,
        statements=[statement(n) for n in range(57)],
        proofs=[PROOF],
        findings=[Finding("kept", "warning", "public.x", "Only PROD has it.", "Nothing to do.")],
        details={"schema": {"differences_before": 57, "differences_after": 0, "only_in_prod": 3, "statements": 57}},
    ),
    phase(
        "data", "changed", changed=True, proofs=[PROOF], details={"credentials": {"changed_keys": ["EMBEDDING_MODEL"]}}
    ),
    phase(
        "embeddings",
        "changed",
        changed=True,
        details={"embeddings": {"missing_before": 105, "missing_after": 1, "rebuilt": 104, "quarantined": 1}},
    ),
    phase("validate", "aligned", details={"embeddings": {"missing_before": 1, "missing_after": 1}}),
]


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_run_without_results_claims_nothing() -> None:
    report = report_of([])
    assert report["started_at"] == "2026-01-02T03:04:05Z"
    assert (report["phases"], report["protected"], report["schema"], report["criteria"]) == ([], {}, None, [])


def test_a_whole_run() -> None:
    report = report_of([*ALIGNED, {"skipped": True}, {}])
    assert report["result"] == "changed"
    assert [entry["name"] for entry in report["phases"]] == [
        "preflight",
        "backup",
        "schema",
        "data",
        "embeddings",
        "validate",
    ]
    assert report["protected"]["public.archon_tasks"]["preserved"] is True
    assert report["protected"]["public.archon_tasks"]["transactions"] == 2
    assert report["embeddings"]["missing_before"] == 105, "what a later phase found first is not how it was before"
    assert report["embeddings"]["rows_per_second"] is None
    assert report["findings"][0]["phase"] == "schema"
    assert report["restore_points"] == [{"name": "backup", "path": "backup/archon.dump"}]


@pytest.mark.parametrize(
    ("statuses", "mode", "result"),
    [
        (["aligned", "aligned"], RUN, "aligned"),
        (["changed", "aligned"], RUN, "changed"),
        (["drift", "aligned"], RUN, "drift"),
        (["drift", "changed"], RUN, "changed"),
        (["changed", "resumable"], RUN, "resumable"),
        (["changed", "resumable", "decision_needed"], RUN, "decision_needed"),
        (["changed", "decision_needed", "failed"], RUN, "failed"),
        (["failed", "rolled_back"], RUN, "rolled_back"),
        (["aligned"], CHECK, "aligned"),
        (["aligned", "drift"], CHECK, "drift"),
        (["aligned", "changed"], CHECK, "drift"),
        (["drift", "failed"], CHECK, "failed"),
    ],
)
def test_the_gravest_status_is_the_result(statuses: list[Status], mode: Run, result: str) -> None:
    results = [phase(f"phase {number}", status) for number, status in enumerate(statuses)]
    assert report_of(results, mode)["result"] == result


def test_a_changed_flag_counts_without_a_status() -> None:
    assert report_of([{"phase": "data", "changed": True}])["result"] == "changed"
    assert report_of([{"phase": "data", "changed": True}], CHECK)["result"] == "drift"


def test_a_run_that_only_looked_does_not_call_a_broken_prod_aligned() -> None:
    looked = phase("assess", "aligned", details={"schema": {"differences_before": 127}})
    assert report_of([looked])["result"] == "drift"
    mended = phase("schema", "changed", details={"schema": {"differences_after": 0}})
    assert report_of([looked, mended])["result"] == "changed"
    blank = {"missing_after": 2, "quarantined": 2}
    assert report_of([phase("embeddings", "aligned", details={"embeddings": blank})])["result"] == "aligned"
    lacking = {"missing_after": 3, "quarantined": 2}
    assert report_of([phase("embeddings", "aligned", details={"embeddings": lacking})])["result"] == "drift"


def test_a_failed_phase_keeps_its_five_parts_and_its_partial_result() -> None:
    failed = phase("embeddings", "resumable", error=error(), changed=True, details={"embeddings": {"rebuilt": 7}})
    report = report_of([*ALIGNED[:3], {**failed, "failed": True}])
    assert report["result"] == "resumable"
    assert report["embeddings"]["rebuilt"] == 7
    assert report["phases"][-1]["error"] == {
        "code": "c",
        "what": "It broke.",
        "object": "PROD",
        "expected": "yes",
        "found": "no",
        "remedy": "mend it",
    }


def test_a_failure_that_the_core_did_not_raise_is_told_too() -> None:
    report = report_of([{"phase": "schema", "failed": True, "msg": "MODULE FAILURE\nSee stdout"}])
    assert report["result"] == "failed"
    assert report["phases"][0]["error"]["what"] == "MODULE FAILURE See stdout"
    lost = report_of(
        [{"phase": "data", "failed": True, "rc": 137, "module_stdout": "", "msg": "No start of json char found"}]
    )
    assert lost["phases"][0]["error"]["code"] == "module_lost"
    assert "exit status 137" in lost["phases"][0]["error"]["found"]
    unreachable = report_of([{"phase": "data", "unreachable": True, "msg": "no route"}])
    assert unreachable["phases"][0]["error"]["code"] == "unreachable"


def test_results_of_several_hosts_are_one_phase() -> None:
    twice = [phase("embeddings", "changed", seconds=2.0, changed=True), phase("embeddings", "aligned", seconds=1.0)]
    entry = report_of(twice)["phases"]
    assert [(item["name"], item["status"], item["seconds"]) for item in entry] == [("embeddings", "changed", 3.0)]


def test_a_phase_stands_where_it_ended() -> None:
    asked_early = [phase("embeddings", "aligned"), phase("backup", "aligned"), phase("embeddings", "changed")]
    assert [item["name"] for item in report_of(asked_early)["phases"]] == ["backup", "embeddings"]


def test_a_decision_is_needed() -> None:
    decision = DecisionNeeded("Choose.", object_name="o", expected="e", found="f", remedy="set archon_x")
    assert decision.status == "decision_needed"


def test_the_files_are_private_and_read_back(tmp_path: Path) -> None:
    run = Run(RUN.id, tmp_path / "artifacts")
    report = report_of(ALIGNED)
    path = write(run, report)
    assert read(path) == report
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = (run.artifacts / "report.md").read_text()
    assert "| public.archon_tasks | 120 | 120 | yes | 2 |" in text
    assert "pg_restore" in text
    assert "57 differences between DEV and PROD" in text


def test_a_missing_snapshot_is_empty_and_a_broken_one_an_error(tmp_path: Path) -> None:
    run = Run(RUN.id, tmp_path)
    assert snapshot(run, "before") == {}
    (tmp_path / "snapshot-before.json").write_text('{"protected": {"public.t": {"rows": 1}}}')
    with pytest.raises(AlignError, match=r"snapshot-before\.json"):
        snapshot(run, "before")


def test_the_summary_of_a_changed_run() -> None:
    text = summary(report_of(ALIGNED), RUN.artifacts)
    for words in (
        "57 differences between DEV and PROD",
        "105 rows without an embedding",
        "schema       changed, 57 statements",
        "120 rows in 1 table proved preserved",
        "0 differences left",
        "Only PROD has it.",
        "/artifacts/run/report.md",
    ):
        assert words in text


def test_the_summary_of_a_second_run_says_so() -> None:
    aligning = [phase(name, "aligned") for name in ("schema", "data", "embeddings", "templates")]
    text = summary(report_of(aligning), RUN.artifacts)
    assert "already aligned" in text.splitlines()[0]
    part = summary(report_of(aligning[:2]), RUN.artifacts)
    assert "already aligned" not in part.splitlines()[0]


def test_the_summary_of_a_check_promises_nothing_was_written() -> None:
    drift = phase("schema", "drift", changed=True, statements=[statement(1)])
    text = summary(report_of([drift], CHECK), RUN.artifacts)
    assert "nothing was written" in text
    assert "would change, 1 statement" in text


def test_the_summary_of_a_failed_run_tells_state_and_next_step() -> None:
    failed = phase("data", "failed", error=error(found="a long story " * 60))
    text = summary(report_of([*ALIGNED[:3], failed]), RUN.artifacts)
    for words in ("Phase data failed: It broke.", "mend it", "Committed and kept: schema", "Next: follow the remedy"):
        assert words in text
    assert "No transaction of this run was committed" in summary(report_of([failed]), RUN.artifacts)


WORDS = st.text(max_size=300)
STATUS = st.sampled_from(["aligned", "changed", "drift", "decision_needed", "resumable", "rolled_back", "failed"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefghij"), STATUS, WORDS, st.sampled_from(["info", "warning", "error"])),
        max_size=30,
    ),
    st.booleans(),
    st.booleans(),
)
def test_any_summary_is_a_screenful_and_obeyed_by_no_terminal(
    drawn: list[tuple[str, Status, str, Any]], check: bool, fails: bool
) -> None:
    results = [
        phase(
            name,
            status,
            findings=[Finding(str(number), severity, words, words, words)],
            error=error(found=words, remedy=words) if fails and status == "failed" else None,
        )
        for number, (name, status, words, severity) in enumerate(drawn)
    ]
    text = summary(report_of(results, CHECK if check else RUN), RUN.artifacts)
    lines = text.split("\n")
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert all(character.isprintable() or character == "\n" for character in text)
    assert lines[-1] == "Report: /artifacts/run/report.md"
