"""Real keepers, each watching a real process that stands for the playbook."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from archon_align.database.run_lock import LOCK_KEYS
from archon_align.errors import AlignError
from archon_align.keeper.playbook import is_alive
from archon_align.keeper.start import StartedRun, StartOptions, start

CORE = Path(__file__).parents[3] / "module_utils"
DEAD_RUN = "20250101-000000-dddddd"
OTHER_CHECK = "20250101-000000-cccccc-check"


@dataclass
class Running:
    """A started run, and the process that stands for its playbook."""

    run: StartedRun
    playbook: subprocess.Popen[bytes]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run.artifacts_dir / "events.jsonl").read_text().splitlines()]

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events()]

    def keeper_lives(self) -> bool:
        try:
            return is_alive(psutil.Process(self.run.keeper_pid))
        except psutil.NoSuchProcess:
            return False


def eventually(condition: Callable[[], bool], seconds: float = 90.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Call with PROD's DSN (and `check=True`) to start a run. Afterwards its playbook dies and its keeper must follow."""
    started: list[Running] = []
    playbooks: list[subprocess.Popen[bytes]] = []

    def make(dsn: str, *, check: bool = False) -> Running:
        playbooks.append(subprocess.Popen(["sleep", "1200"]))
        options = StartOptions(dsn, tmp_path / "artifacts", CORE, controller_pid=playbooks[-1].pid, check=check)
        started.append(Running(start(options), playbooks[-1]))
        return started[-1]

    yield make
    for playbook in playbooks:
        playbook.kill()
        playbook.wait()
    survivors = [running for running in started if not eventually(lambda r=running: not r.keeper_lives())]
    for running in survivors:
        psutil.Process(running.run.keeper_pid).kill()
    assert survivors == []


def lock_is_free(dsn: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as probe:
        return probe.execute("SELECT pg_try_advisory_lock(%s, %s)", LOCK_KEYS).fetchone() == (True,)


def named(dsn: str, name: str) -> psycopg.Connection:
    return psycopg.connect(dsn, autocommit=True, application_name=name)


def answers(connection: psycopg.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def test_a_run_from_start_to_its_normal_end(new_database: Callable[[str], str], begin: Callable[..., Running]) -> None:
    dsn = new_database("")
    running = begin(dsn)
    run = running.run
    assert not run.check
    assert run.findings == ()
    assert stat.S_IMODE(run.artifacts_dir.stat().st_mode) == 0o700
    assert (run.artifacts_dir.parent / "latest").resolve() == run.artifacts_dir
    assert not lock_is_free(dsn)
    with psycopg.connect(dsn, autocommit=True) as looking:
        name = f"align keeper {run.run_id}"
        held = looking.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", (name,)).fetchone()
        assert held == (1,)
    with named(dsn, f"align search {run.run_id} index archon_crawled_pages") as worker:
        assert eventually(lambda: "progress" in running.kinds())
        worker.execute("SELECT set_config('application_name', %s, false)", (f"align search {run.run_id} 3/40 tables",))
        assert eventually(lambda: running.kinds().count("progress") == 2)
    running.playbook.terminate()
    running.playbook.wait()
    assert eventually(lambda: not running.keeper_lives())
    assert lock_is_free(dsn)
    assert running.kinds() == ["run_started", "lock_taken", "progress", "progress", "run_ended"]
    assert [event["text"] for event in running.events() if event["kind"] == "progress"] == [
        "index archon_crawled_pages",
        "3/40 tables",
    ]
    assert running.events()[-1]["reason"] == "playbook_ended"
    assert (run.artifacts_dir / "keeper.log").read_text() == ""


def test_a_rebuild_is_told_again_and_again_even_when_nothing_moves(
    new_database: Callable[[str], str], begin: Callable[..., Running]
) -> None:
    dsn = new_database("")
    running = begin(dsn)
    name = f"align embeddings {running.run.run_id}"
    with (
        named(dsn, f"{name} 64/105 q1 7/s"),
        named(dsn, f"{name} ep 1:ok 2:paused"),
        named(dsn, f"{name} 10/95"),
        named(dsn, "align embeddings 20260101-000000-abcdef 5/9"),
    ):
        assert eventually(lambda: running.kinds().count("progress") >= 4)
    told = [event for event in running.events() if event["kind"] == "progress"]
    last = told[-1]
    assert last["text"].startswith("74/105 rows, 1 quarantined, ")
    assert last["text"].endswith(", 2 workers, 1 of 2 endpoints")
    expected = {"done": 74, "total": 105, "quarantined": 1, "workers": 2, "endpoints": {"ok": 1, "paused": 1}}
    assert {name: last[name] for name in expected} == expected


def test_a_second_run_is_refused_and_told_of_the_first(
    new_database: Callable[[str], str], begin: Callable[..., Running]
) -> None:
    dsn = new_database("")
    first = begin(dsn)
    with pytest.raises(AlignError) as refused:
        begin(dsn)
    assert refused.value.code == "run_active"
    assert first.run.run_id in refused.value.found
    assert " since 20" in refused.value.found
    assert " UTC, server process " in refused.value.found
    assert (first.run.artifacts_dir.parent / "latest").resolve() == first.run.artifacts_dir
    assert len(list(first.run.artifacts_dir.parent.iterdir())) == 2  # the refused run left no folder
    assert first.keeper_lives()
    assert not lock_is_free(dsn)


def test_two_runs_on_two_databases_of_one_server_do_not_disturb_each_other(
    new_database: Callable[[str], str], begin: Callable[..., Running]
) -> None:
    one, other = new_database(""), new_database("")
    first = begin(one)
    with named(one, f"align schema {first.run.run_id}") as session:
        second = begin(other)
        assert second.run.findings == ()
        assert answers(session)


def test_a_killed_playbook_leaves_nothing_open(
    new_database: Callable[[str], str], begin: Callable[..., Running]
) -> None:
    dsn = new_database("CREATE TABLE t (a int)")
    running = begin(dsn)
    own = f"align schema {running.run.run_id}"
    bystanders = [
        named(dsn, name)
        for name in (
            "psql",
            f"align schema {OTHER_CHECK}",
            "align me please",
            f"realign schema {running.run.run_id}",
            f"{own}x",
        )
    ]
    with named(dsn, own) as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (1)")
        running.playbook.kill()
        running.playbook.wait()
        assert eventually(lambda: not running.keeper_lives())
        assert not answers(writer)
    assert lock_is_free(dsn)
    ended = next(event for event in running.events() if event["kind"] == "sessions_ended")
    assert (ended["phases"], ended["count"], ended["still_there"]) == (["schema"], 1, 0)
    assert all(answers(bystander) for bystander in bystanders)
    assert bystanders[0].execute("SELECT count(*) FROM t").fetchone() == (0,)
    for bystander in bystanders:
        bystander.close()


def test_the_next_run_finds_and_ends_the_remains_of_a_dead_one(
    new_database: Callable[[str], str], begin: Callable[..., Running]
) -> None:
    dsn = new_database("")
    with (
        named(dsn, f"align embeddings {DEAD_RUN} 3/9") as remains,
        named(dsn, f"align assess {OTHER_CHECK}") as check,
        named(dsn, "psql") as user,
    ):
        remains.execute("BEGIN")
        running = begin(dsn)
        (finding,) = running.run.findings
        assert (finding["code"], finding["object"]) == ("remains_of_dead_run", f"run {DEAD_RUN}")
        assert "embeddings" in finding["message"]
        assert not answers(remains)
        assert answers(check)
        assert answers(user)
    assert "finding" in running.kinds()


def test_a_check_takes_no_lock_but_tidies_up(new_database: Callable[[str], str], begin: Callable[..., Running]) -> None:
    dsn = new_database("")
    running = begin(dsn, check=True)
    assert running.run.run_id.endswith("-check")
    assert lock_is_free(dsn)
    with named(dsn, f"align schema {DEAD_RUN}") as other, named(dsn, f"align schema {running.run.run_id}") as own:
        running.playbook.kill()
        running.playbook.wait()
        assert eventually(lambda: not running.keeper_lives())
        assert not answers(own)
        assert answers(other)
    assert "lock_taken" not in running.kinds()


def test_a_check_beside_a_run_says_so(new_database: Callable[[str], str], begin: Callable[..., Running]) -> None:
    dsn = new_database("")
    first = begin(dsn)
    check = begin(dsn, check=True)
    assert [(one["code"], one["object"]) for one in check.run.findings] == [("run_active", f"run {first.run.run_id}")]


def end_keeper_session(dsn: str, running: Running) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            (f"align keeper {running.run.run_id}",),
        )


def test_a_lost_connection_is_replaced_and_the_lock_taken_again(
    new_database: Callable[[str], str], begin: Callable[..., Running]
) -> None:
    dsn = new_database("")
    running = begin(dsn)
    end_keeper_session(dsn, running)
    assert eventually(lambda: running.kinds().count("lock_taken") == 2)
    assert "lock_lost" in running.kinds()
    assert not lock_is_free(dsn)


def test_a_lock_that_somebody_else_got_ends_the_run_s_sessions(
    new_database: Callable[[str], str], begin: Callable[..., Running]
) -> None:
    dsn = new_database("")
    running = begin(dsn)
    rival = named(dsn, f"align keeper {DEAD_RUN}")
    with named(dsn, f"align schema {running.run.run_id}") as own, closing(rival):
        # The lock is released with the keeper's session; a rival who already waits for it gets it first.
        rival.pgconn.send_query(f"SELECT pg_advisory_lock({LOCK_KEYS[0]}, {LOCK_KEYS[1]})".encode())
        with psycopg.connect(dsn, autocommit=True) as looking:
            query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            assert eventually(lambda: looking.execute(query).fetchone() == (1,))
        end_keeper_session(dsn, running)
        assert eventually(lambda: not running.keeper_lives())
        assert not answers(own)
    lost = [event for event in running.events() if event["kind"] == "lock_lost"]
    assert lost[-1]["holder"] == DEAD_RUN
    assert running.events()[-1]["reason"] == "lock_lost"


def test_without_its_folder_or_at_sigterm_a_keeper_ends(
    new_database: Callable[[str], str], begin: Callable[..., Running]
) -> None:
    dsn = new_database("")
    told = begin(dsn)
    psutil.Process(told.run.keeper_pid).terminate()
    assert eventually(lambda: not told.keeper_lives())
    assert told.events()[-1]["reason"] == "stopped"
    left = begin(dsn)
    shutil.rmtree(left.run.artifacts_dir)
    assert eventually(lambda: not left.keeper_lives())
    assert lock_is_free(dsn)


def test_the_password_is_nowhere_to_be_read(new_database: Callable[[str], str], begin: Callable[..., Running]) -> None:
    running = begin(new_database("") + " password=hunter2")
    process = psutil.Process(running.run.keeper_pid)
    assert "hunter2" not in " ".join(process.cmdline()) + str(process.environ())
    for path in running.run.artifacts_dir.iterdir():
        assert b"hunter2" not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (" dbname=nobody_has_this", "no_database"),
        (" port=1", "unreachable"),
        (" user=nobody_has_this", "no_role"),
    ],
)
def test_a_prod_that_cannot_be_reached_is_told_and_leaves_no_folder(
    new_database: Callable[[str], str], begin: Callable[..., Running], tmp_path: Path, change: str, code: str
) -> None:
    with pytest.raises(AlignError, match="PROD cannot be reached") as refused:
        begin(new_database("") + change)
    assert refused.value.code == code
    assert list((tmp_path / "artifacts").iterdir()) == []


@pytest.mark.parametrize("dsn", ["", "this is not a dsn password=hunter2", "postgresql://u:hunter2@h:notaport/d"])
def test_a_dsn_that_cannot_be_read_is_not_quoted(begin: Callable[..., Running], dsn: str) -> None:
    with pytest.raises(AlignError) as refused:
        begin(dsn)
    assert refused.value.code in ("bad_dsn", "connection_failed")
    assert "hunter2" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(begin: Callable[..., Running], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(AlignError, match="Permission denied"):
            begin("dbname=never_asked")
    finally:
        tmp_path.chmod(0o700)
