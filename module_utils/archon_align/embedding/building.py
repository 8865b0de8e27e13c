"""Executing an index plan: in one protected transaction, or concurrently as a stage of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg
from psycopg import sql

from ..database.failures import server_error
from ..database.run_lock import require_own_lock
from ..database.session import Session
from ..database.transaction import LockMode, protected_transaction
from ..plan import Statement
from ..preservation.proof import Proof
from ..rollback.ledger import Ledger
from ..rollback.structure_recording import Intent, StructureRecorder, indexes_of, record_alone
from ..rollback.structure_states import Change, changes, states
from ..schema.model import Catalog, Key, Kind
from .index import indexes
from .memory import VARIABLE, granted
from .tables import EmbeddedTable


def build(
    session: Session,
    found: EmbeddedTable,
    statements: Sequence[Statement],
    ledger: Ledger,
    *,
    drops: bool,
    timeout: float,
    memory: str = "",
) -> list[Proof]:
    """Create and drop indexes of `found`; one concurrent build may take `timeout` seconds, with `memory` as its
    maintenance_work_mem ('' for the server's).

    In `ledger` is written down what becomes of the table's indexes, and before a build what is about to be made.

    Raises AlignError; what a failed concurrent build leaves is removed, or named in the remedy.
    """
    ledger.begin(session)
    concurrently = not all(statement.transactional for statement in statements)
    before = {one.name for one in indexes(session, found)}
    try:
        with granted(session, memory):
            if concurrently:
                _concurrently(session, found, statements, ledger, timeout)
                return []
            return _at_once(session, found, statements, ledger, drops)
    except psycopg.Error as error:
        how = " concurrently" if concurrently else ""
        failed = server_error(
            session.target,
            error,
            doing=f"changing the index of {found.table}{how}",
            object_name=str(found.table),
            timeout="index_timeout of archon_search" if concurrently else "archon_statement_timeout",
        )
        if isinstance(error, pg.DiskFull) and "shared memory" in (error.diag.message_primary or ""):
            failed.remedy = (
                "The server builds in shared memory of the size of maintenance_work_mem, for which its /dev/shm is too small:"
                f" enlarge that (shm_size of its container), or set {VARIABLE} below it."
            )
        if concurrently:
            failed.remedy += _remove_leftovers(session, found, before)
        raise failed from error


def _at_once(
    session: Session, found: EmbeddedTable, statements: Sequence[Statement], ledger: Ledger, drops: bool
) -> list[Proof]:
    seen: list[Catalog] = []

    def act() -> None:
        seen.append(_catalog(session, found))
        for statement in statements:
            session.apply(statement)

    recorder = StructureRecorder(ledger, lambda: seen[0], lambda: _catalog(session, found))
    mode = LockMode.ALTER if drops else LockMode.WRITE
    return protected_transaction(session, act, locks={found.table: mode}, recorder=recorder)[1]


def _concurrently(
    session: Session, found: EmbeddedTable, statements: Sequence[Statement], ledger: Ledger, timeout: float
) -> None:
    """A stage of its own: CREATE INDEX CONCURRENTLY cannot run in a transaction, and it waits for old transactions."""
    with timeouts(session, timeout, timeout):
        for statement in statements:
            require_own_lock(session)
            session.progress(f"index {found.table.name}")
            there = _catalog(session, found)
            intends, dropped = _foreseen(found, statement, there)
            record_alone(ledger, session, dropped, intends)
            session.apply(statement)
            record_alone(ledger, session, changes(there, _catalog(session, found)))


def _catalog(session: Session, found: EmbeddedTable) -> Catalog:
    return indexes_of(session, found.table.schema, found.table.name)


def _foreseen(found: EmbeddedTable, statement: Statement, there: Catalog) -> tuple[list[Intent], list[Change]]:
    """What a statement outside transactions is about to make, or to drop."""
    schema = found.table.schema
    key = Key(Kind.INDEX, schema, statement.object.removeprefix(f"{schema}."))
    before = states(there).get(key)
    if before is None:
        return [Intent(key, Key(Kind.TABLE, schema, found.table.name))], []
    return [], [Change(key, before, None)]


@contextmanager
def timeouts(session: Session, lock: float, statement: float) -> Iterator[None]:
    """Other timeouts than the context's, in seconds, for a while."""
    _set_timeouts(session, lock, statement)
    try:
        yield
    finally:
        if not session.connection.closed and not session.connection.broken:
            _set_timeouts(session, session.context.lock_timeout, session.context.statement_timeout)


def _set_timeouts(session: Session, lock: float, statement: float) -> None:
    session.rows(
        "SELECT pg_catalog.set_config('lock_timeout', %s, false), pg_catalog.set_config('statement_timeout', %s, false)",
        (f"{lock * 1000:.0f}ms", f"{statement * 1000:.0f}ms"),
    )


def _remove_leftovers(session: Session, found: EmbeddedTable, before: set[str]) -> str:
    """Drop the invalid index that a failed concurrent build leaves; what to say when that fails too."""
    try:
        for one in indexes(session, found):
            if not one.valid and one.name not in before:
                name = sql.Identifier(found.table.schema, one.name)
                session.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(name))
    except psycopg.Error:
        return f" An unfinished index of {found.table} may remain; the next run drops it."
    return ""
