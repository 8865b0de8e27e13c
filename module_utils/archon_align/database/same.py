"""Whether two sessions lead to one database."""

from __future__ import annotations

import secrets

from .session import Session


def same_database(first: Session, second: Session) -> bool:
    """Whether two sessions are on the same database, whatever their DSNs say: an advisory lock of one stops the other."""
    keys = (secrets.randbits(31), secrets.randbits(31))
    with first.transaction(), second.transaction():
        statement = "SELECT pg_try_advisory_xact_lock(%s, %s)"
        return bool(first.value(statement, keys)) and not second.value(statement, keys)
