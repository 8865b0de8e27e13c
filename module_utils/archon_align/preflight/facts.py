"""What preflight reads of one database; reading only, all judgement is in `checks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..context import Context
from ..database.session import Session, open_session
from ..database.target import Target

# Objects that an extension brought belong to it: nobody aligns them one by one.
_RELATIONS = """
SELECT n.nspname AS schema, c.relname AS name, pg_get_userbyid(c.relowner) AS owner,
       pg_has_role(c.relowner, 'USAGE') AS owned,
       CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
            ELSE has_table_privilege(c.oid, 'SELECT') END AS readable,
       c.relkind IN ('r', 'p') AND row_security_active(c.oid) AS hidden
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY (%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
UNION ALL
SELECT n.nspname, p.proname || '()', pg_get_userbyid(p.proowner), pg_has_role(p.proowner, 'USAGE'), true, false
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = ANY (%(schemas)s)
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT n.nspname, t.typname, pg_get_userbyid(t.typowner), pg_has_role(t.typowner, 'USAGE'), true, false
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname = ANY (%(schemas)s) AND t.typtype IN ('e', 'd')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
_SCHEMAS = """
SELECT wanted AS name, n.oid IS NOT NULL AS present, pg_get_userbyid(n.nspowner) AS owner,
       coalesce(has_schema_privilege(n.oid, 'USAGE'), false) AS usable,
       coalesce(has_schema_privilege(n.oid, 'CREATE'), false) AS creatable
FROM ROWS FROM (unnest(%s::text[])) AS w(wanted) LEFT JOIN pg_namespace n ON n.nspname = wanted
"""
_SERVER = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major,
       current_database() AS database, current_user AS role, pg_is_in_recovery() AS in_recovery,
       current_setting('track_counts')::bool AS track_counts,
       pg_database_size(current_database()) AS size_bytes,
       has_database_privilege(current_database(), 'CREATE') AS may_create_schemas,
       least(
         current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true)::int, 0)
           - (SELECT sum(numbackends) FROM pg_stat_database),
         (SELECT nullif(datconnlimit, -1) - numbackends FROM pg_database JOIN pg_stat_database s USING (datname)
          WHERE datname = current_database()),
         (SELECT nullif(rolconnlimit, -1) - (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user)
          FROM pg_roles WHERE rolname = current_user)
       )::int AS connections_free
"""
_PGVECTOR = """
SELECT e.extversion AS version, n.nspname AS schema, has_schema_privilege(n.oid, 'USAGE') AS usable
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""
# Where a read-only default comes from; the server's configuration file, when nothing is found here.
_READ_ONLY_SOURCE = """
SELECT CASE WHEN setrole <> 0 THEN 'role ' || quote_ident(pg_get_userbyid(setrole)) ELSE 'database '
       || quote_ident(current_database()) END AS source
FROM pg_catalog.pg_db_role_setting
WHERE setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user))
  AND setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
  AND EXISTS (SELECT FROM pg_catalog.unnest(setconfig) AS one(setting) WHERE setting ~* '^default_transaction_read_only=')
ORDER BY setrole = 0, setdatabase = 0 LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Extension:
    """An installed pgvector: its version, the schema it lives in, and whether this role may use that schema."""

    version: str
    schema: str
    usable: bool

    @property
    def number(self) -> tuple[int, ...]:
        """The version as numbers, to compare."""
        return tuple(int(part) for part in self.version.split(".") if part.isdigit())


@dataclass(frozen=True, slots=True)
class Schema:
    """One of the schemas to be aligned, as this role finds it."""

    name: str
    present: bool
    owner: str | None
    usable: bool
    creatable: bool


@dataclass(frozen=True, slots=True)
class OwnedObject:
    """A table, view, sequence, function or type: who owns it and what this role may do. `hidden`: RLS hides rows."""

    schema: str
    name: str
    owner: str
    owned: bool
    readable: bool
    hidden: bool

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """One database. `read_only_source` is '' when transactions may write by default. `size_bytes` is in bytes."""

    target: str
    version: str
    major: int
    database: str
    role: str
    in_recovery: bool
    read_only_source: str
    track_counts: bool
    size_bytes: int
    may_create_schemas: bool
    connections_free: int
    pgvector: Extension | None
    schemas: tuple[Schema, ...]
    objects: tuple[OwnedObject, ...]

    def as_dict(self) -> dict[str, Any]:
        """What the report shows."""
        return {
            "version": self.version,
            "database": self.database,
            "role": self.role,
            "size_bytes": self.size_bytes,
            "connections_free": self.connections_free,
            "track_counts": self.track_counts,
            "pgvector": self.pgvector.version if self.pgvector else None,
            "pgvector_schema": self.pgvector.schema if self.pgvector else None,
        }


def read_only_source(context: Context, target: Target) -> str:
    """Where a read-only default of new sessions comes from, or ''. Asked before our own settings cover it."""
    with open_session(context, target, pinned=False) as session:
        if session.value("SHOW default_transaction_read_only") == "off":
            return ""
        return str(session.value(_READ_ONLY_SOURCE) or "the server's configuration or the DSN's options")


def read_facts(session: Session, read_only: str) -> DatabaseFacts:
    """Everything preflight judges about the database of `session`. Raises psycopg.Error."""
    schemas = list(session.context.schemas)
    pgvector = session.row(_PGVECTOR)
    server = session.row(_SERVER)
    assert server is not None
    return DatabaseFacts(
        target=session.target.name,
        read_only_source=read_only,
        pgvector=Extension(**pgvector) if pgvector else None,
        schemas=tuple(Schema(**row) for row in session.rows(_SCHEMAS, (schemas,))),
        objects=tuple(OwnedObject(**row) for row in session.rows(_RELATIONS, {"schemas": schemas})),
        **server,
    )
