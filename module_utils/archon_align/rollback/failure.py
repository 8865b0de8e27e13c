"""A phase that fails puts back what it had committed, and only that; every phase says which restore point it left."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..context import Context
from ..database.session import open_session
from ..errors import AlignError, ConnectionFailed, DecisionNeeded, LockLost
from ..findings import Finding
from ..outcome import PhaseOutcome
from .find import ROLLBACK
from .ledger import FOLDER, Ledger, Point, note_end, read_point
from .words import as_restore_point, command, holds

if TYPE_CHECKING:
    from .phase import Result

# A server that was restarted needs seconds, and so does the keeper that takes the run lock again there.
_PATIENCE_SECONDS = 20.0
_PAUSE_SECONDS = 1.0


def guarded(
    context: Context,
    work: Callable[[], PhaseOutcome],
    *,
    roll_back: bool,
    ledger: str = "",
    resumable: bool = False,
) -> PhaseOutcome:
    """The outcome of the phase that `work` runs, with its restore point; a phase that fails is undone when `roll_back`.

    `ledger` is the phase's name among the restore points, where that is another than the context's. What ends `resumable`
    is undone, too, unless the phase is one of which all that is done is verified (`resumable`). Raises what `work` raises
    when it failed before it acted: then there is nothing to tell besides.
    """
    path = context.run.artifacts / FOLDER / f"{ledger or context.phase}.jsonl"
    try:
        outcome = work()
    except AlignError as error:
        if context.check or not path.exists():
            raise
        outcome = PhaseOutcome(context.phase, error.status, error=error)
    if context.check or not path.exists():
        return outcome
    first = outcome.error
    if first is not None and roll_back and not (resumable and outcome.status == "resumable"):
        _put_back(context, path, outcome, first)
    note_end(path, outcome.status)
    _tell_point(path, outcome)
    return outcome


def _put_back(context: Context, path: Path, outcome: PhaseOutcome, first: AlignError) -> None:
    """Undo what the phase had committed and say so in `outcome`; the first cause stays its error."""
    # Only a failure needs all that undoing needs.
    from .phase import KEPT_FILE, as_details, kept_findings, kept_lines

    point: Point | None = None
    try:
        point = read_point(path)
        result = _undo(context, point)
        if result.error is not None:
            raise result.error
    except AlignError as error:
        _tell_failure(path, point, outcome, first, error)
        return
    if isinstance(first, DecisionNeeded) and not result.statements:
        return  # what a person must decide was met in the transaction, which left nothing
    outcome.error = first.cause or first
    outcome.status = "rolled_back"
    outcome.changed = bool(result.kept)
    outcome.findings = [*outcome.findings, _told(context, point, result), *kept_findings(result)]
    outcome.proofs = [
        *outcome.proofs,
        *(proof for one in result.databases if one.database == context.prod.name for proof in one.proofs),
    ]
    outcome.details = {**outcome.details, ROLLBACK: as_details(result) | {"point": point.name}}
    if result.kept:
        with suppress(AlignError):  # all of it is in the report, too
            context.run.write(KEPT_FILE, kept_lines(result))


def _undo(context: Context, point: Point) -> Result:
    from .phase import Result

    if not point.entries:
        return Result()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return _undo_once(replace(context, phase=ROLLBACK), point)
        except (ConnectionFailed, LockLost):
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def _undo_once(context: Context, point: Point) -> Result:
    from .phase import undo_points

    ledger = Ledger(context)
    with ExitStack() as stack:
        prod = stack.enter_context(open_session(context, context.prod))
        result = undo_points(context, prod, [point], stack, ledger=ledger)
    ledger.end("failed" if result.error else "changed" if result.statements else "aligned")
    return result


def _told(context: Context, point: Point, result: Result) -> Finding:
    if result.statements:
        message = (
            f"Phase {context.phase} was undone after it failed: {holds(point)}, by {result.statements} statements."
        )
    else:
        message = f"Phase {context.phase} failed before anything of it was committed: there was nothing to undo."
    if result.kept:
        message += f" {len(result.kept)} of what users have changed since is left as they left it."
    remedy = "Follow the remedy of the failure, then run again. What earlier phases did stays."
    return Finding("rolled_back", "info", point.name, message, remedy)


def _tell_failure(
    path: Path, point: Point | None, outcome: PhaseOutcome, first: AlignError, second: AlignError
) -> None:
    name = f"{path.parent.parent.name}:{path.stem}"
    what = f"What it had committed ({holds(point)})" if point is not None else "What it had committed"
    outcome.status = "failed"
    outcome.error = AlignError(
        first.what,
        object_name=first.object_name,
        expected=first.expected,
        found=first.found,
        remedy=f"{first.remedy} {what} could not be undone: see the finding rollback_failed.",
        code=first.code,
    )
    outcome.findings = [
        *outcome.findings,
        Finding(
            "rollback_failed",
            "error",
            name,
            f"{what} could not be undone: {second.what} {second.object_name}: {second.found}",
            f"{second.remedy} Then run again, which goes on from here, or undo it: {command(name)}",
        ),
    ]


def _tell_point(path: Path, outcome: PhaseOutcome) -> None:
    """The phase's restore point in its result, whether or not the phase came to its end."""
    with suppress(AlignError):
        point = read_point(path)
        known = outcome.details.get("restore_points") or ()
        others = [one for one in known if one.get("name") != point.name]
        own = [as_restore_point(point)] if point.entries else []
        outcome.details = {**outcome.details, "restore_points": [*others, *own]}
