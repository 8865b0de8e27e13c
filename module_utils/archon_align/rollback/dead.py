"""Runs that died without a word: which there are on this PROD, where each had got to, and what it had committed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..database.run_lock import holder
from ..database.session import Session
from ..errors import AlignError
from ..findings import Finding
from .find import (
    PROD,
    ROLLBACK,
    find_points,
    on_same_database,
    read_events,
    run_folders,
    same_identity,
    settled,
    undone_by,
)
from .ledger import Point, identity_of
from .words import command, counted, holds

REPORT = "report.json"
# What a run that ended so has made of what it found; one that failed before it acted has dealt with nothing.
_DEALT_WITH = frozenset({"aligned", "changed", "resumable"})


@dataclass(frozen=True, slots=True)
class DeadRun:
    """A run without a report. `last_seen` is the time of its last sign of life, `phase` and `progress` what it was doing
    ('' when nothing tells). `committed` are its restore points, oldest first, with what is there; `vanished` says by
    restore point how many transactions were not committed. `unsettled` says why that is not known.
    """

    run_id: str
    last_seen: str
    phase: str
    progress: str
    committed: tuple[Point, ...] = ()
    vanished: Mapping[str, int] = field(default_factory=dict)
    unsettled: str = ""

    @property
    def restore_point(self) -> str:
        """The one to go back to, '' when nothing was committed."""
        return self.committed[0].name if self.committed else ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "last_seen": self.last_seen,
            "phase": self.phase,
            "progress": self.progress,
            "committed": [{"name": point.name, "holds": holds(point)} for point in self.committed],
            "restore_point": self.restore_point,
        }


def dead_runs(root: Path, own: str, prod: Session, dev: Session | None) -> list[DeadRun]:
    """The newest runs on this PROD that died and were not dealt with since, oldest first; `own` is the asking run's id.

    Who holds the run lock lives; a run that finished since has dealt with those before it.
    """
    here, alive = identity_of(prod), holder(prod)
    found = find_points(root)
    dead: list[DeadRun] = []
    for folder in reversed(run_folders(root)):
        theirs = found.prods.get(folder.name)
        if folder.name in (own, alive.run_id if alive else own) or theirs is None or not same_identity(theirs, here):
            continue
        points = [point for point in found.points if point.run_id == folder.name and point.phase != ROLLBACK]
        report = _report(folder)
        if report is not None:
            if points or report.get("result") in _DEALT_WITH:
                break
            continue
        rollbacks = [point for point in found.points if point.phase == ROLLBACK]
        told = _dead(folder, points, rollbacks, prod, dev)
        if told is not None:
            dead.append(told)
    return dead[::-1]


def _report(folder: Path) -> Mapping[str, Any] | None:
    try:
        report = json.loads((folder / REPORT).read_bytes())
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) else None


def _dead(
    folder: Path, points: Sequence[Point], rollbacks: Sequence[Point], prod: Session, dev: Session | None
) -> DeadRun | None:
    """What is known of it; None when a rollback has undone all of it."""
    events = read_events(folder)
    progress = [event for event in events if event.get("kind") == "progress"]
    last = progress[-1] if progress else {}
    run = DeadRun(
        folder.name,
        str(events[-1].get("at") if events else points[-1].created_at if points else ""),
        str(last.get("phase") or (points[-1].phase if points else "")),
        str(last.get("text") or ""),
    )
    try:
        known = settled(prod, [*points, *rollbacks])
        if dev is not None:
            there, elsewhere = on_same_database(dev, known)
            rest = [point for point in known if dev.target.name not in point.databases]
            known = sorted([*settled(dev, there), *elsewhere, *rest], key=lambda point: point.created_at)
    except AlignError as error:
        return replace(run, committed=tuple(points), unsettled=f"{error.what} {error.found}")
    own = [point for point in known if point.phase != ROLLBACK]
    acted = [point for point in own if any(entry.committed is not False for entry in point.entries)]
    left = [point for point in acted if undone_by(point, known, PROD) != "whole"]
    if acted and not left:
        return None
    vanished = {point.name: sum(entry.committed is False for entry in point.entries) for point in own}
    kept = [
        replace(point, entries=tuple(entry for entry in point.entries if entry.committed is not False))
        for point in left
    ]  # fmt: skip
    return replace(
        run,
        committed=tuple(kept),
        vanished={name: number for name, number in vanished.items() if number},
    )


def findings(dead: Sequence[DeadRun], choice: str) -> list[Finding]:
    """One finding per dead run; `choice` is archon_dead_run."""
    return [_finding(run, choice) for run in dead]


def _finding(run: DeadRun, choice: str) -> Finding:
    where = f" in phase {run.phase}" + (f" ({run.progress})" if run.progress else "") if run.phase else ""
    committed = "; ".join(f"{point.name} ({holds(point)})" for point in run.committed) or "nothing"
    vanished = ", ".join(f"{counted(number, 'transaction')} of {name}" for name, number in run.vanished.items())
    message = f"Run {run.run_id} died without a word{where}, last seen {run.last_seen}. Committed: {committed}."
    if vanished:
        message += f" Not committed, so not there: {vanished}."
    if run.unsettled:
        message += f" How much of it is committed is not known: {run.unsettled}"
    if not run.committed:
        remedy = "Nothing: this run does it all."
    elif choice == "rollback":
        remedy = "archon_dead_run is rollback: this run undoes it before its phases."
    else:
        undo = f"-e archon_dead_run=rollback, or {command(run.restore_point)}"
        remedy = f"Nothing: this run goes on from there. To undo it instead: {undo}"
    return Finding("dead_run", "warning", f"run {run.run_id}", message, remedy)
