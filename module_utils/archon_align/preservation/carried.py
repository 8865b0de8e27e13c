"""How a protected table's rows are read after a transaction that reshapes the table and must keep every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..database.target import Table


@dataclass(frozen=True, slots=True)
class Carried:
    """The declared way back from the table as it will be to the table as it was, by which a transaction is proved.

    `table` is where the rows are afterwards. `before` and `after` map a column's name before the transaction to the SQL
    expression that stands for it in the fingerprint: `before` over the table as it was (only where a decision changes
    values), `after` over `table` (for a retyped column: cast back to the old type; for a renamed one: the new name).
    `source` is the FROM item for `before`, where expressions use other names than the table has.
    Columns in `computed` are left out: the server computes them, and by another expression than before. `kept` is a table
    that must hold every row and value as they were, when the old table was set aside whole (`kept_as`: its columns that now
    read otherwise); the fingerprints then cover `columns`, those of the table that took its place, and so do `before` and
    `after`.
    """

    table: Table
    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    computed: frozenset[str] = frozenset()
    source: str = ""
    kept: Table | None = None
    columns: tuple[str, ...] = ()
    kept_as: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {
            "table": str(self.table),
            "place": [self.table.schema, self.table.name],
            "before": dict(self.before),
            "after": dict(self.after),
            "computed": sorted(self.computed),
            "kept": str(self.kept) if self.kept else None,
            "columns": list(self.columns),
        }
