"""DEV's own lock: runs against several PRODs share one DEV, and what is written there is written by one at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from ..errors import LockTimeout
from .run_lock import LOCK_KEYS, holder
from .session import Session
from .tries import pause

# A run holds it while it plans and writes a few statements; but all PRODs of a wave may queue for it at the same moment, so it
# is waited for so many times as long as locks on tables.
_PATIENCE = 3


@contextmanager
def dev_lock(dev: Session) -> Iterator[None]:
    """Hold DEV's advisory lock, outside any transaction, so that what is planned in the block is still so when it is done.

    Whoever had it before may have done what there was to do: plan in the block. Raises LockTimeout when it is not to be had
    in time. When the session ends, so does its hold.
    """
    seconds = _PATIENCE * dev.context.lock_attempts * dev.context.lock_timeout
    deadline = time.monotonic() + seconds
    while not dev.value("SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", LOCK_KEYS):
        if time.monotonic() > deadline:
            raise _taken(dev, seconds)
        pause()
    try:
        yield
    finally:
        # Where the connection is gone, the server has let go.
        with suppress(psycopg.OperationalError):
            dev.rows("SELECT pg_catalog.pg_advisory_unlock(%s, %s)", LOCK_KEYS)


def _taken(dev: Session, seconds: float) -> LockTimeout:
    found = holder(dev)
    who = (
        f"run {found.run_id}"
        if found and found.run_id
        else f"a session named {found.application_name!r}"
        if found
        else "nobody any more"
    )
    return LockTimeout(
        "Another run holds DEV.",
        object_name=dev.target.name,
        expected=f"DEV's advisory lock within {seconds:.0f} s",
        found=f"held by {who}" + (f", server process {found.pid}" if found else ""),
        remedy="Wait until the other run has ended, and run again. If its machine is gone for good, end that server process "
        "(pg_terminate_backend). Nothing was changed on DEV.",
        code="lock_timeout",
    )
