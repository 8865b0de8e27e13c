"""Phase 5: template components and definitions, moved from DEV to PROD."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psycopg

from ..context import Context
from ..database.failures import server_error
from ..database.session import Session, open_session
from ..database.target import Table
from ..database.transaction import LockMode, protected_transaction
from ..errors import AlignError
from ..outcome import PhaseOutcome, Status
from ..preservation.proof import Proof
from ..preservation.waiting import writers_wait
from ..rollback.capture import RowRecorder, Written
from ..rollback.ledger import Ledger
from . import placeholders
from .advice import NOT_MOVED, findings
from .model import COMPONENTS, DEFINITIONS, NAME, TableState
from .planner import Move, TablePlan, absent_columns, plan_table
from .reading import default_texts, read, row_counts

_KINDS = (COMPONENTS, DEFINITIONS)
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


@dataclass(frozen=True, slots=True)
class Options:
    """The move has nothing to choose; every phase is called alike."""


@dataclass(frozen=True, slots=True)
class _Source:
    """DEV in one snapshot, and what PROD's rows will hold in columns that only DEV has so far (check mode)."""

    tables: tuple[TableState, ...]
    defaults: tuple[dict[str, str | None], ...]
    not_moved: dict[Table, int]


@dataclass(frozen=True, slots=True)
class _Plan:
    tables: tuple[TablePlan, ...]
    checked: placeholders.Checked

    @property
    def moves(self) -> list[Move]:
        return [move for table in self.tables for move in table.moves]


def run(context: Context, options: Options) -> PhaseOutcome:  # noqa: ARG001 - the shape every phase has
    """Create what PROD lacks, update what differs, keep what only PROD has; then look up every active placeholder.

    Raises AlignError, with PROD unchanged, when the schema phase is still to come, names are not unique, parents are
    missing or form a cycle, a template from DEV names a component nobody has, or a server refuses.
    """
    ledger = Ledger(context)
    try:
        outcome = _run(context, ledger)
    except AlignError:
        ledger.end("failed")
        raise
    ledger.end(outcome.status)
    outcome.details["restore_points"] = ledger.as_points()
    return outcome


def _run(context: Context, ledger: Ledger) -> PhaseOutcome:
    started = time.monotonic()
    with (
        open_session(context, context.dev, read_only=True) as dev,
        open_session(context, context.prod) as prod,
    ):
        source, present = _read(dev, prod)
        if not context.check:
            for theirs, ours in zip(source.tables, present, strict=True):
                _require_shape(theirs, ours)
        plan = _plan(source, present)
        locks = {table.table: LockMode.WRITE for table in source.tables}
        waits = _refusals_told(prod, lambda: writers_wait(prod, locks, len(plan.moves)))
        proofs: list[Proof] = []
        if plan.moves and not context.check:
            plan, proofs = _apply(prod, source, ledger)
    moves = plan.moves
    created = sum(move.before is None for move in moves)
    status: Status = "aligned" if not moves else "drift" if context.check else "changed"
    return PhaseOutcome(
        context.phase,
        status,
        seconds=time.monotonic() - started,
        changed=bool(moves),
        statements=[move.statement for move in moves],
        findings=[*plan.checked.findings, *findings(plan.tables, source.not_moved), *waits.findings()],
        proofs=proofs,
        diff=[_diff(move) for move in moves],
        details={
            "templates": {
                "created": created,
                "updated": len(moves) - created,
                "unchanged": sum(table.unchanged for table in plan.tables),
                "only_in_prod": [name for table in plan.tables for name in table.only_in_prod],
                "placeholders_checked": plan.checked.count,
            },
            "locks": waits.as_dict(),
        },
    )


def foresee(context: Context) -> None:
    """Raise what `run` will refuse for the rows that there are now; tables still to be made count as made. Reads only."""
    with (
        open_session(context, context.dev, read_only=True) as dev,
        open_session(context, context.prod, read_only=True) as prod,
    ):
        _plan(*_read(dev, prod))


def _read(dev: Session, prod: Session) -> tuple[_Source, list[TableState]]:
    present = _refusals_told(prod, lambda: [read(prod, kind) for kind in _KINDS])
    return _refusals_told(dev, lambda: _read_source(dev, present)), present


def _read_source(dev: Session, present: Sequence[TableState]) -> _Source:
    with dev.transaction(_SNAPSHOT):
        tables = tuple(read(dev, kind) for kind in _KINDS)
        not_moved = row_counts(dev, NOT_MOVED)
    defaults = tuple(
        default_texts(dev, absent_columns(theirs, ours)) if ours.rows else {}
        for theirs, ours in zip(tables, present, strict=True)
    )
    return _Source(tables, defaults, not_moved)


def _plan(source: _Source, present: Sequence[TableState]) -> _Plan:
    components, definitions = (
        plan_table(theirs, ours, defaults)
        for theirs, ours, defaults in zip(source.tables, present, source.defaults, strict=True)
    )
    before = [{row.name: row for row in state.rows} for state in present]
    checked = placeholders.check(
        definitions.result,
        components.result,
        table=str(definitions.prod),
        from_dev={row.name for row in definitions.dev.rows},
        broken_before=placeholders.broken(before[1], before[0]),
    )
    return _Plan((components, definitions), checked)


def _require_shape(dev: TableState, prod: TableState) -> None:
    absent = absent_columns(dev, prod) if dev.rows else ()
    if absent:
        found = f"no {', '.join(column.name for column in absent)}" if prod.columns else "no such table"
        raise AlignError(
            "PROD's template tables are not in DEV's shape yet.",
            object_name=str(prod),
            expected="DEV's columns",
            found=found,
            remedy="Run the schema phase first (--tags schema).",
            code="schema_not_aligned",
        )


def _apply(prod: Session, source: _Source, ledger: Ledger) -> tuple[_Plan, list[Proof]]:
    """Plan again under the locks and carry it out; nothing is committed unless PROD then equals DEV and all resolves."""

    def inspect() -> _Plan:
        return _plan(source, [read(prod, kind) for kind in _KINDS])

    def act() -> _Plan:
        recorder.look(prod)
        plan = inspect()
        for move in plan.moves:
            prod.apply(move.statement)
        return plan

    def verify() -> None:
        left = inspect().moves
        if left:
            raise AlignError(
                "A row did not stay as it was written.",
                object_name=", ".join(f"{move.statement.object}: {move.name}" for move in left),
                expected="the values just written",
                found=f"others in {', '.join(sorted({column for move in left for column in move.after}))}",
                remedy="No template was changed. Look at the table's triggers, and at columns whose type differs between DEV and PROD.",
                code="value_not_kept",
            )

    locks = {table.table: LockMode.WRITE for table in source.tables}
    recorder = RowRecorder(ledger, [Written(table, (NAME,)) for table in locks])
    ledger.begin(prod)
    return _refusals_told(prod, lambda: protected_transaction(prod, act, locks=locks, verify=verify, recorder=recorder))


def _diff(move: Move) -> dict[str, str]:
    header = f"{move.statement.object} {move.name}"
    before = "" if move.before is None else _readable(move.before)
    return {"before_header": header, "after_header": header, "before": before, "after": _readable(move.after)}


def _readable(values: Mapping[str, str | None]) -> str:
    return "".join(f"{line}\n" for column, value in values.items() for line in _lines(column, value))


def _lines(column: str, value: str | None) -> list[str]:
    """One value as lines a person can compare: texts line by line, a template's content apart from its JSON."""
    if value is None:
        return [f"{column}: NULL"]
    if column == "template_data":
        try:
            data = json.loads(value)
        except ValueError:
            data = None
        if isinstance(data, dict) and isinstance(data.get("template_content"), str):
            content = data.pop("template_content")
            rest = json.dumps(data, ensure_ascii=False, indent=2, sort_keys=True)
            return [*_lines(column, rest), *_lines(f"{column}.template_content", content)]
    if "\n" in value:
        return [f"{column}:", *(f"  {line}" for line in value.split("\n"))]
    return [f"{column}: {value}"]


def _refusals_told[Result](session: Session, work: Callable[[], Result]) -> Result:
    try:
        return work()
    except psycopg.Error as error:
        raise server_error(session.target, error, doing="moving templates") from error
