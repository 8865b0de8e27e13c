"""The keeper's life: take the lock, report, watch, tidy up. Losing the lock or its database ends it; nothing waits without end."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import asdict
from typing import Literal

import psycopg

from ..context import Context
from ..database.run_lock import LOCK_KEYS
from ..database.session import Session
from ..embedding.progress import parse
from ..errors import AlignError
from ..findings import Finding
from ..preflight.pooler import require_own_backend
from ..rollback.ledger import identity_of
from .assignment import Assignment
from .events import EventLog
from .lock import active_run, another_run, end_remains, open_keeper_session, take_lock
from .patience import PATIENCE
from .playbook import Playbook
from .rebuild import Rebuild
from .sessions import KEEPER_PHASE, RunSession, end_sessions, run_sessions

POLL_SECONDS = 0.5
END_SECONDS = 10.0
RECONNECT_SECONDS = 30.0
Reason = Literal["playbook_ended", "stopped", "artifacts_gone", "lock_lost", "database_lost"]


class Keeper:
    """One run's keeper. `begin()` once, then `watch()` until the run is over."""

    def __init__(self, assignment: Assignment) -> None:
        self._context: Context = assignment.context()
        self._playbook = Playbook(assignment.playbook)
        self._events = EventLog(self._context.run.artifacts)
        self._stopped = threading.Event()
        self._shown: dict[int, str] = {}
        self._rebuilds: dict[str, Rebuild] = {}
        self._session: Session | None = None

    def stop(self, *_: object) -> None:
        """End cleanly at the next opportunity (signal handler)."""
        self._stopped.set()

    def begin(self) -> list[Finding]:
        """Connect, take the lock (not in check mode) and end what dead runs left. Raises AlignError."""
        signal.signal(signal.SIGTERM, self.stop)
        require_own_backend(self._context, self._context.prod)
        session = open_keeper_session(self._context)
        try:
            findings = active_run(session) if self._context.check else self._take(session)
            prod = identity_of(session)
        except BaseException:
            session.close()
            raise
        self._session = session
        self._events.write(
            "run_started",
            run_id=self._context.run.id,
            check=self._context.check,
            prod=asdict(prod),  # by which a later run knows that this one was on its PROD
        )
        if not self._context.check:
            self._events.write("lock_taken")
        for finding in findings:
            self._events.write("finding", **finding.as_dict())
        return findings

    def _take(self, session: Session) -> list[Finding]:
        other = take_lock(session, PATIENCE)
        if other is not None:
            raise another_run(session, other)
        return end_remains(session)

    def watch(self) -> None:
        """Until the run is over: publish progress, hold the lock; then end what is left and release it."""
        reason: Reason | None = None
        while reason is None:
            reason = self._over()
            if reason is None:
                try:
                    self._publish()
                    self._playbook.wait(POLL_SECONDS, self._stopped)
                except psycopg.Error:
                    reason = self._reconnect()
        self._end(reason)

    def _over(self) -> Reason | None:
        if not self._playbook.alive():
            return "playbook_ended"
        if self._stopped.is_set():
            return "stopped"
        return None if self._events.exists() else "artifacts_gone"

    def _publish(self) -> None:
        """Write a progress event for each session of the run whose words have changed, and for each rebuild that is counting."""
        assert self._session is not None
        phases: dict[str, list[RunSession]] = {}
        for found in run_sessions(self._session):
            if found.run_id != self._context.run.id or found.phase == KEEPER_PHASE:
                continue
            phases.setdefault(found.phase, []).append(found)
            if found.progress and parse(found.progress) is None and self._shown.get(found.pid) != found.progress:
                self._shown[found.pid] = found.progress
                self._events.write("progress", phase=found.phase, text=found.progress)
        for phase, sessions in phases.items():
            standing = self._rebuilds.setdefault(phase, Rebuild()).look(sessions)
            if standing is not None:
                self._events.write("progress", phase=phase, **standing.as_fields())

    def _reconnect(self) -> Reason | None:
        """Connect and take the lock again; None when that worked. The run's modules refuse to write meanwhile."""
        self._events.write("connection_lost" if self._context.check else "lock_lost", reason="connection")
        deadline = time.monotonic() + RECONNECT_SECONDS
        while time.monotonic() < deadline:
            if self._session is not None:
                self._session.close()
            try:
                self._session = open_keeper_session(self._context)
                if self._context.check:
                    return None
                other = take_lock(self._session, PATIENCE)
            except (AlignError, psycopg.Error):
                # Not back yet. A playbook that has ended meanwhile needs no lock, but its sessions may still be there.
                self._stopped.wait(POLL_SECONDS)
                if self._stopped.is_set():
                    return "database_lost"
                continue
            if other is None:
                self._events.write("lock_taken")
                return None
            self._events.write("lock_lost", reason="another run", holder=other.run_id or other.application_name)
            return "lock_lost"
        return "database_lost"

    def _end(self, reason: Reason) -> None:
        """End the run's leftover processes and sessions, release the lock, and say so."""
        processes = self._playbook.end_leftovers() if reason == "playbook_ended" else 0
        session = self._session
        if session is not None and not session.connection.closed:
            try:
                own = self._context.run.id
                found, left = end_sessions(
                    session,
                    lambda candidate: candidate.run_id == own and candidate.phase != KEEPER_PHASE,
                    seconds=END_SECONDS,
                )
                if found or processes:
                    self._events.write(
                        "sessions_ended", phases=sorted({one.phase for one in found}), count=len(found) - len(left),
                        still_there=len(left), processes=processes,
                    )  # fmt: skip
                if not self._context.check:
                    session.rows("SELECT pg_catalog.pg_advisory_unlock(%s, %s)", LOCK_KEYS)
            except psycopg.Error as error:
                # The server undoes what a vanished session had not committed, and drops its locks.
                self._events.write("connection_lost", reason=type(error).__name__)
            session.close()
        self._events.write("run_ended", reason=reason)
