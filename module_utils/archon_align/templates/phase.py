"""Phase 5: the objects of the template system, moved from DEV to PROD."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
from . import archon_model, assignments, placeholders
from .advice import NOT_MOVED, findings
from .assignments import Assignments, Planned
from .conflicts import Decisions, edited, kept_findings, written_by_runs
from .model import COMPONENTS, DEFINITIONS, INJECTION, KINDS, TableState
from .planner import Move, TablePlan, absent_columns, in_shape_of, moved_columns, plan_table
from .reading import default_texts, read, row_counts
from .words import Words, rewritten

_ASSIGNED = ("hierarchy_type", "hierarchy_id")
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


@dataclass(frozen=True, slots=True)
class Options:
    """Whose version of an object that was edited in PROD is had, and what becomes of words of DEV's environment."""

    decisions: Decisions = field(default_factory=Decisions)
    words: Words = field(default_factory=Words)


@dataclass(frozen=True, slots=True)
class _Source:
    """DEV in one snapshot, and what PROD's rows will hold in columns that only DEV has so far (check mode)."""

    tables: tuple[TableState, ...]
    defaults: tuple[dict[str, str | None], ...]
    not_moved: dict[Table, int]
    assignments: Assignments
    decisions: Decisions
    own: frozenset[tuple[Table, int]]


@dataclass(frozen=True, slots=True)
class _Plan:
    tables: tuple[TablePlan, ...]
    assignments: Planned
    checked: placeholders.Checked

    @property
    def read_by_expansion(self) -> tuple[TablePlan, TablePlan]:
        """Components and definitions."""
        return self.tables[KINDS.index(COMPONENTS)], self.tables[KINDS.index(DEFINITIONS)]

    @property
    def moves(self) -> list[Move]:
        """In an order in which everything that is referred to comes first."""
        return [*(move for table in self.tables for move in table.moves), *self.assignments.moves]


@dataclass(frozen=True, slots=True)
class _Present:
    """PROD as it is now."""

    tables: tuple[TableState, ...]
    assignments: Assignments


def run(context: Context, options: Options) -> PhaseOutcome:
    """Create what PROD lacks, update what differs, keep what only PROD has; then look up every active placeholder.

    Raises AlignError, with PROD unchanged, when the schema phase is still to come, names are not unique, parents are
    missing or form a cycle, a template from DEV names a component nobody has, or a server refuses.
    """
    ledger = Ledger(context)
    try:
        outcome = _run(context, options, ledger)
    except AlignError:
        ledger.end("failed")
        raise
    ledger.end(outcome.status)
    outcome.details["restore_points"] = ledger.as_points()
    return outcome


def _run(context: Context, options: Options, ledger: Ledger) -> PhaseOutcome:
    started = time.monotonic()
    with (
        open_session(context, context.dev, read_only=True) as dev,
        open_session(context, context.prod) as prod,
    ):
        source, present = _read(dev, prod, options)
        options.decisions.require_known((*source.tables, *present.tables))
        if not context.check:
            for theirs, ours in zip(source.tables, present.tables, strict=True):
                _require_shape(in_shape_of(ours, theirs), ours)
        plan = _plan(source, present)
        locks = _locks(source, plan)
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
        findings=[
            *plan.checked.findings,
            *findings(plan.tables, source.not_moved),
            *archon_model.findings(*plan.read_by_expansion),
            *(finding for table in plan.tables for finding in kept_findings(table.prod, table.kept)),
            *plan.assignments.findings,
            *waits.findings(),
        ],
        proofs=proofs,
        diff=[_diff(move) for move in moves],
        details={
            "templates": {
                "created": created,
                "updated": len(moves) - created,
                "unchanged": sum(table.unchanged for table in plan.tables) + plan.assignments.unchanged,
                "only_in_prod": [name for table in plan.tables for name in table.only_in_prod],
                "kept": [f"{table.prod.table}: {name}" for table in plan.tables for name in table.kept],
                "placeholders_checked": plan.checked.count,
                **_bodies(plan.tables),
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
        _plan(*_read(dev, prod, Options()))


def _read(dev: Session, prod: Session, options: Options) -> tuple[_Source, _Present]:
    present = _refusals_told(prod, lambda: _read_present(prod))
    own = _refusals_told(prod, lambda: frozenset(written_by_runs(prod.context, prod)))
    return _refusals_told(dev, lambda: _read_source(dev, present.tables, options, own)), present


def _read_present(prod: Session) -> _Present:
    return _Present(tuple(read(prod, kind) for kind in KINDS), assignments.read(prod))


def _read_source(
    dev: Session, present: Sequence[TableState], options: Options, own: frozenset[tuple[Table, int]]
) -> _Source:
    with dev.transaction(_SNAPSHOT):
        tables = tuple(rewritten(dev, read(dev, kind), options.words) for kind in KINDS)
        not_moved = row_counts(dev, NOT_MOVED)
        theirs_assigned = assignments.read(dev)
    defaults = tuple(
        default_texts(dev, absent_columns(theirs, ours)) if ours.rows else {}
        for theirs, ours in zip(tables, present, strict=True)
    )
    return _Source(tables, defaults, not_moved, theirs_assigned, options.decisions, own)


def _plan(source: _Source, present: _Present) -> _Plan:
    injection, templates = (source.tables[KINDS.index(kind)].named() for kind in (INJECTION, DEFINITIONS))
    assigned = assignments.plan(source.assignments, present.assignments, injection.keys(), templates.keys())
    tables = tuple(
        _plan_one(source, theirs, ours, defaults, assigned.needs)
        for theirs, ours, defaults in zip(source.tables, present.tables, source.defaults, strict=True)
    )
    components, definitions = (tables[KINDS.index(kind)] for kind in (COMPONENTS, DEFINITIONS))
    before = [present.tables[KINDS.index(kind)].named() for kind in (COMPONENTS, DEFINITIONS)]
    checked = placeholders.check(
        definitions.result,
        components.result,
        table=str(definitions.prod),
        from_dev={row.name for row in definitions.dev.rows}.difference(definitions.kept),
        kept=components.kept,
        broken_before=placeholders.broken(before[1], before[0]),
    )
    return _Plan(tables, assigned, checked)


def _plan_one(
    source: _Source,
    theirs: TableState,
    ours: TableState,
    defaults: dict[str, str | None],
    needed: Collection[str],
) -> TablePlan:
    theirs = in_shape_of(ours, theirs)
    if theirs.kind is INJECTION:
        # Only assignments need them, and what PROD has already is theirs to keep.
        wanted = set(needed) - ours.named().keys()
        theirs = replace(theirs, rows=tuple(row for row in theirs.rows if row.name in wanted))
    keep = {name for name in edited(ours, source.own) if not source.decisions.takes(theirs.kind.table, name)}
    return plan_table(theirs, ours, defaults, keep)


def _locks(source: _Source, plan: _Plan) -> dict[Table, LockMode]:
    """The tables that are looked at again under locks: the two that expansion reads, and any that is written besides."""
    written = {table.dev.table for table in plan.tables if table.moves}
    tables = [
        state.table for state in source.tables if state.kind in (COMPONENTS, DEFINITIONS) or state.table in written
    ]
    if plan.assignments.moves:
        tables.append(source.assignments.table)
    return dict.fromkeys(tables, LockMode.WRITE)


def _bodies(tables: Sequence[TablePlan]) -> dict[str, Any]:
    """DEV's rows (in PROD's words) against what PROD holds once the plan is carried out, by a hash of each one's values."""
    different = []
    count = 0
    for table in tables:
        names = [column.name for column in moved_columns(table.dev)]
        for row in table.dev.rows:
            if row.name in table.result:
                count += 1
                if _hash(row.values, names) != _hash(table.result[row.name].values, names):
                    different.append(f"{table.prod.table}: {row.name}")
    return {"bodies_checked": count, "bodies_different": different}


def _hash(values: Mapping[str, str | None], names: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([values.get(name) for name in names]).encode()).hexdigest()


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
        return _plan(source, _read_present(prod))

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

    locks = _locks(source, inspect())
    keys = {state.table: (state.kind.key,) for state in source.tables}
    recorder = RowRecorder(ledger, [Written(table, keys.get(table, _ASSIGNED)) for table in locks])
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
