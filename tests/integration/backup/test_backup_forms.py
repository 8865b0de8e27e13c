"""How a backup is written, foreseen, stopped when the disk runs full, and cleared away when it was killed."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from archon_align.backup import phase, space
from archon_align.backup.leftovers import remove_leftovers
from archon_align.backup.manifest import verify_manifest
from archon_align.backup.proof import Proof
from archon_align.context import Context, Run
from archon_align.database.session import Session
from archon_align.embedded.server import EmbeddedServer
from archon_align.errors import AlignError

MakeContext = Callable[..., Context]
FakeDump = Callable[[str], str]
ROOT = Path(__file__).parents[3]


def nothing_left(context: Context) -> bool:
    return not list(context.run.artifacts.glob("*backup*")) + list(context.run.artifacts.glob(".*"))


def test_a_folder_of_several_processes(prod: str, make_context: MakeContext, fake_pg_dump: FakeDump) -> None:
    context = make_context(prod, phase="backup")
    witness = f'echo "$@" > "{context.run.artifacts}/../arguments"; exec "$REAL" "$@"'
    outcome = phase.run(context, phase.Options(parallel_mb=0, pg_dump=fake_pg_dump(witness)))
    folder = context.run.artifacts / "backup"
    manifest = verify_manifest(folder)
    jobs = manifest["dump"].pop("jobs")
    assert manifest["dump"] == {"path": "public.dir", "format": "directory"}
    assert f"--jobs={jobs}" in (context.run.artifacts.parent / "arguments").read_text()
    assert manifest["critical"]["verified"] is True
    files = {name for name in manifest["files"] if name.startswith("public.dir/")}
    assert files == {f"public.dir/{path.name}" for path in (folder / "public.dir").iterdir()}
    assert outcome.details["backup"]["bytes"] == sum(manifest["files"][name]["bytes"] for name in files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*"))
    next((folder / "public.dir").glob("*.dat.gz")).write_bytes(b"")
    with pytest.raises(AlignError, match="cannot be relied on"):
        verify_manifest(folder)


def test_a_lock_that_a_process_of_several_meets_costs_a_try(
    prod: str, make_context: MakeContext, fake_pg_dump: FakeDump, tmp_path: Path
) -> None:
    once = (
        f'[ -e "{tmp_path}/once" ] && exec "$REAL" "$@"; touch "{tmp_path}/once";'
        ' for a in "$@"; do case "$a" in --file=*) mkdir "${a#--file=}";; esac; done;'
        ' echo "pg_dump: error: could not obtain lock on relation public.archon_tasks" >&2; exit 1'
    )
    context = make_context(prod, phase="backup")
    outcome = phase.run(context, phase.Options(parallel_mb=0, pg_dump=fake_pg_dump(once)))
    assert outcome.details["backup"]["verified"] is True


def test_the_last_backup_foretells_the_next(prod: str, make_context: MakeContext) -> None:
    first = make_context(prod, phase="backup")
    root = first.run.artifacts
    made = Run("20260101-000000-aaaaaa", root / "20260101-000000-aaaaaa")
    took = phase.run(Context(made, first.prod, first.dev, "backup"), phase.Options()).details["backup"]["seconds"]
    files = verify_manifest(made.artifacts / "backup")["files"]
    with psycopg.connect(prod, autocommit=True) as owner:
        before = owner.execute(
            "SELECT sum(pg_table_size(c.oid)) FROM pg_class c WHERE relkind IN ('r', 'm')"
            " AND relnamespace = 'public'::regnamespace"
        ).fetchone()
        owner.execute("CREATE TABLE grown AS SELECT repeat('x', 100) AS a FROM generate_series(1, 4000)")
        after = owner.execute(
            "SELECT sum(pg_table_size(c.oid)) FROM pg_class c WHERE relkind IN ('r', 'm')"
            " AND relnamespace = 'public'::regnamespace"
        ).fetchone()
    assert before is not None
    assert after is not None
    growth = float(after[0] / before[0])
    check = Run("20260101-000001-bbbbbb-check", root / "20260101-000001-bbbbbb-check")
    outcome = phase.run(Context(check, first.prod, first.dev, "backup"), phase.Options())
    predicted = outcome.details["backup"]["predicted"]
    assert predicted["by"] == made.id
    assert predicted["bytes"] == pytest.approx(sum(file["bytes"] for file in files.values()) * growth, rel=0.01)
    assert predicted["seconds"] == pytest.approx((took["dump"] + took["proof"]) * growth, abs=0.1)
    assert made.id in outcome.findings[0].message


@pytest.mark.parametrize("during", ["dump", "proof"])
def test_a_disk_that_runs_full_stops_the_backup(
    during: str, prod: str, make_context: MakeContext, fake_pg_dump: FakeDump, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(prod, phase="backup")
    free = 100_000
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free * space.MIB}))
    if during == "dump":
        # The check before the dump is past when pg_dump connects.
        path = fake_pg_dump('for a in "$@"; do case "$a" in --file=*) touch "${a#--file=}";; esac; done; exec sleep 60')
        checks = iter(range(100))

        def check(watch: space.Watch) -> None:
            nonlocal free
            free = 100 if next(checks) > 1 else free
            checked(watch)
    else:
        path = ""
        filled = Proof.fill

        def fill(proof: Proof) -> None:
            nonlocal free
            filled(proof)
            free = 100

        monkeypatch.setattr(Proof, "fill", fill)

        def check(watch: space.Watch) -> None:
            checked(watch)

    checked = space.Watch.check
    monkeypatch.setattr(space.Watch, "check", check)
    started = time.monotonic()
    with pytest.raises(AlignError) as raised:
        phase.run(context, phase.Options(pg_dump=path))
    assert raised.value.code == "disk_full"
    assert raised.value.found == "100 MiB free"
    assert time.monotonic() - started < 30
    assert nothing_left(context)


@pytest.mark.parametrize("parallel_mb", [64, 0])
def test_a_limit_of_file_sizes(parallel_mb: int, prod: str, make_context: MakeContext, fake_pg_dump: FakeDump) -> None:
    context = make_context(prod, phase="backup")
    small = fake_pg_dump('ulimit -f 8; exec "$REAL" "$@"')
    with pytest.raises(AlignError) as raised:
        phase.run(context, phase.Options(pg_dump=small, parallel_mb=parallel_mb))
    assert raised.value.code == "disk_full"
    assert "File too large" in raised.value.found
    assert nothing_left(context)


def test_no_room_for_the_lines(prod: str, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(*_: object) -> Iterator[tuple[str]]:
        yield ("{}",)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Session, "stream", stream)
    context = make_context(prod, phase="backup")
    with pytest.raises(AlignError) as raised:
        phase.run(context, phase.Options())
    assert raised.value.code == "disk_full"
    assert nothing_left(context)


_KILLED = """
import os, sys
from pathlib import Path
from archon_align.backup.leftovers import SECRET, STAGING, mark
from archon_align.backup.scratch import Scratch
import tempfile
with Scratch() as scratch:
    scratch.begin().result()
    (Path(sys.argv[1]) / "20260101-000000-aaaaaa" / f"{STAGING}{mark()}").mkdir(parents=True)
    secret = tempfile.mkdtemp(prefix=f"{SECRET}{mark()}-")
    print(scratch.embedded.folder, scratch.embedded.data, scratch.embedded.pid(), secret, flush=True)
    sys.stdin.read()
"""


def test_a_killed_backup_is_cleared_away(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT / "module_utils"), "PATH": "/usr/bin:/bin"},
    ) as process:
        assert process.stdout is not None
        folder, data, pid, secret = process.stdout.readline().split()
        # One that lives is left alone.
        assert not any(str(path) in folder for path in remove_leftovers(tmp_path))
        assert psutil.pid_exists(int(pid))
        process.send_signal(signal.SIGKILL)
    assert psutil.pid_exists(int(pid))
    removed = remove_leftovers(tmp_path)
    assert {Path(folder).parent, Path(secret)} <= set(removed)
    assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    left = [Path(folder).parent, Path(data), Path(secret), EmbeddedServer(Path(folder)).socket_folder]
    assert not any(path.exists() for path in left)
    assert list((tmp_path / "20260101-000000-aaaaaa").iterdir()) == []
