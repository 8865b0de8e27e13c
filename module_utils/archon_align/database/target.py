"""Names of databases and tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from psycopg import sql


@dataclass(frozen=True, slots=True)
class Target:
    """One database: the name people use for it (`DEV`, `PROD`) and its DSN, which is never shown."""

    name: str
    dsn: str = field(repr=False)


@dataclass(frozen=True, slots=True, order=True)
class Table:
    """A table by schema and name; ordering is the fixed order in which tables are locked."""

    schema: str
    name: str

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"
