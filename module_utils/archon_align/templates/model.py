"""What is known of the template tables: kinds, columns, rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..database.target import Table

NAME = "name"
NEVER_MOVED = frozenset(("id", "created_at", "updated_at"))


@dataclass(frozen=True, slots=True)
class Kind:
    """One table that is moved. `key` is its natural key, `parent` the column that refers to another row of it by its id.

    Where the key need not be `unique`, names that several rows have are left alone. `twins` are columns of which a database has
    one or the other for the same thing.
    """

    table: str
    word: str
    parent: str | None = None
    key: str = NAME
    unique: bool = True
    twins: tuple[str, ...] = ()


COMPONENTS = Kind("archon_template_components", "component")
DEFINITIONS = Kind("archon_template_definitions", "template", parent="parent_template_id")
# No server code reads these; they are moved as far as assignments need them.
INJECTION = Kind("archon_template_injection_templates", "injection template")
WORKFLOWS = Kind("archon_workflow_templates", "workflow template", unique=False)
PROMPTS = Kind("archon_prompts", "prompt", key="prompt_name", twins=("prompt", "prompt_content"))
# In the order in which they refer to each other.
KINDS = (COMPONENTS, DEFINITIONS, INJECTION, WORKFLOWS, PROMPTS)
UPDATED, CREATED = "updated_at", "created_at"


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
    """One row: its natural key, every value's text form (None is NULL), and its parent's natural key. `xmin` is the low 32 bits
    of the id of the transaction that wrote it.

    `dangling`: it names a parent, but no row with a name has that id.
    """

    name: str
    values: Mapping[str, str | None]
    parent: str | None = None
    dangling: bool = False
    xmin: int = 0

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

    def named(self) -> dict[str, Row]:
        return {row.name: row for row in self.rows}

    def __str__(self) -> str:
        return f"{self.database} {self.table}"
