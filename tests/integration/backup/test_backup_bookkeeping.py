"""What newer servers note in their catalogue for themselves does not keep a backup from being restored elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from archon_align.backup import bookkeeping, phase
from archon_align.backup.loading import client
from archon_align.backup.manifest import verify_manifest
from archon_align.backup.tools import Tool
from archon_align.context import Context
from archon_align.embedded.server import EmbeddedServer
from archon_align.errors import AlignError

# Such a server's own doing, written into the catalogue of one that would not do so.
NOTED = """
SET allow_system_table_mods = on;
UPDATE pg_attribute SET attoptions = ARRAY['pg_attver=26984376'] || coalesce(attoptions, '{}')
WHERE attrelid = ANY(ARRAY['archon_tasks', '"odd ""ü x"', 'archon_projects']::regclass[]) AND attnum > 0;
"""
ODD = """
CREATE TABLE "odd ""ü x" (id int PRIMARY KEY, "SET (pg_attver=1);" text, "line
break" text);
ALTER TABLE "odd ""ü x" ALTER id SET (n_distinct = 5, n_distinct_inherited = 7);
INSERT INTO "odd ""ü x" VALUES (1, 'ALTER TABLE ONLY t ALTER COLUMN c SET (pg_attver=26984376);', 'x');
COMMENT ON TABLE "odd ""ü x" IS 'SET (pg_attver=7)';
"""


@pytest.fixture
def noted(prod: str, server: EmbeddedServer) -> str:
    with psycopg.connect(prod, autocommit=True) as owner:
        owner.execute(ODD)
    with psycopg.connect(prod, user="postgres", autocommit=True) as admin:
        admin.execute(NOTED)
    return prod


def script(tool: Tool, dump: Path) -> str:
    return subprocess.run([tool.path, "--file=-", dump], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("parallel_mb", [64, 0], ids=["one file", "a folder"])
def test_a_backup_of_such_a_server_is_proved(
    noted: str, make_context: Callable[..., Context], parallel_mb: int
) -> None:
    context = make_context(noted, phase="backup")
    phase.run(context, phase.Options(parallel_mb=parallel_mb))
    folder = context.run.artifacts / "backup"
    manifest = verify_manifest(folder)
    assert manifest["verified"] is True
    written = script(client("", "pg_restore"), folder / manifest["dump"]["path"])
    statements = [line for line in written.splitlines() if line.startswith("ALTER TABLE")]
    assert not any("26984376" in line for line in statements)
    assert any("n_distinct=5, n_distinct_inherited=7)" in line for line in statements)
    # A row and a comment that only look like it are what they were.
    assert "ALTER TABLE ONLY t ALTER COLUMN c SET (pg_attver=26984376);" in written
    assert "IS 'SET (pg_attver=7)'" in written


def test_a_dump_without_it_is_left_alone(prod: str, make_context: Callable[..., Context]) -> None:
    context = make_context(prod, phase="backup")
    phase.run(context, phase.Options())
    dump = context.run.artifacts / "backup" / "public.dump"
    before = dump.read_bytes()
    assert bookkeeping.take_out(dump, client("", "pg_restore"), 60) == 0
    assert dump.read_bytes() == before


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.dump"
    broken.write_bytes(b"PGDMP")
    with pytest.raises(AlignError, match="cannot be read back"):
        bookkeeping.take_out(broken, client("", "pg_restore"), 60)
