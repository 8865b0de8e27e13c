"""An aligned PROD with the lab's Archon in front of it: databases of DEV's contents, whose settings are right."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from archon_align.context import Context
from archon_align.embedded.server import EmbeddedServer
from archon_align.embedding.endpoint import Endpoint
from archon_align.outcome import PhaseOutcome
from archon_align.validate.functional import phase
from archon_align.validate.functional.model import Options
from psycopg import sql

from lab import databases, embedding_service
from lab.archon import serve

_NAMES = (f"functional_{number}" for number in itertools.count())
FAST = {"LAB_ARCHON_UPLOAD_DELAY": "0.05", "LOG_LEVEL": "WARNING"}


@dataclass(frozen=True)
class Prod:
    """One aligned database, and what its Archon is started with."""

    dsn: str
    embedding_base_url: str

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as owner:
            cursor = owner.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    @property
    def environment(self) -> dict[str, str]:
        return {
            "EMBEDDING_PROVIDER": "ollama",
            "EMBEDDING_BASE_URL": self.embedding_base_url,
            "EMBEDDING_MODEL": "nomic-embed-text",
            "EMBEDDING_DIMENSIONS": "768",
            **FAST,
        }

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table, as text."""
        tables = self.execute(
            "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
        )
        return {name: self.execute(f'SELECT t::text FROM public."{name}" t ORDER BY 1') for (name,) in tables}


@pytest.fixture(scope="module")
def vectors() -> Iterator[embedding_service.RunningService]:
    with embedding_service.serve() as running:
        yield running


@pytest.fixture(scope="module")
def supabase(
    tmp_path_factory: pytest.TempPathFactory, vectors: embedding_service.RunningService
) -> Iterator[EmbeddedServer]:
    """A server of its own, because service_role must see every row there, and a database `archon` to copy."""
    with EmbeddedServer(tmp_path_factory.mktemp("supabase")) as running:
        databases.ensure_roles(running.dsn(), "lab")
        databases.rebuild(running.dsn(), "dev", vectors.base_url, databases.STANDARD)
        yield running


@pytest.fixture
def prod(supabase: EmbeddedServer, vectors: embedding_service.RunningService) -> Iterator[Prod]:
    name = next(_NAMES)
    with psycopg.connect(supabase.dsn(), autocommit=True) as admin:
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}")
        admin.execute(copy.format(*map(sql.Identifier, (name, databases.DATABASE, databases.OWNER))))
        yield Prod(supabase.dsn(name, databases.OWNER), vectors.base_url)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def archon(prod: Prod) -> Iterator[serve.Running]:
    with serve.server(prod.dsn, **prod.environment) as running:
        yield running


@pytest.fixture
def ask(
    prod: Prod, make_context: Callable[..., Context], hold_run_lock: Callable
) -> Callable[..., tuple[PhaseOutcome, dict[str, dict[str, Any]]]]:
    """Call with Archon's URL (and mcp_url, write, check, …) for the outcome and its checks by name."""
    hold_run_lock(prod.dsn)

    def run(url: str = "", *, check: bool = False, **options: Any) -> tuple[PhaseOutcome, dict[str, dict[str, Any]]]:
        wanted = Options(
            **{
                "url": url,
                "mcp_url": "",
                "endpoint": Endpoint(prod.embedding_base_url, "nomic-embed-text", 768),
                "write": not check,
                "ready_timeout": 1.0,
                "upload_timeout": 30.0,
                **options,
            }
        )
        outcome = phase.run(make_context(prod.dsn, check=check, phase="validate"), wanted, "ollama")
        return outcome, {check["name"]: check for check in outcome.details["functional"]["checks"]}

    return run
