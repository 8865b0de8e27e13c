"""Recognising a transaction-mode pooler, behind which session locks and settings land on other clients' sessions."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator

import psycopg

from ..context import Context
from ..database.failures import connection_failed
from ..database.session import Session, open_session, parse_dsn
from ..database.target import Target
from ..errors import AlignError

_LOOKS = 3


def require_own_backend(context: Context, target: Target) -> None:
    """Raise AlignError when `target` is reached through a pooler that shares server sessions between clients.

    Nothing is SET: behind such a pooler it would stay behind in sessions of other clients. Raises ConnectionFailed.
    """
    try:
        reason = shared_backend(lambda: open_session(context, target, pinned=False), context.connect_timeout)
    except psycopg.Error as error:
        raise connection_failed(target, parse_dsn(target), error) from error
    if reason is not None:
        raise AlignError(
            f"{target.name} is reached through a transaction-mode pooler.",
            object_name=f"{target.name} connection",
            expected="one server session for as long as the connection lasts",
            found=reason,
            remedy="Use the direct connection or a session-mode pooler (Supabase: port 5432 instead of 6543).",
            code="transaction_pooler",
        )


def shared_backend(connect: Callable[[], Session], seconds: float) -> str | None:
    """How two sessions from `connect` betray a pooler, or None when each has a server session of its own.

    The first reads its backend's pid, the second occupies a backend with a transaction, the first reads again. A pooler
    may queue one of them; that lasts `seconds` at most.
    """
    with connect() as first, connect() as second, _cut_off(seconds, first, second) as late:
        try:
            before = _backend(first)
            with second.transaction("BEGIN READ ONLY"):
                other = _backend(second)
                if other == before:
                    return f"two connections share backend {other}"
                after = [_backend(first) for _ in range(_LOOKS)]
        except psycopg.Error as error:
            if late.is_set():
                return f"no backend for a second connection within {seconds:.0f} s"
            if "pooling mode" in str(error):
                return " ".join(str(error).split())
            raise
    changed = next((pid for pid in after if pid != before), None)
    return None if changed is None else f"the backend changed from {before} to {changed} between two statements"


def _backend(session: Session) -> int:
    return int(session.value("SELECT pg_catalog.pg_backend_pid()"))


@contextlib.contextmanager
def _cut_off(seconds: float, *sessions: Session) -> Iterator[threading.Event]:
    """Shut the sessions' sockets after `seconds`; the event tells that it happened. libpq itself waits without end."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        for session in sessions:
            with (
                contextlib.suppress(OSError, psycopg.Error),
                socket.socket(fileno=os.dup(session.connection.fileno())) as wire,
            ):
                wire.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
