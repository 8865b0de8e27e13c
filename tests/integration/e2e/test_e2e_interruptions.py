"""Killed in one phase after the other, and started twice: the keeper tidies up, the next run finishes the job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

from tests.support.world import World

pytestmark = pytest.mark.timeout(3600)  # five runs in one story

# Roles in whose task a run is killed: one transaction, rows that are committed batch by batch, and the neighbours of protected
# rows. `make torture` kills in every task, and after the first write of every transaction.
PHASES = ("schema", "embeddings", "templates")


def wait_for_task(process: subprocess.Popen[str], role: str) -> str:
    """Read the playbook's output until a task of `role` starts; what was read so far."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if line.startswith(f"TASK [{role} :"):
            return seen
    raise AssertionError(f"the playbook ended before role {role}:\n{seen}")


def test_kill_9_in_a_phase_and_the_next_run_goes_on_until_one_is_let_finish_and_a_second_is_told_of_it(
    world: World,
) -> None:
    tasks_before = world.value(
        "prod", "SELECT md5(string_agg(id || title || updated_at, ',' ORDER BY id)) FROM archon_tasks"
    )
    for role in PHASES:
        process = world.start()
        wait_for_task(process, role)
        time.sleep(0.4)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=600)
        world.wait_until_tidy()

    first = world.start()
    wait_for_task(first, "backup")
    run_id = (world.artifacts / "latest").readlink().name
    os.kill(first.pid, signal.SIGSTOP)  # so that it is still there, however long the second needs to ask
    second = world.play()
    os.kill(first.pid, signal.SIGCONT)
    assert second.returncode != 0
    assert "Another run is active on PROD" in second.stdout
    assert run_id in second.stdout
    assert "since" in second.stdout
    rest, _ = first.communicate(timeout=900)
    assert first.returncode == 0, rest

    report = json.loads((world.artifacts / run_id / "report.json").read_text())
    assert report["result"] in ("changed", "aligned")
    assert world.value("prod", "SELECT count(*) FROM archon_crawled_pages WHERE embedding IS NULL") == 0
    assert (
        world.value("prod", "SELECT md5(string_agg(id || title || updated_at, ',' ORDER BY id)) FROM archon_tasks")
        == tasks_before
    )
    assert world.value("prod", "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
    world.wait_until_tidy()
