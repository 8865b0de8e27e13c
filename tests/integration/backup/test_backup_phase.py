"""Backups of a real database, proved by restoring them."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from archon_align.backup import phase
from archon_align.backup.manifest import verify_manifest
from archon_align.context import Context

WORLD = (Path(__file__).parent / "world.sql").read_text()


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database(WORLD)


def test_everything_survives(prod: str, make_context: Callable[..., Context]) -> None:
    context = make_context(prod, phase="backup")
    outcome = phase.run(context, phase.Options())
    assert (outcome.status, outcome.changed) == ("aligned", False)
    backup = outcome.details["backup"]
    assert backup["verified"] is True
    assert backup["rows"] == 6 + 120 + 93 + 60 + 2 + 2 + 2
    folder = context.run.artifacts / "backup"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == dict.fromkeys(
        ("public.dump", "manifest.json", "restore.list", "preamble.sql"), 0o600
    )
    manifest = verify_manifest(folder)
    assert manifest["files"]["public.dump"]["sha256"] == backup["sha256"]
    before = json.loads((context.run.artifacts / "snapshot-before.json").read_text())
    assert before["protected"]["public.archon_tasks"]["rows"] == 120
    assert outcome.details["protected_before"]["public.archon_projects"]["rows"] == 6
