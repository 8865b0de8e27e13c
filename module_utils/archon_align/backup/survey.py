"""What a backup will hold, and whether this role can read all of it: catalogue queries in the exporting snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from ..database.failures import where
from ..database.session import Session, parse_dsn
from ..database.target import Table
from ..errors import AlignError

# Tables of an extension are left out, because pg_dump leaves them out: they come back with the extension.
_TABLES = """
SELECT n.nspname AS schema, c.relname AS name, c.relispartition AS partition, c.relkind::text AS kind,
  CASE WHEN c.relkind IN ('r', 'm') THEN pg_table_size(c.oid) ELSE 0 END AS table_bytes,
  CASE WHEN c.relkind IN ('r', 'm') THEN pg_indexes_size(c.oid) ELSE 0 END AS index_bytes,
  has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS readable,
  c.relkind IN ('r', 'p') AND row_security_active(c.oid) AS rows_hidden,
  ARRAY(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns,
  ARRAY(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> '') AS generated
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'm', 'S')
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
_DATABASE = """
SELECT d.datname AS name, d.oid::bigint AS oid, current_setting('server_version') AS server_version,
  current_setting('server_version_num')::int AS server_version_num, pg_encoding_to_char(d.encoding) AS encoding,
  d.datcollate AS collate, transaction_timestamp() AS now
FROM pg_database d WHERE d.datname = current_database()
"""
_EXTENSIONS = """
SELECT e.extname AS name, e.extversion AS version, n.nspname AS schema
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace ORDER BY 1
"""
_SCHEMAS = """
SELECT n.nspname AS name, pg_get_userbyid(n.nspowner) AS owner FROM pg_namespace n WHERE n.nspname = ANY(%s) ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table to be fingerprinted: its columns in order, and which of them the server computes itself.

    `size` is that of its rows with their large values, in bytes; 0 for a partitioned table, whose partitions hold them.
    """

    table: Table
    columns: tuple[str, ...]
    generated: frozenset[str]
    size: int

    @property
    def stored(self) -> tuple[str, ...]:
        """The columns whose values a dump carries; generated ones are computed anew by a restore."""
        return tuple(column for column in self.columns if column not in self.generated)


@dataclass(frozen=True, slots=True)
class Extension:
    name: str
    version: str
    schema: str


@dataclass(frozen=True, slots=True)
class Database:
    """Which database this is, without anything secret. `system_identifier` is '' where the role may not read it."""

    where: str
    name: str
    oid: int
    system_identifier: str
    server_version: str
    server_version_num: int
    encoding: str
    collate: str
    now: str

    @property
    def major(self) -> int:
        return self.server_version_num // 10000


@dataclass(frozen=True, slots=True)
class Survey:
    """The state of the schemas in one snapshot. `relations` are fingerprinted, `locked` are all tables pg_dump reads."""

    database: Database
    schemas: dict[str, str]
    extensions: tuple[Extension, ...]
    relations: tuple[Relation, ...]
    locked: tuple[Table, ...]
    table_bytes: int
    index_bytes: int


def database_of(session: Session) -> Database:
    """The identity of the session's database."""
    found = session.row(_DATABASE)
    assert found is not None
    identifier = ""
    if session.value("SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')"):
        identifier = str(session.value("SELECT system_identifier FROM pg_catalog.pg_control_system()"))
    parts = {**parse_dsn(session.target), **_peer(session)}
    return Database(
        where=where(parts).split("@", 1)[-1],
        name=found["name"],
        oid=found["oid"],
        system_identifier=identifier,
        server_version=found["server_version"],
        server_version_num=found["server_version_num"],
        encoding=found["encoding"],
        collate=found["collate"] or "",
        now=found["now"].isoformat(timespec="milliseconds"),
    )


def _peer(session: Session) -> dict[str, str]:
    info = session.connection.info
    return {"host": info.host, "port": str(info.port), "dbname": info.dbname, "user": info.user}


def survey(session: Session, schemas: Sequence[str]) -> Survey:
    """Read what the schemas hold. Raises AlignError when one is missing or a table cannot be read whole."""
    owners = {row["name"]: row["owner"] for row in session.rows(_SCHEMAS, (list(schemas),))}
    _require_schemas(session, schemas, owners)
    rows = session.rows(_TABLES, (list(schemas),))
    _require_readable(session, rows)
    tables = [row for row in rows if row["kind"] in "rp"]
    return Survey(
        database=database_of(session),
        schemas=owners,
        extensions=tuple(Extension(**row) for row in session.rows(_EXTENSIONS)),
        # A partition's rows are its parent's rows: they are counted once.
        relations=tuple(
            Relation(
                Table(row["schema"], row["name"]),
                tuple(row["columns"]),
                frozenset(row["generated"]),
                row["table_bytes"],
            )
            for row in tables
            if not row["partition"]
        ),
        locked=tuple(Table(row["schema"], row["name"]) for row in tables),
        table_bytes=sum(row["table_bytes"] for row in rows),
        index_bytes=sum(row["index_bytes"] for row in rows),
    )


def _require_schemas(session: Session, schemas: Sequence[str], owners: dict[str, str]) -> None:
    missing = [name for name in schemas if name not in owners]
    if missing:
        raise AlignError(
            "A schema to back up does not exist.",
            object_name=f"{session.target.name}: {', '.join(missing)}",
            expected="every schema of archon_schema_names",
            found=f"only {', '.join(owners) or 'none of them'}",
            remedy="Correct archon_schema_names or the database name in the DSN.",
            code="no_schema",
        )


def _require_readable(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    def names(key: str, wanted: bool) -> str:
        found = [f"{row['schema']}.{row['name']}" for row in rows if row[key] is wanted and row["kind"] != "m"]
        return ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")

    role = session.connection.info.user
    if unreadable := names("readable", False):
        raise AlignError(
            f"The role {role} may not read everything, so a backup would not be whole.",
            object_name=f"{session.target.name}: {unreadable}",
            expected="SELECT on every table and sequence, USAGE on every schema",
            found="no SELECT, or no USAGE on the schema",
            remedy=f"Connect as the owner of the tables, or GRANT SELECT on them to {role}.",
            code="missing_privilege",
        )
    if hidden := names("rows_hidden", True):
        raise AlignError(
            f"Row-level security hides rows from the role {role}, so a backup would not be whole.",
            object_name=f"{session.target.name}: {hidden}",
            expected="a role to whom every row is visible",
            found="row-level security applies to this role (policies, or FORCE ROW LEVEL SECURITY on the owner)",
            remedy=f"Connect as the owner without FORCE ROW LEVEL SECURITY, or ALTER ROLE {role} BYPASSRLS.",
            code="rows_hidden",
        )


def lock_for_reading(session: Session, tables: Sequence[Table]) -> None:
    """Take ACCESS SHARE on every table, to be held until the transaction ends: nobody can rewrite or drop one meanwhile.

    A statement that reads no row does it, since LOCK TABLE is no reading statement to the gate.
    """
    for table in tables:
        session.execute(sql.SQL("SELECT FROM ONLY {} LIMIT 0").format(table.identifier))
