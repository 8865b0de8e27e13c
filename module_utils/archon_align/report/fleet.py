"""The summary of a fleet: what became of each PROD, from the PRODs' own reports. Pure but for `write`."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ..context import CHECK_SUFFIX, Run

JSON_NAME, MARKDOWN_NAME = "fleet.json", "fleet.md"
PREFIX = "fleet-"
COLUMNS = 100
# PRODs that passed are told one by one up to so many; those that did not are told first, up to as many.
TOLD = 40

Outcome = Literal["passed", "failed", "interrupted", "not_started"]


@dataclass(frozen=True, slots=True)
class Member:
    """One PROD: its wave if it was started, its run's folder and report if a run began, and an `error` where there is no report.

    `seconds` is the time from the start of its first task to the end of its last, `why` says why it was not started.
    """

    name: str
    outcome: Outcome
    wave: int | None = None
    artifacts: Path | None = None
    report: Mapping[str, Any] | None = None
    error: Mapping[str, str] | None = None
    seconds: float | None = None
    why: str = ""


def build(
    name: str, members: Sequence[Member], *, started_at: str, finished_at: str, ended_because: str = ""
) -> dict[str, Any]:
    """fleet.json as docs/fleet.schema.json describes it. `ended_because` says why no further wave was started."""
    entries = [_entry(member) for member in members]
    outcomes = Counter(member.outcome for member in members)
    results = Counter(entry["result"] for entry in entries if entry["result"])
    waves = max((member.wave or 0 for member in members), default=0)
    return {
        "fleet_id": name,
        "mode": "check" if name.endswith(CHECK_SUFFIX) else "apply",
        "result": _result(outcomes),
        "started_at": started_at,
        "finished_at": finished_at,
        "waves": [[member.name for member in members if member.wave == number + 1] for number in range(waves)],
        "ended_because": ended_because,
        "counts": {
            "prods": len(members),
            **{outcome: outcomes[outcome] for outcome in ("passed", "failed", "interrupted", "not_started")},
            "results": dict(sorted(results.items())),
            "rows_proved": sum(entry["rows_proved"] or 0 for entry in entries),
            "embeddings_rebuilt": sum(entry["embeddings_rebuilt"] or 0 for entry in entries),
        },
        "dev": _dev(members),
        "prods": entries,
    }


def _result(outcomes: Mapping[Outcome, int]) -> str:
    """`passed`: every PROD has. Else the gravest: somebody interrupted it, it was ended early, or some alone failed."""
    for outcome, word in (("interrupted", "interrupted"), ("not_started", "ended_early"), ("failed", "failed")):
        if outcomes.get(outcome):  # type: ignore[call-overload]
            return word
    return "passed"


def _entry(member: Member) -> dict[str, Any]:
    report = member.report or {}
    errors = [phase["error"] for phase in report.get("phases") or () if phase.get("error")]
    error = errors[0] if errors else member.error
    return {
        "name": member.name,
        "outcome": member.outcome,
        "wave": member.wave,
        "run_id": report.get("run_id"),
        "result": report.get("result"),
        "seconds": None if member.seconds is None else round(member.seconds, 1),
        "rows_proved": sum(table["rows_after"] or 0 for table in report["protected"].values() if table["preserved"])
        if report
        else None,
        "embeddings_rebuilt": (report.get("embeddings") or {}).get("rebuilt"),
        "error": {key: str(value) for key, value in error.items()} if error else None,
        "why_not_started": member.why,
        "report": str(member.artifacts / "report.md") if member.artifacts and report else None,
    }


def _dev(members: Sequence[Member]) -> dict[str, Any]:
    """What was written to the shared DEV, and by which PRODs' runs: once, whichever was first. In a check all tell the same."""
    statements: list[str] = []
    keys: list[str] = []
    by: list[str] = []
    for member in members:
        report = member.report or {}
        made = (report.get("schema") or {}).get("dev_statements") or ()
        changed = [
            key for key in (report.get("credentials") or {}).get("changed_keys") or () if str(key).startswith("dev:")
        ]
        statements += made
        keys += changed
        by += [member.name] if made or changed else []
    return {"statements": list(dict.fromkeys(statements)), "changed_keys": list(dict.fromkeys(keys)), "by": by}


def write(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write fleet.json and fleet.md into the fleet's folder (0700, files 0600); the path of fleet.md. Raises AlignError."""
    # A run's way of writing its artifacts; the fleet's folder lies beside those of its runs.
    files = Run(folder.name.removeprefix(PREFIX), folder)
    content = json.dumps(summary, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    files.write(JSON_NAME, content)
    return files.write(MARKDOWN_NAME, markdown(summary).encode())


def headline(summary: Mapping[str, Any]) -> str:
    """One sentence: how many passed, and what of the others."""
    counts = summary["counts"]
    said = [f"{counts['passed']:,} of {counts['prods']:,} PRODs passed"]
    said += [f"{counts[key]:,} {words}" for key, words in _WORDS.items() if counts[key]]
    return ", ".join(said) + (" (check: nothing was changed)" if summary["mode"] == "check" else "")


_WORDS = {"failed": "did not", "interrupted": "interrupted", "not_started": "not started"}


def duration(summary: Mapping[str, Any]) -> float:
    """Seconds from the fleet's beginning to its end."""
    begin, end = (datetime.fromisoformat(summary[key]) for key in ("started_at", "finished_at"))
    return (end - begin).total_seconds()


def _ordered(summary: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], int]:
    """The PRODs to tell of, those that did not pass first, and how many are left out."""
    grave = [prod for prod in summary["prods"] if prod["outcome"] in ("failed", "interrupted")]
    passed = [prod for prod in summary["prods"] if prod["outcome"] == "passed"]
    told = [*grave[:TOLD], *passed[:TOLD]]
    return told, len(grave) + len(passed) - len(told)


def terminal(summary: Mapping[str, Any], path: Path) -> str:
    """The last screen of a fleet: a line for each PROD, the error and remedy of each that did not pass, and the file to read."""
    told, left_out = _ordered(summary)
    width = max((len(prod["name"]) for prod in told), default=4)
    width = min(max(width, 4), 40)
    top = f"archon-align {summary['fleet_id']}: {headline(summary)} ({duration(summary):.0f} s)"
    lines = [*textwrap.wrap(top, COLUMNS, subsequent_indent="  "), ""]
    lines.append(f"  {'PROD':<{width}}  {'result':<15}  {'seconds':>8}  {'rows proved':>11}  {'rebuilt':>9}")
    for prod in told:
        name = textwrap.shorten(prod["name"], width, placeholder="…") if len(prod["name"]) > width else prod["name"]
        lines.append(
            f"  {name:<{width}}  {_word(prod):<15}  {_number(prod['seconds'], '.1f'):>8}  {_number(prod['rows_proved']):>11}"
            f"  {_number(prod['embeddings_rebuilt']):>9}"
        )
        if error := prod["error"]:
            for label in ("what", "object", "remedy"):
                text = " ".join(error.get(label, "").split())
                indent = " " * 13
                lines += textwrap.wrap(
                    f"    {label:<9}{text}", COLUMNS, max_lines=2, subsequent_indent=indent, placeholder=" …"
                )
    if left_out:
        lines.append(f"  … and {left_out:,} PRODs more in the summary")
    if waiting := [prod["name"] for prod in summary["prods"] if prod["outcome"] == "not_started"]:
        lines.append("")
        words = (
            f"  Not started, because {summary['ended_because'] or 'the playbook ended before'}: {', '.join(waiting)}"
        )
        lines += textwrap.wrap(words, COLUMNS, max_lines=4, subsequent_indent="  ", placeholder=" …")
    if by := summary["dev"]["by"]:
        more = " …" if len(by) > 1 else ""
        lines += ["", f"  DEV {_written(summary)} by the run of {by[0]}{more}"]
    return "\n".join([*lines, "", f"Fleet: {path}"])


def _written(summary: Mapping[str, Any]) -> str:
    return "would be written to" if summary["mode"] == "check" else "was written to"


def _word(prod: Mapping[str, Any]) -> str:
    if prod["outcome"] == "passed":
        return str(prod["result"] or "passed")
    return "interrupted" if prod["outcome"] == "interrupted" else str(prod["result"] or "failed")


def _number(value: float | None, style: str = ",") -> str:
    return "-" if value is None else f"{value:{style}}"


def markdown(summary: Mapping[str, Any]) -> str:
    """fleet.md: every PROD in one table, then what stopped those that did not pass, and who was not started and why."""
    counts = summary["counts"]
    lines = [
        f"# {summary['fleet_id']}",
        "",
        f"{headline(summary)}; {duration(summary):.0f} s, {summary['started_at']} to {summary['finished_at']}.",
        f"{counts['rows_proved']:,} rows of protected tables proved preserved, {counts['embeddings_rebuilt']:,} embeddings rebuilt.",
        "",
        "| PROD | wave | outcome | result | seconds | rows proved | embeddings rebuilt | report |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for prod in summary["prods"]:
        cells = (
            _cell(prod["name"]), _number(prod["wave"]), prod["outcome"].replace("_", " "), prod["result"] or "-",
            _number(prod["seconds"], ".1f"), _number(prod["rows_proved"]), _number(prod["embeddings_rebuilt"]),
            f"`{prod['report']}`" if prod["report"] else "-",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for prod in summary["prods"]:
        if error := prod["error"]:
            lines += ["", f"## {_cell(prod['name'])}", ""]
            lines += [
                f"* {part}: {' '.join(error[part].split())}"
                for part in ("what", "object", "expected", "found", "remedy")
                if error.get(part)
            ]
    if waiting := [_cell(prod["name"]) for prod in summary["prods"] if prod["outcome"] == "not_started"]:
        lines += ["", "## Not started", "", f"Because {summary['ended_because'] or 'the playbook ended before'}:", ""]
        lines += [f"* {name}" for name in waiting]
    dev = summary["dev"]
    lines += ["", "## DEV", ""]
    if dev["by"]:
        lines.append(f"DEV {_written(summary)} by the run of {', '.join(map(_cell, dev['by']))}:")
        lines += ["", *(f"* `{' '.join(text.split())}`" for text in (*dev["statements"], *dev["changed_keys"]))]
    else:
        lines.append("Nothing was written to it.")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
