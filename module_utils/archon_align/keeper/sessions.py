"""The sessions of runs as PROD sees them: found by application name, ended only by their exact pattern."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from psycopg import errors as pg

from ..context import RUN_ID
from ..database.session import Session

KEEPER_PHASE = "keeper"
_NAME = re.compile(rf"align (?P<phase>[^ ]+) (?P<run>(?:{RUN_ID.pattern}))(?: (?P<progress>.*))?", re.DOTALL)
_LIST = """
SELECT pid, application_name, datname = current_database() AS here FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname IS NOT NULL AND application_name LIKE 'align %'
ORDER BY pid
"""
# The name is looked at again in the statement that ends the session: the pid may have gone to somebody else meanwhile.
_END = """
SELECT pg_terminate_backend(pid) AS told FROM pg_stat_activity
WHERE pid = %s AND pid <> pg_backend_pid() AND application_name ~ %s
"""
_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class RunSession:
    """One session of a run. `here` says that it is connected to the very database that was asked."""

    pid: int
    phase: str
    run_id: str
    progress: str
    here: bool


def run_sessions(session: Session) -> list[RunSession]:
    """Every session of any run on this server, but for the asking one."""
    found = []
    for row in session.rows(_LIST):
        name = _NAME.fullmatch(row["application_name"])
        if name:
            found.append(RunSession(row["pid"], name["phase"], name["run"], name["progress"] or "", row["here"]))
    return found


def tell_to_end(session: Session, victim: RunSession) -> bool:
    """End one session; False when it belongs to a role that this one may not end."""
    try:
        session.rows(_END, (victim.pid, f"^align [^ ]+ {victim.run_id}( |$)"))
    except pg.InsufficientPrivilege:
        return False
    return True


def end_sessions(
    session: Session, wanted: Callable[[RunSession], bool], *, seconds: float
) -> tuple[list[RunSession], list[RunSession]]:
    """End every wanted session and wait until they are gone, `seconds` at most.

    Returns those that were found and those that are still there. A session that a half-dead client opens meanwhile is
    ended too: the wait is over only when two looks in a row find nothing.
    """
    deadline = time.monotonic() + seconds
    found: dict[int, RunSession] = {}
    clear_looks = 0
    while True:
        present = [candidate for candidate in run_sessions(session) if wanted(candidate)]
        clear_looks = 0 if present else clear_looks + 1
        if not found and not present:
            return [], []
        if clear_looks == 2 or (present and time.monotonic() > deadline):
            return list(found.values()), present
        for victim in present:
            found[victim.pid] = victim
            tell_to_end(session, victim)
        time.sleep(_PAUSE)
