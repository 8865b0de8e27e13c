"""Phase 2: bring PROD's structure into line with DEV's, in one transaction, or say what a person must decide first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from ..context import Context
from ..database.dev_lock import dev_lock
from ..database.run_lock import require_own_lock
from ..database.session import Session, open_session
from ..errors import AlignError, DecisionNeeded
from ..findings import Finding
from ..outcome import PhaseOutcome
from ..plan import Statement
from ..preservation.proof import Proof
from ..rollback.ledger import Ledger
from .apply import Applied, apply, require_decided
from .bodies import compile_error
from .compare import Comparison
from .corrections import findings as broken_functions
from .corrections import with_corrections
from .credentials import with_credentials
from .decisions import Decisions
from .inspect import inspect, inspect_both
from .model import Catalog, Key, Kind
from .outside import StageFailed
from .planfile import bound, load, require_same, source_of
from .planning import Choices, Made, make_plan
from .scope import Scope
from .stages import LARGE_TABLE_BYTES, STAGE_TIMEOUT
from .text import as_json, diff, locks, render_sql

PHASE = "schema"


@dataclass(frozen=True, slots=True)
class Options:
    """`credentials`: create `archon_credentials` in both databases (plan, item 2.3). `plan_file`: a reviewed plan.json, which
    then is the only plan that may be applied. What tables of `large_table_bytes` and more need is done in stages, each
    limited to `stage_timeout` seconds a statement."""

    credentials: bool = True
    decisions: Decisions = field(default_factory=Decisions)
    scope: Scope = field(default_factory=Scope)
    plan_file: Path | None = None
    large_table_bytes: int = LARGE_TABLE_BYTES
    stage_timeout: float = STAGE_TIMEOUT

    def choices(self) -> Choices:
        """The choices for PROD; the method and parameters of vector indexes are the embeddings phase's matter."""
        return Choices(
            self.decisions,
            self.scope,
            vector_indexes=False,
            rebuilds_vectors=True,
            large_table_bytes=self.large_table_bytes,
        )


@dataclass(frozen=True, slots=True)
class Planned:
    """The plans for both databases; DEV's only ever makes `archon_credentials`, and corrects functions where that was decided.
    `json` is plan.json."""

    dev: Made
    prod: Made
    json: dict[str, Any]
    findings: tuple[Finding, ...] = ()

    @property
    def sql(self) -> str:
        """plan.sql"""
        dev, prod = self.dev.plan, self.prod.plan
        parts = [render_sql(dev, "DEV")] if dev.statements or dev.refused else []
        return "\n".join([*parts, render_sql(prod, "PROD")])

    @property
    def statements(self) -> tuple[Statement, ...]:
        on_dev = (replace(statement, object=f"DEV {statement.object}") for statement in self.dev.plan.statements)
        return (*on_dev, *self.prod.plan.every)


def desired(found: Catalog, options: Options) -> Catalog:
    """What both databases should be: DEV as it is, with `archon_credentials` and what was decided to be corrected."""
    corrected = with_corrections(found, options.decisions.corrections)
    return with_credentials(corrected, found.schemas[0]) if options.credentials else corrected


def protected_keys(context: Context) -> frozenset[Key]:
    return frozenset(Key(Kind.TABLE, table.schema, table.name) for table in context.protected)


def _read(session: Session) -> Catalog:
    return inspect(session, session.context.schemas)


def _planned(dev: Session, prod: Session, options: Options) -> Planned:
    model, current = inspect_both(dev, prod, prod.context.schemas)
    wanted = desired(model, options)
    protected, choices = protected_keys(prod.context), options.choices()
    on_dev = make_plan(dev, wanted, model, protected=protected, choices=replace(choices, decisions=Decisions()))
    on_prod = make_plan(prod, wanted, current, protected=protected, choices=choices)
    inputs = {
        "schemas": prod.context.schemas,
        "protected": [str(table) for table in prod.context.protected],
        "credentials": options.credentials,
        **choices.as_json(),
    }
    plans = {"dev": as_json(on_dev.plan), "prod": as_json(on_prod.plan)}
    sources = {"dev": source_of(dev, model), "prod": source_of(prod, current)}
    broken = () if options.decisions.corrections else tuple(broken_functions(model, current))
    return Planned(on_dev, on_prod, bound(plans, sources, inputs), broken)


def _record(context: Context, planned: Planned, options: Options) -> None:
    """Write plan.sql and plan.json; raises AlignError when a reviewed plan is to be applied and this is another."""
    context.run.write("plan.sql", planned.sql.encode())
    context.run.write("plan.json", orjson.dumps(planned.json, option=orjson.OPT_INDENT_2))
    if options.plan_file is not None:
        require_same(load(options.plan_file), planned.json, options.plan_file)


def plan_only(context: Context, options: Options | None = None) -> PhaseOutcome:
    """What `run` would do, on read-only sessions; writes plan.sql and plan.json to the artifacts."""
    started, options = time.monotonic(), options or Options()
    with (
        open_session(context, context.dev, read_only=True) as dev,
        open_session(context, context.prod, read_only=True) as prod,
    ):
        planned = _planned(dev, prod, options)
    _record(context, planned, options)
    outcome = _outcome(planned, planned.prod.plan.comparison, started, applied=False)
    outcome.phase = context.phase
    # What is only looked at changes nothing; in check mode "changed" says what a run would do.
    outcome.changed = outcome.changed and context.check
    return outcome


def run(context: Context, options: Options | None = None) -> PhaseOutcome:
    """Align PROD's structure with DEV's. With something to decide, nothing is changed and `error` names it.

    Raises AlignError for whatever else stops it; then nothing was changed on PROD.
    """
    if context.check:
        return plan_only(context, options)
    started, options = time.monotonic(), options or Options()
    ledger = Ledger(context)
    try:
        outcome = _run(context, options, ledger, started)
    except AlignError:
        ledger.end("failed")
        raise
    ledger.end(outcome.status)
    outcome.details["restore_points"] = ledger.as_points()
    return outcome


def _run(context: Context, options: Options, ledger: Ledger, started: float) -> PhaseOutcome:
    with open_session(context, context.dev) as dev, open_session(context, context.prod) as prod:
        planned = _planned(dev, prod, options)
        _record(context, planned, options)
        on_dev: list[str] = []
        try:
            require_decided(planned.dev.plan)
            require_decided(planned.prod.plan)
            if planned.dev.plan.statements:
                planned = replace(planned, dev=_apply_dev(dev, prod, options, ledger))
                on_dev = [statement.sql for statement in planned.dev.plan.statements]
            applied = _apply(dev, prod, planned, options, ledger)
        except DecisionNeeded as error:
            outcome = _outcome(planned, planned.prod.plan.comparison, started, applied=False)
            outcome.status, outcome.error = "decision_needed", error
            outcome.details["schema"]["dev_statements"] = on_dev
            return outcome
        except StageFailed as error:
            after = error.after or planned.prod.plan.comparison
            outcome = _outcome(planned, after, started, applied=True, proofs=error.proofs)
            outcome.status, outcome.error = "resumable", error
            return outcome
    after = applied.after if applied is not None else planned.prod.plan.comparison
    proofs = applied.proofs if applied is not None else ()
    return _outcome(planned, after, started, applied=True, proofs=proofs)


def _apply_dev(dev: Session, prod: Session, options: Options, ledger: Ledger) -> Made:
    """Before PROD: should PROD fail, an empty table too many on DEV harms nobody, and the next run goes on from there.

    Returns what was done. Another PROD's run may have done all of it since this one looked.
    """
    with dev_lock(dev):
        model = _read(dev)
        choices = replace(options.choices(), decisions=Decisions())
        made = make_plan(dev, desired(model, options), model, protected=protected_keys(dev.context), choices=choices)
        if made.plan.statements:
            dev.progress("DEV")
            apply(
                dev,
                made.plan,
                reread_desired=lambda: made.wanted(desired(_read(dev), options)),
                before=lambda: require_own_lock(prod),  # the run lock lives on PROD
                require_lock=False,
                ledger=ledger,
            )
    return made


def _apply(dev: Session, prod: Session, planned: Planned, options: Options, ledger: Ledger) -> Applied | None:
    def reread() -> Catalog:
        return planned.prod.wanted(desired(_read(dev), options))

    on_prod = planned.prod.plan
    if not on_prod.every:
        return None
    prod.progress(f"{len(on_prod.every)} statements")

    def compiles_on_dev(key: Key) -> bool:
        with dev.transaction():
            return compile_error(dev, on_prod.comparison.desired, key) is None

    return apply(
        prod,
        on_prod,
        reread_desired=reread,
        compiles_there=compiles_on_dev,
        stage_timeout=options.stage_timeout,
        ledger=ledger,
        decisions=options.decisions,
    )


def _outcome(
    planned: Planned, after: Comparison, started: float, *, applied: bool, proofs: Sequence[Proof] = ()
) -> PhaseOutcome:
    dev, prod = planned.dev.plan, planned.prod.plan
    refused = (*dev.refused, *prod.refused)
    statements, outside = planned.statements, planned.prod.outside
    outcome = PhaseOutcome(
        phase=PHASE,
        status="decision_needed" if refused else "aligned" if not statements else "changed" if applied else "drift",
        changed=bool(statements) and not refused,
        statements=statements,
        findings=(*refused, *prod.findings, *planned.findings),
        proofs=proofs,
        diff=diff(dev.comparison, "DEV") + diff(prod.comparison, "PROD"),
        details={
            "schema": {
                "differences_before": len(prod.comparison.differences) + len(outside),
                "differences_after": len(after.differences) + len(outside),
                "only_in_prod": planned.prod.only_in_prod(after),
                "statements": [statement.sql for statement in prod.every],
                "stages": [stage.name for stage in prod.stages],
                "locks": locks(prod),
                "dev_statements": [statement.sql for statement in dev.statements],
            }
        },
    )
    outcome.seconds = time.monotonic() - started
    return outcome
