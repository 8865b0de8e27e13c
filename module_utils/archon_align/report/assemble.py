"""report.json from the results of the phases: pure, no database, no files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..context import Run
from .protected import Observation, proofs_of, protected_section
from .workers import embeddings_section, is_worker, seconds, settled

Result = Mapping[str, Any]

# The sections a phase may answer for, and the keys that are always there (null when nobody measured them).
SECTIONS: dict[str, tuple[str, ...]] = {
    "schema": ("differences_before", "differences_after", "only_in_prod", "statements"),
    "credentials": ("changed_keys",),
    "embeddings": ("missing_before", "missing_after", "rebuilt", "quarantined", "rows_per_second"),
    "search": ("queries", "recall_at_5"),
    "templates": ("created", "updated", "unchanged", "only_in_prod"),
    "functional": ("checks", "created", "removed"),
}
# Gathered or computed here, so a phase's own copy is not passed on as one of its details.
_GATHERED = {*SECTIONS, "protected_before", "criteria", "restore_points"}
# The first of these that any phase ended with is the run's result; `failed` yields to the roll-back that answered it.
_VERDICTS = ("rolled_back", "failed", "decision_needed", "resumable", "changed", "drift", "aligned")


_SECOND = "%Y-%m-%dT%H:%M:%SZ"


def started_at(run: Run) -> str:
    """When the run began, from its id: ISO 8601 in UTC, to the second."""
    return datetime.strptime(run.id[:15] + "+0000", "%Y%m%d-%H%M%S%z").strftime(_SECOND)


def now() -> str:
    """The time in the same form."""
    return datetime.now(UTC).strftime(_SECOND)


def is_phase(result: object) -> bool:
    """Whether a registered result came from a phase: skipped and unknown ones did not."""
    return isinstance(result, Mapping) and isinstance(result.get("phase"), str)


def _status(result: Result) -> str:
    if result.get("status") in _VERDICTS:
        return str(result["status"])
    if result.get("failed") or result.get("unreachable"):
        return "failed"
    return "changed" if result.get("changed") else "aligned"


def _phase(results: Sequence[Result]) -> dict[str, Any]:
    """One entry for one phase, however many results (hosts, workers) it handed back."""
    statuses = [_status(result) for result in results]
    return {
        "name": str(results[0]["phase"]),
        "status": next(verdict for verdict in _VERDICTS if verdict in statuses),
        "seconds": round(seconds(results), 3),
        "changed": any(bool(result.get("changed")) for result in results),
        "statements": sum(len(result.get("statements") or ()) for result in results),
        "findings": _distinct(finding for result in results for finding in result.get("findings") or ()),
        "error": next((error_of(result) for result in results if error_of(result)), None),
    }


def error_of(result: Result) -> dict[str, str] | None:
    """The five parts of a failed result; what was not raised by the core keeps its message at least."""
    if result.get("error"):
        return {key: str(value) for key, value in result["error"].items()}
    if _status(result) != "failed":
        return None
    if "module_stdout" in result and result.get("rc"):
        return {
            "code": "module_lost",
            "what": "The module ended without an answer.",
            "object": str(result["phase"]),
            "expected": "a result, whatever it is",
            "found": f"exit status {result['rc']}: it was killed, was out of memory, could not start, or its machine is gone",
            "remedy": "See whether the host is up and what its log says (the playbook's output has what the module wrote), and run"
            " again; a phase finds out for itself what is left to do.",
        }
    message = " ".join(str(result.get("msg") or "The task failed without a message.").split())
    return {
        "code": "unreachable" if result.get("unreachable") else "task_failed",
        "what": message,
        "object": str(result["phase"]),
        "expected": "a host that answers" if result.get("unreachable") else "the task to succeed",
        "found": "unreachable" if result.get("unreachable") else "a failure",
        "remedy": "Correct the cause named above and run again; a phase finds out for itself what is left to do.",
    }


def _distinct(findings: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    seen: dict[tuple[str, str, str], dict[str, Any]] = {}
    for finding in findings:
        seen.setdefault((finding["code"], finding["object"], finding["message"]), dict(finding))
    return list(seen.values())


def _points(points: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each once, as it was told last: a worker tells of its own, and PROD's call of all the workers'."""
    named: dict[Any, Mapping[str, Any]] = {}
    for point in points:
        named[point.get("name")] = point
    return list(named.values())


def _section(name: str, details: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Later phases know better than earlier ones, except of how things were before."""
    merged: dict[str, Any] = {}
    for detail in details:
        for key, value in (detail.get(name) or {}).items():
            if key.endswith("_before") and merged.get(key) is not None:
                continue
            if value is not None or key not in merged:
                merged[key] = value
    return {**dict.fromkeys(SECTIONS[name]), **merged} if merged else None


def _differs(sections: Mapping[str, Mapping[str, Any] | None]) -> bool:
    """Whether a phase that only looked (assess) found what nobody has mended since."""
    schema, embeddings = sections["schema"] or {}, sections["embeddings"] or {}
    different = schema.get("differences_after")
    different = schema.get("differences_before") if different is None else different
    missing = embeddings.get("missing_after") or 0
    # Neither is for this run to mend: rows that no service embeds, and those that came after it had looked.
    missing -= (embeddings.get("quarantined") or 0) + (embeddings.get("arrived_since") or 0)
    return bool(different) or missing > 0


def verdict(check: bool, phases: Sequence[Mapping[str, Any]], sections: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The run's result: the gravest of its phases' statuses. What a check would change, or a look found, is drift."""
    statuses = {phase["status"] for phase in phases} | {"changed" for phase in phases if phase["changed"]}
    if _differs(sections):
        statuses.add("drift")
    if check and "changed" in statuses:
        statuses = statuses - {"changed"} | {"drift"}
    return next((verdict for verdict in _VERDICTS if verdict in statuses), "aligned")


def build(
    run: Run,
    results: Sequence[Result],
    started_at: str,
    finished_at: str,
    *,
    before: Mapping[str, Observation],
    after: Mapping[str, Observation],
) -> dict[str, Any]:
    """The report as docs/report.schema.json describes it. Times are ISO 8601 in UTC.

    `results` are PhaseOutcome.as_result() in the order in which the phases ran; others are ignored. `before` and `after`
    are the run's snapshots of the protected tables (see report.files.snapshot); either may be empty.
    """
    told = [result for result in results if is_phase(result)]
    known = [settled(result) for result in told]
    details: list[Mapping[str, Any]] = [result.get("details") or {} for result in known]
    # Where a phase ended is its place: that the embedding service was asked early does not put embeddings before the backup.
    names = [*reversed(dict.fromkeys(str(result["phase"]) for result in reversed(known)))]
    phases = [_phase([result for result in known if result["phase"] == name]) for name in names]
    others: dict[str, dict[str, Any]] = {}
    for result, detail in zip(known, details, strict=True):
        if besides := {key: value for key, value in detail.items() if key not in _GATHERED}:
            others.setdefault(str(result["phase"]), {}).update(besides)
    sections = {name: _section(name, details) for name in SECTIONS}
    own = _section("embeddings", [detail for one, detail in zip(told, details, strict=True) if not is_worker(one)])
    sections["embeddings"] = embeddings_section(told, own)
    protected = protected_section(before, proofs_of(known), after)
    ended = verdict(run.check, phases, sections)
    if ended != "rolled_back" and any(entry["changed_by_run"] for entry in protected.values()):
        ended = "failed"
    return {
        "run_id": run.id,
        "mode": "check" if run.check else "apply",
        "result": ended,
        "started_at": started_at,
        "finished_at": finished_at,
        "phases": phases,
        "protected": protected,
        **sections,
        "criteria": next((list(detail["criteria"]) for detail in reversed(details) if detail.get("criteria")), []),
        "findings": _distinct({"phase": phase["name"], **finding} for phase in phases for finding in phase["findings"]),
        "restore_points": _points(point for detail in details for point in detail.get("restore_points") or ()),
        "details": others,
    }
