"""One DEV and many PRODs: waves, a canary, one that nobody can mend, a worker that is killed, two fleets at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from jsonschema import Draft202012Validator

from lab.embedding_service import RunningService, serve
from lab.world import Lab
from tests.support.fleet import BROKEN, HEALTHY, HOPELESS, Fleet
from tests.support.world import ROOT, clients

pytestmark = pytest.mark.timeout(1800)
WORKERS = ("w-1", "worker zwei ü", "shipped")
# Seconds that a request takes until the worker that is to be killed has been found, however long this machine needs for that.
WAITING = 60.0
_MISSING = "SELECT count(*) FROM archon_crawled_pages WHERE embedding IS NULL"
_TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
_MADE = "SELECT to_regclass('archon_credentials') IS NOT NULL"
_KEYS = "SELECT count(*) FROM archon_credentials WHERE category = 'embedding'"
_PROJECTS = "SELECT md5(string_agg(p::text, '' ORDER BY id)) FROM archon_projects p"


@pytest.fixture
def fleet(shared_lab: Lab, lab_folder: Path, tmp_path: Path) -> Iterator[Fleet]:
    shared_lab.reset()
    made = Fleet(shared_lab, lab_folder, tmp_path / "artifacts")
    yield made
    made.remove()


@pytest.fixture
def services() -> Iterator[dict[str, RunningService]]:
    """An embedding service for each worker."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(serve()) for name in WORKERS}


def workers(services: dict[str, RunningService], folder: Path) -> dict[str, dict[str, Any]]:
    """Three workers here, of which one keeps its files elsewhere, as on a machine of its own."""
    own: dict[str, dict[str, Any]] = {"shipped": {"archon_worker_artifacts_dir": str(folder / "elsewhere")}}
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    own["shipped"]["ansible_python_interpreter"] = str(python)
    return {
        name: {"archon_embedding_endpoints": [service.base_url], **own.get(name, {})}
        for name, service in services.items()
    }


def summary_of(fleet: Fleet) -> dict[str, Any]:
    """fleet.json, which is as its schema says."""
    schema = json.loads((ROOT / "docs" / "fleet.schema.json").read_text())
    summary = fleet.summary
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(summary)
    assert summary["prods"], summary
    return summary


def by_name(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {prod["name"]: prod for prod in summary["prods"]}


def changed(output: str, name: str) -> int:
    recap = next(line for line in output.split("PLAY RECAP")[1].splitlines() if line.startswith(f"{name} "))
    return int(recap.split("changed=")[1].split()[0])


def kill_worker(fleet: Fleet, name: str, process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the worker that is at work on this PROD, when its session is there."""
    deadline = time.monotonic() + 900
    while True:
        assert time.monotonic() < deadline
        assert process.poll() is None, fleet.output[-8000:]
        if found := clients(fleet.dsn(name), "embeddings"):
            os.kill(min(found), signal.SIGKILL)
            return
        time.sleep(0.1)


def test_a_fleet_from_its_prediction_to_a_second_run(
    fleet: Fleet, services: dict[str, RunningService], tmp_path: Path
) -> None:
    states = {"canary": HEALTHY, "PROD b ü": BROKEN, "hopeless": HOPELESS, "prod-d": BROKEN}
    fleet.build(states)
    fleet.write_inventory(
        workers=workers(services, tmp_path),
        common={"archon_fleet_waves": [1, "100%"], "embeddings_workers_poll": 1},
        variables={"prod-d": {"archon_embeddings_max_quarantined": 7}},
    )
    before = {name: (fleet.value(name, _PROJECTS), fleet.value(name, _TABLES)) for name in states}

    check = fleet.play("--check", "--limit", "canary,prod-d")
    assert check.returncode == 0, check.stdout[-8000:] + check.stderr
    predicted = by_name(summary_of(fleet))
    assert {name: (one["outcome"], one["result"]) for name, one in predicted.items()} == {
        "canary": ("passed", "drift"),
        "prod-d": ("passed", "drift"),
    }
    assert {name: (fleet.value(name, _PROJECTS), fleet.value(name, _TABLES)) for name in states} == before
    assert not fleet.dev(_MADE)

    for service in services.values():
        service.set_faults(latency=WAITING)
    process = fleet.start()
    kill_worker(fleet, "prod-d", process)
    for service in services.values():
        service.set_faults()
    assert process.wait(timeout=1200) == 2, fleet.output[-8000:]
    output = fleet.output
    summary = summary_of(fleet)
    found = by_name(summary)
    assert (summary["result"], summary["waves"]) == ("failed", [["canary"], ["PROD b ü", "hopeless", "prod-d"]])
    assert {name: (one["outcome"], one["result"]) for name, one in found.items()} == {
        "canary": ("passed", "changed"),
        "PROD b ü": ("passed", "changed"),
        "hopeless": ("failed", "decision_needed"),
        "prod-d": ("passed", "changed"),
    }, {name: one["error"] for name, one in found.items()}
    # By the databases themselves: what could be mended is, and the one that could not is as it was.
    for name in ("canary", "PROD b ü", "prod-d"):
        assert (fleet.value(name, _MISSING), fleet.value(name, _MADE)) == (0, True), name
        assert fleet.value(name, _PROJECTS) == before[name][0], name
    assert (fleet.value("hopeless", _PROJECTS), fleet.value("hopeless", _TABLES)) == before["hopeless"]
    # DEV, which they share, was written to once, by the canary.
    assert (fleet.dev(_KEYS), summary["dev"]["by"]) == (4, ["canary"])
    reports = {
        name: json.loads(Path(one["report"]).with_name("report.json").read_text()) for name, one in found.items()
    }
    # No second PROD began before the canary had passed.
    assert reports["canary"]["finished_at"] <= min(
        report["started_at"] for name, report in reports.items() if name != "canary"
    )
    lost = [one["object"] for one in reports["prod-d"]["findings"] if one["code"] == "embedding_worker_lost"]
    assert len(lost) == 1, reports["prod-d"]["findings"]
    names = {name: {one["name"] for one in reports[name]["embeddings"]["workers"]} for name in ("PROD b ü", "prod-d")}
    assert len(names["PROD b ü"]) == 2, names
    assert lost == [f"worker {next(iter(names['prod-d']))}"]
    assert summary["counts"]["embeddings_rebuilt"] >= 107
    # That a worker was lost is not the end of its PROD's time.
    assert found["prod-d"]["seconds"] > found["hopeless"]["seconds"]
    hopeless = found["hopeless"]["error"]
    assert hopeless["code"] == "decision_needed"
    assert " ".join(hopeless["remedy"].split())[:40] in " ".join(output.split())
    assert "3 of 4 PRODs passed, 1 did not" in output
    assert "(prod-d)" in output, "a line of progress names its PROD"
    assert sessions(fleet) == []

    # Ansible would take a name with blanks for several patterns.
    again = fleet.play("--limit", "prod-d")
    assert again.returncode == 0, again.stdout[-8000:] + again.stderr
    assert changed(again.stdout, "prod-d") == 0
    assert [prod["name"] for prod in summary_of(fleet)["prods"]] == ["prod-d"]


def test_nobody_is_started_after_a_canary_that_fails(fleet: Fleet) -> None:
    fleet.build({"canary": HOPELESS, "prod-b": BROKEN, "prod-c": BROKEN})
    fleet.write_inventory()
    done = fleet.play("--tags", "schema")
    assert done.returncode == 2, done.stdout[-8000:] + done.stderr
    summary = summary_of(fleet)
    assert (summary["result"], summary["waves"]) == ("ended_early", [["canary"]])
    assert "canary canary did not pass" in summary["ended_because"]
    found = by_name(summary)
    assert {name: one["outcome"] for name, one in found.items()} == {
        "canary": "failed",
        "prod-b": "not_started",
        "prod-c": "not_started",
    }
    assert found["prod-b"]["why_not_started"] == summary["ended_because"]
    assert not any(fleet.value(name, _MADE) for name in ("prod-b", "prod-c"))
    assert len(list(fleet.artifacts.glob("2*"))) == 1
    assert "Not started, because the canary canary did not pass: prod-b, prod-c" in " ".join(done.stdout.split())


def test_two_fleets_at_once_share_a_dev_that_both_have_to_complete(fleet: Fleet, tmp_path: Path) -> None:
    other = Fleet(fleet.lab, fleet.folder, tmp_path / "other", number=10)
    fleet.build({"a": BROKEN, "b": HOPELESS})
    other.build({"c": BROKEN, "d": BROKEN})
    try:
        for one in (fleet, other):
            one.write_inventory(common={"archon_fleet_waves": ["100%"]})
        both = [one.start("--tags", "schema,data") for one in (fleet, other)]
        assert [process.wait(timeout=900) for process in both] == [2, 0], other.output[-8000:]
        assert {name: one["outcome"] for name, one in by_name(summary_of(fleet)).items()} == {
            "a": "passed",
            "b": "failed",
        }
        assert summary_of(other)["result"] == "passed"
        assert (fleet.value("a", _KEYS), other.value("c", _KEYS), other.value("d", _KEYS)) == (4, 4, 4)
        assert fleet.dev(_KEYS) == 4
        made = [one["dev"] for one in (summary_of(fleet), summary_of(other))]
        # Each statement and each key once, whoever was first.
        assert sum(len(one["changed_keys"]) for one in made) == 4
        assert sum(any("CREATE TABLE" in text for text in one["statements"]) for one in made) == 1
    finally:
        other.remove()


def sessions(fleet: Fleet) -> list[tuple[str]]:
    """Sessions of archon-align on the PRODs' server, once their keepers have had time to end."""
    deadline = time.monotonic() + 90
    while True:
        with psycopg.connect(fleet.superuser, autocommit=True) as connection:
            left = connection.execute(
                "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'align %'"
            ).fetchall()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)
