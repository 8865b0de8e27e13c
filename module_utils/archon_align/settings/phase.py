"""Phase 3: the embedding configuration, where the plan wants it and where Archon reads it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import psycopg
from psycopg import errors as pg

from ..context import Context
from ..database.dev_lock import dev_lock
from ..database.failures import server_error
from ..database.run_lock import require_own_lock
from ..database.session import Session, open_session
from ..database.target import Table
from ..database.transaction import LockMode, protected_transaction
from ..errors import AlignError
from ..outcome import PhaseOutcome, Status
from ..preservation.proof import Proof
from ..preservation.waiting import writers_wait
from ..rollback.capture import RowRecorder, Written
from ..rollback.ledger import Ledger
from ..rollback.stored import Values
from .advice import CONTEXT_KEYS, findings
from .planner import DatabasePlan, diff_of, plan_dev, plan_prod
from .store import CREDENTIALS, ENCRYPTED, SETTINGS, Store, read
from .wanted import CREDENTIALS_CATEGORY, Options, Wanted, is_secret, wanted

__all__ = ["Options", "is_secret", "run"]


def run(context: Context, options: Options) -> PhaseOutcome:
    """Give PROD the wanted values, and DEV's archon_credentials the keys it lacks.

    Raises AlignError when a value cannot be meant, a table is missing or of another shape, or a server refuses; nothing
    is changed in that database then. Both databases are inspected before either is written.
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
    values = wanted(options)
    with open_session(context, context.prod) as prod, open_session(context, context.dev) as dev:
        plan = _refusals_told(prod, lambda: _inspect_prod(prod, values))
        if context.check and not plan.stores[1].columns:
            plan = _refusals_told(dev, lambda: _foreseen(plan, dev, values))
        dev_plan = _refusals_told(dev, lambda: _inspect_dev(dev, values))
        locks = dict.fromkeys((store.table for store in plan.stores), LockMode.WRITE)
        waits = _refusals_told(prod, lambda: writers_wait(prod, locks, len(plan.changes)))
        proofs: list[Proof] = []
        if not context.check:
            for store in (*plan.stores, *dev_plan.stores):
                _require(store)
            if dev_plan.changes:
                with dev_lock(dev):
                    dev_plan, _ = _apply(dev, _inspect_dev, values, ledger, holder=prod)
            if plan.changes:
                plan, proofs = _apply(prod, _inspect_prod, values, ledger, holder=prod)
        credentials, settings = plan.stores
        (dev_credentials,) = dev_plan.stores
    changes = (*dev_plan.changes, *plan.changes)
    status: Status = "aligned" if not changes else "drift" if context.check else "changed"
    return PhaseOutcome(
        context.phase,
        status,
        seconds=time.monotonic() - started,
        changed=bool(changes),
        statements=[change.statement for change in changes],
        findings=[
            *findings(credentials, settings, dev_credentials, values),
            *waits.findings(),
        ],
        proofs=proofs,
        diff=diff_of(changes),
        details={"credentials": {"changed_keys": [change.name for change in changes]}, "locks": waits.as_dict()},
    )


def _inspect_prod(session: Session, values: Wanted) -> DatabasePlan:
    return plan_prod(
        read(session, CREDENTIALS, values.credentials, category=CREDENTIALS_CATEGORY),
        read(session, SETTINGS, {*values.settings, *CONTEXT_KEYS}),
        values,
    )


def _foreseen(plan: DatabasePlan, dev: Session, values: Wanted) -> DatabasePlan:
    """The plan for a PROD whose settings table the schema phase will have made, empty, as DEV has it."""
    credentials, settings = plan.stores
    model = read(dev, SETTINGS, ())
    if not model.columns:
        _require(settings)
    return plan_prod(credentials, replace(settings, columns=model.columns), values)


def _inspect_dev(session: Session, values: Wanted) -> DatabasePlan:
    return plan_dev(read(session, CREDENTIALS, values.credentials, category=CREDENTIALS_CATEGORY), values)


def _require(store: Store) -> None:
    if not store.columns:
        made_here = store.table.name == CREDENTIALS
        raise AlignError(
            "A configuration table is missing.",
            object_name=str(store),
            expected="the table that the schema phase creates" if made_here else "Archon's settings table",
            found="no such table",
            remedy="Run the schema phase first (--tags schema)."
            if made_here
            else f"See that the {store.database} DSN and archon_schema_names point at Archon's database; its settings table is "
            "Archon's own and comes with its set-up.",
            code="missing_table",
        )


def _apply(
    session: Session,
    inspect: Callable[[Session, Wanted], DatabasePlan],
    values: Wanted,
    ledger: Ledger,
    *,
    holder: Session,
) -> tuple[DatabasePlan, list[Proof]]:
    """Plan again under the locks and carry it out; nothing is committed unless nothing is left to do then."""
    own = session is holder

    def act() -> DatabasePlan:
        if not own:
            require_own_lock(holder)
        recorder.look(session)
        plan = inspect(session, values)
        for change in plan.changes:
            if change.secret is not None:
                session.rows("SELECT pg_catalog.set_config(%s, %s, true)", change.secret)
            session.apply(change.statement)
        return plan

    def verify() -> None:
        left = inspect(session, values).changes
        if left:
            raise AlignError(
                "A value did not stay as it was written.",
                object_name=", ".join(change.name for change in left),
                expected="the values just written",
                found="others, so a trigger or a rule of the table changes them",
                remedy="Nothing was changed. Look at the table's triggers and rules.",
                code="value_not_kept",
            )

    tables = [store.table for store in inspect(session, values).stores]
    locks = dict.fromkeys(tables, LockMode.WRITE)
    recorder = RowRecorder(ledger, [_written(table) for table in tables])
    ledger.begin(session)
    return _refusals_told(
        session,
        lambda: protected_transaction(session, act, locks=locks, verify=verify, require_lock=own, recorder=recorder),
    )


def _written(table: Table) -> Written:
    """How a restore point knows the table's rows, and what of them it must not hold."""
    label = ("category", "key") if table.name == CREDENTIALS else ("key",)
    return Written(table, label, _not_written_down, frozenset((ENCRYPTED,)))


def _not_written_down(row: Values) -> tuple[str, ...]:
    encrypted = row.get("is_encrypted") == "true" or row.get(ENCRYPTED) is not None
    return ("value",) if encrypted or is_secret(row["key"] or "", row["value"]) else ()


def _refusals_told[Result](session: Session, work: Callable[[], Result]) -> Result:
    try:
        return work()
    except psycopg.Error as error:
        failure = server_error(session.target, error, doing="configuring")
        if isinstance(error, pg.IntegrityError | pg.DataError):
            # Their detail quotes the row, and a value in it may be secret.
            failure.found = " ".join((error.diag.message_primary or "the server refused the row").split())
        raise failure from None
