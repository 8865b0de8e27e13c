"""Names of databases and tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg import sql


@dataclass(frozen=True, slots=True)
class Target:
    """One database: the name people use for it (`DEV`, `PROD`) and its DSN, which is never shown.

    `setting` says where a person sets the DSN; by default that is the inventory.
    """

    name: str
    dsn: str = field(repr=False)
    setting: str = ""

    @property
    def where_set(self) -> str:
        return self.setting or f"archon_dsn of {self.name} in the inventory (by Vault or environment)"


@dataclass(frozen=True, slots=True, order=True)
class Table:
    """A table by schema and name; ordering is the fixed order in which tables are locked."""

    schema: str
    name: str

    @property
    def identifier(self) -> sql.Identifier:
        # Who only names a database (the start of a run, the report) need not load the driver.
        from psycopg import sql

        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"
