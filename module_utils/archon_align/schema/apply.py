"""Apply a plan in one protected transaction, and prove from a fresh reading of both databases that it did what it said."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from ..database.failures import server_error
from ..database.session import Session
from ..database.transaction import protected_transaction
from ..errors import AlignError, DecisionNeeded
from ..preservation.proof import Proof
from ..rollback.ledger import Ledger
from ..rollback.structure_recording import StructureRecorder, final_of, renames_of
from ..rollback.structure_vectors import Swapped
from .bodies import changed_functions, compile_error
from .compare import Comparison, compare
from .decisions import Decisions
from .inspect import inspect
from .model import Catalog, Key
from .outside import StageFailed, run_stages
from .plan import SchemaPlan
from .stages import STAGE_TIMEOUT
from .steps import Guard


@dataclass(frozen=True, slots=True)
class Applied:
    """What is true now: `after` is the comparison that was made before COMMIT or, where there are stages, after the last."""

    proofs: tuple[Proof, ...]
    after: Comparison


def prove(session: Session, desired: Catalog, *, vector_indexes: bool = True) -> Comparison:
    """Read the session's database again and compare it with `desired`."""
    return compare(desired, inspect(session, desired.schemas), vector_indexes=vector_indexes)


def apply(
    session: Session,
    plan: SchemaPlan,
    *,
    reread_desired: Callable[[], Catalog],
    before: Callable[[], None] | None = None,
    require_lock: bool = True,
    compiles_there: Callable[[Key], bool] | None = None,
    stage_timeout: float = STAGE_TIMEOUT,
    finally_prove: Callable[[], None] | None = None,
    ledger: Ledger | None = None,
    decisions: Decisions | None = None,
    swapped: Collection[Swapped] = (),
) -> Applied:
    """Execute `plan` on `session`: its transaction, all or nothing, and then its stages, each limited to `stage_timeout` seconds
    a statement.

    `reread_desired` reads the desired structure once more for the proof; `before` runs first inside the transaction;
    `compiles_there` says whether a function's body compiles in the desired database: one that does must do so here too;
    `finally_prove` runs last inside the transaction and may raise. In `ledger` is written down what was changed, by which
    `decisions`, and which vectors others took the place of.
    Raises DecisionNeeded when the plan refuses something or a guard finds a row, AlignError when the structure is no longer
    the one that was planned for, when the server refuses a statement, or when the proof finds more differences than the
    plan left. When it raises StageFailed the transaction is committed; otherwise nothing is.
    """
    require_decided(plan)
    found: list[Comparison] = []

    def act() -> None:
        if before is not None:
            before()
        _require_unchanged(session, plan)
        # Bodies may speak of what a later statement makes; they are looked at when all is there.
        session.execute("SET LOCAL check_function_bodies = off")
        for statement in plan.statements:
            try:
                rows = session.apply(statement)
            except psycopg.Error as error:
                raise _refused(
                    session, error, f"aligning the schema ({statement.summary})", statement.object
                ) from error
            if isinstance(statement, Guard) and rows:
                raise _guard_found(session, statement, rows)
        session.execute("NOTIFY pgrst, 'reload schema'")

    def verify() -> None:
        # Both at the same time: others wait for the locks.
        with ThreadPoolExecutor(1) as second:
            pending = second.submit(reread_desired)
            now = inspect(session, plan.comparison.desired.schemas)
            after = compare(pending.result(), now, vector_indexes=plan.comparison.vector_indexes)
        awaited = {pair for stage in plan.stages for pair in stage.awaits}
        surprising = [one for one in after.differences if one not in plan.left and (one.key, one.aspect) not in awaited]
        if surprising:
            raise AlignError(
                "The schema would not have become what DEV has; the transaction was rolled back.",
                object_name=str(surprising[0].key),
                expected="no difference besides those that the plan announced",
                found="; ".join(map(str, surprising[:5])) + (" …" if len(surprising) > 5 else ""),
                remedy="If DEV was changed meanwhile, run again; otherwise report this as a defect with the run's plan.sql.",
                code="schema_not_aligned",
            )
        if compiles_there is not None:
            _require_compiling(session, plan, after.current, compiles_there)
        if finally_prove is not None:
            finally_prove()
        found.append(after)

    recorder = None
    if ledger is not None:
        ledger.begin(session)
        recorder = StructureRecorder(
            ledger,
            lambda: plan.found,
            lambda: found[0].current,
            renames=renames_of(plan.decided),
            decisions=decisions,
            final=final_of(plan.decided, plan.comparison),
            swapped=swapped,
        )
    try:
        _, proofs = protected_transaction(
            session,
            act,
            locks=plan.locks,
            verify=verify,
            require_lock=require_lock,
            carried=plan.carried,
            recorder=recorder,
        )
    except psycopg.Error as error:
        # While the protected rows are read, or at COMMIT, where deferred constraints are looked at.
        raise _refused(session, error, "proving and committing the schema's alignment") from error
    applied = Applied(tuple(proofs), found[0])
    if not plan.stages:
        return applied
    try:
        after = run_stages(
            session,
            plan,
            found[0].current,
            reread_desired=reread_desired,
            require_lock=require_lock,
            timeout=stage_timeout,
            ledger=ledger,
        )
    except StageFailed as error:
        error.proofs, error.after = applied.proofs, error.after or applied.after
        raise
    return replace(applied, after=after)


def _refused(session: Session, error: psycopg.Error, doing: str, name: str = "") -> AlignError:
    limit = f"archon_statement_timeout (for this phase alone schema_statement_timeout), now {session.context.statement_timeout:g} s"
    return server_error(session.target, error, doing=doing, object_name=name, timeout=limit)


def require_decided(plan: SchemaPlan) -> None:
    """Raise DecisionNeeded when the plan refuses something."""
    if not plan.refused:
        return
    first = plan.refused[0]
    more = f" (and {len(plan.refused) - 1} more, see the findings)" if len(plan.refused) > 1 else ""
    raise DecisionNeeded(
        f"The schema cannot be aligned without a decision{more}; nothing was changed.",
        object_name=first.object,
        expected="a change that keeps every stored value",
        found="; ".join(f"{finding.object}: {finding.message}" for finding in plan.refused[:5]),
        remedy=first.remedy,
        code="decision_needed",
    )


def _require_unchanged(session: Session, plan: SchemaPlan) -> None:
    """Somebody may have changed the structure between planning and having the locks."""
    planned, now = plan.found, inspect(session, plan.found.schemas)
    changed = {
        key
        for one, other in (
            (planned.objects, now.objects),
            (planned.comments, now.comments),
            (planned.grants, now.grants),
        )
        for key in one.keys() | other.keys()
        if one.get(key) != other.get(key)
    }
    if changed:
        raise AlignError(
            f"The structure of {session.target.name} was changed by somebody else after the plan was made.",
            object_name=str(min(changed)),
            expected="the structure that was planned for",
            found=f"changed meanwhile: {', '.join(map(str, sorted(changed)[:5]))}",
            remedy="Run again: a new plan is made. Nothing was changed.",
            code="schema_changed_meanwhile",
        )


def _require_compiling(session: Session, plan: SchemaPlan, now: Catalog, compiles_there: Callable[[Key], bool]) -> None:
    for key in changed_functions(plan.comparison):
        problem = compile_error(session, now, key)
        if problem is not None and compiles_there(key):
            raise AlignError(
                f"A function of DEV does not compile on {session.target.name}; the transaction was rolled back.",
                object_name=str(key),
                expected="a body that compiles, as it does on DEV",
                found=problem,
                remedy="Provide what the body needs on PROD (or a body that PROD's version understands on DEV), then run again.",
                code="function_body",
            )


def _guard_found(session: Session, guard: Guard, rows: int) -> DecisionNeeded:
    shown = session.rows(sql.SQL(guard.sql))
    examples = "; ".join(str(row["key"]) for row in shown)
    count = shown[0]["violators"] if shown else rows
    return DecisionNeeded(
        "Rows came in that would not survive a change of type; nothing was changed.",
        object_name=guard.object,
        expected="every stored value the same after the change",
        found=f"{guard.reason}: {count} rows ({examples})",
        remedy="Correct the rows on PROD (or the type on DEV), then run again.",
        code="decision_needed",
    )
