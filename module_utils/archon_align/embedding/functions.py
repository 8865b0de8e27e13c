"""Archon's search functions as PROD has them, and what Archon's role needs to use them."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from ..database.session import Session
from .asking import ROLE, Asking
from .kinds import Kind
from .tables import EmbeddedTable, VectorType

# What Archon sends by name, and what it reads of each result.
ARGUMENTS = ("query_embedding", "match_count", "filter")
RESULTS = ("id", "url", "chunk_number", "content", "similarity")
_FUNCTIONS = """
SELECT p.oid::bigint AS oid, n.nspname AS schema, pg_get_function_identity_arguments(p.oid) AS arguments, p.proretset AS many,
  coalesce(p.proargnames, '{}') AS names, coalesce(p.proargmodes::text[], '{}') AS modes, p.prosecdef AS definer,
  r.rolname AS owner, r.rolbypassrls OR r.rolsuper AS owner_sees_all, coalesce(p.proconfig, '{}') AS config
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_roles r ON r.oid = p.proowner
WHERE p.proname = %s AND n.nspname = ANY (%s::text[]) AND p.prokind = 'f'
ORDER BY array_position(%s::text[], n.nspname::text), p.oid
"""
_PRIVILEGES = """
SELECT has_function_privilege(%(role)s, %(function)s::oid, 'EXECUTE') AS execute,
  has_schema_privilege(%(role)s, %(schema)s, 'USAGE') AS usage,
  has_schema_privilege(%(reader)s, n.oid, 'USAGE') AS table_usage, has_any_column_privilege(%(reader)s, c.oid, 'SELECT') AS reads,
  has_schema_privilege(%(reader)s, %(vector)s, 'USAGE') AS vector_usage, c.relrowsecurity AS hides, c.relforcerowsecurity AS forced,
  pg_has_role(%(reader)s, c.relowner, 'USAGE') AS owns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(of)s AND c.relname = %(table)s
"""


@dataclass(frozen=True, slots=True)
class Function:
    """A search function that Archon can call. `definer` says that it runs as its `owner`, `config` holds its own settings as
    `name=value`."""

    oid: int
    schema: str
    name: str
    arguments: str
    definer: bool
    owner: str
    owner_sees_all: bool
    config: tuple[str, ...]

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Lookup:
    """The one function of a kind that fits, or in `problem` why there is none: what was found instead."""

    function: Function | None
    problem: str = ""


def find_function(session: Session, kind: Kind) -> Lookup:
    """Look for Archon's search function of `kind` in the first of the run's schemas that has one that fits."""
    schemas = list(session.context.schemas)
    rows = session.rows(_FUNCTIONS, (kind.function, schemas, schemas))
    fitting = [row for row in rows if not _lacking(row)]
    for schema in schemas:
        here = [row for row in fitting if row["schema"] == schema]
        if len(here) > 1:
            forms = "; ".join(f"({row['arguments']})" for row in here)
            return Lookup(None, f"{len(here)} functions that a call by names fits, so that none can be called: {forms}")
        if here:
            row = here[0]
            made = Function(
                row["oid"], schema, kind.function, row["arguments"], row["definer"], row["owner"], row["owner_sees_all"],
                tuple(row["config"]),
            )  # fmt: skip
            return Lookup(made)
    if not rows:
        return Lookup(None, "no such function, so that Archon's vector search is silently empty")
    row = rows[0]
    return Lookup(None, f"({row['arguments']}), which has no {', '.join(_lacking(row))}, so that Archon's call fails")


def _lacking(row: dict[str, object]) -> list[str]:
    """What of Archon's arguments and results a function does not have."""
    names, modes = row["names"], row["modes"]
    assert isinstance(names, list)
    assert isinstance(modes, list)
    given = {name for name, mode in zip(names, modes or ["i"] * len(names), strict=True) if mode in "ib"}
    out = {name for name, mode in zip(names, modes, strict=False) if mode in "tob"}
    lacking = [f"argument {name}" for name in ARGUMENTS if name not in given]
    # Without OUT arguments it returns a named type, whose columns the call itself will tell.
    return lacking + ([f"result {name}" for name in RESULTS if name not in out] if out else [])


@dataclass(frozen=True, slots=True)
class Access:
    """What stands between Archon's role and the rows: privileges it lacks, as GRANT statements, and whether row-level
    security may hide rows from whoever the function reads as."""

    grants: tuple[str, ...]
    may_hide: bool
    reader: str


def access(session: Session, asking: Asking, function: Function, found: EmbeddedTable, vector: VectorType) -> Access:
    """Read from the catalogue what Archon's role may do; without such a role nothing is lacking."""
    if not asking.exists:
        return Access((), False, "")
    reader = function.owner if function.definer else ROLE
    row = session.row(
        _PRIVILEGES,
        {
            "role": ROLE,
            "reader": reader,
            "function": function.oid,
            "schema": function.schema,
            "vector": vector.schema,
            "of": found.table.schema,
            "table": found.table.name,
        },
    )
    assert row is not None  # the table was found a moment ago
    to_role, to_reader = sql.Identifier(ROLE), sql.Identifier(reader)
    schema = sql.SQL("GRANT USAGE ON SCHEMA {} TO {}")
    grants = {
        "usage": schema.format(sql.Identifier(function.schema), to_role),
        "execute": sql.SQL("GRANT EXECUTE ON FUNCTION {}({}) TO {}").format(
            function.identifier,
            sql.SQL(function.arguments),  # the server's own words
            to_role,
        ),
        "table_usage": schema.format(sql.Identifier(found.table.schema), to_reader),
        "reads": sql.SQL("GRANT SELECT ON {} TO {}").format(found.table.identifier, to_reader),
        "vector_usage": schema.format(sql.Identifier(vector.schema), to_reader),
    }
    lacking = dict.fromkeys(grant.as_string(None) for need, grant in grants.items() if not row[need])
    sees_all = function.owner_sees_all if function.definer else asking.bypasses
    hides = row["hides"] and not sees_all and (row["forced"] or not row["owns"])
    return Access(tuple(lacking), bool(hides), reader)
