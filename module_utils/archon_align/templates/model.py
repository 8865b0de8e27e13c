"""What is known of the template tables: kinds, columns, rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..database.target import Table

NAME = "name"
NEVER_MOVED = frozenset(("id", "created_at", "updated_at"))


@dataclass(frozen=True, slots=True)
class Kind:
    """One table that is moved. `parent` is the column that refers to another row of the same table by its id."""

    table: str
    word: str
    parent: str | None = None


COMPONENTS = Kind("archon_template_components", "component")
DEFINITIONS = Kind("archon_template_definitions", "template", parent="parent_template_id")


@dataclass(frozen=True, slots=True)
class Column:
    """`fixed`: generated or identity, so the server fills it. `reference`: part of a foreign key."""

    name: str
    type: str
    default: str | None
    fixed: bool
    reference: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its natural key, every value's text form (None is NULL), and its parent's natural key.

    `dangling`: it names a parent, but no row with a name has that id.
    """

    name: str
    values: Mapping[str, str | None]
    parent: str | None = None
    dangling: bool = False

    @property
    def active(self) -> bool:
        """As Archon's filter sees it; without the column every row counts as active."""
        return self.values.get("is_active", "true") == "true"


@dataclass(frozen=True, slots=True)
class TableState:
    """One template table of one database; no columns: there is no such table. `unnamed` rows have no natural key."""

    database: str
    kind: Kind
    table: Table
    columns: Mapping[str, Column]
    rows: tuple[Row, ...] = ()
    unnamed: int = 0

    def __str__(self) -> str:
        return f"{self.database} {self.table}"
