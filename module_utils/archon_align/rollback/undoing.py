"""Undoing the entries of restore points in one database: planned under the locks, in one proved transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import errors as pg

from ..database.dev_lock import dev_lock
from ..database.failures import server_error
from ..database.run_lock import require_own_lock
from ..database.session import Session
from ..database.target import Table
from ..database.transaction import LockMode, protected_transaction, strongest
from ..database.tries import pause
from ..errors import AlignError
from ..plan import Statement
from ..preservation.proof import Proof
from .find import ROLLBACK, undone_by
from .ledger import Entry, EntryKind, Ledger, Point
from .rows import plan_rows
from .structure import plan_structure
from .structure import run as run_statement
from .undo import Kept, Request, Undo
from .vectors import plan_vectors

# How often a plan is made anew because users changed what it needs between planning and having the locks.
_PLANS = 5
# How often what was undone can let something else be undone, too.
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be undone in one database: entries by kind, oldest first, the names of their points, and what is wanted."""

    entries: Mapping[EntryKind, tuple[Entry, ...]]
    points: tuple[str, ...]
    request: Request


@dataclass(frozen=True, slots=True)
class Undone:
    """What was undone in `database` (or would be), and what was kept."""

    database: str
    points: tuple[str, ...] = ()
    statements: tuple[Statement, ...] = ()
    kept: tuple[Kept, ...] = ()
    diff: tuple[dict[str, str], ...] = ()
    proofs: tuple[Proof, ...] = ()


class _Moved(Exception):
    """Under the locks, what is to be done needs more of them: `needed` says what, in all."""

    def __init__(self, needed: Undo) -> None:
        super().__init__()
        self.needed = needed


def work_for(
    database: str, points: Sequence[Point], *, names: frozenset[str] = frozenset(), everything: bool = False
) -> Work:
    """What undoing settled `points` (oldest first) means for `database`.

    What a later rollback has undone without keeping anything is not looked at again: should somebody have made the same
    since, it is theirs.
    """
    done: dict[EntryKind, list[Entry]] = {"rows": [], "vectors": [], "structure": []}
    xids: set[int] = set()
    for point in points:
        finished = point.phase != ROLLBACK and undone_by(point, points, database) == "whole"
        for entry in point.entries:
            if entry.database != database or entry.committed is False:
                continue
            xids.add(entry.xid)
            if entry.kind != "undo" and not finished:
                done[entry.kind].append(entry)
    named = [point.name for point in points if any(entry in kind for kind in done.values() for entry in point.entries)]
    return Work(
        {kind: tuple(entries) for kind, entries in done.items()},
        tuple(named),
        Request(frozenset(xids), names, everything),
    )


def undo(session: Session, work: Work, *, holder: Session, ledger: Ledger | None) -> Undone:
    """Undo `work` in one transaction on `session`; without a `ledger` (check mode) only say what would be done.

    `holder` is the session on PROD, where the run lock lives. Raises AlignError; nothing is changed then.
    """
    try:
        return _undo(session, work, holder, ledger)
    except psycopg.Error as error:
        failure = server_error(session.target, error, doing="undoing what the run did")
        if isinstance(error, pg.IntegrityError | pg.DataError):
            # Their detail quotes the row, and a value in it may be secret.
            failure.found = " ".join((error.diag.message_primary or "the server refused the row").split())
        raise failure from None
    except (KeyError, TypeError, ValueError) as error:
        raise AlignError(
            "A restore point cannot be used.",
            object_name=", ".join(work.points),
            expected="entries as a run writes them",
            found=f"{type(error).__name__}: {error}",
            remedy="Use another restore point, or the verified backup of the run. Do not edit files in the artifacts folder.",
            code="restore_point_unreadable",
        ) from error


def _undo(session: Session, work: Work, holder: Session, ledger: Ledger | None) -> Undone:
    name = session.target.name
    needed = Undo()
    for _ in range(_PLANS):
        plan = _plan(session, work)
        if ledger is None or not plan.statements:
            return _told(name, work, [plan])
        session.progress(f"{len(plan.statements)} statements")
        try:
            # The run lock lives on PROD; on DEV, runs against several PRODs take turns.
            with nullcontext() if session is holder else dev_lock(session):
                return _transact(session, work, _together(needed, plan), holder, ledger)
        except _Moved as moved:
            needed = moved.needed
        pause()
    raise AlignError(
        "What is to be undone changes all the time.",
        object_name=f"{name}: {', '.join(work.points)}",
        expected="a plan that needs the same locks when they are held",
        found=f"another one each time, {_PLANS} times",
        remedy="Run again at a quieter time. Nothing was changed.",
        code="changed_meanwhile",
    )


def _told(name: str, work: Work, rounds: Sequence[Undo]) -> Undone:
    """What several rounds came to. What the first left and the last still leaves is kept: in between, things came to be undone."""
    return Undone(
        name,
        work.points,
        tuple(statement for plan in rounds for statement in plan.statements),
        tuple(_kept(rounds)),
        tuple(one for plan in rounds for one in plan.diff),
    )


def _kept(rounds: Sequence[Undo]) -> list[Kept]:
    left = {kept.name for kept in rounds[-1].kept}
    return [kept for kept in rounds[0].kept if kept.name in left]


def _plan(session: Session, work: Work) -> Undo:
    """Rows first, then vectors, then the structure that they leave empty."""
    rows = plan_rows(session, work.entries["rows"], work.request)
    vectors = plan_vectors(session, work.entries["vectors"], work.request)
    deleted = _sum((rows.deleted, vectors.deleted))
    structure = plan_structure(session, work.entries["structure"], work.request, deleted, vectors.emptied)
    return _together(rows, vectors, structure)


def _together(*parts: Undo) -> Undo:
    locks: dict[Table, LockMode] = {}
    for part in parts:
        for table, mode in part.locks.items():
            locks[table] = strongest(mode, locks.get(table, mode))

    def verify() -> None:
        for part in parts:
            part.verify()

    return Undo(
        statements=[statement for part in parts for statement in part.statements],
        locks=locks,
        kept=[kept for part in parts for kept in part.kept],
        carried={table: way for part in parts for table, way in part.carried.items()},
        deleted=_sum([part.deleted for part in parts]),
        diff=[one for part in parts for one in part.diff],
        verify=verify,
    )


def _sum(counts: Sequence[Mapping[Table, int]]) -> dict[Table, int]:
    total: dict[Table, int] = {}
    for one in counts:
        for table, number in one.items():
            total[table] = total.get(table, 0) + number
    return total


@dataclass(slots=True)
class _Recorder:
    """Writes down which points the transaction undoes."""

    ledger: Ledger
    work: Work
    kept: Callable[[], Sequence[Kept]]
    xid: int = field(default=0)

    def before_commit(self, session: Session) -> None:
        payload = {"points": list(self.work.points), "kept": [kept.name for kept in self.kept()]}
        self.xid = self.ledger.record(session, "undo", payload)

    def after_commit(self, session: Session) -> None:
        self.ledger.committed(session, self.xid)


def _transact(session: Session, work: Work, planned: Undo, holder: Session, ledger: Ledger) -> Undone:
    """Plan again under the locks of `planned` and carry it out, until nothing is left to undo.

    More than one round is needed only where rows that are gone were all that stood in the way of something.
    """
    own = session is holder
    rounds: list[Undo] = []

    def act() -> None:
        if not own:
            require_own_lock(holder)
        # Bodies may speak of what a later statement makes.
        session.execute("SET LOCAL check_function_bodies = off")
        while len(rounds) < _ROUNDS:
            now = _plan(session, work)
            if not _covers(planned, now):
                raise _Moved(_together(planned, now))
            rounds.append(now)
            if not now.statements:
                break
            for statement in now.statements:
                run_statement(session, statement)
        session.execute("NOTIFY pgrst, 'reload schema'")

    def verify() -> None:
        for one in rounds[-2:]:  # the one that changed something last, and the one that found nothing left
            one.verify()
        if left := rounds[-1].statements:
            raise AlignError(
                "Something did not become what it was before the run; the transaction was rolled back.",
                object_name=left[0].object,
                expected="nothing left to undo",
                found="; ".join(statement.summary for statement in left[:5]),
                remedy="Nothing was changed. Look at the table's triggers and rules; otherwise report this as a defect.",
                code="not_undone",
            )

    ledger.begin(session)
    _, proofs = protected_transaction(
        session,
        act,
        locks=planned.locks,
        verify=verify,
        require_lock=own,
        carried=planned.carried,
        recorder=_Recorder(ledger, work, lambda: _kept(rounds)),
    )
    return replace(_told(session.target.name, work, rounds), proofs=tuple(proofs))


def _covers(planned: Undo, now: Undo) -> bool:
    """Whether what `now` needs was taken and declared before the transaction began."""
    return all(
        table in planned.locks and strongest(mode, planned.locks[table]) == planned.locks[table]
        for table, mode in now.locks.items()
    ) and all(planned.carried.get(table) == way for table, way in now.carried.items())
