"""The keeper under the real ansible-playbook, which is killed in the middle of a task; and the progress callback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest
from archon_align.database.run_lock import LOCK_KEYS
from archon_align.keeper.playbook import is_alive

ROOT = Path(__file__).parents[3]
CONFIG = f"""
[defaults]
library = {ROOT}/library
module_utils = {ROOT}/module_utils
callback_plugins = {ROOT}/plugins/callback
callbacks_enabled = archon_progress
"""
PLAYBOOK = """
- hosts: localhost
  connection: local
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  gather_facts: false
  tasks:
    - archon_run:
        prod_dsn: "{{ dsn }}"
        artifacts_root: "{{ playbook_dir }}/artifacts"
        core_path: "{{ core }}"
      register: started
    - ansible.builtin.command:
        argv: ["{{ ansible_playbook_python }}", "{{ playbook_dir }}/work.py", "{{ dsn }}", "{{ started.run_id }}", "{{ seconds }}"]
"""
WORK = """
import pathlib, sys, time, psycopg
dsn, run_id, seconds = sys.argv[1:]
events = pathlib.Path(sys.argv[0]).parent / "artifacts" / run_id / "events.jsonl"
with psycopg.connect(dsn, autocommit=True, application_name=f"align embeddings {run_id} 64/105  61 %"):
    while '"progress"' not in events.read_text():
        time.sleep(0.1)
    time.sleep(float(seconds))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "ansible.cfg").write_text(CONFIG)
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    (tmp_path / "work.py").write_text(WORK)
    return tmp_path


def command(dsn: str, seconds: float) -> list[str]:
    values = json.dumps({"dsn": dsn, "core": str(ROOT / "module_utils"), "seconds": seconds})
    return [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "play.yml", "-e", values]


def environment(project: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return {**kept, "ANSIBLE_CONFIG": str(project / "ansible.cfg")}


def events(project: Path) -> list[dict[str, object]]:
    path = project / "artifacts" / "latest" / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def eventually(condition: Callable[[], bool], seconds: float = 90.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_progress_is_printed_and_the_keeper_ends_with_the_playbook(
    new_database: Callable[[str], str], project: Path
) -> None:
    done = subprocess.run(
        command(new_database(""), 1.5),
        check=False,
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  embeddings  64/105  61 %\n" in done.stdout
    assert "archon_progress" not in done.stdout + done.stderr
    assert eventually(lambda: events(project)[-1]["kind"] == "run_ended")
    assert [event["kind"] for event in events(project)] == ["run_started", "lock_taken", "progress", "run_ended"]


def sessions_of_runs(probe: psycopg.Connection) -> int:
    row = probe.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'align %'").fetchone()
    assert row is not None
    return int(row[0])


def test_a_killed_ansible_playbook_leaves_neither_processes_nor_sessions(
    new_database: Callable[[str], str], project: Path
) -> None:
    dsn = new_database("")
    with subprocess.Popen(
        command(dsn, 600), cwd=project, env=environment(project), stdout=subprocess.DEVNULL
    ) as playbook:
        try:
            assert eventually(
                lambda: playbook.poll() is not None or any(one["kind"] == "progress" for one in events(project)), 300
            )
            below = psutil.Process(playbook.pid).children(recursive=True)
            assert any(str(project / "work.py") in " ".join(process.cmdline()) for process in below)
        finally:
            playbook.send_signal(signal.SIGKILL)
    assert eventually(lambda: events(project)[-1]["kind"] == "run_ended")
    assert eventually(lambda: not any(is_alive(process) for process in below))
    with psycopg.connect(dsn, autocommit=True) as probe:
        assert probe.execute("SELECT pg_try_advisory_lock(%s, %s)", LOCK_KEYS).fetchone() == (True,)
        # A server process outlives its closed connection by a moment.
        assert eventually(lambda: sessions_of_runs(probe) == 0)
