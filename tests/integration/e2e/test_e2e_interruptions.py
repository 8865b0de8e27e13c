"""Killed in every phase, and started twice: the keeper tidies up, the next run finishes the job."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.support.world import World

pytestmark = pytest.mark.timeout(3600)  # eight runs in one story

# The task during which each phase is killed, as ansible-playbook announces it.
PHASES = ("backup", "schema", "data", "embeddings", "templates", "validate")


def wait_for_task(process: subprocess.Popen[str], role: str) -> str:
    """Read the playbook's output until a task of `role` starts; what was read so far."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if line.startswith(f"TASK [{role} :"):
            return seen
    raise AssertionError(f"the playbook ended before role {role}:\n{seen}")


def test_kill_9_in_every_phase_and_then_finish(broken_world: Callable[[], World]) -> None:
    world = broken_world()
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
    result = world.play()
    assert result.returncode == 0, result.stdout + result.stderr
    assert world.report["result"] in ("changed", "aligned")
    assert world.value("prod", "SELECT count(*) FROM archon_crawled_pages WHERE embedding IS NULL") == 0
    assert (
        world.value("prod", "SELECT md5(string_agg(id || title || updated_at, ',' ORDER BY id)) FROM archon_tasks")
        == tasks_before
    )
    assert world.value("prod", "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
    world.wait_until_tidy()


def test_a_second_run_is_told_who_is_active_since_when(broken_world: Callable[[], World]) -> None:
    world = broken_world()
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
    first.communicate(timeout=900)
    assert first.returncode == 0
