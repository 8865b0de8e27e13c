"""report.md: the same report for a person who reads it later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .wording import broken, database_state, failures, headline, mark, plural, proofs, recovery, status_of, undone

# What else a run leaves in its folder, in the order in which a person would look at it.
_FILES = (
    ("plan.sql", "the statements of the plan, in order"),
    ("plan.json", "the same for programs"),
    ("snapshot-before.json", "rows and fingerprints before the run"),
    ("snapshot-after.json", "rows and fingerprints after it"),
    ("events.jsonl", "what happened when"),
    ("backup", "the backup and its manifest"),
    ("restore-points", "what each phase did, by which it can be undone (docs/rollback.md)"),
    ("kept.jsonl", "what a rollback left as users left it, row by row"),
    ("report.json", "this report for programs (docs/report.md)"),
)


def markdown(report: Mapping[str, Any], artifacts: Path) -> str:
    """The whole report as Markdown; `artifacts` is looked into for the files that exist."""
    lines = [
        f"# archon-align run {report['run_id']}",
        "",
        f"**{_text(headline(report))}**",
        "",
        f"Mode `{report['mode']}`, result `{report['result']}`, from {report['started_at']} to {report['finished_at']}.",
    ]
    for phase in failures(report):
        title = "Failed and undone" if phase["status"] == "rolled_back" else "Failed"
        lines += ["", f"## {title}: {phase['name']}", "", _text(phase["error"]["what"]), ""]
        lines += [
            f"* {part}: {_text(phase['error'].get(part, ''))}" for part in ("object", "expected", "found", "remedy")
        ]
    if failures(report):
        lines += ["", database_state(report), "Follow the remedy, then run the same command again."]
    lines += _pairs("What is broken" if report["mode"] == "check" else "What was broken", broken(report))
    lines += _phases(report)
    lines += _pairs("What would be undone" if report["mode"] == "check" else "What was undone", undone(report))
    lines += _pairs("What is now" if report["mode"] == "check" else "What proves it", proofs(report))
    lines += _workers(report["embeddings"] or {})
    lines += _protected(report["protected"])
    lines += _functional(report.get("functional") or {})
    lines += _criteria(report["criteria"])
    lines += _findings(report["findings"])
    lines += _restore_points(report["restore_points"], artifacts)
    lines += _files(artifacts)
    return "\n".join(lines) + "\n"


def _phases(report: Mapping[str, Any]) -> list[str]:
    check = report["mode"] == "check"
    rows = [
        (
            phase["name"],
            status_of(phase, report["mode"]),
            str(phase["statements"]),
            str(len(phase["findings"])),
            f"{phase['seconds']:.1f}",
        )
        for phase in report["phases"]
    ]
    total = sum(phase["statements"] for phase in report["phases"])
    lines = _table(
        "What would be done" if check else "What was done",
        ("phase", "status", "statements", "findings", "seconds"),
        rows,
    )
    return [*lines, "", f"{plural(total, 'statement')} in all."] if lines else []


def _workers(embeddings: Mapping[str, Any]) -> list[str]:
    rows = [
        (worker["name"], worker["status"], f"{worker['rebuilt']:,}", f"{worker['rows_per_second']:,.1f}")
        for worker in embeddings.get("workers") or ()
    ]
    return _table("Embedding workers", ("worker", "status", "rows", "rows a second"), rows)


def _protected(protected: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        (
            table,
            _value(entry["rows_before"]),
            _value(entry["rows_after"]),
            _answer(entry["preserved"], "yes", "NO", "not proved"),
            str(entry["transactions"]),
            _answer(entry["changed_by_run"], "YES", "none", "not proved"),
            _by_users(entry),
            f"`{entry['fingerprint_after'] or entry['fingerprint_before'] or ''}`",
        )
        for table, entry in protected.items()
    ]
    head = (
        *("table", "rows before", "rows after", "preserved", "transactions"),
        *("changed by the run", "changed by users during the run", "fingerprint"),
    )
    return _table("Protected tables", head, rows)


def _by_users(entry: Mapping[str, Any]) -> str:
    answer = _answer(entry["changed_by_users"], "yes", "no", "not known")
    return f"{answer}, {entry['rows_added_by_users']:+,} rows" if entry["rows_added_by_users"] else answer


def _functional(section: Mapping[str, Any]) -> list[str]:
    rows = [
        (check["name"], check["verdict"].replace("_", " "), check["evidence"], f"{check['seconds']:.1f}")
        for check in section.get("checks") or ()
    ]
    lines = _table("What the running Archon does", ("check", "verdict", "evidence", "seconds"), rows)
    if section.get("created"):
        lines += ["", f"For it {section['created']} rows were created in PROD, and {section['removed']} removed again."]
    return lines


def _criteria(criteria: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [(criterion["name"], mark(criterion["met"]), criterion["evidence"]) for criterion in criteria]
    return _table("Success criteria of the plan", ("criterion", "answer", "evidence"), rows)


def _findings(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        (finding["severity"], finding["phase"], finding["object"], finding["message"], finding["remedy"])
        for severity in ("error", "warning", "info")
        for finding in findings
        if finding["severity"] == severity
    ]
    return _table("Findings", ("severity", "phase", "object", "message", "remedy"), rows)


def _restore_points(points: Sequence[Mapping[str, Any]], artifacts: Path) -> list[str]:
    lines = ["", f"Paths are relative to `{artifacts}`."]
    for point in points:
        facts = ", ".join(
            f"{key}: {_text(value)}"
            for key, value in point.items()
            if key != "restore_with" and not isinstance(value, (dict, list))
        )
        lines += ["", f"* {facts}"]
        if command := recovery(point):
            lines += ["", "      " + command]
    return ["", "## Restore points", *lines] if points else []


def _files(artifacts: Path) -> list[str]:
    # report.json is written right after this file.
    lines = [
        f"* `{artifacts / name}`: {words}"
        for name, words in _FILES
        if name == "report.json" or (artifacts / name).exists()
    ]
    return ["", "## Files", "", *lines]


def _pairs(title: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    return ["", f"## {title}", "", *(f"* {name}: {_text(text)}" for name, text in pairs)] if pairs else []


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = ["| " + " | ".join(_text(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    if not body:
        return []
    return ["", f"## {title}", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *body]


def _text(value: object) -> str:
    """One line: a line break in a message would end the table or the list."""
    return " ".join(str(value).split())


def _value(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _answer(value: bool | None, yes: str, no: str, unknown: str) -> str:
    return {True: yes, False: no, None: unknown}[value]
