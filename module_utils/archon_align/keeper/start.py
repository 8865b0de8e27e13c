"""Starting a run: its id, its artifacts folder, and the keeper that outlives the module which starts it."""

from __future__ import annotations

import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from ..context import CHECK_SUFFIX, PROTECTED_TABLES
from ..errors import AlignError
from .assignment import Assignment
from .patience import PATIENCE, REMAINS_SECONDS
from .playbook import find_playbook

LATEST = "latest"
LOG_FILE = "keeper.log"
_SLACK = 15.0


@dataclass(frozen=True, slots=True)
class StartOptions:
    """How to start a run. `core_path` is the folder that holds the package archon_align; timeouts in seconds."""

    prod_dsn: str = field(repr=False)
    artifacts_root: Path
    core_path: Path
    protected_tables: Sequence[str] = ()
    connect_timeout: float = 10.0
    controller_pid: int | None = None
    check: bool = False


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run whose keeper is at work."""

    run_id: str
    artifacts_dir: Path
    check: bool
    started_at: str
    keeper_pid: int
    findings: tuple[dict[str, str], ...]

    def as_result(self) -> dict[str, Any]:
        """The module result: plain JSON types only."""
        return {
            "changed": False,
            "run_id": self.run_id,
            "artifacts_dir": str(self.artifacts_dir),
            "check": self.check,
            "started_at": self.started_at,
            "keeper_pid": self.keeper_pid,
            "findings": list(self.findings),
        }


def new_run_id(at: datetime, *, check: bool) -> str:
    """`YYYYMMDD-HHMMSS-xxxxxx` in UTC; runs of one second differ by the random end."""
    return f"{at.astimezone(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}{CHECK_SUFFIX if check else ''}"


def start(options: StartOptions) -> StartedRun:
    """Start a run and its keeper; returns when the keeper holds the lock (in check mode: is connected).

    Raises AlignError: PROD not reachable, another run active, artifacts folder not writable, playbook not found.
    """
    playbook = find_playbook(options.controller_pid)
    core = options.core_path.absolute()
    if not (core / "archon_align" / "keeper" / "__main__.py").is_file():
        raise AlignError(
            "The core was not found.",
            object_name="core_path",
            expected="the project's module_utils folder, with the package archon_align in it",
            found=str(core),
            remedy="Set core_path to the module_utils folder of the project.",
            code="no_core",
        )
    at = datetime.now(UTC)
    run_id = new_run_id(at, check=options.check)
    artifacts = _new_folder(options.artifacts_root.absolute(), run_id)
    assignment = Assignment(
        run_id=run_id,
        artifacts=str(artifacts),
        prod_dsn=options.prod_dsn,
        playbook=playbook,
        protected_names=tuple(dict.fromkeys((*PROTECTED_TABLES, *options.protected_tables))),
        connect_timeout=options.connect_timeout,
    )
    try:
        assignment.context()  # what it refuses is told here; the keeper itself has nobody to tell
        keeper_pid, findings = _start_keeper(assignment, artifacts, core)
        _point_latest(artifacts)
    except BaseException:
        _remove_if_empty(artifacts)
        raise
    started_at = at.isoformat(timespec="seconds").replace("+00:00", "Z")
    return StartedRun(run_id, artifacts, options.check, started_at, keeper_pid, findings)


def _not_writable(path: Path, error: OSError) -> AlignError:
    return AlignError(
        "The artifacts folder cannot be written.",
        object_name=str(path),
        expected="a folder this user may write to",
        found=error.strerror or str(error),
        remedy="Correct its permissions, free space there, or set archon_artifacts_root to another folder.",
        code="artifacts_not_writable",
    )


def _new_folder(root: Path, run_id: str) -> Path:
    folder = root / run_id
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise _not_writable(root, error) from error
    return folder


def _point_latest(artifacts: Path) -> None:
    """Make `latest` point to this run, at once for whoever reads it."""
    partial = artifacts.parent / f".{LATEST}.{artifacts.name}"
    try:
        partial.symlink_to(artifacts.name)
        partial.replace(artifacts.parent / LATEST)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise _not_writable(artifacts.parent / LATEST, error) from error


def _remove_if_empty(artifacts: Path) -> None:
    """A run that never began leaves no folder, unless its keeper's log has something to say."""
    log = artifacts / LOG_FILE
    with suppress(OSError):
        if log.stat().st_size == 0:
            log.unlink()
    with suppress(OSError):
        artifacts.rmdir()


def _start_keeper(assignment: Assignment, artifacts: Path, core: Path) -> tuple[int, tuple[dict[str, str], ...]]:
    try:
        log = os.open(artifacts / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise _not_writable(artifacts, error) from error
    try:
        # A session of its own: neither Ctrl-C nor a killed process group reaches the keeper.
        keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "archon_align.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(core)},
        )
    finally:
        os.close(log)
    seconds = 3 * assignment.connect_timeout + PATIENCE + REMAINS_SECONDS + _SLACK
    try:
        assert keeper.stdin is not None
        with suppress(BrokenPipeError), keeper.stdin:
            keeper.stdin.write(assignment.as_json())
        return keeper.pid, _await_report(keeper, seconds, artifacts / LOG_FILE)
    except BaseException:
        keeper.kill()
        keeper.wait()
        raise


def _await_report(keeper: subprocess.Popen[bytes], seconds: float, log: Path) -> tuple[dict[str, str], ...]:
    assert keeper.stdout is not None
    deadline = time.monotonic() + seconds
    received = b""
    with keeper.stdout as pipe:
        while not received.endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(pipe.fileno(), 65536) if ready else b""
            if not part:
                found = "it ended without a word" if ready else f"no word from it within {seconds:.0f} s"
                raise _no_keeper(found, log)
            received += part
    report = orjson.loads(received)
    if "error" in report:
        error = report["error"]
        raise AlignError(
            error["what"],
            object_name=error["object"],
            expected=error["expected"],
            found=error["found"],
            remedy=error["remedy"],
            code=error["code"],
        )
    if "unexpected" in report:
        raise _no_keeper(f"{report['unexpected']}", log)
    return tuple(report["findings"])


def _no_keeper(found: str, log: Path) -> AlignError:
    return AlignError(
        "The keeper did not start.",
        object_name="keeper process",
        expected="its report that the run may begin",
        found=found,
        remedy=f"See {log}; if it does not help, report this as a defect.",
        code="no_keeper",
    )
