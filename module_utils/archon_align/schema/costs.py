"""What a statement risks and costs: hazards by name, and about how long it takes, from the size of its table.

The rates are orders of magnitude, on the slow side of what tests/bench/bench_schema_costs.py measures on two cores: they tell a lock
of a moment from one of minutes, and nothing finer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..plan import Statement
from ..preservation.waiting import FINGERPRINT_ROWS
from .model import Catalog, Column, Constraint, Index, Key, Kind, Size

REWRITE_BYTES = 30_000_000  # bytes a second; all others are rows a second
INDEX_ROWS = 400_000
GIN_ROWS = 50_000
VECTOR_ROWS = 500
VALIDATE_ROWS = 2_000_000
FOREIGN_KEY_ROWS = 700_000
UPDATE_ROWS = 100_000
# What every statement and the proof cost whatever the size of the tables.
_STATEMENT_SECONDS = 0.001
_OBJECT_SECONDS = 0.0002
_INSTANT = 0.005

_METHOD_ROWS = {"gin": GIN_ROWS, "gist": GIN_ROWS, "spgist": GIN_ROWS, "hnsw": VECTOR_ROWS, "ivfflat": VECTOR_ROWS}
_METHOD = re.compile(r" USING (gin|gist|spgist|hnsw|ivfflat) \(")
_COSTLY = frozenset({"rewrites_table", "moves_rows", "builds_index", "validates_rows", "changes_values"})
_LOCKS_LITTLE = (
    "COMMENT ", "GRANT ", "REVOKE ", "SELECT ", "WITH ", "UPDATE ", "INSERT ", "CREATE STATISTICS ", "ALTER STATISTICS ",
)  # fmt: skip
# Functions of the server whose result is the same for every row, so that a new column's default is kept beside the rows.
_STEADY = frozenset(
    {"now", "timezone", "date_trunc", "jsonb_build_object", "jsonb_build_array", "lower", "upper", "to_char", "make_interval"}
)  # fmt: skip
_NO_CALL = re.compile(r"'(?:[^']|'')*'|::[\w\s.\"\ue000\ue001]+(?:\([\d\s,-]*\))?")  # literals and casts
_CALL = re.compile(r"([\w.\"\ue000\ue001]+)\s*\(")


def price(
    text: str, given: tuple[str, ...], relation: Key | None, catalog: Catalog, *, transactional: bool = True
) -> tuple[tuple[str, ...], float | None]:
    """The hazards of a statement, those that its words show besides the `given` ones, and its estimated seconds (None: no time
    to speak of). `relation` is the table or view it is about; one that `catalog` does not have yet is in nobody's use."""
    exists = relation is not None and relation in catalog.objects
    hazards = (*given, *(one for one in _shown_by(text, exists, transactional) if one not in given))
    seconds = _seconds(text, hazards, relation, catalog) if exists and relation is not None else 0.0
    return hazards, round(seconds, 3) if seconds >= _INSTANT else None


def of_constraint(constraint: Constraint) -> tuple[str, ...]:
    """The hazards of adding a constraint."""
    if constraint.type in ("p", "u", "x"):
        return ("validates_rows", "builds_index")
    return ("validates_rows",) if constraint.validated else ()


def of_new_column(column: Column) -> tuple[str, ...]:
    """The hazards of adding a column: a value that is computed for each row rewrites the table."""
    computed = column.generated == "s" or bool(column.identity)
    if not computed and column.default is not None and not column.generated:
        calls = _CALL.findall(_NO_CALL.sub("", column.default))
        computed = any(name.rpartition(".")[2] not in _STEADY for name in calls)
    return ("rewrites_table",) if computed else ()


def size_of(catalog: Catalog, table: Key) -> Size:
    """The size of a table with its partitions or children."""
    rows = total = 0
    seen, pending = set(), [table]
    while pending:
        one = pending.pop()
        if one in seen:
            continue
        seen.add(one)
        found = catalog.sizes.get(one, Size())
        rows, total = rows + found.rows, total + found.bytes
        pending += [key for key in catalog.dependents.get(one, ()) if key.kind is Kind.TABLE]
    return Size(rows, total)


def transaction_seconds(statements: Iterable[Statement], catalog: Catalog, protected: Iterable[Key]) -> float:
    """About how long the plan's transaction runs, and so how long each of its locks is held: statements, two readings of the
    catalogue, and the proof of the protected tables, twice over those that a statement may change."""
    listed = list(statements)
    altered: set[str] = set()
    for one in listed:
        if "rewrites_table" in one.hazards or "changes_values" in one.hazards:
            parts = one.object.split(".")
            altered |= {".".join(parts[: number + 1]) for number in range(len(parts))}
    scanned = {key: catalog.sizes.get(key, Size()).rows for key in protected}
    proof = sum(rows * (2 if key.qualified in altered else 1) for key, rows in scanned.items()) / FINGERPRINT_ROWS
    work = sum((one.seconds or 0.0) + _STATEMENT_SECONDS for one in listed)
    return round(work + proof + _OBJECT_SECONDS * len(catalog.objects), 2)


def shown(seconds: float | None) -> str:
    """Estimated seconds as a person would say them."""
    if seconds is None or seconds < 1:
        return "under a second"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _shown_by(text: str, exists: bool, transactional: bool) -> Iterable[str]:
    if not transactional:
        yield "outside_transaction"
    elif exists and not text.startswith(_LOCKS_LITTLE):
        yield "takes_exclusive_lock"
    if text.startswith("ALTER TYPE ") and " ADD VALUE " in text:
        yield "irrevocable"


def _seconds(text: str, hazards: Iterable[str], relation: Key, catalog: Catalog) -> float:
    costly = [hazard for hazard in hazards if hazard in _COSTLY]
    if not costly:
        return 0.0
    size, found = size_of(catalog, relation), 0.0
    for hazard in costly:
        if hazard in ("rewrites_table", "moves_rows"):
            found += size.bytes / REWRITE_BYTES + _index_count(catalog, relation) * size.rows / INDEX_ROWS
        elif hazard == "builds_index":
            method = _METHOD.search(text)
            found += size.rows / (_METHOD_ROWS[method[1]] if method else INDEX_ROWS)
        elif hazard == "validates_rows":
            found += size.rows / (FOREIGN_KEY_ROWS if " REFERENCES " in text else VALIDATE_ROWS)
        else:
            found += size.rows / UPDATE_ROWS
    return found


def _index_count(catalog: Catalog, table: Key) -> int:
    there = (catalog.objects[key] for key in catalog.on_table.get(table, ()))
    return sum(isinstance(one, Index) or (isinstance(one, Constraint) and one.type in ("p", "u", "x")) for one in there)
