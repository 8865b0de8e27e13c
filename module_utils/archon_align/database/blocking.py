"""Who stands in the way of a lock: the sessions and prepared transactions that hold a table in a mode that conflicts."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg

from .session import Session
from .target import Table

# The modes that each mode must wait for, as pg_locks calls them.
_CONFLICTS = {
    "SHARE UPDATE EXCLUSIVE": {"ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"},
    "SHARE": {"RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"},
    "SHARE ROW EXCLUSIVE": {"RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"},
}  # fmt: skip
_HOLDERS = """
SELECT n.nspname::text AS schema, c.relname::text AS name, l.mode, l.pid, coalesce(a.application_name, '') AS application, a.usename::text AS role,
       coalesce(a.state, a.backend_type) AS state, coalesce(a.xact_start, x.prepared) AS since, x.gid
FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unnest(%s::text[], %s::text[]) w (schema, name) ON w.schema = n.nspname AND w.name = c.relname
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_locks own ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid' AND own.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts x ON x.transaction = own.transactionid
WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY since, l.pid, l.mode
"""


def blockers(session: Session, locks: Mapping[Table, str]) -> list[str]:
    """Each session that holds one of the tables against the mode it is wanted in, in words; empty when none does (any more).

    Needs a session in which no transaction has failed. Never raises for what the server says: this only explains a failure.
    """
    tables = sorted(locks)
    try:
        rows = session.rows(_HOLDERS, ([table.schema for table in tables], [table.name for table in tables]))
    except psycopg.Error:
        return []
    found: dict[str, None] = {}
    for row in rows:
        table = Table(row["schema"], row["name"])
        if row["mode"] not in _CONFLICTS.get(locks[table], {row["mode"]}):
            continue
        since = f", since {row['since']:%Y-%m-%d %H:%M:%S %Z}" if row["since"] else ""
        if row["pid"] is None:
            who = f"the prepared transaction {row['gid']!r}{since}"
        else:
            told = f"application {row['application'] or 'unnamed'}, role {row['role'] or 'none'}, {row['state'] or 'state unknown'}"
            who = f"pid {row['pid']} ({told}{since})"
        found[f"{table} is held by {who} in mode {row['mode']}"] = None
    return list(found)
