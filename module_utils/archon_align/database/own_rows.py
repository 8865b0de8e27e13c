"""Rows that archon-align has made itself, under a marker that was recorded before: the only rows of a protected table that are
ever deleted, and by no other statement than this one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pglast import ast
from psycopg import sql

from .target import Table

MARKER = re.compile(r"archon-align-canary-([0-9]{8}-[0-9]{6}-[0-9a-f]{6})-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class OwnRows:
    """Exactly the rows with these `ids`, and each only as long as its column `marked` holds the `marker`; or, for rows without
    such a column, as long as the one row of ours that they belong to, by their column `belongs`, is there (`owner`).

    Raises ValueError for what names no rows, or none that could be ours.
    """

    table: Table
    ids: tuple[str, ...]
    marked: str = ""
    marker: str = ""
    owner: OwnRows | None = None
    belongs: str = ""
    key: str = "id"

    def __post_init__(self) -> None:
        if not self.ids or not all(self.ids):
            raise ValueError("no rows are named")
        if self.owner is None and not (self.marked and MARKER.fullmatch(self.marker)):
            raise ValueError("rows of nobody's: neither a marker nor an owner")
        if self.owner is not None and (self.marked or self.marker or not self.belongs or self.owner.owner is not None):
            raise ValueError("rows belong to a row with a marker, or have one themselves")

    @property
    def run_id(self) -> str:
        """The run that made them."""
        found = MARKER.fullmatch(self.marker if self.owner is None else self.owner.marker)
        assert found is not None
        return found[1]

    @property
    def condition(self) -> sql.Composed:
        """True of these rows alone."""
        named = sql.SQL(", ").join(map(sql.Literal, self.ids))
        these = sql.SQL("{} IN ({})").format(sql.Identifier(self.key), named)
        if self.owner is None:
            holds = sql.SQL("pg_catalog.strpos({}, {}) > 0").format(
                sql.Identifier(self.marked), sql.Literal(self.marker)
            )
            return sql.SQL("{} AND {}").format(these, holds)
        return sql.SQL("{} AND {} IN (SELECT {} FROM {} WHERE {})").format(
            these,
            sql.Identifier(self.belongs),
            sql.Identifier(self.owner.key),
            self.owner.table.identifier,
            self.owner.condition,
        )

    @property
    def text(self) -> str:
        """The statement that removes them."""
        return sql.SQL("DELETE FROM {} WHERE {}").format(self.table.identifier, self.condition).as_string(None)

    def removed_by(self, statement: str, node: ast.Node) -> bool:
        """Is `statement`, of which `node` is the whole, that very statement?"""
        return (
            statement == self.text
            and isinstance(node, ast.DeleteStmt)
            and node.relation is not None
            and (node.relation.schemaname, node.relation.relname) == (self.table.schema, self.table.name)
            and node.usingClause is None
            and node.withClause is None
            and isinstance(node.whereClause, ast.BoolExpr)
        )


@dataclass(frozen=True, slots=True)
class NewRows:
    """Rows that a transaction inserts, by ids that were made for them: in the proof they stand for no row that was there."""

    table: Table
    ids: tuple[str, ...]
    key: str = "id"

    @property
    def condition(self) -> sql.Composed:
        """True of these rows alone."""
        return sql.SQL("{}::text = ANY (ARRAY[{}]::text[])").format(
            sql.Identifier(self.key), sql.SQL(", ").join(map(sql.Literal, self.ids))
        )
