"""The summary that ends a run on the screen: plain text, at most 24 lines of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .files import MARKDOWN_NAME
from .interruption import CODE as INTERRUPTED
from .wording import (
    amount,
    broken,
    database_state,
    failures,
    headline,
    mark,
    plural,
    proofs,
    status_of,
    undone,
)

COLUMNS = 100
LINES = 32
NOTES = 4


def summary(report: Mapping[str, Any], artifacts: Path) -> str:
    """What was broken, what was done per phase, what proves it, where the report is; of a failed run what to do next."""
    top = _fit(f"archon-align {report['run_id']}: {headline(report)} ({duration(report)})")
    end = ["", _fit(f"Report: {artifacts / MARKDOWN_NAME}", keep_end=True)]
    middle = _failure(report) if failures(report) else _success(report)
    room = LINES - len(end) - 1
    if len(middle) > room:
        middle = [*middle[: room - 1], "  … the rest is in the report"]
    return "\n".join([top, *middle, *end])


def duration(report: Mapping[str, Any]) -> str:
    """The phases' own time, in seconds."""
    return f"{sum(phase['seconds'] for phase in report['phases']):.1f} s"


def _success(report: Mapping[str, Any]) -> list[str]:
    check = report["mode"] == "check"
    lines = _block("What is broken" if check else "What was broken", broken(report))
    done = [(phase["name"], _deed(phase, report["mode"])) for phase in report["phases"] if phase["status"] != "aligned"]
    lines += _block("What would be done" if check else "What was done", done)
    idle = [phase["name"] for phase in report["phases"] if phase["status"] == "aligned"]
    if idle:
        lines += _wrapped("no change" if done else "looked at", ", ".join(idle), lines=2)
    lines += _block("What would be undone" if check else "What was undone", undone(report))
    lines += _block("What is now" if check else "What proves it", proofs(report))
    lines += _criteria(report)
    return lines + _notes(report)


def _deed(phase: Mapping[str, Any], mode: str) -> str:
    deeds = [status_of(phase, mode)]
    if phase["statements"]:
        deeds.append(plural(phase["statements"], "statement"))
    return f"{', '.join(deeds)} ({phase['seconds']:.1f} s)"


def _failure(report: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for phase in failures(report)[:1]:
        error = phase["error"]
        undone_too = " and was undone" if phase["status"] == "rolled_back" else ""
        cut_short = error["code"] == INTERRUPTED
        words = _plain(f"Phase {phase['name']}{'' if cut_short else f' failed{undone_too}'}: {error['what']}")
        lines += ["", *textwrap.wrap(words, COLUMNS, max_lines=2, subsequent_indent="  ", placeholder=" …")]
        for part in ("object", "found") if cut_short else ("object", "expected", "found", "remedy"):
            # The remedy and the finding are what a person acts on: they get a second line when they need one.
            lines += _wrapped(part, error.get(part, ""), lines=2)
    finished = [f"{phase['name']} {phase['status']}" for phase in report["phases"] if not phase["error"]]
    lines += ["", "The database"]
    lines += _wrapped("state", database_state(report), lines=4)
    if finished:
        lines += _wrapped("finished", ", ".join(finished), lines=2)
    if points := report["restore_points"]:
        lines += _wrapped("restore", f"{plural(len(points), 'restore point')}, see the report for how to use", lines=1)
    lines += _block("What proves it", [pair for pair in proofs(report) if pair[0] == "protected"])
    return [*lines, "", *_next(failures(report)[0]["error"])]


def _next(error: Mapping[str, str]) -> list[str]:
    if error["code"] == INTERRUPTED:
        return textwrap.wrap(f"Next: {error['remedy']}", COLUMNS)
    return ["Next: follow the remedy, then run the same command again."]


def _criteria(report: Mapping[str, Any]) -> list[str]:
    counts = [f"{number} {mark(met)}" for met in (True, False, None) if (number := _answers(report, met))]
    lines = [_fit(f"  {'criteria':12} {', '.join(counts)}")] if counts else []
    return lines + [
        _fit(f"  {'':12} NOT MET: {criterion['name']}: {criterion['evidence']}")
        for criterion in report["criteria"]
        if criterion["met"] is False
    ]


def _answers(report: Mapping[str, Any], met: bool | None) -> int:
    return sum(criterion["met"] is met for criterion in report["criteria"])


def _notes(report: Mapping[str, Any]) -> list[str]:
    # What assess found is told above as what was broken; the rest still holds when the run has ended.
    notes = [
        finding for finding in report["findings"] if finding["severity"] != "info" and finding["phase"] != "assess"
    ]
    order = {"error": 0, "warning": 1}
    notes.sort(key=lambda finding: order[finding["severity"]])
    if not notes:
        return []
    lines = ["", "To know"]
    lines += [_fit(f"  {note['severity']:12} {note['message']}") for note in notes[:NOTES]]
    rest = len(report["findings"]) - min(NOTES, len(notes))
    return lines + ([f"  {'':12} and {plural(amount(rest), 'finding')} more in the report"] if rest else [])


def _block(title: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    lines = [_fit(f"  {name:12} {text}") for name, text in pairs]
    return ["", title, *lines] if lines else []


def _wrapped(name: str, text: str, *, lines: int) -> list[str]:
    wrapped = textwrap.wrap(
        _plain(text),
        COLUMNS,
        initial_indent=f"  {name:12} ",
        subsequent_indent=" " * 15,
        max_lines=lines,
        placeholder=" …",
    )
    return wrapped or [f"  {name:12} -"]


def _fit(line: str, *, keep_end: bool = False) -> str:
    """One line; a path is never cut."""
    plain = _plain(line)
    return plain if keep_end or len(plain) <= COLUMNS else plain[: COLUMNS - 1] + "…"


def _plain(text: str) -> str:
    """Nothing that a terminal would obey, and no line break."""
    return "".join(character if character.isprintable() else " " for character in text)
