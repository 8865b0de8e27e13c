"""Runs that are killed, and runs that are interrupted: what they had created is found by its marker and goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from archon_align.validate.functional.marker import JOURNAL

from lab.archon import serve

# A run of its own that creates everything and then comes to no end.
_RUN = """
import sys, time
from archon_align import ansible_edge
from archon_align.context import Context, Run
from archon_align.database.target import Target
from archon_align.embedding.endpoint import Endpoint
from archon_align.validate.functional import phase
from archon_align.validate.functional.model import Options
from pathlib import Path

dsn, url, base_url, folder, run_id = sys.argv[1:]
ansible_edge._leave_when_told()

def stuck(*_):
    print("stuck", flush=True)
    time.sleep(600)

phase.check_tools = stuck
context = Context(Run(run_id, Path(folder)), Target("PROD", dsn), Target("DEV", ""), "validate")
phase.run(context, Options(url, "", Endpoint(base_url, "nomic-embed-text", 768), True), "ollama")
"""


@pytest.fixture
def stuck_run(
    prod, archon: serve.Running, hold_run_lock: Callable, tmp_path: Path
) -> Callable[[str], subprocess.Popen]:
    """Call with a run id for a process that has uploaded its document and waits."""

    def start(run_id: str) -> subprocess.Popen:
        lock = hold_run_lock(prod.dsn, run_id)
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(_RUN),
                prod.dsn,
                archon.url,
                prod.embedding_base_url,
                str(tmp_path / run_id),
                run_id,
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        process.lock = lock  # type: ignore[attr-defined]
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        return process

    return start


def test_what_a_killed_run_left_goes_with_the_next_also_without_its_folder(
    prod, archon: serve.Running, stuck_run: Callable, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = prod.contents()
    run_id = "20251231-235959-fedcba"
    process = stuck_run(run_id)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.lock.close()
    journal = [json.loads(line) for line in (tmp_path / run_id / JOURNAL).read_text().splitlines()]
    assert [line["line"] for line in journal] == ["marker", "row", "row"]
    assert len(prod.execute("SELECT 1 FROM archon_sources WHERE source_id LIKE %s", f"%{journal[0]['marker']}%")) == 1
    (tmp_path / run_id / JOURNAL).unlink()
    ask = request.getfixturevalue("ask")
    outcome, _ = ask(check=True)
    assert (outcome.changed, outcome.status, len(outcome.statements)) == (True, "drift", 2)
    assert prod.contents() != before
    outcome, _ = ask(archon.url, write=False)
    assert "canary_leftovers_removed" in {finding.code for finding in outcome.findings}
    assert (outcome.changed, len(outcome.statements)) == (True, 2)
    assert prod.contents() == before
    outcome, _ = ask(archon.url, write=False)
    assert not outcome.changed


def test_ctrl_c_removes_what_was_created(prod, stuck_run: Callable) -> None:
    before = prod.contents()
    process = stuck_run("20260101-000000-abcdef")
    assert prod.contents() != before
    process.send_signal(signal.SIGINT)
    process.wait(30)
    deadline = time.monotonic() + 30
    while prod.contents() != before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
