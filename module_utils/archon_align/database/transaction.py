"""The one protocol by which data or structure is changed: lock, fingerprint, act, verify, fingerprint, compare, COMMIT."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from typing import Protocol

import psycopg
from psycopg import errors as pg
from psycopg import sql

from ..errors import AlignError, LockTimeout, PreservationBroken
from ..preservation.carried import Carried
from ..preservation.fingerprint import Fingerprint, columns_of, existing, fingerprint
from ..preservation.proof import Proof
from ..preservation.sight import require_tables
from .blocking import blockers
from .own_rows import NewRows, OwnRows
from .run_lock import require_own_lock
from .session import Session
from .target import Table
from .tries import pause


class Recorder(Protocol):
    """Who writes down what a transaction does before it is committed (see rollback.ledger)."""

    def before_commit(self, session: Session) -> None:
        """Write down what the open transaction of `session` has done. Raises AlignError; then nothing is committed."""

    def after_commit(self, session: Session) -> None:
        """The server has acknowledged COMMIT."""


class LockMode(StrEnum):
    """Table lock modes by their need: altered, written (or referenced by a new foreign key), only proved."""

    ALTER = "ACCESS EXCLUSIVE"
    WRITE = "SHARE ROW EXCLUSIVE"
    PROVE = "SHARE"


_STRENGTH = (LockMode.PROVE, LockMode.WRITE, LockMode.ALTER)
# Seconds for a lock that nobody holds, where the try's time is over.
_LOCKED_AT_ONCE = 0.05


# Reading a table reads those below it (its partitions, or what inherits from it), and its rows' text is made by its columns' types.
_LOOK = """
WITH RECURSIVE tree (top, schema, name, oid) AS (
  SELECT c.oid, t.schema, t.name, c.oid FROM unnest(%s::text[], %s::text[]) t (schema, name) JOIN pg_namespace n ON n.nspname = t.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name AND c.relkind IN ('r', 'p')
  UNION SELECT top, schema, name, i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
), types (top, oid) AS (
  SELECT a.attrelid, a.atttypid FROM pg_attribute a JOIN tree ON tree.top = a.attrelid AND a.attnum > 0 AND NOT a.attisdropped
  UNION SELECT types.top, u.oid FROM types JOIN pg_type y ON y.oid = types.oid CROSS JOIN LATERAL (
    SELECT y.typelem UNION ALL SELECT y.typbasetype UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = y.oid
    UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped) u (oid)
), shape (top, part) AS (
  SELECT a.attrelid, format('%%s %%s %%s %%s %%s', a.attnum, a.attname, a.atttypid, a.atttypmod, CASE WHEN a.attgenerated = 'v'
         THEN pg_get_expr(d.adbin, d.adrelid) ELSE md5(a.attmissingval::text) END)
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  WHERE a.attrelid IN (SELECT top FROM tree) AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL SELECT types.top, format('label %%s %%s', e.oid, e.enumlabel) FROM types JOIN pg_enum e ON e.enumtypid = types.oid
  UNION ALL SELECT types.top, format('part %%s of %%s: %%s %%s', a.attnum, y.oid, a.atttypid, a.atttypmod) FROM types
  JOIN pg_type y ON y.oid = types.oid JOIN pg_attribute a ON a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped
)
SELECT tree.schema, tree.name, array_agg(format('%%s %%s', c.oid, c.relfilenode) ORDER BY c.oid) AS files,
       sum(s.n_tup_upd + s.n_tup_del + s.n_tup_ins) AS writes, (SELECT array_agg(part) FROM shape WHERE shape.top = tree.top) AS shape
FROM tree JOIN pg_class c ON c.oid = tree.oid
LEFT JOIN pg_stat_xact_user_tables s ON s.relid = c.oid AND current_setting('track_counts') = 'on'
GROUP BY tree.top, tree.schema, tree.name
"""


@dataclass(frozen=True, slots=True)
class _Look:
    """What must not move while nobody touches a table: which it is and its files, the transaction's own writes to it (None
    where the server does not count them), and what its stored rows read as: columns and types."""

    files: tuple[str, ...]
    writes: int | None
    shape: frozenset[str]

    def touched(self, now: _Look | None) -> bool:
        """Whether rows may read otherwise `now`. What is added to the shape leaves them as they are."""
        return now is None or (self.files, self.writes) != (now.files, now.writes) or not self.shape <= now.shape


def _look(session: Session, tables: Collection[Table]) -> dict[Table, _Look]:
    """How each of `tables` that exists stands now."""
    if not tables:
        return {}
    rows = session.rows(_LOOK, ([table.schema for table in tables], [table.name for table in tables]))
    return {
        Table(row["schema"], row["name"]): _Look(tuple(row["files"]), row["writes"], frozenset(row["shape"] or ()))
        for row in rows
    }


def _moved(seen: Mapping[Table, _Look], now: Mapping[Table, _Look], tables: Collection[Table]) -> list[Table]:
    """Those of `tables` that were touched, or were not there before."""
    return [table for table in tables if (seen[table].touched(now.get(table)) if table in seen else table in now)]


def _touched(tables: Sequence[Table]) -> PreservationBroken:
    return PreservationBroken(
        "A table that the plan does not speak of would have been changed; the transaction was rolled back.",
        object_name=", ".join(map(str, tables)),
        expected="no write, and the same file, but in the tables of the plan",
        found="rows were written, or the table was rewritten or dropped: by a trigger, or by a cascade",
        remedy="Nothing was changed. Find the trigger that reaches it from a table of the plan; it must not fire there.",
        code="preservation_broken",
    )


def _replaced(tables: Sequence[Table]) -> AlignError:
    return AlignError(
        "A protected table came or went while its lock was waited for.",
        object_name=", ".join(map(str, tables)),
        expected="the same tables as a moment before",
        found="made, renamed, dropped or replaced by somebody else",
        remedy="Nothing was changed. Run again when that is done.",
        code="tables_changed_meanwhile",
    )


class _TryEnded(Exception):
    """A try for the locks has lasted as long as it may."""


def _lock(session: Session, locks: Mapping[Table, LockMode], *, backwards: bool) -> None:
    """In the order of the tables' names, or against it; neighbours that need the same mode are one statement, locked in its order.

    All of it takes the lock timeout at most: the server's own lock_timeout begins anew with each table, and while one is waited
    for, users wait for those that are held. Raises _TryEnded, or what the server says.
    """
    deadline = time.monotonic() + session.context.lock_timeout
    former = session.value("SHOW statement_timeout")
    for mode, tables in groupby(sorted(locks, reverse=backwards), key=locks.__getitem__):
        names = sql.SQL(", ").join(table.identifier for table in tables)
        # A slow line alone shall not end a try: what is free is locked at once, however late.
        milliseconds = int(1000 * max(deadline - time.monotonic(), _LOCKED_AT_ONCE))
        _limit(session, f"{milliseconds}ms")
        asked = time.monotonic()
        try:
            session.execute(sql.SQL("LOCK TABLE {} IN {} MODE").format(names, sql.SQL(mode.value)))
        except pg.QueryCanceled as error:
            # Earlier than this limit, it was cancelled by a person.
            if 1000 * (time.monotonic() - asked) < milliseconds:
                raise
            raise _TryEnded("a lock was not to be had in time") from error
    _limit(session, former)


def _limit(session: Session, timeout: str) -> None:
    """Each statement of the open transaction takes no longer than `timeout`."""
    session.rows("SELECT pg_catalog.set_config('statement_timeout', %s, true)", (timeout,))


def _begin_locked(session: Session, locks: Mapping[Table, LockMode], *, require_lock: bool) -> None:
    """BEGIN and take every lock, all or none, in bounded tries with jitter. Raises LockTimeout.

    Users who write two tables in the other order (a task, and then its project by the foreign key) would stand in our way at
    every try, and we in theirs: every second try goes against the order. No one else locks so, and none waits beyond a try.
    """
    attempts = session.context.lock_attempts
    for attempt in range(1, attempts + 1):
        session.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            if require_lock:
                require_own_lock(session)
            _lock(session, locks, backwards=attempt % 2 == 0)
            return
        except (_TryEnded, pg.LockNotAvailable, pg.DeadlockDetected) as error:
            session.execute("ROLLBACK")
            if attempt == attempts:
                raise lock_timeout(session, locks, error) from error
            pause()
        except BaseException:
            roll_back(session)
            raise
    raise AssertionError("unreachable: the last attempt either returned or raised")


def lock_timeout(session: Session, locks: Mapping[Table, str], error: Exception) -> LockTimeout:
    """The LockTimeout for locks that were not to be had, naming who holds them; needs a session outside a transaction."""
    holding = blockers(session, locks)
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    gone = f"{' '.join((said or str(error)).split())}; whoever held it has just let go"
    return LockTimeout(
        "The table locks were not to be had.",
        object_name=f"{session.target.name}: {', '.join(map(str, sorted(locks)))}",
        expected=f"all locks within {session.context.lock_attempts} tries of {session.context.lock_timeout} s each",
        found="; ".join(holding) or gone,
        remedy="Wait until that transaction has ended, or end it (pg_terminate_backend; ROLLBACK PREPARED), and run again."
        if holding
        else "Run again at a quieter time.",
        code="lock_timeout",
    )


def locked_transaction(
    session: Session,
    act: Callable[[], None],
    *,
    locks: Mapping[Table, LockMode],
    require_lock: bool = True,
    recorder: Recorder | None = None,
) -> None:
    """Run `act`, which changes no row, in one short transaction under `locks`; committed only if indeed none was written.

    The tables' files and the transaction's write counters tell; without the server's counters every protected table is
    read and proved instead. Raises as protected_transaction does.
    """
    if session.value("SHOW track_counts") != "on":
        protected_transaction(session, act, locks=locks, require_lock=require_lock, recorder=recorder)
        return
    _begin_locked(session, locks, require_lock=require_lock)
    try:
        tables = sorted(locks)
        seen = _look(session, tables)
        act()
        if touched := _moved(seen, _look(session, tables), tables):
            raise _touched(touched)
        _commit(session, recorder)
    except BaseException:
        roll_back(session)
        raise


def roll_back(session: Session) -> None:
    """ROLLBACK, unless the connection is gone and the server has done it."""
    if not session.connection.broken and not session.connection.closed:
        session.execute("ROLLBACK")


def _commit(session: Session, recorder: Recorder | None) -> None:
    if recorder is not None:
        recorder.before_commit(session)
    try:
        session.execute("COMMIT")
    except psycopg.OperationalError as error:
        if not session.connection.broken and not session.connection.closed:
            raise
        raise AlignError(
            "The connection was lost while the transaction was being committed.",
            object_name=session.target.name,
            expected="an answer to COMMIT",
            found=f"{' '.join((error.diag.message_primary or str(error)).split())}; whether it was committed is not known",
            remedy="Run again: it finds out by itself what is done, and does the rest.",
            code="commit_unknown",
        ) from error
    if recorder is not None:
        recorder.after_commit(session)


def protected_transaction[Result](
    session: Session,
    act: Callable[[], Result],
    *,
    locks: Mapping[Table, LockMode],
    verify: Callable[[], None] | None = None,
    require_lock: bool = True,
    carried: Mapping[Table, Carried] | None = None,
    recorder: Recorder | None = None,
    removing: Collection[OwnRows] = (),
    adding: Collection[NewRows] = (),
) -> tuple[Result, list[Proof]]:
    """Run `act` in one transaction that is committed only if every protected table is proved untouched.

    `locks` names every table involved and the strongest mode it needs; existing protected tables are added in the mode
    PROVE. `act` runs statements on `session`; `verify` may raise to undo everything. The run lock lives on PROD: for a
    transaction on DEV pass `require_lock=False` and let `act` call require_own_lock on PROD's session. `carried` says how the
    rows of a table that `act` reshapes are read afterwards; such a table is proved like a protected one. `recorder` writes down what was done, when all is proved and before COMMIT.
    `removing` are rows of ours that `act` removes, `adding` rows that it inserts: all others of a protected table are proved
    untouched.
    Returns what `act` returned and one proof per protected table. Raises LockTimeout, LockLost, PreservationBroken, or
    whatever `act`, `verify` or `recorder` raised; nothing is committed then.
    """
    wanted = dict(locks)
    # What is reshaped is proved, protected or not.
    watched = session.context.watched
    # Without the server's counters only a scan can tell that nothing was written.
    counted = bool(watched) and session.value("SHOW track_counts") == "on"
    involved = set(watched) & locks.keys() if counted else set(watched)
    proved = sorted({*session.context.protected, *(carried or ()), *involved})
    bystanders = [table for table in watched if table not in proved]
    require_tables(session, proved)
    protected = existing(session, proved)
    for table in protected:
        wanted.setdefault(table, LockMode.PROVE)
    there = existing(session, wanted)
    present = {table: mode for table, mode in wanted.items() if table in there}
    _begin_locked(session, present, require_lock=require_lock)
    try:
        # Columns are read again under the locks: somebody may have altered the table before we had them.
        known, protected = protected, existing(session, proved)
        if changed := sorted(known.keys() ^ protected.keys()):
            raise _replaced(changed)
        before = {
            table: fingerprint(session, table, columns, source=_but(session, table, removing))
            for table, columns in protected.items()
        }
        found = _with_strays(session, before, removing)
        reshaped = {table: way for table, way in (carried or {}).items() if table in protected}
        declared = {table: _declared(session, before[table], way) for table, way in reshaped.items()}
        seen = _look(session, [*protected, *bystanders])
        result = act()
        if verify is not None:
            verify()
        now = _look(session, [*protected, *bystanders])
        proofs = [
            _prove_carried(session, before[table], declared[table], reshaped[table])
            if table in reshaped
            else _prove(
                session,
                before[table],
                untouched=not seen[table].touched(now.get(table)) and seen[table].writes is not None,
                adding=adding,
            )
            for table in protected
        ]
        if touched := _moved(seen, now, bystanders):
            raise _touched(touched)
        proofs = [
            _of_strays(proof, found[table]) if table in found else proof
            for table, proof in zip(protected, proofs, strict=True)
        ]
        broken = [proof for proof in proofs if not proof.preserved]
        if broken:
            raise PreservationBroken(
                "A protected table would not have been what it was; the transaction was rolled back.",
                object_name=", ".join(proof.table for proof in broken),
                expected="; ".join(
                    f"{proof.rows_before} rows, fingerprint {proof.fingerprint_before}" for proof in broken
                ),
                found="; ".join(f"{proof.rows_after} rows, fingerprint {proof.fingerprint_after}" for proof in broken),
                remedy="Nothing was changed. Report this as a defect with the run's plan.sql.",
                code="preservation_broken",
            )
        _commit(session, recorder)
    except BaseException:
        roll_back(session)
        raise
    return result, proofs


def _with_strays(
    session: Session, before: Mapping[Table, Fingerprint], removing: Collection[OwnRows]
) -> dict[Table, Fingerprint]:
    """The tables from which rows go that an earlier run has left there, as the run at hand has found them."""
    run_id = session.context.run.id
    ours = [rows for rows in removing if rows.run_id == run_id]
    return {
        rows.table: fingerprint(session, rows.table, before[rows.table].columns, source=_but(session, rows.table, ours))
        for rows in removing
        if rows.run_id != run_id and rows.table in before
    }


def _of_strays(proof: Proof, found: Fingerprint) -> Proof:
    return replace(proof, fingerprint_found=found.digest, strays_removed=found.rows - proof.rows_before)


def _but(session: Session, table: Table, own: Collection[OwnRows | NewRows]) -> str:
    """The FROM item of a table's rows without those of ours; '' for all of them."""
    ours = [rows.condition for rows in own if rows.table == table]
    if not ours:
        return ""
    condition = sql.SQL(" OR ").join(sql.SQL("({})").format(one) for one in ours)
    others = sql.SQL("(SELECT * FROM {} WHERE ({}) IS NOT TRUE) AS others").format(table.identifier, condition)
    return others.as_string(session.connection)


def _prove(session: Session, before: Fingerprint, *, untouched: bool, adding: Collection[NewRows]) -> Proof:
    if untouched:
        return Proof(str(before.table), before.rows, before.rows, before.digest, before.digest, "counters")
    missing = set(before.columns) - set(columns_of(session, before.table))
    if missing:
        return Proof(str(before.table), before.rows, -1, before.digest, f"columns missing: {sorted(missing)}", "scan")
    after = left = fingerprint(session, before.table, before.columns)
    if new := _but(session, before.table, adding):
        after = fingerprint(session, before.table, before.columns, source=new)
    proof = Proof(str(before.table), before.rows, after.rows, before.digest, after.digest, "scan")
    return replace(proof, fingerprint_left=left.digest, rows_added=left.rows - after.rows) if new else proof


def _declared(session: Session, before: Fingerprint, way: Carried) -> Fingerprint:
    """The fingerprint that the reshaped table must have: of the rows as they are now, with the declared changes alone."""
    if not way.before and not way.computed and not way.columns:
        return before
    columns = way.columns or [name for name in before.columns if name not in way.computed]
    return fingerprint(session, before.table, columns, way.before, way.source)


def _prove_carried(session: Session, before: Fingerprint, declared: Fingerprint, way: Carried) -> Proof:
    if way.kept is not None:
        kept = fingerprint(session, way.kept, before.columns, way.kept_as)
        if (kept.rows, kept.digest) != (before.rows, before.digest):
            return Proof(
                str(before.table), before.rows, kept.rows, before.digest, kept.digest, "carried", way, before.digest
            )
    after = fingerprint(session, way.table, declared.columns, way.after)
    return Proof(
        str(before.table), declared.rows, after.rows, declared.digest, after.digest, "carried", way, before.digest
    )


def strongest(*modes: LockMode) -> LockMode:
    """The strongest of several modes: locks are taken once and never upgraded."""
    return max(modes, key=_STRENGTH.index)
