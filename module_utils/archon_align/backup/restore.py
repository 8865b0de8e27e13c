"""Restore: a verified backup into an empty database, proved there as it was when it was taken."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import psycopg

from ..context import Context
from ..database.failures import server_error
from ..database.run_lock import LOCK_KEYS, holder
from ..database.session import Session, open_session
from ..errors import AlignError
from ..findings import Finding
from ..outcome import PhaseOutcome
from ..plan import Statement
from ..preflight.pooler import require_own_backend
from ..preservation.fingerprint import Fingerprint, existing, fingerprint
from . import loading, target
from .choice import find
from .clearing import clear
from .critical import NAME as CRITICAL_NAME
from .dump import MOST_JOBS
from .expected import Restorable, expected
from .inventory import Inventory, differences, inventory
from .leftovers import remove_leftovers
from .outside import LeftOut
from .seal import Opened, opened
from .survey import Database, database_of
from .target import Preparation, listed
from .tools import Ended, Tool, first_error


@dataclass(frozen=True, slots=True)
class Options:
    """`backup` is a run's id, or a path of its folder or its backup's; `live` are DSNs that must not be the target, by name.

    `what` is everything or the protected tables alone. `timeout` bounds pg_restore, and each statement of the proof, in
    seconds.
    """

    backup: str
    artifacts_root: Path
    identity: Path | None = None
    what: Literal["all", "critical"] = "all"
    live: Mapping[str, str] = field(default_factory=dict, repr=False)
    allow_live: bool = False
    pg_dump: str = ""
    timeout: float = 3600.0


@dataclass(frozen=True, slots=True)
class _Work:
    """What is restored from where, and what must be there afterwards."""

    backup: Opened
    wanted: Restorable
    fingerprints: tuple[Fingerprint, ...]
    options: Options

    @property
    def rows(self) -> int:
        return sum(item.rows for item in self.fingerprints)

    @property
    def title(self) -> str:
        return f"the backup of run {self.backup.manifest['run_id']}"


def run(context: Context, options: Options) -> PhaseOutcome:
    """Restore into the context's PROD target, which is empty, and prove it; in check mode say what would be done.

    A target that already holds exactly the backup is left alone. Raises AlignError; then the target is as it was, or the
    error names what stayed.
    """
    started = time.monotonic()
    folder = find(options.artifacts_root, options.backup)
    if not context.check:
        remove_leftovers(options.artifacts_root)
    with opened(folder, options.identity) as backup:
        try:
            outcome = _restore(context, _work(backup, options))
        except psycopg.Error as error:
            raise server_error(context.prod, error, doing="the backup was restored", timeout=loading.LIMIT) from error
    return replace(outcome, seconds=time.monotonic() - started)


def _work(backup: Opened, options: Options) -> _Work:
    wanted = expected(backup.folder, backup.manifest)
    if options.what == "all":
        return _Work(backup, wanted, wanted.fingerprints, options)
    critical = backup.manifest["critical"]
    if not critical.get("verified"):
        raise AlignError(
            "The protected tables of this backup were not proved to restore alone.",
            object_name=str(backup.folder / CRITICAL_NAME),
            expected="a critical dump that was proved",
            found=str(critical.get("unverified_because", "not proved")),
            remedy="Restore the whole backup (restore_what=all).",
            code="backup_unusable",
        )
    tables = {(item["schema"], item["name"]) for item in critical["tables"]}
    prints = tuple(item for item in wanted.fingerprints if (item.table.schema, item.table.name) in tables)
    return _Work(backup, wanted, prints, options)


def _restore(context: Context, work: _Work) -> PhaseOutcome:
    options = work.options
    psql = loading.client(options.pg_dump, "psql")
    pg_restore = loading.client(options.pg_dump, "pg_restore")
    require_own_backend(context, context.prod)
    with open_session(context, context.prod, statement_timeout=options.timeout) as session:
        here = database_of(session)
        if not options.allow_live:
            target.refuse_live(context, session, here, options.live, work.backup.manifest)
        target.require_fit(here, work.wanted)
        with _alone(session):
            found = inventory(session, tuple(work.wanted.schemas))
            if found:
                return _already(context, session, here, work, found)
            if options.what == "critical":
                return _load_critical(context, session, here, work, loading.able(session, psql))
            preparation = target.prepare(session, here, work.wanted)
            if context.check:
                return _predicted(context, here, work, preparation)
            tools = loading.able(session, pg_restore), loading.able(session, psql)
            return _load(context, session, here, work, preparation, *tools)


@contextlib.contextmanager
def _alone(session: Session) -> Iterator[None]:
    """Hold the target's run lock, so that nobody aligns or restores there meanwhile; a look at it takes none."""
    if not session.read_only and not session.value("SELECT pg_try_advisory_lock(%s, %s)", LOCK_KEYS):
        other = holder(session)
        raise AlignError(
            "Somebody else is at work in the target of the restore.",
            object_name=f"run lock on {session.target.name}",
            expected="held by nobody",
            found=f"held by {other.application_name or 'an unnamed session'}" if other else "held by somebody",
            remedy="Wait for that run to end.",
            code="run_active",
        )
    yield


def _already(context: Context, session: Session, here: Database, work: _Work, found: Inventory) -> PhaseOutcome:
    """A target that is not empty is right only when it already holds exactly the backup."""
    wrong = _wrong(session, work, found)
    if work.options.what == "all":
        wrong += [
            f"{kind} {name}: not in the backup"
            for kind, name in sorted(found)
            if (kind, name) not in work.wanted.objects
        ]
    if wrong:
        kinds = [
            f"{kind} {name}"
            for kind, name in sorted(found)
            if kind in ("table", "view", "function", "type", "sequence")
        ]
        raise AlignError(
            "The target of the restore is not empty.",
            object_name=f"{session.target.name} {here.where}",
            expected=f"nothing in {', '.join(work.wanted.schemas)}, or exactly what {work.title} holds",
            found=f"{len(found)} objects ({listed(kinds or [name for _, name in sorted(found)])}); other than in the backup: "
            f"{listed(wrong)}",
            remedy="Make an empty database and pass its DSN as restore_dsn; nothing here was changed.",
            code="target_not_empty",
        )
    return PhaseOutcome(
        phase=context.phase,
        status="aligned",
        findings=[
            Finding(
                "already_restored",
                "info",
                here.where,
                f"The target already holds exactly what {work.title} holds: {work.rows} rows in {len(work.fingerprints)} tables.",
                "Nothing to do.",
            )
        ],
        details={"restore": _details(work, here, {"restore": 0.0})},
    )


def _predicted(context: Context, here: Database, work: _Work, preparation: Preparation | None) -> PhaseOutcome:
    planned = Finding(
        "restore_planned",
        "info",
        here.where,
        f"A run would restore {work.title}: {work.rows} rows in {len(work.fingerprints)} tables. Its checksums are right and "
        "the target is empty.",
        "Nothing to do.",
    )
    return PhaseOutcome(
        phase=context.phase,
        status="drift",
        changed=True,
        statements=preparation.statements if preparation else (),
        findings=[planned, *(preparation.findings if preparation else ())],
        diff=[_diff(work, here)],
        details={"restore": _details(work, here, {})},
    )


def _load(
    context: Context,
    session: Session,
    here: Database,
    work: _Work,
    preparation: Preparation,
    pg_restore: Tool,
    psql: Tool,
) -> PhaseOutcome:
    dump = work.backup.manifest["dump"]
    archive = work.backup.folder / dump["path"]
    kept, refused = loading.restorable(
        loading.listing(pg_restore, archive, work.options.timeout),
        preparation.left_out,
        work.wanted.schemas,
        preparation.present,
        preparation.acts_for,
    )
    jobs = min(MOST_JOBS, os.cpu_count() or 1) if dump["format"] == "directory" else 1
    _make(session, preparation, here)
    started = time.monotonic()
    try:
        ended = loading.load(session, pg_restore, psql, archive, kept, jobs=jobs, timeout=work.options.timeout)
        _require_loaded(ended, here)
    except BaseException as error:
        _undo(session, work, preparation.undo, error, in_one_transaction=jobs == 1)
        raise
    loaded = time.monotonic()
    _prove(session, work, here, preparation.left_out)
    left = [
        Finding(
            "left_as_it_is",
            "info",
            entry,
            "The target's own stays as it is: this role may not change it for its owner.",
            "Nothing to do, unless you miss it: then make it as its owner.",
        )
        for entry in refused
    ]
    seconds = {"restore": loaded - started, "proof": time.monotonic() - loaded}
    return _done(context, work, here, preparation, left, seconds)


def _load_critical(context: Context, session: Session, here: Database, work: _Work, psql: Tool) -> PhaseOutcome:
    if context.check:
        return _predicted(context, here, work, None)
    script = work.backup.folder / work.backup.manifest["critical"]["path"]
    started = time.monotonic()
    _require_loaded(loading.load_script(session, psql, script, timeout=work.options.timeout), here)
    loaded = time.monotonic()
    _prove(session, work, here, ())
    return _done(context, work, here, None, [], {"restore": loaded - started, "proof": time.monotonic() - loaded})


def _make(session: Session, preparation: Preparation, here: Database) -> None:
    """Make what must be there before, all of it or nothing."""
    session.execute("SET check_function_bodies = off")
    statement = None
    try:
        with session.transaction():
            for statement in preparation.statements:
                session.apply(statement)
    except psycopg.Error as error:
        raise AlignError(
            "Something the backup needs could not be made in the target, so nothing was restored.",
            object_name=f"{session.target.name} {here.where}: {statement.object if statement else ''}",
            expected=statement.summary if statement else "",
            found=" ".join((error.diag.message_primary or str(error)).split()),
            remedy="Make it there as a role that may, or restore as a superuser.",
            code="target_lacks",
        ) from error


def _require_loaded(ended: Ended, here: Database) -> None:
    if ended.status:
        raise AlignError(
            "The restore failed.",
            object_name=here.where,
            expected="a restore without any error",
            found=first_error(ended.said),
            remedy="Correct the cause named above and run again.",
            code="restore_failed",
        )


def _prove(session: Session, work: _Work, here: Database, left_out: tuple[LeftOut, ...]) -> None:
    with session.transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"):
        wrong = _wrong(session, work, inventory(session, tuple(work.wanted.schemas)), left_out)
    if wrong:
        raise AlignError(
            # Somebody may have written there already, so nothing is dropped.
            "What was restored is not what the backup holds; it stays in the target.",
            object_name=here.where,
            expected="every row, object, column, comment and grant as in the database that was dumped",
            found=listed(wrong),
            remedy="Look for who else writes there (an application, an event trigger); then restore into a new database.",
            code="restore_not_proved",
        )


def _wrong(session: Session, work: _Work, found: Inventory, left_out: tuple[LeftOut, ...] = ()) -> list[str]:
    """How the target differs from the backup, in words; rows are only counted where the objects are equal."""
    if work.options.what == "all":
        skipped = {(prefix + item.kind, item.name) for prefix in ("", "comment on ") for item in left_out}
        wanted = {item: detail for item, detail in work.wanted.objects.items() if item not in skipped}
        if wrong := differences(wanted, found):
            return wrong
    there = existing(session, [item.table for item in work.fingerprints])
    wrong = []
    for before in work.fingerprints:
        if not set(before.columns) <= set(there.get(before.table, ())):
            wrong.append(f"table {before.table}: missing, or without one of its columns")
            continue
        after = fingerprint(session, before.table, before.columns)
        if (after.rows, after.digest) != (before.rows, before.digest):
            wrong.append(
                f"table {before.table}: {after.rows} rows with fingerprint {after.digest} instead of {before.rows} with {before.digest}"
            )
    return wrong


def _undo(
    session: Session, work: _Work, undo: Sequence[Statement], error: BaseException, *, in_one_transaction: bool
) -> None:
    """Empty the target of what the failed restore may have committed, and say in the error whether that succeeded."""
    restored = set() if in_one_transaction else set(work.wanted.objects)
    if isinstance(error, AlignError) and "already exists" in error.found:
        restored = set()  # somebody else made something meanwhile: what is whose cannot be told
    try:
        stayed = clear(session, tuple(work.wanted.schemas), restored, undo)
        stayed += (
            [] if restored else [f"{kind} {name}" for kind, name in inventory(session, tuple(work.wanted.schemas))]
        )
    except psycopg.Error as trouble:
        stayed = [f"unknown, as the server says: {' '.join(str(trouble).split())}"]
    if isinstance(error, AlignError):
        error.what += f" In the target stayed: {listed(stayed)}." if stayed else " The target is empty again."


def _done(
    context: Context,
    work: _Work,
    here: Database,
    preparation: Preparation | None,
    findings: list[Finding],
    seconds: Mapping[str, float],
) -> PhaseOutcome:
    restored = Finding(
        "restored",
        "info",
        here.where,
        f"Restored {work.title}: {work.rows} rows in {len(work.fingerprints)} tables in {seconds['restore']:.1f} s, proved "
        "equal to the database that was dumped.",
        "Run ANALYZE there before it is used, or let autovacuum do it.",
    )
    return PhaseOutcome(
        phase=context.phase,
        status="changed",
        changed=True,
        statements=preparation.statements if preparation else (),
        findings=[restored, *(preparation.findings if preparation else ()), *findings],
        diff=[_diff(work, here)],
        details={"restore": _details(work, here, seconds)},
    )


def _diff(work: _Work, here: Database) -> dict[str, str]:
    lines = "".join(f"{item.table}: {item.rows} rows\n" for item in work.fingerprints)
    return {"before_header": here.where, "after_header": here.where, "before": "", "after": lines}


def _details(work: _Work, here: Database, seconds: Mapping[str, float]) -> dict[str, Any]:
    manifest = work.backup.manifest
    return {
        "backup": manifest["run_id"],
        "snapshot_at": manifest["snapshot_at"],
        "what": work.options.what,
        "target": here.where,
        "tables": len(work.fingerprints),
        "rows": work.rows,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
