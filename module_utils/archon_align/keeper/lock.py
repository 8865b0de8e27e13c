"""Taking the run lock, and what a run finds when it has it."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC

import psycopg
from psycopg.conninfo import make_conninfo

from ..context import CHECK_SUFFIX, Context
from ..database.run_lock import LOCK_KEYS, Holder, holder
from ..database.session import Session, open_session, parse_dsn
from ..database.target import Target
from ..errors import AlignError
from ..findings import Finding
from .patience import REMAINS_SECONDS
from .sessions import KEEPER_PHASE, RunSession, end_sessions, tell_to_end

_STATEMENT_TIMEOUT = 5.0
# The server's own patience with what it has sent: a lock whose machine lost its power shall not outlive it.
_SERVER_TIMEOUT = "20s"


def open_keeper_session(context: Context) -> Session:
    """The keeper's own session on PROD. No statement on it can hang for long. Raises ConnectionFailed."""
    parse_dsn(context.prod)
    # Keepalives do not count while unanswered data is under way; this does.
    dsn = make_conninfo(context.prod.dsn, tcp_user_timeout="8000")
    session = open_session(
        context, Target(context.prod.name, dsn), phase=KEEPER_PHASE, statement_timeout=_STATEMENT_TIMEOUT
    )
    with contextlib.suppress(psycopg.errors.DataError, psycopg.errors.UndefinedObject):
        session.rows("SELECT pg_catalog.set_config('tcp_user_timeout', %s, false)", (_SERVER_TIMEOUT,))
    return session


def take_lock(session: Session, seconds: float) -> Holder | None:
    """Take the run lock within `seconds`; returns None, or the one who has it instead."""
    deadline = time.monotonic() + seconds
    while not session.value("SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", LOCK_KEYS):
        found = holder(session)
        if found is not None and found.run_id == session.context.run.id:
            # Our own former connection, which the server has not given up yet.
            tell_to_end(session, RunSession(found.pid, KEEPER_PHASE, found.run_id, "", True))
        if found is not None and time.monotonic() > deadline:
            return found
        time.sleep(0.1)
    return None


def another_run(session: Session, found: Holder) -> AlignError:
    """The refusal of a second run: which run is active, and since when."""
    # Without pg_read_all_stats the start of another role's session is not visible.
    since = f" since {found.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if found.since else ""
    who = f"run {found.run_id}" if found.run_id else f"a session named {found.application_name!r}"
    return AlignError(
        "Another run is active on PROD.",
        object_name=f"run lock of database {session.value('SELECT pg_catalog.current_database()')}",
        expected="no other run",
        found=f"{who} holds the lock{since}, server process {found.pid}",
        remedy="Wait until it has ended, or stop it. If its machine is gone for good, run "
        f"SELECT pg_terminate_backend({found.pid}) on PROD and start again.",
        code="run_active",
    )


def end_remains(session: Session) -> list[Finding]:
    """Having the lock, end what dead runs left open on this database. Raises AlignError when it does not end."""
    own = session.context.run.id

    def is_left(candidate: RunSession) -> bool:
        return (
            candidate.here
            and candidate.run_id != own
            and not candidate.run_id.endswith(CHECK_SUFFIX)
            # A keeper without the lock holds nothing; it may be one that is being refused just now.
            and candidate.phase != KEEPER_PHASE
        )

    found, left = end_sessions(session, is_left, seconds=REMAINS_SECONDS)
    if left:
        raise AlignError(
            "Sessions of a dead run do not end.",
            object_name=", ".join(sorted({f"run {one.run_id}" for one in left})),
            expected=f"their end within {REMAINS_SECONDS:.0f} s of pg_terminate_backend",
            found=f"still there: server processes {', '.join(str(one.pid) for one in left)}",
            remedy="End them as a role that may (the role that opened them, or a superuser), and start again.",
            code="remains_not_ended",
        )
    findings = []
    for run_id in sorted({one.run_id for one in found}):
        phases = [one.phase for one in found if one.run_id == run_id]
        findings.append(
            Finding(
                "remains_of_dead_run",
                "warning",
                f"run {run_id}",
                f"Run {run_id} is dead but had left {len(phases)} session(s) open on PROD"
                f" ({', '.join(sorted(set(phases)))}); they were ended, what they had not committed is undone.",
                "Nothing to do: this run continues from what the databases hold.",
            )
        )
    return findings


def active_run(session: Session) -> list[Finding]:
    """For a check, which takes no lock: the applying run that is active at the same time, if any."""
    found = holder(session)
    if found is None:
        return []
    return [
        Finding(
            "run_active",
            "warning",
            f"run {found.run_id or found.application_name}",
            f"Run {found.run_id or found.application_name} is changing PROD while this check reads it.",
            "Check again when that run has ended; until then the prediction may be outdated.",
        )
    ]
