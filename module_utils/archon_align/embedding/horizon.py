"""Until when the rebuild looked: rows that came later lack a vector by nobody's fault, and are told apart by their transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from .tables import EmbeddedTable

_FILE = """
SELECT c.relfilenode::bigint AS file FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s
"""
# A row knows the lower 32 bits of its transaction, and that is at most 2^32 behind the next one; 1 and 2 are older than any.
_LATE = sql.SQL("""
SELECT count(*) AS rows, count(*) FILTER (WHERE {blank}) AS blank
FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next) AS now CROSS JOIN {table} AS page
WHERE {vector} IS NULL AND page.xmin::text::bigint > 2
  AND NOT pg_visible_in_snapshot((next - ((next - page.xmin::text::bigint) & 4294967295))::text::xid8, %s::text::pg_snapshot)
""")


@dataclass(frozen=True, slots=True)
class Late:
    """Rows without a vector that came after the horizon, and how many of them have nothing to embed."""

    rows: int = 0
    blank: int = 0


@dataclass(frozen=True, slots=True)
class Horizon:
    """What could be seen when the last look at a table began: a snapshot, and the table's file.

    Rewriting a table gives every row a new transaction, so in another file the snapshot says nothing. A row written in a
    subtransaction that was open just then counts as seen: the server does not tell these apart.
    """

    snapshot: str
    file: int

    @classmethod
    def of(cls, session: Session, table: Table, snapshot: str = "") -> Self:
        """The horizon of a look at `table` that began at `snapshot` (see snapshot_now), or begins now."""
        return cls(snapshot or snapshot_now(session), _file(session, table))

    @classmethod
    def recorded(cls, results: Sequence[Mapping[str, Any]], table: Table) -> Self | None:
        """The last horizon of `table` among the embeddings phase's `results`, or None."""
        found = [((result.get("details") or {}).get("embeddings") or {}).get("horizon") or {} for result in results]
        known = next((one[str(table)] for one in reversed(found) if str(table) in one), None)
        return cls(known["snapshot"], known["file"]) if known else None

    def as_dict(self) -> dict[str, Any]:
        return {"snapshot": self.snapshot, "file": self.file}


def snapshot_now(session: Session) -> str:
    """What the session can see now, as text."""
    return str(session.value("SELECT pg_current_snapshot()::text"))


def _file(session: Session, table: Table) -> int:
    return int(session.value(_FILE, (table.schema, table.name)) or 0)


def late(session: Session, found: EmbeddedTable, horizon: Horizon | None) -> Late:
    """The rows of `found` without a vector that came after `horizon`; none without one, when all count as missing."""
    if horizon is None or found.column in found.missing_columns:
        return Late()
    if _file(session, found.table) != horizon.file:
        return Late()
    blank = sql.SQL("false") if "content" in found.missing_columns else found.blank
    row = session.row(_LATE.format(blank=blank, table=found.table.identifier, vector=found.vector), (horizon.snapshot,))
    assert row is not None  # an aggregate always yields a row
    return Late(row["rows"], row["blank"])
