"""Wait for others' transactions as long as need be, without ever making one of them a deadlock's victim.

CREATE INDEX CONCURRENTLY waits for every older transaction while it holds a lock that others' DDL waits for. Should one of those
transactions wait for it in turn, the server would end whoever came last: the user. So a second session looks, more often
than the server does, and cancels our statement instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from ..errors import AlignError
from .session import Session, open_session

# Well below the server's deadlock_timeout of 1 s.
_LOOK_SECONDS = 0.25
_MUTUAL = """
WITH RECURSIVE waits (blocker) AS (
  SELECT unnest(pg_blocking_pids(%(pid)s)) UNION SELECT unnest(pg_blocking_pids(w.blocker)) FROM waits w WHERE w.blocker > 0
) SELECT EXISTS (SELECT FROM waits WHERE blocker = %(pid)s)
"""


class Watch:
    """Looks from a thread of its own. `gave_way`: the statement was canceled because somebody it waited for waited for it."""

    def __init__(self, session: Session) -> None:
        self.gave_way = False
        self._session = session
        self._pid = session.connection.info.backend_pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it; afterwards nothing is canceled any more."""
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        mine = self._session
        try:
            with open_session(mine.context, mine.target, phase=mine.phase, read_only=True) as session:
                while not self._done.wait(_LOOK_SECONDS):
                    if session.value(_MUTUAL, {"pid": self._pid}):
                        self.gave_way = True
                        mine.connection.cancel_safe()
                        return
        except (psycopg.Error, AlignError):
            return  # unwatched, the statement is still bounded by its time limits


@contextmanager
def patiently(session: Session, seconds: float) -> Iterator[Watch]:
    """Let the statements of the block wait `seconds` for locks, giving way as soon as somebody they wait for waits for them."""

    def limit(seconds: float) -> None:
        session.rows("SELECT pg_catalog.set_config('lock_timeout', %s, false)", (f"{seconds * 1000:.0f}ms",))

    limit(seconds)
    watch = Watch(session)
    try:
        yield watch
    finally:
        watch.stop()
        if not session.connection.closed and not session.connection.broken:
            limit(session.context.lock_timeout)
