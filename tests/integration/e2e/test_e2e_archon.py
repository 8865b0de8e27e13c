"""The Archon around the database, as a user has it: broken before, seen to work after one run, and left alone by the next."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import psycopg
import pytest

from lab.world import Lab
from tests.support.world import ROOT, World

CHECKS = {"upload", "search", "code_examples", "projects_and_tasks", "mcp", "template_expansion"}
OURS = "archon-align"
SHOWN = "shown"  # what the first run printed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("lab-with-archon")
    lab = Lab(folder, archon=True)
    lab.up()
    yield World(lab, folder, tmp_path_factory.mktemp("artifacts"))
    lab.remove()


def state(world: World) -> dict[str, Any]:
    return dict(json.loads((world.folder / "state.json").read_text()))


def docker(world: World, path: str) -> Any:
    """Portainer's own answer, past the code under test."""
    portainer = state(world)["portainer"]
    key = {"X-API-Key": Path(portainer["api_key_file"]).read_text().strip()}
    with httpx.Client(
        base_url=portainer["url"],
        headers=key,
        verify=ssl.create_default_context(cafile=portainer["ca_file"]),
        trust_env=False,
    ) as client:
        return client.get(f"/api/endpoints/1/docker{path}", timeout=30).raise_for_status().json()


def starts(world: World) -> int:
    """How often PROD's server was started, by Swarm's own count."""
    service = docker(world, "/services/archon-prod_archon-server")
    return int(service["Spec"]["TaskTemplate"].get("ForceUpdate") or 0)


def asked(world: World) -> list[tuple[str, str]]:
    portainer = state(world)["portainer"]
    with httpx.Client(
        base_url=portainer["url"], verify=ssl.create_default_context(cafile=portainer["ca_file"]), trust_env=False
    ) as client:
        found = client.get("/_lab/requests", timeout=30).json()
        client.delete("/_lab/requests", timeout=30)
    return [(one["method"], one["path"]) for one in found]


def leftovers(world: World) -> dict[str, int]:
    with psycopg.connect(world.dsn("prod")) as prod:
        return {
            table: prod.execute(f"SELECT count(*) FROM {table} WHERE {column} LIKE '%%{OURS}%%'").fetchone()[0]  # type: ignore[index]
            for table, column in (
                ("archon_projects", "title"), ("archon_tasks", "title"), ("archon_sources", "source_id"),
                ("archon_crawled_pages", "url"),
            )
        }  # fmt: skip


def upload_and_count(world: World, name: str) -> int:
    """Upload a document as a user does; its pages that have a vector, once nothing moves any more."""
    url = state(world)["archon"]["prod"]["url"]
    text = "The lighthouse keeper trims the wick at dusk and writes the weather into a book. " * 5
    answer = httpx.post(f"{url}/api/documents/upload", files={"file": (name, text.encode(), "text/plain")}, timeout=60)
    assert answer.json()["success"] is True
    query = "SELECT count(embedding) FROM archon_crawled_pages WHERE url = %s"
    deadline = time.monotonic() + 15
    with psycopg.connect(world.dsn("prod"), autocommit=True) as prod:
        while True:
            found = prod.execute(query, [f"file://{name}"]).fetchone()
            if found != (0,) or time.monotonic() > deadline:
                return int(found[0]) if found else 0
            time.sleep(0.2)


def test_1_before_it_an_upload_is_lost_and_check_mode_only_reads(world: World) -> None:
    assert upload_and_count(world, "before.txt") == 0
    asked(world)
    before = starts(world), world.photograph()
    asked(world)
    result = world.play("-vvv", "--check", "--diff")
    (world.artifacts / SHOWN).write_text(result.stdout + result.stderr)
    assert result.returncode == 0, result.stdout + result.stderr
    sent = asked(world)
    assert (starts(world), world.photograph()) == before
    changing = {(method, path) for method, path in sent if method != "GET"}
    # Log-in and the fixed probe inside the container; nothing else.
    assert all(path.endswith(("/exec", "/start", "/api/auth")) for _, path in changing), changing
    assert any(path.endswith("/services") for _, path in sent)


def test_2_one_run_makes_archon_work_and_leaves_nothing_of_its_own(world: World) -> None:
    first = starts(world)
    result = world.play()
    assert result.returncode == 0, result.stdout + result.stderr
    report = world.report
    jsonschema.validate(report, json.loads((ROOT / "docs" / "report.schema.json").read_text()))
    assert {check["name"]: check["verdict"] for check in report["functional"]["checks"]} == dict.fromkeys(
        CHECKS, "works"
    )
    assert [criterion["met"] for criterion in report["criteria"]] == [True] * 5
    assert leftovers(world) == dict.fromkeys(
        ("archon_projects", "archon_tasks", "archon_sources", "archon_crawled_pages"), 0
    )
    assert all(entry["preserved"] for entry in report["protected"].values())
    assert not any(entry["changed_by_users"] for entry in report["protected"].values())
    assert 1 <= starts(world) - first <= 2
    # Not by the report: a user's upload has vectors now.
    assert upload_and_count(world, "after.txt") > 0


def test_3_the_next_run_changes_nothing(world: World) -> None:
    before = starts(world)
    result = world.play()
    assert result.returncode == 0, result.stdout + result.stderr
    assert (world.report["result"], starts(world)) == ("aligned", before)
    assert "changed=0" in result.stdout.split("lab-prod ")[-1].splitlines()[0]


def test_4_settings_that_a_server_has_not_seen_are_found_by_the_tag_alone(world: World) -> None:
    before = starts(world)
    with psycopg.connect(world.dsn("prod")) as prod:
        prod.execute("UPDATE archon_settings SET value = value WHERE key = 'EMBEDDING_MODEL'")
    result = world.play("--tags", "services")
    assert result.returncode == 0, result.stdout + result.stderr
    assert starts(world) == before + 1
    again = world.play("--tags", "services")
    assert (again.returncode, starts(world)) == (0, before + 1)


def test_5_nothing_of_the_lab_s_secrets_is_told(world: World, all_secrets: Callable[[World], set[str]]) -> None:
    # Of test 1, with all that -vvv and --diff tell; it is among the files below.
    assert "TASK [services" in (world.artifacts / SHOWN).read_text()
    secrets = all_secrets(world)
    assert len(secrets) >= 4
    files = [path for path in world.artifacts.rglob("*") if path.is_file()]
    assert len(files) > 10
    for secret in secrets:
        for path in files:
            assert secret.encode() not in path.read_bytes(), path


@pytest.fixture
def all_secrets() -> Callable[[World], set[str]]:
    """Call for the secrets of a lab: the databases' password, Portainer's keys and passwords, the stacks' service keys."""

    def find(world: World) -> set[str]:
        portainer = state(world)["portainer"]
        found = {(world.folder / "passfile").read_text().strip().rsplit(":", 1)[1]}
        folder = Path(portainer["api_key_file"]).parent
        found |= {path.read_text().strip() for path in folder.glob("*password*")}
        found.add(Path(portainer["api_key_file"]).read_text().strip())
        for service in docker(world, "/services"):
            for pair in service["Spec"]["TaskTemplate"]["ContainerSpec"].get("Env") or []:
                name, _, value = pair.partition("=")
                if name == "SUPABASE_SERVICE_KEY":
                    found.add(value)
        return found

    return find


def test_6_a_server_that_does_not_come_up_is_told_with_its_own_words_and_the_next_run_mends_it(world: World) -> None:
    with psycopg.connect(world.dsn("prod")) as prod:
        prod.execute("UPDATE archon_settings SET value = value WHERE key = 'EMBEDDING_MODEL'")
    faults(world, start_fails=["archon-prod_archon-server"])
    failed = world.play("--tags", "services", "-e", "archon_services_ready_timeout=20")
    faults(world)
    shown = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert "Traceback" not in shown
    assert "non-zero exit (3)" in shown
    mended = world.play("--tags", "services")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    health = httpx.get(f"{state(world)['archon']['prod']['url']}/health", timeout=30).json()
    assert health["ready"] is True


def faults(world: World, **given: Any) -> None:
    portainer = state(world)["portainer"]
    trust = ssl.create_default_context(cafile=portainer["ca_file"])
    with httpx.Client(base_url=portainer["url"], verify=trust, trust_env=False) as client:
        client.put("/_lab/faults", json=given, timeout=30).raise_for_status()
