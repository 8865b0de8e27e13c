"""Fixtures every test shares: a real PostgreSQL server, fresh databases on it, and the context of a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from archon_align.context import Context, Run
from archon_align.database.run_lock import LOCK_KEYS
from archon_align.database.target import Target
from archon_align.embedded.server import EmbeddedServer
from hypothesis import settings
from psycopg import sql

# How fast an example runs says something of the machine only: times belong to tests/bench.
# And what a change did not touch must not fail by chance: --hypothesis-profile=explore tries new examples each time.
settings.register_profile("explore", deadline=None)
settings.register_profile("the same each time", deadline=None, derandomize=True)
settings.load_profile("the same each time")

RUN_ID = "20260101-000000-abcdef"
OWNER = "archon_owner"
_SUPABASE = """
CREATE SCHEMA auth;
CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE
  AS $$ SELECT coalesce(current_setting('request.jwt.claim.role', true), current_user::text) $$;
GRANT USAGE ON SCHEMA auth TO PUBLIC;
CREATE EXTENSION vector;
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A private PostgreSQL 18 with pgvector and the roles Supabase has; superuser `postgres` over its socket."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        with psycopg.connect(running.dsn(), autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {OWNER} LOGIN")
            for role in ("anon", "authenticated", "service_role"):
                admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
                admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(OWNER)))
        yield running


@pytest.fixture
def new_database(server: EmbeddedServer) -> Iterator[Callable[[str], str]]:
    """Call with SQL text to get the DSN of a fresh database, owned by a non-superuser, with that SQL run as the owner."""
    made: list[str] = []
    numbers = itertools.count()

    def make(schema_sql: str = "") -> str:
        name = f"t{next(numbers)}_{id(made):x}"
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(OWNER)))
        made.append(name)
        with psycopg.connect(server.dsn(name), autocommit=True) as admin:
            admin.execute(_SUPABASE)
            admin.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(OWNER)))
        dsn = server.dsn(name, OWNER)
        if schema_sql:
            with psycopg.connect(dsn, autocommit=True) as owner:
                owner.execute(schema_sql.encode())
        return dsn

    yield make
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        for name in made:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def make_context(tmp_path: Path) -> Callable[..., Context]:
    """Call with the two DSNs (and `check=True`) to get a phase's context; other fields by keyword."""

    def make(
        prod_dsn: str, dev_dsn: str = "", *, check: bool = False, phase: str = "test", **fields: object
    ) -> Context:
        run = Run(RUN_ID + ("-check" if check else ""), tmp_path / "artifacts")
        return Context(run=run, prod=Target("PROD", prod_dsn), dev=Target("DEV", dev_dsn), phase=phase, **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture
def hold_run_lock() -> Iterator[Callable[[str], psycopg.Connection]]:
    """Call with PROD's DSN to hold its run lock as the keeper of the tests' run would."""
    held: list[psycopg.Connection] = []

    def hold(dsn: str, run_id: str = RUN_ID) -> psycopg.Connection:
        keeper = psycopg.connect(dsn, autocommit=True, application_name=f"align keeper {run_id}")
        # The server lets go of a keeper's lock a moment after its connection was closed.
        keeper.execute("SET lock_timeout = '60s'")
        keeper.execute("SELECT pg_advisory_lock(%s, %s)", LOCK_KEYS)
        held.append(keeper)
        return keeper

    yield hold
    for connection in held:
        connection.close()
