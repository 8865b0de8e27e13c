"""Tables as JSON Lines: one row a line, in the order of the primary key, readable without a database."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..errors import AlignError
from .space import disk_full, says_full

FOLDER = "critical"
GUARD_ROWS = 10_000
_NAME_BYTES = 200
_KEY = """
SELECT array_agg(a.attname::text ORDER BY k.place) AS columns
FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS k (number, place)
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
WHERE x.indisprimary AND n.nspname = %s AND c.relname = %s AND k.place <= x.indnkeyatts
"""


def file_names(tables: Sequence[Table], first_schema: str) -> dict[Table, str]:
    """A file's name for each table, the table's own where a file may be called that, different for different tables."""
    names: dict[Table, str] = {}
    for table in tables:
        plain = table.name if table.schema == first_schema else f"{table.schema}.{table.name}"
        safe = re.sub(r"[^\w.-]", "_", plain).lstrip(".-") or "_"
        safe = safe.encode()[:_NAME_BYTES].decode(errors="ignore")
        # Some file systems do not tell upper from lower case.
        names[table] = _unused(safe, {name.casefold() for name in names.values()})
    return names


def _unused(name: str, taken: Collection[str]) -> str:
    candidates = (f"{name}{suffix}.jsonl" for suffix in ("", *(f"-{number}" for number in range(2, len(taken) + 3))))
    return next(candidate for candidate in candidates if candidate.casefold() not in taken)


def write_lines(session: Session, table: Table, path: Path, guard: Callable[[], None]) -> int:
    """Write every row of `table` in the session's snapshot into `path` (0600); how many there were.

    Raises AlignError when there is no room, or it may not be written.
    """
    found = session.row(_KEY, (table.schema, table.name))
    key = (found or {}).get("columns") or []
    order = sql.SQL(", ").join(
        [*(sql.Identifier("r", name) for name in key), *map(sql.SQL, () if key else ("r.tableoid", "r.ctid"))]
    )
    query = sql.SQL("SELECT row_to_json(r.*)::text FROM {} AS r ORDER BY {}").format(table.identifier, order)
    rows = 0
    try:
        with path.open("x", encoding="utf-8", newline="\n") as output:
            path.chmod(0o600)
            for (line,) in session.stream(query):
                # In JSON a line break outside of a string is space, and a value of type json keeps those it was given.
                output.write(line.replace("\r", " ").replace("\n", " ") + "\n")
                rows += 1
                if rows % GUARD_ROWS == 0:
                    guard()
    except OSError as error:
        said = error.strerror or str(error)
        if says_full(said):
            raise disk_full(str(path), "room for the rows of a protected table", said) from error
        raise AlignError(
            "The rows of a protected table could not be written.",
            object_name=str(path),
            expected="a writable artifacts folder",
            found=said,
            remedy="Correct the permissions there or set archon_artifacts_root to another folder.",
            code="artifacts_not_writable",
        ) from error
    return rows
