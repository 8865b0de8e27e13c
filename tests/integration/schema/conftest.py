"""One pair of databases for all cases of a server version; each test works in a schema of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archon_align.database.session import Session
from archon_align.embedded.server import EmbeddedServer
from archon_align.plan import Statement
from schema_worlds import Side, World, held, make_database, prepare

_numbers = itertools.count()


@pytest.fixture(scope="session")
def sides(server: EmbeddedServer) -> Iterator[tuple[Side, Side]]:
    prepare(server)
    names = ("schema_dev", "schema_prod")
    dev, prod = (Side(server, name, make_database(server, name)) for name in names)
    holding = held(prod.dsn)
    next(holding)
    yield dev, prod
    holding.close()


@pytest.fixture
def make_world(sides: tuple[Side, Side], tmp_path: Path) -> Callable[..., World]:
    """Call with DEV's and PROD's SQL (and the schema's name, if it matters)."""

    def make(dev_sql: str, prod_sql: str, schema: str = "") -> World:
        dev, prod = sides
        name = schema or f'world {next(_numbers)} "ü"'
        dev.run(name, dev_sql)
        prod.run(name, prod_sql)
        return World(dev, prod, (name,), tmp_path / "artifacts")

    return make


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Session], None]], None]:
    """Call with words and an action: the action comes before the first planned statement with these words."""
    real = Session.apply

    def hook(words: str, action: Callable[[Session], None]) -> None:
        done: list[None] = []

        def apply(session: Session, statement: Statement) -> int:
            if words in statement.sql and not done:
                done.append(None)
                action(session)
            return real(session, statement)

        monkeypatch.setattr(Session, "apply", apply)

    return hook
