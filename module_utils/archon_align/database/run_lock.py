"""The run lock: one session-level advisory lock per PROD database, held by the run's keeper."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..context import RUN_ID
from ..errors import LockLost
from .session import Session

# "ARCH" and "ALIG" in ASCII: any two constants that nobody else uses will do.
LOCK_KEYS = (0x41524348, 0x414C4947)

_HOLDER = """
SELECT a.pid, a.application_name, a.backend_start
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.classid = %s::bigint::oid AND l.objid = %s::bigint::oid
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the run lock: the backend's pid, its application name, the run id in it (or ''), and since when.

    `since` is None when this session may not see another role's details (it lacks pg_read_all_stats).
    """

    pid: int
    application_name: str
    run_id: str
    since: datetime | None


def holder(session: Session) -> Holder | None:
    """The run lock's holder, or None when nobody holds it."""
    row = session.row(_HOLDER, LOCK_KEYS)
    if row is None:
        return None
    found = RUN_ID.search(row["application_name"] or "")
    return Holder(row["pid"], row["application_name"] or "", found.group() if found else "", row["backend_start"])


def require_own_lock(session: Session) -> None:
    """Raise LockLost unless the run lock is held by this session's run."""
    found = holder(session)
    if found is None or found.run_id != session.context.run.id:
        present = "held by nobody"
        if found is not None:
            since = f" since {found.since:%Y-%m-%d %H:%M:%S %Z}" if found.since else ""
            present = f"held by {found.application_name or 'an unnamed session'}{since}"
        raise LockLost(
            "The run lock is not held by this run, so nothing may be written.",
            object_name=f"run lock on {session.target.name}",
            expected=f"held by run {session.context.run.id}",
            found=present,
            remedy="Start a new run; if another run is active, wait for it to end.",
            code="lock_lost",
        )
