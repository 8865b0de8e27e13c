"""Rollback as a phase: PROD, then DEV, as they were before a restore point, but for what users have done since."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ..context import Context
from ..database.session import Session, open_session
from ..errors import AlignError
from ..findings import Finding
from ..outcome import PhaseOutcome, Status
from .find import chain, choose, find_points, on_same_database, settled
from .ledger import Ledger, Point, identity_of
from .undo import Kept
from .undoing import Undone, undo, work_for
from .words import holds

PHASE = "rollback"
KEPT_FILE = "kept.jsonl"
OVERWRITE = "archon_rollback_overwrite"
EVERYTHING = "all"
# More than this are told in the artifacts and in the report's details.
_FINDINGS = 200


@dataclass(frozen=True, slots=True)
class Options:
    """`restore_point` is `<run id>:<phase>`, looked for below `artifacts_root`. `overwrite` names what is undone though users
    changed it since; 'all' stands for everything."""

    restore_point: str
    artifacts_root: Path
    overwrite: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.overwrite) - {EVERYTHING}

    @property
    def everything(self) -> bool:
        return EVERYTHING in self.overwrite


@dataclass(slots=True)
class Result:
    """What was undone, database by database. `error` is set when PROD was undone and DEV was not."""

    databases: list[Undone] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    error: AlignError | None = None

    @property
    def statements(self) -> int:
        return sum(len(one.statements) for one in self.databases)

    @property
    def kept(self) -> list[tuple[str, Kept]]:
        return [(one.database, kept) for one in self.databases for kept in one.kept]


def run(context: Context, options: Options) -> PhaseOutcome:
    """Undo to a restore point. In check mode everything is planned on read-only sessions and nothing is executed.

    Raises AlignError for an unknown, unreadable or foreign restore point and for whatever else stops it; nothing is changed
    then. When PROD was undone and DEV could not be, the outcome has the error.
    """
    started = time.monotonic()
    found = find_points(options.artifacts_root)
    point = choose(found, options.restore_point)
    ledger = None if context.check else Ledger(context)
    try:
        with ExitStack() as stack:
            prod = stack.enter_context(open_session(context, context.prod))
            points = chain(found, point, identity_of(prod))
            result = undo_points(
                context, prod, points, stack, ledger=ledger, names=options.names, everything=options.everything
            )
    except AlignError:
        if ledger is not None:
            ledger.end("failed")
        raise
    outcome = _outcome(context, result, f"restore point {point.name}", found.points)
    outcome.details[PHASE]["point"] = point.name
    outcome.findings = [*_named_in_vain(result, options), *outcome.findings]
    if ledger is not None:
        ledger.end(outcome.status)
    outcome.seconds = time.monotonic() - started
    return outcome


def look(context: Context, options: Options) -> PhaseOutcome:
    """Only see that the restore point is there, can be read, and is of this PROD: before a backup takes its time.

    Raises AlignError as `run` does.
    """
    started = time.monotonic()
    found = find_points(options.artifacts_root)
    point = choose(found, options.restore_point)
    with open_session(context, context.prod, read_only=True) as prod:
        settled(prod, chain(found, point, identity_of(prod)))
    return PhaseOutcome(context.phase, "aligned", seconds=time.monotonic() - started)


def undo_points(
    context: Context,
    prod: Session,
    points: Sequence[Point],
    stack: ExitStack,
    *,
    ledger: Ledger | None,
    names: frozenset[str] = frozenset(),
    everything: bool = False,
) -> Result:
    """Undo `points` (oldest first) on PROD and then on DEV, each in one transaction; without a `ledger` only plan it.

    DEV is connected to only when something was written there. Raises AlignError as long as nothing is changed.
    """
    result = Result()
    points = settled(prod, points)
    dev: Session | None = None
    on_dev: list[Point] = []
    if any(entry.database == context.dev.name for point in points for entry in point.entries):
        dev = stack.enter_context(open_session(context, context.dev))
        on_dev, elsewhere = on_same_database(dev, points)
        on_dev = settled(dev, on_dev)
        result.findings += [_of_another_dev(point) for point in elsewhere]
    work = work_for(context.prod.name, points, names=names, everything=everything)
    result.databases.append(undo(prod, work, holder=prod, ledger=ledger))
    if dev is not None:
        work = work_for(context.dev.name, on_dev, names=names, everything=everything)
        try:
            result.databases.append(undo(dev, work, holder=prod, ledger=ledger))
        except AlignError as error:
            if ledger is None or not result.statements:
                raise
            result.error = error
    return result


def _outcome(context: Context, result: Result, before: str, known: Sequence[Point]) -> PhaseOutcome:
    names = [name for one in result.databases for name in one.points]
    there = {point.name: point for point in known}
    details = as_details(result) | {
        "points": [{"name": name, "holds": holds(there[name])} for name in dict.fromkeys(names)]
    }
    status: Status = "aligned" if not result.statements else "drift" if context.check else "changed"
    error = None
    if result.error is not None:
        status, error = "failed", result.error
        error.remedy += f" PROD is undone, to {before}; run the rollback again for DEV."
    if result.kept:
        context.run.write(KEPT_FILE, kept_lines(result))
    return PhaseOutcome(
        context.phase,
        status,
        changed=bool(result.statements),
        statements=[statement for one in result.databases for statement in one.statements],
        findings=[*result.findings, *kept_findings(result)],
        proofs=[proof for one in result.databases if one.database == context.prod.name for proof in one.proofs],
        diff=[_headed(one, part) for one in result.databases for part in one.diff],
        details={PHASE: details},
        error=error,
    )


def as_details(result: Result) -> dict[str, Any]:
    """What the report tells of it: `statements`, everything that was `kept`, and `lost`: what nothing can bring back."""
    rows = [{"database": database, **asdict(kept)} for database, kept in result.kept]
    return {
        "statements": {one.database: [statement.sql for statement in one.statements] for one in result.databases},
        "kept": [row for row in rows if not row["lost"]],
        "lost": [row for row in rows if row["lost"]],
    }


def kept_lines(result: Result) -> bytes:
    """kept.jsonl: one line per row or object that was left as it is."""
    return b"".join(orjson.dumps({"database": database, **asdict(kept)}) + b"\n" for database, kept in result.kept)


def kept_findings(result: Result) -> list[Finding]:
    """One warning per row or object that was left as it is, up to a number; then how many there are besides."""
    told = [_kept(database, kept) for database, kept in result.kept[:_FINDINGS]]
    if (more := len(result.kept) - len(told)) > 0:
        told.append(
            Finding(
                "kept_as_users_left_it",
                "warning",
                KEPT_FILE,
                f"{more:,} more rows or objects are left as users left them.",
                f"See {KEPT_FILE} in the run's artifacts folder, which names all of them.",
            )
        )
    return told


def _kept(database: str, kept: Kept) -> Finding:
    words = [
        part
        for part in (f"now: {kept.found}" if kept.found else "", f"before the run: {kept.was}" if kept.was else "")
        if part
    ]
    message = f"{kept.name} is left as it is: {kept.why}" + (f" ({'; '.join(words)})" if words else "")
    if kept.on_request:
        remedy = f"Nothing, if users want it so. To undo it all the same, name {kept.name!r} in {OVERWRITE}."
    elif kept.lost:
        remedy = "Nothing but a backup brings back what was there before: see the verified backup of the run."
    else:
        remedy = "Nothing, if users want it so. A rollback cannot undo it while it is so; the run's verified backup holds what was there before."
    return Finding("kept_as_users_left_it", "warning", f"{database} {kept.name}", message, remedy)


def _of_another_dev(point: Point) -> Finding:
    was = point.databases["DEV"]
    return Finding(
        "dev_of_the_run_left_alone",
        "warning",
        f"DEV {was.name} at {was.where}",
        f"What {point.name} wrote on DEV stays: that run was on another DEV than this one.",
        "Roll back with archon_dsn of DEV pointing there, if it is to go.",
    )


def _named_in_vain(result: Result, options: Options) -> list[Finding]:
    kept = {kept.name for _, kept in result.kept}
    touched = {statement.object for one in result.databases for statement in one.statements}
    return [
        Finding(
            "overwrite_not_done",
            "warning",
            name,
            f"{name} was named in {OVERWRITE} and is kept all the same.",
            "See why in the finding about it.",
        )
        for name in sorted(options.names & kept - touched)
    ]


def _headed(one: Undone, part: dict[str, str]) -> dict[str, str]:
    headers = {key: f"{one.database} {part.get(key, '')}".rstrip() for key in ("before_header", "after_header")}
    return {**part, **headers}
