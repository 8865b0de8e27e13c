"""How long users who write protected tables wait for a transaction that proves them: said in the plan, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..database.session import Session
from ..database.target import Table
from ..database.transaction import LockMode, strongest
from ..findings import Finding
from .fingerprint import existing

# Rows a second, on the slow side of what tests/bench/bench_proof.py measures on two cores.
FINGERPRINT_ROWS = 150_000
# What is written row by row, each by a statement of its own.
_STATEMENT_SECONDS = 0.001
# Below that nobody notices; it is in the details all the same.
_WORTH_TELLING = 0.5
_ROWS = """
WITH RECURSIVE tree (schema, name, oid) AS (
  SELECT t.schema, t.name, c.oid FROM unnest(%s::text[], %s::text[]) t (schema, name) JOIN pg_namespace n ON n.nspname = t.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
  UNION SELECT schema, name, i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
)
SELECT tree.schema, tree.name, sum(CASE WHEN c.relkind <> 'r' THEN 0 WHEN c.relpages > 0 AND c.reltuples >= 0 THEN c.reltuples
                                        ELSE pg_stat_get_live_tuples(c.oid) END)::bigint AS rows
FROM tree JOIN pg_class c ON c.oid = tree.oid GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Wait:
    """The locks of one transaction, and about how many seconds it holds them: users' writes wait that long at most.

    It counts from when all are held; while they are asked for, a writer waits for at most the context's lock timeout a try.
    """

    locks: Mapping[Table, LockMode]
    protected: tuple[Table, ...]
    seconds: float

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """As a plan shows it, by table."""
        return {str(table): {"mode": mode.value, "seconds": self.seconds} for table, mode in sorted(self.locks.items())}

    def findings(self) -> list[Finding]:
        """What to tell whoever plans a run; nothing when nobody would notice."""
        if self.seconds < _WORTH_TELLING or not self.protected:
            return []
        tables = ", ".join(map(str, self.protected))
        return [
            Finding(
                "writers_wait",
                "info",
                tables,
                f"Users' writes to {tables} wait up to about {self.seconds:.1f} s for this phase's transaction, which proves their rows; "
                "they are delayed, never refused.",
                "Run at a quieter time if that is too long.",
            )
        ]


def writers_wait(session: Session, locks: Mapping[Table, LockMode], statements: int, seconds: float = 0.0) -> Wait:
    """What a protected transaction with these `locks` costs users: its `statements`, which take `seconds` besides the usual, and
    reading every protected row, twice where the table itself is altered. Nothing without statements."""
    if not statements:
        return Wait({}, (), 0.0)
    there = existing(session, [*locks, *session.context.protected])
    protected = tuple(table for table in session.context.protected if table in there)
    held = {table: locks.get(table, LockMode.PROVE) for table in there}
    rows = _rows(session, protected)
    read = sum(rows.get(table, 0) * (2 if held[table] is LockMode.ALTER else 1) for table in protected)
    total = read / FINGERPRINT_ROWS + statements * _STATEMENT_SECONDS + seconds
    return Wait(held, protected, round(total, 2))


def longest(waits: Sequence[Wait]) -> Wait:
    """Several transactions of one phase as one: each table by its longest wait."""
    seconds = max((wait.seconds for wait in waits), default=0.0)
    locks = {table: mode for wait in waits for table, mode in wait.locks.items()}
    for wait in waits:
        locks |= {table: strongest(mode, locks[table]) for table, mode in wait.locks.items()}
    return Wait(locks, tuple(dict.fromkeys(table for wait in waits for table in wait.protected)), seconds)


def _rows(session: Session, tables: tuple[Table, ...]) -> dict[Table, int]:
    """About how many rows each table has, by the server's own counts alone: measuring would wait for locks."""
    names = [table.schema for table in tables], [table.name for table in tables]
    return {Table(row["schema"], row["name"]): int(row["rows"]) for row in session.rows(_ROWS, names)}
