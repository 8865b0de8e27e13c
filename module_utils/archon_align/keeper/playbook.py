"""Which process is the playbook, whether it is still alive, and what it left behind on this machine."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..errors import AlignError

# Clocks may be stepped between two readings of a process's start; a reused pid is older or younger than this.
_START_TOLERANCE = 2.0
# proc(5): the ninth field of /proc/<pid>/stat, the seventh after the name; PF_FORKNOEXEC in it.
_FLAGS = 6
_FORKED_NOT_EXECUTED = 0x40


@dataclass(frozen=True, slots=True)
class ProcessName:
    """A process by pid and start time (seconds since the epoch), which together are never used twice."""

    pid: int
    created: float


def find_playbook(pid: int | None = None) -> ProcessName:
    """The running ansible-playbook among this process's ancestors, or the process `pid` if one is given.

    Ansible runs each task in a fork of the playbook's process, with the same command line: that pair marks it, however
    it was started (script, `python -m ansible playbook`, make, ansible-runner). Raises AlignError.
    """
    try:
        if pid is not None:
            return ProcessName(pid, psutil.Process(pid).create_time())
        for child, parent in itertools.pairwise(psutil.Process().parents()):
            command = _command(child)
            if command and command == _command(parent) and any("ansible" in part for part in command):
                return ProcessName(parent.pid, parent.create_time())
    except psutil.NoSuchProcess as error:
        raise _no_playbook(f"process {error.pid} does not exist") from error
    raise _no_playbook("no ansible-playbook among the module's parent processes")


def _no_playbook(found: str) -> AlignError:
    return AlignError(
        "The playbook's process was not found, so nobody would notice its end.",
        object_name="controller process",
        expected="a running ansible-playbook that started this module",
        found=found,
        remedy="Run archon_run on the controller (delegate_to: localhost, connection local), or pass controller_pid.",
        code="no_playbook",
    )


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs. A zombie is dead: only its parent has not noticed yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


class Playbook:
    """The playbook's process as the keeper watches it."""

    def __init__(self, name: ProcessName) -> None:
        self._workers: list[psutil.Process] = []
        self._created = name.created
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(name.pid)
            if abs(process.create_time() - name.created) < _START_TOLERANCE:
                self._process = process
        self._command = _command(self._process) if self._process else []

    def alive(self) -> bool:
        """Whether it still runs; also remembers its workers, which outlive a playbook that was killed."""
        if self._process is None or not is_alive(self._process):
            return False
        with contextlib.suppress(psutil.Error):
            self._workers = [child for child in self._process.children() if _command(child) == self._command]
        return True

    def wait(self, seconds: float, stopped: threading.Event) -> None:
        """Until the playbook ends, where the system can tell at once, or `stopped` is set, but no longer than `seconds`."""
        if self._process is None or stopped.is_set() or not hasattr(os, "pidfd_open"):
            stopped.wait(seconds)
            return
        try:
            descriptor = os.pidfd_open(self._process.pid)
        except OSError:
            return  # it has ended; whether the pid is somebody else's by now is told by its start
        try:
            select.select([descriptor], [], [], seconds)
        finally:
            os.close(descriptor)

    def end_leftovers(self) -> int:
        """Send SIGTERM to workers that outlived the playbook and to all below them; the number of processes told."""
        told = 0
        for worker in {*self._workers, *self._orphans()}:
            # Looked at again: a child met between its fork and its exec had the playbook's command line for that moment.
            if not is_alive(worker) or _command(worker) != self._command:
                continue
            with contextlib.suppress(psutil.Error):
                # Children first: a module that is told can still undo and tidy up.
                for process in (*reversed(worker.children(recursive=True)), worker):
                    with contextlib.suppress(psutil.Error):
                        process.terminate()
                        told += 1
        return told

    def _orphans(self) -> list[psutil.Process]:
        """Workers that were forked after the last look, just before the playbook was killed: nobody has seen them as its children.

        Another run may have the very same command line, but was started by exec; and the workers of one that lives have it as parent.
        """
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if (
                    self._command
                    and process.create_time() >= self._created - _START_TOLERANCE
                    and _command(process) == self._command
                    and _is_fork(process.pid)
                    and _command(psutil.Process(process.ppid())) != self._command
                ):
                    found.append(process)
        return found


def _is_fork(pid: int) -> bool:
    """Whether the process was forked and has not executed a program since. Only Linux tells; elsewhere the answer is no."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return bool(int(after_name[_FLAGS]) & _FORKED_NOT_EXECUTED)
