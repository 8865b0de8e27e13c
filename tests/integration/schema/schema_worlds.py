"""A DEV and a PROD database whose schemas differ as a test says, and pg_dump as a witness that owes nothing to our own inspection."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from archon_align.context import Context, Run
from archon_align.database.run_lock import LOCK_KEYS
from archon_align.database.target import Target
from archon_align.embedded.server import EmbeddedServer
from archon_align.outcome import PhaseOutcome
from archon_align.schema import phase
from archon_align.schema.decisions import Decisions
from psycopg import sql

RUN_ID = "20260101-000000-abcdef"
OWNER = "archon_owner"
ROLES = ("anon", "authenticated", "service_role")
_STRUCTURE = """
SELECT 'column', c.relname::text, a.attname::text, concat_ws(' ', a.atttypid::regtype::text, a.atttypmod, a.attnotnull, a.attgenerated, a.attidentity), pg_get_expr(d.adbin, d.adrelid), a.attacl::text
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s))::oid AND a.attnum > 0
UNION ALL SELECT 'relation', relname, relkind::text, relfilenode::text, reloptions::text, relacl::text FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s))::oid
UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid), '', '', '' FROM pg_constraint WHERE connamespace = to_regnamespace(quote_ident(%(schema)s))::oid
UNION ALL SELECT 'function', proname, prosrc, '', '', proacl::text FROM pg_proc WHERE pronamespace = to_regnamespace(quote_ident(%(schema)s))::oid
UNION ALL SELECT 'label', t.typname, e.enumlabel, '', '', '' FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid WHERE t.typnamespace = to_regnamespace(quote_ident(%(schema)s))::oid
ORDER BY 1, 2, 3
"""
_TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace(quote_ident(%(schema)s))::oid ORDER BY 1"
_NOISE = re.compile(r"^(--|SET |SELECT pg_catalog\.set_config|\\)")


def prepare(server: EmbeddedServer) -> None:
    """The roles of a Supabase project, once per server."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        found = {row[0] for row in admin.execute("SELECT rolname FROM pg_roles")}
        for role in {OWNER, *ROLES} - found:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        for role in ROLES:
            admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(OWNER)))


def make_database(server: EmbeddedServer, name: str, *, extension_schema: str = "public", vector: bool = True) -> str:
    """An empty database of the ordinary owner, with pgvector (unless not `vector`) in `extension_schema`; its DSN."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(OWNER)))
    with psycopg.connect(server.dsn(name), autocommit=True) as admin:
        if extension_schema != "public":
            admin.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(extension_schema)))
            admin.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO PUBLIC").format(sql.Identifier(extension_schema)))
        if vector:
            admin.execute(sql.SQL("CREATE EXTENSION vector SCHEMA {}").format(sql.Identifier(extension_schema)))
        admin.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(OWNER)))
        admin.execute("CREATE SCHEMA auth")
        admin.execute(
            "CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'service_role'::text $$"
        )
        admin.execute("GRANT USAGE ON SCHEMA auth TO PUBLIC")
    return server.dsn(name, OWNER)


@dataclass(frozen=True)
class Side:
    server: EmbeddedServer
    database: str
    dsn: str
    extension_schema: str = "public"

    def run(self, schema: str, text: str) -> None:
        """Run SQL as the owner in `schema`, which is made if need be."""
        with psycopg.connect(self.dsn, autocommit=True) as owner:
            name = sql.Identifier(schema)
            owner.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
            path = sql.SQL("SET search_path = {}, {}").format(name, sql.Identifier(self.extension_schema))
            owner.execute(path)
            if text:
                owner.execute(text.encode())

    def value(self, schema: str, query: str) -> object:
        """The first column of the first row, asked by a superuser."""
        with psycopg.connect(self.server.dsn(self.database), autocommit=True) as admin:
            path = sql.SQL("SET search_path = {}, {}")
            admin.execute(path.format(sql.Identifier(schema), sql.Identifier(self.extension_schema)))
            row = admin.execute(query.encode()).fetchone()
            return row[0] if row else None

    def picture(self, schema: str) -> tuple[object, ...]:
        """Structure and rows of a schema, as far as a change could hide, without asking our own code."""
        with psycopg.connect(self.server.dsn(self.database), autocommit=True) as admin:
            structure = admin.execute(_STRUCTURE, {"schema": schema}).fetchall()
            tables = [row[0] for row in admin.execute(_TABLES, {"schema": schema}).fetchall()]
            rows = [
                admin.execute(
                    sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(sql.Identifier(schema, one))
                ).fetchall()
                for one in tables
            ]
        return (structure, tables, rows)

    def dump(self, *options: str) -> str:
        """pg_dump of the structure of the whole database."""
        command = [self.server.bin / "pg_dump", "-s", *options, self.server.dsn(self.database)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return re.sub(r"^\\(un)?restrict.*$", "", done.stdout, flags=re.MULTILINE)


def facts(dump: str, extension_schema: str = "public") -> set[str]:
    """What a schema dump says, without the order of statements, of a table's columns and of options."""
    found = set()
    for raw in re.split(r";\n", dump):
        lines = [line for line in raw.splitlines() if line and not _NOISE.match(line)]
        if lines and re.match(r"CREATE (UNLOGGED )?TABLE", lines[0]):
            found |= {f"{lines[0]} {_options_sorted(line.strip().rstrip(','))}" for line in lines[1:]}
        elif lines:
            found.add("\n".join(lines))
    return {text.replace(f"{extension_schema}.vector", "vector") for text in found}


def _options_sorted(line: str) -> str:
    inside = re.fullmatch(r"WITH \((.*)\)", line)
    return f"WITH {sorted(inside[1].split(', '))}" if inside else line


@dataclass(frozen=True)
class World:
    """DEV and PROD of one test, in schemas of its own on databases that tests share."""

    dev: Side
    prod: Side
    schemas: tuple[str, ...]
    artifacts: Path

    @property
    def schema(self) -> str:
        return self.schemas[0]

    def context(self, *, check: bool = False, protected: tuple[str, ...] = ()) -> Context:
        return Context(
            run=Run(RUN_ID + ("-check" if check else ""), self.artifacts),
            prod=Target("PROD", self.prod.dsn),
            dev=Target("DEV", self.dev.dsn),
            phase="schema",
            schemas=self.schemas,
            protected_names=protected,
        )

    def align(self, *, check: bool = False, protected: tuple[str, ...] = (), credentials: bool = False) -> PhaseOutcome:
        return phase.run(self.context(check=check, protected=protected), phase.Options(credentials=credentials))


def placed(value: Any, schema: str) -> Any:
    """`«s»` as the world's schema with SQL quoting, `«S»` as findings print it."""
    if isinstance(value, dict):
        return {placed(key, schema): placed(one, schema) for key, one in value.items()}
    if isinstance(value, list):
        return [placed(one, schema) for one in value]
    return str(value).replace("«s»", '"' + schema.replace('"', '""') + '"').replace("«S»", schema)


def decide(
    world: World, decisions: dict[str, Any], *, check: bool = False, protected: tuple[str, ...] = ()
) -> PhaseOutcome:
    options = phase.Options(credentials=False, decisions=Decisions.parse(placed(decisions, world.schema)))
    return phase.run(world.context(check=check, protected=protected), options)


def held(dsn: str) -> Iterator[psycopg.Connection]:
    """PROD's run lock, held as the keeper of the tests' run would."""
    with psycopg.connect(dsn, autocommit=True, application_name=f"align keeper {RUN_ID}") as keeper:
        assert keeper.execute("SELECT pg_try_advisory_lock(%s, %s)", LOCK_KEYS).fetchone() == (True,)
        yield keeper
