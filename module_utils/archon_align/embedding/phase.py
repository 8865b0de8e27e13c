"""Phase 4: the rebuild of missing embeddings, in place, from the text that Archon itself embeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import psycopg

from ..context import Context
from ..database.failures import server_error
from ..database.session import Session, open_session
from ..database.target import Table
from ..outcome import PhaseOutcome
from ..rollback.ledger import Ledger
from .options import Options
from .rebuild import Rebuild

__all__ = ["Filled", "Options", "fill", "run"]


def run(context: Context, options: Options) -> PhaseOutcome:
    """Embed every row of both tables whose embedding is NULL.

    When the service or the database gives out half-way, the outcome is `resumable`; when too many rows are refused or
    the written vectors do not prove right, it is `failed`; either holds the error and what was done. Raises AlignError
    when it fails before anything was written.
    """
    ledger = Ledger(replace(context, phase=f"embeddings-{options.worker}") if options.worker else context)
    with open_session(context, context.prod) as session:
        try:
            outcome = fill(session, options, ledger).outcome
        except psycopg.Error as error:
            raise server_error(context.prod, error, doing="looking for missing embeddings") from error
    ledger.end(outcome.status)
    outcome.details["restore_points"] = ledger.as_points()
    return outcome


@dataclass(frozen=True, slots=True)
class Filled:
    """What came of embedding what was missing: the outcome, and by table the ids of the rows that stay without vector."""

    outcome: PhaseOutcome
    quarantined: Mapping[Table, frozenset[int]]


def fill(session: Session, options: Options, ledger: Ledger) -> Filled:
    """`run` on a session that is open already; which rows get a vector is written to `ledger`.

    Raises AlignError or psycopg.Error.
    """
    rebuild = Rebuild(session, options, ledger)
    outcome = rebuild.run()
    return Filled(
        outcome,
        {one.work.found.table: frozenset(row.id for row in one.quarantined) for one in rebuild.tables},
    )
