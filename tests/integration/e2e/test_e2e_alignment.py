"""The main story, in the order a user lives it: check, align, align again, check again, and back to before it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from e2e_undoing import Objects, dump, rollback, run_sql

from tests.support.world import ROOT, World

PROTECTED = {"archon_projects": 6, "archon_tasks": 120, "archon_document_versions": 40, "archon_project_sources": 20}


USERS = """
UPDATE archon_tasks SET title = 'theirs' WHERE id = (SELECT id FROM archon_tasks ORDER BY id LIMIT 1);
UPDATE archon_settings SET value = 'their-model' WHERE key = 'EMBEDDING_MODEL';
DELETE FROM archon_crawled_pages WHERE id = (SELECT max(id) FROM archon_crawled_pages);
INSERT INTO archon_credentials (category, key, value) VALUES ('theirs', 'THEIRS', 'value');
"""


@pytest.fixture(scope="module")
def start(world: World) -> dict[str, Objects]:
    """Both databases as they were at first."""
    return {side: dump(world, side) for side in ("prod", "dev")}


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


@pytest.mark.usefixtures("start")
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


def first_run(world: World) -> Path:
    """The folder of the run that changed everything."""
    return min(
        path
        for path in world.artifacts.iterdir()
        if path.is_dir() and not path.is_symlink() and not path.name.endswith("-check")
    )


def test_5_the_backup_restores_the_broken_state(world: World) -> None:
    """The verified backup of the run that changed everything holds what was there before it."""
    first = first_run(world)
    manifest = read(first / "backup", "manifest.json")
    assert manifest["verified"] is True
    assert (first / "backup" / "public.dump").stat().st_mode & 0o777 == 0o600
    assert first.stat().st_mode & 0o777 == 0o700


def test_6_nothing_secret_in_any_artifact(world: World) -> None:
    password = (world.folder / "passfile").read_text().strip().rsplit(":", 1)[-1]
    for path in world.artifacts.rglob("*"):
        if path.is_file() and path.suffix != ".dump":
            assert password.encode() not in path.read_bytes(), path


def test_7_back_to_before_the_run_and_users_keep_what_they_did(world: World, start: dict[str, Objects]) -> None:
    before = start["prod"]
    report = read(first_run(world), "report.json")
    points = {point["name"]: point for point in report["restore_points"]}
    run = report["run_id"]
    assert set(points) >= {
        f"{run}:{name}" for name in ("backup", "schema", "data", "embeddings", "search", "templates")
    }
    run_sql(world, USERS)

    picture = world.photograph()
    result = rollback(world, f"{run}:schema", "--check", "--diff")
    assert result.returncode == 0, result.stdout + result.stderr
    assert world.photograph() == picture
    predicted = world.report
    jsonschema.validate(predicted, read(ROOT / "docs", "report.schema.json"))
    assert (predicted["mode"], predicted["result"]) == ("check", "drift")

    result = rollback(world, f"{run}:schema", "-e", "archon_embedding_base_url=http://127.0.0.1:1/v1")
    assert result.returncode == 0, result.stdout + result.stderr
    report = world.report
    jsonschema.validate(report, read(ROOT / "docs", "report.schema.json"))
    assert report["result"] == "changed"
    assert f"PROD was put back to {run}:schema" in result.stdout
    undone = report["details"]["rollback"]["rollback"]
    assert undone["statements"] == predicted["details"]["rollback"]["rollback"]["statements"]
    assert undone["lost"] == []
    kept = "\n".join(one["name"] for one in undone["kept"])
    assert "archon_settings" in kept
    assert "archon_credentials" in kept
    after = dump(world)
    assert all("archon_credentials" in name for _, name in after.keys() - before.keys()), after.keys() - before.keys()
    assert before.keys() - after.keys() == set()
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {
        ("TABLE DATA", "archon_tasks"),
        ("TABLE DATA", "archon_settings"),
        ("TABLE DATA", "archon_crawled_pages"),
    } | {key for key in changed if "archon_credentials" in key[1]}
    pages = ("TABLE DATA", "archon_crawled_pages")
    assert len(set(before[pages]) - set(after[pages])) == 1
    assert set(after[pages]) <= set(before[pages])
    settings = ("TABLE DATA", "archon_settings")
    (theirs,) = set(after[settings]) - set(before[settings])
    assert "their-model" in theirs
    assert len(set(before[settings]) - set(after[settings])) == 1
    assert [line for line in after["TABLE DATA", "archon_credentials"] if "THEIRS" in line]
    assert dump(world, "dev") == start["dev"]
    world.wait_until_tidy()

    result = rollback(world, f"{run}:schema")
    recap = [line for line in result.stdout.splitlines() if line.startswith("lab-prod ")]
    assert "changed=0" in recap[-1], result.stdout
    assert dump(world) == after
