"""Executing an index plan: in one protected transaction, or concurrently as a stage of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql

from ..database.failures import server_error
from ..database.run_lock import require_own_lock
from ..database.session import Session
from ..database.transaction import LockMode, protected_transaction
from ..plan import Statement
from ..preservation.proof import Proof
from .index import indexes
from .tables import EmbeddedTable


def build(
    session: Session, found: EmbeddedTable, statements: Sequence[Statement], *, drops: bool, timeout: float
) -> list[Proof]:
    """Create and drop indexes of `found`; one concurrent build may take `timeout` seconds.

    Raises AlignError or psycopg.Error; what a failed concurrent build leaves is removed, or named in the remedy.
    """
    if all(statement.transactional for statement in statements):

        def act() -> None:
            for statement in statements:
                session.apply(statement)

        mode = LockMode.ALTER if drops else LockMode.WRITE
        return protected_transaction(session, act, locks={found.table: mode})[1]
    # A stage of its own: CREATE INDEX CONCURRENTLY cannot run in a transaction, and it waits for old transactions.
    before = {one.name for one in indexes(session, found)}
    with timeouts(session, timeout, timeout):
        try:
            for statement in statements:
                require_own_lock(session)
                session.progress(f"index {found.table.name}")
                session.apply(statement)
        except psycopg.Error as error:
            failed = server_error(session.target, error, doing=f"changing the index of {found.table} concurrently")
            failed.remedy += _remove_leftovers(session, found, before)
            raise failed from error
    return []


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
