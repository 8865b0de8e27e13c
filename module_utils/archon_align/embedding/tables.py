"""The tables whose rows carry embeddings, and the text that Archon embeds for each."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from pgvector.psycopg.vector import register_vector_info
from psycopg import sql
from psycopg.types import TypeInfo

from ..database.session import Session
from ..database.target import Table
from ..errors import AlignError
from ..schema.vectors import marker
from .kinds import COLUMN, Kind
from .packing import register_packed

_VECTOR = """
SELECT n.nspname AS schema, t.oid::bigint AS oid, t.typarray::bigint AS array_oid, e.extversion AS version
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
JOIN pg_type t ON t.typnamespace = e.extnamespace AND t.typname = 'vector'
WHERE e.extname = 'vector'
"""
_COLUMNS = """
SELECT a.attname AS name, a.atttypid::bigint AS type, format_type(a.atttypid, a.atttypmod) AS declared, a.atttypmod AS modifier,
  col_description(c.oid, a.attnum) AS comment
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
"""
_INTEGERS = ("smallint", "integer", "bigint")


@dataclass(frozen=True, slots=True)
class VectorType:
    """pgvector's type as this database has it. It may live in any schema, and no search_path is relied on."""

    schema: str
    oid: int
    array_oid: int
    version: str

    @property
    def array(self) -> sql.Composable:
        return sql.SQL("{}[]").format(sql.Identifier(self.schema, "vector"))

    @property
    def cosine_distance(self) -> sql.Composable:
        return sql.SQL("OPERATOR({}.<=>)").format(sql.Identifier(self.schema))

    def register(self, session: Session) -> None:
        """Let `session` send numpy vectors in pgvector's binary form, and many of them at once as PackedVectors."""
        register_vector_info(session.connection, TypeInfo("vector", self.oid, self.array_oid))
        register_packed(session.connection, self.oid, self.array_oid)


@dataclass(frozen=True, slots=True)
class EmbeddedTable:
    """A table as found: `dimensions` is the column's declared dimension, None when it declares none or is missing.

    `column` holds the vectors: the one that Archon reads, or the one that is filled beside it to take its place.
    """

    kind: Kind
    table: Table
    missing_columns: tuple[str, ...]
    dimensions: int | None = None
    declared: str = ""
    column: str = COLUMN

    @property
    def beside(self) -> bool:
        """Whether the vectors are gathered beside the column that Archon reads."""
        return self.column != COLUMN

    @property
    def vector(self) -> sql.Identifier:
        """The vector of a row (called `page`)."""
        return sql.Identifier("page", self.column)

    @property
    def blank(self) -> sql.Composable:
        """Whether the content of a row (called `page`) is NULL or white space only."""
        content = sql.Identifier("page", self.kind.columns[0])
        return sql.SQL("coalesce({}, '') !~ '[^[:space:]]'").format(content)

    @property
    def text_hash(self) -> sql.Composable:
        """A hash of the text's columns that tells whether a row (called `page`) changed since it was read."""
        parts = sql.SQL(" || E'\\x01' || ").join(
            sql.SQL("coalesce({}, '')").format(sql.Identifier("page", column)) for column in self.kind.columns
        )
        return sql.SQL('pg_catalog.hashtextextended(({}) COLLATE pg_catalog."C", 0)').format(parts)


def vector_type(session: Session) -> VectorType:
    """pgvector's type; raises AlignError when the extension is missing."""
    row = session.row(_VECTOR)
    if row is None:
        raise AlignError(
            "pgvector is missing.",
            object_name=f"{session.target.name}: extension vector",
            expected="the extension vector, installed",
            found="no such extension in this database",
            remedy="Run the schema phase, or CREATE EXTENSION vector as a privileged user.",
            code="pgvector_missing",
        )
    return VectorType(row["schema"], row["oid"], row["array_oid"], row["version"])


def find_table(
    session: Session, kind: Kind, vector: VectorType | None, beside: int | None = None
) -> EmbeddedTable | None:
    """The table of `kind` in the first schema of the run that has it, or None.

    With `beside` (dimensions), the column is the one of so many dimensions that the schema phase has put beside a column
    of another dimension, if there is one.

    Raises AlignError when its id is not an integer, which the keyset reader needs.
    """
    for schema in session.context.schemas:
        columns = {row["name"]: row for row in session.rows(_COLUMNS, (schema, kind.table))}
        if not columns:
            continue
        needed = ("id", *kind.columns, COLUMN)
        identity = columns.get("id")
        if identity is not None and identity["declared"] not in _INTEGERS:
            raise AlignError(
                "A table's id is not of a type the rebuild can walk along.",
                object_name=f"{schema}.{kind.table}.id",
                expected="smallint, integer or bigint",
                found=identity["declared"],
                remedy="Rows must be found by a growing integer id; align the schema first.",
                code="embedding_id_type",
            )
        embedding = columns.get(COLUMN)
        known = embedding is not None and vector is not None and embedding["type"] == vector.oid
        missing = tuple(name for name in needed if name not in columns or (name == COLUMN and not known))
        if embedding is not None and known and beside not in (None, embedding["modifier"]):
            assert vector is not None
            embedding = next(
                (
                    column
                    for column in columns.values()
                    if (column["type"], column["modifier"]) == (vector.oid, beside)
                    and column["comment"] == marker(COLUMN)
                ),
                embedding,
            )
        return EmbeddedTable(
            kind,
            Table(schema, kind.table),
            missing,
            embedding["modifier"] if embedding is not None and known and embedding["modifier"] > 0 else None,
            embedding["declared"] if embedding is not None else "",
            embedding["name"] if embedding is not None else COLUMN,
        )
    return None


def server_words(error: psycopg.Error) -> str:
    """A server's message on one line."""
    return " ".join((error.diag.message_primary or str(error)).split())


def function_schema(session: Session, kind: Kind) -> str | None:
    """The schema of Archon's search function of this kind, or None when no schema of the run has it."""
    rows = session.rows(
        "SELECT n.nspname AS schema FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE p.proname = %s AND n.nspname = ANY (%s::text[])"
        " AND p.proargnames @> ARRAY['query_embedding', 'match_count']",
        (kind.function, list(session.context.schemas)),
    )
    there = {row["schema"] for row in rows}
    return next((schema for schema in session.context.schemas if schema in there), None)
