"""What tests of the way back look at, and how they take it."""

from __future__ import annotations

import re
import subprocess

import psycopg
from archon_align.embedded.server import EmbeddedServer

from tests.support.world import World

_OBJECT = re.compile(r"^-- (?:Data for )?Name: (?P<name>.*); Type: (?P<type>[^;]*);", re.MULTILINE)


Objects = dict[tuple[str, str], list[str]]


def dump(world: World, side: str = "prod") -> Objects:
    """Every object of a database by name and type, as pg_dump tells it, lines sorted: an UPDATE moves a row."""
    command = [str(EmbeddedServer(world.folder).bin / "pg_dump"), "--restrict-key=oracle", world.dsn(side)]
    text = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    found = list(_OBJECT.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    objects = {
        (match["type"], match["name"]): sorted(text[match.end() : end].splitlines())
        for match, end in zip(found, ends, strict=True)
    }
    # Numbers that a sequence has given out are not taken back by any transaction.
    return {key: lines for key, lines in objects.items() if key[0] != "SEQUENCE SET"}


def run_sql(world: World, statements: str) -> None:
    with psycopg.connect(world.dsn("prod"), autocommit=True) as connection:
        connection.execute(statements.encode())


def rollback(world: World, point: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return world.play("-e", f"restore_point={point}", *arguments, playbook="playbooks/rollback.yml")
