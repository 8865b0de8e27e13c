"""The main story, in the order a user lives it: check, align, align again, check again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

from tests.support.world import ROOT, World

PROTECTED = {"archon_projects": 6, "archon_tasks": 120, "archon_document_versions": 40, "archon_project_sources": 20}


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def test_1_check_predicts_and_writes_nothing(world: World) -> None:
    before = world.photograph()
    result = world.play("--check", "--diff")
    assert result.returncode == 0, result.stdout + result.stderr
    assert world.photograph() == before
    report = world.report
    assert (report["mode"], report["result"]) == ("check", "drift")
    assert {phase["name"] for phase in report["phases"]} >= {
        "assess",
        "schema",
        "data",
        "embeddings",
        "templates",
        "validate",
    }
    assert report["schema"]["differences_before"] > 0
    assert report["embeddings"]["missing_before"] >= 93 + 12
    world.wait_until_tidy()


def test_2_align_repairs_everything(world: World) -> None:
    predicted = world.report
    before = {
        name: world.value("prod", f"SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM (SELECT * FROM {name}) t")
        for name in ("archon_projects",)
    }
    result = world.play()
    assert result.returncode == 0, result.stdout + result.stderr
    report = world.report
    jsonschema.validate(report, json.loads((ROOT / "docs" / "report.schema.json").read_text()))
    assert (report["mode"], report["result"]) == ("apply", "changed")
    assert report["embeddings"]["missing_after"] == 0
    assert report["schema"]["differences_after"] == 0
    assert report["search"]["recall_at_5"] >= 0.9
    assert report["credentials"]["changed_keys"]
    for name, rows in PROTECTED.items():
        proof = report["protected"][f"public.{name}"]
        assert proof["preserved"] is True, name
        assert proof["rows_before"] == proof["rows_after"] >= rows
        assert proof["fingerprint_before"] == proof["fingerprint_after"]
    assert report["schema"]["statements"] == predicted["schema"]["statements"], (
        "check mode must predict exactly what is executed"
    )
    for name, digest in before.items():
        assert (
            world.value("prod", f"SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM (SELECT * FROM {name}) t")
            == digest
        )
    # Independent of the report: what the plan's own queries say.
    assert world.value("prod", "SELECT count(*) FROM archon_crawled_pages WHERE embedding IS NULL") == 0
    assert world.value("prod", "SELECT count(*) FROM archon_crawled_pages WHERE vector_dims(embedding) = 768") == 93
    assert world.value("prod", "SELECT count(*) FROM archon_credentials WHERE category = 'embedding'") == 4
    assert world.value("dev", "SELECT count(*) FROM archon_credentials WHERE category = 'embedding'") == 4
    assert (
        world.value(
            "prod", "SELECT value FROM archon_settings WHERE key = 'EMBEDDING_DIMENSIONS' AND category = 'rag_strategy'"
        )
        == "768"
    )
    world.wait_until_tidy()


def test_3_a_second_run_changes_nothing(world: World) -> None:
    before = world.photograph()
    result = world.play()
    assert result.returncode == 0, result.stdout + result.stderr
    recap = [line for line in result.stdout.splitlines() if line.startswith("lab-prod ")]
    assert recap, result.stdout
    assert "changed=0" in recap[-1]
    assert "already aligned" in result.stdout
    assert world.report["result"] == "aligned"
    assert world.photograph() == before


def test_4_check_agrees(world: World) -> None:
    result = world.play("--check")
    assert result.returncode == 0, result.stdout + result.stderr
    assert world.report["result"] == "aligned"


def test_5_the_backup_restores_the_broken_state(world: World) -> None:
    """The verified backup of the run that changed everything holds what was there before it."""
    runs = [
        path
        for path in world.artifacts.iterdir()
        if path.is_dir() and not path.is_symlink() and not path.name.endswith("-check")
    ]
    first = min(runs)
    manifest = read(first / "backup", "manifest.json")
    assert manifest["verified"] is True
    assert (first / "backup" / "public.dump").stat().st_mode & 0o777 == 0o600
    assert first.stat().st_mode & 0o777 == 0o700


def test_6_nothing_secret_in_any_artifact(world: World) -> None:
    password = (world.folder / "passfile").read_text().strip().rsplit(":", 1)[-1]
    for path in world.artifacts.rglob("*"):
        if path.is_file() and path.suffix != ".dump":
            assert password.encode() not in path.read_bytes(), path
