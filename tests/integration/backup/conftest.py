"""A database with everything in it, and stand-ins for pg_dump that misbehave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from archon_align.embedded.server import EmbeddedServer

WORLD = (Path(__file__).parent / "world.sql").read_text()


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database(WORLD)


@pytest.fixture
def fake_pg_dump(server: EmbeddedServer, tmp_path: Path) -> Callable[[str], str]:
    """Call with a line of shell for the path of a pg_dump that runs it; `$REAL` is the real one, `$BIN` its folder."""

    def make(line: str) -> str:
        path = tmp_path / "fake" / "pg_dump"
        path.parent.mkdir(exist_ok=True)
        real = server.bin / "pg_dump"
        path.write_text(
            f'#!/bin/sh\nREAL="{real}"\nBIN="{real.parent}"\n'
            f'[ "$1" = --version ] && [ -z "$OLD" ] && exec "$REAL" --version\n{line}\n'
        )
        path.chmod(0o755)
        return str(path)

    return make
