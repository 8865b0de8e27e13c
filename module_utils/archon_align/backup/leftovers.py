"""What a killed run leaves behind outside its databases: named by its process, found and removed by the next run."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import psutil

from ..embedded.server import EmbeddedServer

SCRATCH = "archon-align-scratch-"
SECRET = "archon-align-secret-"  # noqa: S105 - a folder's name
OPENED = "archon-align-opened-"
STAGING = ".backup-"
SERVER = "server"
_NAMED = re.compile(rf"(?:{SCRATCH}|{SECRET}|{OPENED}|{re.escape(STAGING)})([0-9a-f]{{8}})-(\d+)-(\d+)(?:-\w+)?")
# A process's start is told relative to the machine's, whose clock may be set meanwhile.
_TOLERANCE_SECONDS = 60


def _host() -> str:
    """A folder may be shared with other machines and containers, whose processes cannot be seen from here."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def mark() -> str:
    """This machine, process and its start, for the name of a folder that must not outlive it."""
    return f"{_host()}-{os.getpid()}-{psutil.Process().create_time():.0f}"


def is_left_behind(folder: Path) -> bool:
    """Is it a folder of ours, made on this machine by a process that is no more?"""
    found = _NAMED.fullmatch(folder.name)
    try:
        if found is None or found[1] != _host() or folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            return False
        return abs(psutil.Process(int(found[2])).create_time() - int(found[3])) > _TOLERANCE_SECONDS
    except psutil.NoSuchProcess:
        return True
    except (OSError, psutil.Error):
        return False


def remove_leftovers(artifacts_root: Path) -> list[Path]:
    """End the scratch servers of dead processes and remove their folders, passwords and half-written backups.

    `artifacts_root` holds the artifacts folders of all runs. Returns the folders that were found.
    """
    temporary = Path(tempfile.gettempdir())
    found = [
        *(folder for folder in temporary.glob("archon-align-*") if is_left_behind(folder)),
        *(folder for folder in artifacts_root.glob(f"*/{STAGING}*") if is_left_behind(folder)),
    ]
    for folder in found:
        if folder.name.startswith(SCRATCH):
            _end_server(EmbeddedServer(folder / SERVER))
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _end_server(server: EmbeddedServer) -> None:
    """Its processes first, those that a kill in the middle of the start left without a postmaster's pid included."""
    server.stop()
    for process in _processes(str(server.data)):
        try:
            process.kill()
            process.wait(5)
        except psutil.Error:
            continue
    server.remove()


def _processes(data: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if data in process.cmdline():
                yield process
        except psutil.Error:
            continue
