"""One rebuild by several machines: two here, one to which the core is shipped, one that nobody reaches, one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from archon_align.context import Context, Run
from archon_align.database.run_lock import LOCK_KEYS
from archon_align.database.target import Target
from archon_align.schema import phase as schema

from lab.embedding_service import RunningService, serve
from lab.world import Lab
from tests.support.world import World, clients

pytestmark = pytest.mark.timeout(1800)
ROWS = 1_792
MISSING = ROWS + 93 + 14
# Seconds a request takes until all workers are at work, however long this machine needs to start them; then seconds a text takes.
WAITING = 4.0
SLOW = 0.004
_MORE = """
INSERT INTO archon_crawled_pages (url, chunk_number, content, source_id)
SELECT 'https://workers.example/' || n, 0, 'page ' || n || ' ' || md5(n::text) || ' ' || md5((-n)::text),
    (SELECT min(source_id) FROM archon_sources)
FROM generate_series(1, %s) AS n
"""
_LEFT = "SELECT (SELECT count(*) FROM archon_crawled_pages WHERE embedding IS NULL) + (SELECT count(*) FROM archon_code_examples WHERE embedding IS NULL)"
NAMES = ("w-1", "worker two ü", "shipped", "away")


@pytest.fixture(scope="module")
def services() -> Iterator[list[RunningService]]:
    """An embedding service for each worker."""
    with ExitStack() as stack:
        yield [stack.enter_context(serve()) for _ in NAMES]


@pytest.fixture(scope="module")
def workers(services: list[RunningService], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inventory of the workers. Another interpreter is what makes Ansible ship a module to its own machine."""
    folder = tmp_path_factory.mktemp("workers")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    own: dict[str, dict[str, Any]] = {
        "shipped": {
            "ansible_python_interpreter": str(python),
            "archon_worker_artifacts_dir": str(folder / "elsewhere" / "runs"),
        },
        "away": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9},
    }
    hosts = {
        name: {"archon_embedding_endpoints": [service.base_url], **own.get(name, {})}
        for name, service in zip(NAMES, services, strict=True)
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"embedding_workers": {"hosts": hosts}}, allow_unicode=True))
    return folder


@pytest.fixture(scope="module")
def world(shared_lab: Lab, lab_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A PROD with DEV's structure, and many rows without embedding."""
    shared_lab.reset()
    world = World(shared_lab, lab_folder, tmp_path_factory.mktemp("artifacts"))
    run = Run("20260101-120000-abcdef", tmp_path_factory.mktemp("before"))
    prod, dev = Target("PROD", world.dsn("prod")), Target("DEV", world.dsn("dev"))
    with psycopg.connect(prod.dsn, autocommit=True, application_name=f"align keeper {run.id}") as keeper:
        keeper.execute("SELECT pg_advisory_lock(%s, %s)", LOCK_KEYS)
        assert schema.run(Context(run, prod, dev, "schema"), schema.Options()).status == "changed"
        keeper.execute(_MORE.encode(), (ROWS,))
    assert world.value("prod", _LEFT) == MISSING
    return world


def start(
    world: World, workers: Path, *arguments: str, playbook: str = "playbooks/embeddings.yml"
) -> subprocess.Popen[str]:
    # The added pages are no text that anybody asks for.
    plain = ("-e", "archon_search_queries_file=")
    return world.start("-i", str(workers / "hosts.yml"), *plain, *arguments, playbook=playbook)


def finish(world: World, process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return world.report, output


def at_work(world: World) -> set[int]:
    """The processes of the embedding workers, by the sessions they have at PROD."""
    return clients(world.dsn("prod"), "embeddings")


def together(world: World, process: subprocess.Popen[str], services: list[RunningService], number: int) -> set[int]:
    """Have so many workers wait for each other before they get to work; their processes."""
    for service in services:
        service.set_faults(latency=WAITING)
        service.forget_requests()
    deadline = time.monotonic() + 600
    while len(there := at_work(world)) < number:
        assert time.monotonic() < deadline, there
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    for service in services:
        service.set_faults(latency_per_text=SLOW)
    return there


def test_in_check_mode_only_prod_is_asked(world: World, workers: Path, services: list[RunningService]) -> None:
    report, _ = finish(world, start(world, workers, "--check"))
    assert report["embeddings"]["missing_before"] == MISSING
    assert "workers" not in report["embeddings"]
    assert {one["severity"] for one in report["findings"]} == {"info"}
    assert [service.requests for service in services] == [[], [], [], []]
    assert world.value("prod", _LEFT) == MISSING


def test_all_of_them_share_the_rows_and_one_that_is_away_stops_nobody(
    world: World, workers: Path, services: list[RunningService]
) -> None:
    process = start(world, workers)
    together(world, process, services, 3)
    report, output = finish(world, process)
    found = report["embeddings"]
    assert (report["result"], found["missing_before"], found["missing_after"]) == ("changed", MISSING, 0)
    assert world.value("prod", _LEFT) == 0
    # The name of a worker whose host's name is no name for a file.
    by_name = {worker["name"]: worker for worker in found["workers"]}
    odd = next(name for name in by_name if name.startswith("worker-two--"))
    assert set(by_name) == {"w-1", odd, "shipped", "away"}
    assert {name: worker["status"] for name, worker in by_name.items()} == {
        "w-1": "changed", odd: "changed", "shipped": "changed", "away": "unreachable",
    }  # fmt: skip
    assert all(by_name[name]["rebuilt"] > 0 for name in ("w-1", odd, "shipped")), by_name
    assert sum(worker["rebuilt"] for worker in by_name.values()) == found["rebuilt"] == MISSING
    assert [
        (one["code"], one["severity"], one["object"]) for one in report["findings"] if "worker" in one["object"]
    ] == [("embedding_worker_lost", "warning", "worker away")]
    sent = Counter(text for service in services for text in texts(service))
    assert len([text for text in sent if text.startswith("page ")]) == ROWS
    assert sum(sent.values()) - len(sent) < 60, "nothing was embedded twice but the samples that prove the rows"
    ledgers = {path.name: path.stat().st_mode & 0o777 for path in (world.artifacts / "latest/restore-points").iterdir()}
    assert {f"embeddings-{name}.jsonl" for name in ("w-1", odd, "shipped")} <= ledgers.keys()
    assert set(ledgers.values()) == {0o600}
    kept = workers / "elsewhere" / "runs" / report["run_id"]
    assert [folder.stat().st_mode & 0o777 for folder in (kept.parent.parent, kept)] == [0o700, 0o700]
    assert {path.name for path in (kept / "restore-points").iterdir()} == {"embeddings-shipped.jsonl"}
    assert f"{MISSING:,} rows with 3 of 4 workers" in output


def texts(service: RunningService) -> list[str]:
    found: list[str] = []
    for request in service.requests:
        given = request.get("texts")
        found += given if isinstance(given, list) else []
    return found


def test_a_rollback_takes_out_what_all_of_them_did(world: World) -> None:
    points = [
        point
        for path in sorted(world.artifacts.glob("2*/report.json"))
        if '"embeddings-shipped"' in path.read_text()
        for point in yaml.safe_load(path.read_text())["restore_points"]
        if point.get("phase", "").startswith("embeddings-")
    ]
    assert len(points) == 3
    first = min(points, key=lambda point: point["created_at"])
    done = world.play("-e", f"restore_point={first['name']}", playbook="playbooks/rollback.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert world.value("prod", _LEFT) == MISSING


def test_a_worker_that_is_killed_leaves_its_rows_to_the_others(
    world: World, workers: Path, services: list[RunningService]
) -> None:
    hosts = "archon_prod,archon_dev,w-1,shipped"
    process = start(world, workers, "--limit", hosts, "--tags", "embeddings,report", playbook="align.yml")
    there = together(world, process, services, 2)
    ledgers = world.artifacts / "latest" / "restore-points"
    deadline = time.monotonic() + 600
    while not all('"committed"' in text for text in read(ledgers, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(min(there), signal.SIGKILL)
    report, output = finish(world, process)
    lost = [one["object"] for one in report["findings"] if one["code"] == "embedding_worker_lost"]
    assert len(lost) == 1
    by_name = {worker["name"]: worker for worker in report["embeddings"]["workers"]}
    assert by_name.keys() == {"w-1", "shipped"}
    assert by_name[lost[0].removeprefix("worker ")]["status"] == "failed"
    assert all(worker["rebuilt"] > 0 for worker in by_name.values()), by_name
    assert "leaves out the embedding workers" in output
    assert report["embeddings"]["missing_after"] == world.value("prod", _LEFT) == 0
    # What was committed in the very moment of its death is not known to the ledger that counts it.
    assert MISSING - 600 <= report["embeddings"]["rebuilt"] <= MISSING
    assert {"embeddings-w-1", "embeddings-shipped"} <= {point.get("phase") for point in report["restore_points"]}


def read(ledgers: Path, workers: Path) -> tuple[str, str]:
    """The restore points of the worker here and of the one whose folder is elsewhere, as far as they are written."""
    elsewhere = workers / "elsewhere" / "runs" / ledgers.parent.resolve().name / ledgers.name
    found = (ledgers / "embeddings-w-1.jsonl", elsewhere / "embeddings-shipped.jsonl")
    return tuple(path.read_text() if path.exists() else "" for path in found)  # type: ignore[return-value]
