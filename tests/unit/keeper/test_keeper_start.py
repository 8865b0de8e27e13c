"""Run ids, the artifacts folder, the log of events, and finding the playbook."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import psutil
import pytest
from archon_align.context import RUN_ID, Run
from archon_align.errors import AlignError
from archon_align.keeper.assignment import Assignment
from archon_align.keeper.events import EventLog
from archon_align.keeper.playbook import Playbook, ProcessName, find_playbook
from archon_align.keeper.start import StartOptions, _new_folder, _point_latest, new_run_id, start


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("check", [False, True])
def test_a_run_id_tells_utc_and_mode_and_is_never_the_same(check: bool, tmp_path: Path) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    ids = {new_run_id(at, check=check) for _ in range(20)}
    assert len(ids) == 20
    for run_id in ids:
        assert RUN_ID.fullmatch(run_id)
        assert run_id.startswith("20260102-010405-")
        assert Run(run_id, tmp_path).check is check


def test_latest_moves_to_the_newest_run(tmp_path: Path) -> None:
    root = tmp_path / "made" / "when missing"
    for name in ("20260101-000000-aaaaaa", "20260101-000000-bbbbbb"):
        folder = _new_folder(root, name)
        _point_latest(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (root / "latest").readlink() == Path(name)
    assert sorted(path.name for path in root.iterdir()) == [
        "20260101-000000-aaaaaa",
        "20260101-000000-bbbbbb",
        "latest",
    ]


def test_a_root_that_is_a_file_is_refused_with_its_name(tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    root.write_text("not a folder")
    with pytest.raises(AlignError, match="File exists") as refused:
        _new_folder(root, "20260101-000000-aaaaaa")
    assert refused.value.code == "artifacts_not_writable"
    assert refused.value.object_name == str(root)


def test_a_folder_named_latest_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "latest" / "precious").mkdir(parents=True)
    folder = _new_folder(tmp_path, "20260101-000000-aaaaaa")
    with pytest.raises(AlignError, match="latest"):
        _point_latest(folder)
    assert (tmp_path / "latest" / "precious").is_dir()
    assert not list(tmp_path.glob(".latest*"))


def test_events_are_private_lines_of_json(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write("progress", phase="embeddings", text='1/2 "ü"')
    log.write("run_ended", reason="stopped")
    path = tmp_path / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["kind"] for event in events] == ["progress", "run_ended"]
    assert events[0]["text"] == '1/2 "ü"'
    assert datetime.fromisoformat(events[0]["at"]).tzinfo == UTC
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_events_of_a_vanished_folder_are_lost_without_an_error(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "gone")
    assert not log.exists()
    log.write("run_ended")


def test_an_assignment_survives_the_pipe_and_hides_its_dsn() -> None:
    sent = Assignment("20260101-000000-aaaaaa", "/a", "host=x password=secret", ProcessName(1, 2.5), ("t", "ü"), 3.0)
    assert Assignment.from_json(sent.as_json()) == sent
    assert "secret" not in repr(sent)


def test_options_hide_the_dsn(tmp_path: Path) -> None:
    assert "secret" not in repr(StartOptions("password=secret", tmp_path, tmp_path))


def test_without_a_playbook_nothing_starts(tmp_path: Path) -> None:
    with pytest.raises(AlignError) as refused:
        start(StartOptions("", tmp_path / "artifacts", tmp_path))
    assert refused.value.code == "no_playbook"
    assert not (tmp_path / "artifacts").exists()


def test_a_core_path_without_the_core_is_named(tmp_path: Path) -> None:
    with pytest.raises(AlignError, match=str(tmp_path)) as refused:
        start(StartOptions("", tmp_path / "artifacts", tmp_path, controller_pid=os.getpid()))
    assert refused.value.code == "no_core"


def test_a_controller_that_does_not_exist_is_named() -> None:
    with pytest.raises(AlignError, match="process 4194303 does not exist"):
        find_playbook(4194303)


def test_a_killed_process_is_dead_even_while_its_parent_has_not_noticed(sleeper: subprocess.Popen[bytes]) -> None:
    playbook = Playbook(find_playbook(sleeper.pid))
    assert playbook.alive()
    sleeper.kill()
    psutil.wait_procs([psutil.Process(sleeper.pid)], timeout=1.0)  # it stays a zombie: nobody has called sleeper.wait()
    assert not playbook.alive()


def test_another_process_with_the_same_pid_is_not_the_playbook(sleeper: subprocess.Popen[bytes]) -> None:
    found = find_playbook(sleeper.pid)
    assert not Playbook(ProcessName(found.pid, found.created - 100)).alive()


def test_a_living_child_that_is_no_worker_is_left_alone() -> None:
    """The playbook's process dies; its child has another command line, so it is not one of Ansible's forks."""
    with subprocess.Popen(["sh", "-c", "sleep 300 & echo $!; wait"], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        playbook = Playbook(find_playbook(parent.pid))
        assert playbook.alive()
        parent.kill()
    try:
        assert not playbook.alive()
        assert playbook.end_leftovers() == 0
        assert child.is_running()
    finally:
        child.kill()


def test_workers_that_outlive_the_playbook_are_ended_with_all_below_them() -> None:
    """A fork has its parent's command line, as Ansible's workers have."""
    script = """
import os, subprocess, sys, time
if os.fork() == 0:
    os.setsid()
    print(os.getpid(), subprocess.Popen(["sleep", "300"]).pid, flush=True)
time.sleep(300)
"""
    with subprocess.Popen(["python3", "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        left = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        playbook = Playbook(find_playbook(parent.pid))
        assert playbook.alive()
        parent.kill()
    assert not playbook.alive()
    assert playbook.end_leftovers() == 2
    _, alive = psutil.wait_procs(left, timeout=60)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


# Forks a worker that sleeps, once a line comes in, and tells its pid.
FORKING = "import os, sys, time; input(); pid = os.fork(); pid and print(pid, flush=True); time.sleep(300)"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells a fork from a program")
def test_a_worker_that_nobody_has_seen_before_the_playbook_was_killed_is_ended() -> None:
    """And no other run of the very same command line, nor its workers."""
    command = [sys.executable, "-c", FORKING]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as killed, subprocess.Popen(command, **pipes) as other:  # type: ignore[call-overload]
        playbook = Playbook(ProcessName(killed.pid, psutil.Process(killed.pid).create_time()))
        assert playbook.alive()  # the last look comes before the fork
        workers = []
        for process in (killed, other):
            process.stdin.write("\n")
            process.stdin.flush()
            workers.append(psutil.Process(int(process.stdout.readline())))
        killed.kill()
        killed.wait(60)
        try:
            assert playbook.end_leftovers() == 1
            assert not psutil.wait_procs(workers[:1], timeout=60)[1]
            assert workers[1].is_running()
            assert other.poll() is None
        finally:
            for process in workers:
                with suppress(psutil.Error):
                    process.kill()
            other.kill()
