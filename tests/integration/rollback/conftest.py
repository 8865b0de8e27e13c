"""A pair of databases for each module of tests about the structure; each test works in a schema of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archon_align.embedded.server import EmbeddedServer

from tests.integration.schema.schema_worlds import Side, World, held, make_database, prepare

_numbers = itertools.count()


@pytest.fixture(scope="module")
def sides(server: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[tuple[Side, Side]]:
    """DEV and PROD; PROD's run lock is held."""
    prepare(server)
    module = request.module.__name__.rpartition(".")[2].removeprefix("test_rollback_")
    dev, prod = (
        Side(server, name, make_database(server, name)) for name in (f"undo_{module}_dev", f"undo_{module}_prod")
    )
    holding = held(prod.dsn)
    next(holding)
    yield dev, prod
    holding.close()


@pytest.fixture
def make_world(sides: tuple[Side, Side], tmp_path: Path) -> Callable[..., World]:
    """Call with DEV's and PROD's SQL."""

    def make(dev_sql: str, prod_sql: str) -> World:
        name = f'undo {next(_numbers)} "ü%s"'
        for side, text in zip(sides, (dev_sql, prod_sql), strict=True):
            side.run(name, text)
        return World(*sides, (name,), tmp_path / "artifacts")

    return make
