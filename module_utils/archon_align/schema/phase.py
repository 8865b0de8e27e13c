"""Phase 2: bring PROD's structure into line with DEV's, in one transaction, or say what a person must decide first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from psycopg import errors as pg

from ..context import Context
from ..database.run_lock import LOCK_KEYS, require_own_lock
from ..database.session import Session, open_session
from ..errors import DecisionNeeded, LockTimeout
from ..outcome import PhaseOutcome
from ..plan import Statement
from ..preservation.proof import Proof
from .apply import Applied, apply, require_decided
from .bodies import compile_error
from .compare import Comparison, compare
from .credentials import with_credentials
from .evidence import gather, questions
from .inspect import inspect
from .model import Catalog, Key, Kind
from .plan import SchemaPlan, plan
from .text import as_json, diff, render_sql

PHASE = "schema"


@dataclass(frozen=True, slots=True)
class Options:
    """`credentials`: create `archon_credentials` in both databases (plan, item 2.3)."""

    credentials: bool = True


@dataclass(frozen=True, slots=True)
class Planned:
    """The plans for both databases; DEV's only ever makes `archon_credentials`."""

    dev: SchemaPlan
    prod: SchemaPlan

    @property
    def sql(self) -> str:
        """plan.sql"""
        parts = [render_sql(self.dev, "DEV")] if self.dev.statements or self.dev.refused else []
        return "\n".join([*parts, render_sql(self.prod, "PROD")])

    @property
    def json(self) -> dict[str, Any]:
        """plan.json"""
        return {"dev": as_json(self.dev), "prod": as_json(self.prod)}

    @property
    def statements(self) -> tuple[Statement, ...]:
        on_dev = (replace(statement, object=f"DEV {statement.object}") for statement in self.dev.statements)
        return (*on_dev, *self.prod.statements)


def desired(found: Catalog, options: Options) -> Catalog:
    """What both databases should be: DEV as it is, with `archon_credentials`."""
    return with_credentials(found, found.schemas[0]) if options.credentials else found


def protected_keys(context: Context) -> frozenset[Key]:
    return frozenset(Key(Kind.TABLE, table.schema, table.name) for table in context.protected)


def plan_for(session: Session, wanted: Catalog, current: Catalog) -> SchemaPlan:
    """Compare, ask the rows of the session's database, plan; only reads."""
    protected = protected_keys(session.context)
    found = compare(wanted, current, vector_indexes=False)
    return plan(found, gather(session, questions(found)), protected=protected)


def _read(session: Session) -> Catalog:
    return inspect(session, session.context.schemas)


def _planned(dev: Session, prod: Session, options: Options) -> Planned:
    model = _read(dev)
    wanted = desired(model, options)
    return Planned(plan_for(dev, wanted, model), plan_for(prod, wanted, _read(prod)))


def plan_only(context: Context, options: Options | None = None) -> PhaseOutcome:
    """What `run` would do, on read-only sessions; writes plan.sql and plan.json to the artifacts."""
    started, options = time.monotonic(), options or Options()
    with (
        open_session(context, context.dev, read_only=True) as dev,
        open_session(context, context.prod, read_only=True) as prod,
    ):
        planned = _planned(dev, prod, options)
    _write(context, planned)
    outcome = _outcome(planned, planned.prod.comparison, started, applied=False)
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
    with open_session(context, context.dev) as dev, open_session(context, context.prod) as prod:
        planned = _planned(dev, prod, options)
        _write(context, planned)
        try:
            require_decided(planned.dev)
            require_decided(planned.prod)
            applied = _apply(dev, prod, planned, options)
        except DecisionNeeded as error:
            outcome = _outcome(planned, planned.prod.comparison, started, applied=False)
            outcome.status, outcome.error = "decision_needed", error
            return outcome
    after = applied.after if applied is not None else planned.prod.comparison
    proofs = applied.proofs if applied is not None else ()
    return _outcome(planned, after, started, applied=True, proofs=proofs)


def _apply(dev: Session, prod: Session, planned: Planned, options: Options) -> Applied | None:
    """DEV first: should PROD fail, an empty table too many on DEV harms nobody, and the next run goes on from there."""

    def own_dev() -> None:
        # The run lock lives on PROD; on DEV, runs against several PRODs queue here for the moment.
        try:
            dev.rows("SELECT pg_catalog.pg_advisory_xact_lock(%s, %s)", LOCK_KEYS)
        except pg.LockNotAvailable as error:
            raise LockTimeout(
                "Another run holds DEV.",
                object_name="DEV archon_credentials",
                expected=f"the advisory lock within {dev.context.lock_timeout} s",
                found="held by another session",
                remedy="Wait until the other run has ended, and run again. Nothing was changed.",
                code="lock_timeout",
            ) from error
        require_own_lock(prod)

    if planned.dev.statements:
        dev.progress("archon_credentials on DEV")
        apply(dev, planned.dev, reread_desired=lambda: desired(_read(dev), options), before=own_dev, require_lock=False)
    if not planned.prod.statements:
        return None
    prod.progress(f"{len(planned.prod.statements)} statements")

    def compiles_on_dev(key: Key) -> bool:
        with dev.transaction():
            return compile_error(dev, planned.prod.comparison.desired, key) is None

    return apply(
        prod, planned.prod, reread_desired=lambda: desired(_read(dev), options), compiles_there=compiles_on_dev
    )


def _write(context: Context, planned: Planned) -> None:
    context.run.write("plan.sql", planned.sql.encode())
    context.run.write("plan.json", orjson.dumps(planned.json, option=orjson.OPT_INDENT_2))


def _outcome(
    planned: Planned, after: Comparison, started: float, *, applied: bool, proofs: Sequence[Proof] = ()
) -> PhaseOutcome:
    refused = (*planned.dev.refused, *planned.prod.refused)
    statements = planned.statements
    outcome = PhaseOutcome(
        phase=PHASE,
        status="decision_needed" if refused else "aligned" if not statements else "changed" if applied else "drift",
        changed=bool(statements) and not refused,
        statements=statements,
        findings=(*refused, *planned.prod.findings),
        proofs=proofs,
        diff=diff(planned.dev.comparison, "DEV") + diff(planned.prod.comparison, "PROD"),
        details={
            "schema": {
                "differences_before": len(planned.prod.comparison.differences),
                "differences_after": len(after.differences),
                "only_in_prod": list(after.only_in_prod),
                "statements": [statement.sql for statement in planned.prod.statements],
                "dev_statements": [statement.sql for statement in planned.dev.statements],
            }
        },
    )
    outcome.seconds = time.monotonic() - started
    return outcome
