"""The lab's two databases, built once and copied for each test that lets an Archon loose on one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import psycopg
import pytest
from archon_align.embedded.server import EmbeddedServer
from psycopg import sql

from lab import databases
from lab.embedding_service import RunningService, serve


@pytest.fixture(scope="session")
def vectors() -> Iterator[RunningService]:
    """The embedding service that DEV's settings name."""
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory, vectors: RunningService) -> Iterator[EmbeddedServer]:
    """A server with the databases `dev` and `prod` in the lab's start state, to be copied."""
    with EmbeddedServer(tmp_path_factory.mktemp("archon")) as running:
        databases.ensure_roles(running.dsn(), "of no use over a socket")
        for world in ("dev", "prod"):
            databases.rebuild(running.dsn(), world, vectors.base_url, databases.STANDARD)
            with psycopg.connect(running.dsn(), autocommit=True) as admin:
                rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                admin.execute(rename.format(sql.Identifier(databases.DATABASE), sql.Identifier(world)))
        yield running


@pytest.fixture
def copy_of(lab_server: EmbeddedServer) -> Iterator[Callable[..., str]]:
    """Call with `dev` or `prod`, and statements to run on it first, for the DSN of a copy, as the owner."""
    made: list[str] = []
    numbers = itertools.count()

    def copy(world: str, *statements: str) -> str:
        name = f"{world}_{next(numbers)}_{id(made):x}"
        create = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}")
        with psycopg.connect(lab_server.dsn(), autocommit=True) as admin:
            admin.execute(create.format(*map(sql.Identifier, (name, databases.OWNER, world))))
        made.append(name)
        dsn = lab_server.dsn(name, databases.OWNER)
        with psycopg.connect(dsn) as owner:
            for statement in statements:
                owner.execute(statement.encode())
        return dsn

    yield copy
    with psycopg.connect(lab_server.dsn(), autocommit=True) as admin:
        for name in made:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
