"""Stages at work: each runs after COMMIT under a time limit of its own, cleans up before a retry, and is proved when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from ..database.failures import server_error
from ..database.run_lock import require_own_lock
from ..database.session import Session
from ..database.target import Table as TableName
from ..database.transaction import lock_timeout, locked_transaction
from ..database.tries import pause
from ..database.yielding import patiently
from ..errors import AlignError, Resumable
from ..plan import Statement
from ..preservation.proof import Proof
from ..rollback.ledger import Ledger
from ..rollback.structure_recording import foreseen, record_alone
from ..rollback.structure_states import changes
from .compare import Comparison, compare
from .ddl import ident
from .inspect import inspect
from .model import Catalog
from .plan import SchemaPlan
from .stages import STAGE_TIMEOUT, Stage, is_leftover_of

TIMEOUT_VARIABLE = "archon_schema_stage_timeout"
# What statements outside a transaction take on their table. Readers and writers of rows are not held up by it.
_GENTLE = "SHARE UPDATE EXCLUSIVE"
_PATIENT = ("CREATE INDEX CONCURRENTLY", "CREATE UNIQUE INDEX CONCURRENTLY", "DROP INDEX CONCURRENTLY")
_CLEANING_SECONDS = 60.0
_INVALID = """
SELECT x.relname::text AS name FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT i.indisvalid AND n.nspname = %s AND c.relname = %s AND c.relkind = 'r'
ORDER BY 1
"""


class StageFailed(Resumable):
    """A stage did not come to its end. The transaction and the stages before it stay; the next run does the rest.

    `proofs` are those of the transaction, `after` is what was seen last.
    """

    proofs: tuple[Proof, ...] = ()
    after: Comparison | None = None


def run_stages(
    session: Session,
    plan: SchemaPlan,
    now: Catalog,
    *,
    reread_desired: Callable[[], Catalog],
    require_lock: bool = True,
    timeout: float = STAGE_TIMEOUT,
    ledger: Ledger | None = None,
) -> Comparison:
    """Run the plan's stages in order; `timeout` (seconds) limits each statement. Returns what the proof after them sees.

    `now` is the structure before them; in `ledger` each is written down before it runs, and what became of it afterwards.

    The session must not be in a transaction: its snapshot would be waited for. Raises StageFailed, which says what is done and
    what remains.
    """
    if session.connection.info.transaction_status is not TransactionStatus.IDLE:
        raise AssertionError("a stage runs outside transactions")
    with _limited(session, timeout):
        seen: Comparison | None = None
        for number, stage in enumerate(plan.stages):
            try:
                if require_lock:
                    require_own_lock(session)
                session.progress(stage.name)
                if ledger is not None:
                    awaited = foreseen(now, plan.comparison.desired, {key for key, _ in stage.awaits})
                    record_alone(ledger, session, awaited)
                _Runner(session, stage, timeout, require_lock=require_lock).run()
                seen = _prove(session, plan, stage)
                if ledger is not None:
                    record_alone(ledger, session, changes(now, seen.current))
                    now = seen.current
            except AlignError as error:
                raise _failed(plan, number, error, seen) from error
            except psycopg.Error as error:
                told = server_error(
                    session.target,
                    error,
                    doing=f"{stage.name} outside the transaction",
                    object_name=str(stage.key),
                    timeout=TIMEOUT_VARIABLE,
                )
                raise _failed(plan, number, told, seen) from error
    try:
        after = _read(session, reread_desired(), plan)
    except AlignError as error:
        raise _failed(plan, len(plan.stages), error, seen) from error
    surprising = [difference for difference in after.differences if difference not in plan.left]
    if surprising:
        found = "; ".join(map(str, surprising[:5])) + (" …" if len(surprising) > 5 else "")
        raise _failed(plan, len(plan.stages), _not_equal(str(surprising[0].key), found), after)
    return after


@contextmanager
def _limited(session: Session, timeout: float) -> Iterator[None]:
    """Under the stages' own time limit."""

    def limit(seconds: float) -> None:
        session.rows(
            "SELECT pg_catalog.set_config('statement_timeout', %s, false)", (f"{seconds * 1000:.0f}ms",)
        )  # fmt: skip

    limit(timeout)
    try:
        yield
    finally:
        if not session.connection.closed and not session.connection.broken:
            limit(session.context.statement_timeout)


class _Runner:
    """Runs one stage. `patience` (seconds) is how long a build may wait for older transactions."""

    def __init__(self, session: Session, stage: Stage, patience: float, *, require_lock: bool) -> None:
        self.session = session
        self.stage = stage
        self.patience = patience
        self.require_lock = require_lock
        self.table = TableName(stage.table.schema, stage.table.name)

    def run(self) -> None:
        for together, statements in groupby(self.stage.statements, key=lambda one: one.transactional):
            if together:
                self._in_transaction(list(statements))
            else:
                for statement in statements:
                    self._alone(statement)

    def _in_transaction(self, statements: Sequence[Statement]) -> None:
        def act() -> None:
            for statement in statements:
                self.session.apply(statement)

        locked_transaction(self.session, act, locks=self.stage.locks, require_lock=self.require_lock)

    def _alone(self, statement: Statement) -> None:
        """One statement by itself, tried again when a lock was not to be had or others had to be given way to."""
        attempts = self.session.context.lock_attempts
        for attempt in range(1, attempts + 1):
            if self.require_lock:
                require_own_lock(self.session)
            try:
                if self._apply(statement):
                    return
                error: psycopg.Error | None = None
            except (pg.LockNotAvailable, pg.DeadlockDetected) as found:
                error = found
            except psycopg.Error:
                self._clean_up()
                raise
            cleaned = self._clean_up()
            if attempt == attempts or not cleaned:
                locks = {self.table: _GENTLE}
                raise lock_timeout(self.session, locks, error or pg.LockNotAvailable("others came first")) from error
            pause()

    def _apply(self, statement: Statement) -> bool:
        """Run it; False when it gave way to somebody who would have waited for it for ever."""
        if not statement.sql.startswith(_PATIENT):
            self.session.apply(statement)
            return True
        # It waits for every older transaction, and others' reading and writing goes on all the while.
        with patiently(self.session, self.patience) as watch:
            try:
                self.session.apply(statement)
            except pg.QueryCanceled:
                watch.stop()
                if not watch.gave_way:
                    raise
                return False
        return True

    def _clean_up(self) -> bool:
        """Remove what a failed build of this index left behind. What cannot be removed now, the next run finds."""
        connection = self.session.connection
        if self.stage.index is None:
            return True
        if connection.closed or connection.broken:
            return False
        try:
            for row in self.session.rows(_INVALID, (self.table.schema, self.table.name)):
                if is_leftover_of(row["name"], self.stage.index.name):
                    text = f"DROP INDEX CONCURRENTLY IF EXISTS {ident(self.table.schema, row['name'])}"
                    with patiently(self.session, min(self.patience, _CLEANING_SECONDS)):
                        self.session.apply(Statement(text, str(self.stage.index), "left behind", transactional=False))
        except psycopg.Error:
            return False
        return True


def _read(session: Session, desired: Catalog, plan: SchemaPlan) -> Comparison:
    with session.transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"):
        found = inspect(session, desired.schemas)
    return compare(desired, found, vector_indexes=plan.comparison.vector_indexes)


def _prove(session: Session, plan: SchemaPlan, stage: Stage) -> Comparison:
    """What the stage was for is there now, valid and as DEV has it, by a fresh reading."""
    after = _read(session, plan.comparison.desired, plan)
    remaining = [
        str(one)
        for one in after.differences
        if (one.key, one.aspect) in stage.awaits and one not in plan.left
    ]  # fmt: skip
    if remaining:
        raise _not_equal(str(stage.key), "; ".join(remaining))
    return after


def _not_equal(name: str, found: str) -> AlignError:
    return AlignError(
        "What the stage made is not what DEV has.",
        object_name=name,
        expected="no difference besides those that the plan announced",
        found=found,
        remedy="If DEV or PROD was changed meanwhile, run again; otherwise report this as a defect with the run's plan.sql.",
        code="schema_not_aligned",
    )


def _failed(plan: SchemaPlan, number: int, error: AlignError, seen: Comparison | None) -> StageFailed:
    done = [f"the transaction ({len(plan.statements)} statements) is committed"]
    done += [f"{stage.name}: done" for stage in plan.stages[:number]]
    remaining = [stage.name for stage in plan.stages[number:]]
    found = f"{error.what} {error.found}. What is done: {'; '.join(done)}."
    if remaining:
        found += f" What remains: {'; '.join(remaining)}."
    failed = StageFailed(
        f"Stage {number + 1} of {len(plan.stages)} failed after the transaction was committed: {remaining[0]}."
        if remaining
        else "The proof after the last stage failed; everything was committed.",
        object_name=error.object_name,
        expected=error.expected,
        found=found,
        remedy=f"{error.remedy} The next run's plan holds only what remains.",
        code=error.code,
    )
    failed.after = seen
    failed.cause = error
    return failed
