"""What a container is in the lab: a child process that ends with the stand-in, and the ports that stay reserved for it."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..state import HOST

_REPOSITORY = Path(__file__).parents[2]
_PYTHONS = ("python", "python3")
_SET_PDEATHSIG = 1
# Loaded before any fork: a child between fork and exec must not load anything.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with(parent: int) -> None:
    """In the child: die when the thread that started it dies, even by SIGKILL."""
    if _LIBC is not None:
        _LIBC.prctl(_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os._exit(1)


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """A container's environment: what its image has, and what the service gives. Nothing of the stand-in's own leaks in."""
    image = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": "/tmp",  # noqa: S108 - a container has a home, too
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(_REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        "HOSTNAME": "lab",
    }
    # Found by archon_align when it is not installed but on the path of whoever started the lab.
    if inherited := os.environ.get("PYTHONPATH"):
        image["PYTHONPATH"] += os.pathsep + inherited
    return {**image, **given}


def command(argv: Sequence[str]) -> list[str]:
    """`python` and `python3` mean the interpreter that the lab runs with."""
    return [sys.executable, *argv[1:]] if argv[0] in _PYTHONS else list(argv)


async def start(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    output: int,
    errors: int,
    pass_fds: Sequence[int] = (),
) -> asyncio.subprocess.Process:
    """Start a child in a process group of its own. Raises OSError when there is no such program."""
    parent = os.getpid()
    return await asyncio.create_subprocess_exec(
        *command(argv),
        env=environment(env),
        cwd=_REPOSITORY,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
        preexec_fn=lambda: _end_with(parent),
    )


def kill_group(process: asyncio.subprocess.Process, number: int = signal.SIGKILL) -> None:
    """Send a signal to a child and to what it started itself."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


class Port:
    """A port that is ours while the stand-in runs, whether or not anything listens there.

    A socket that is bound and never listens keeps it: connections are refused, and nobody else gets it. Each process is
    handed a socket of its own on the same port and listens when it is ready; when it ends, connections are refused again.
    """

    def __init__(self, number: int = 0) -> None:
        """Raises OSError when the port is taken."""
        if number and self._answered(number):
            # Another lab's process can share a port that we may share with our own, so binding alone does not tell.
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self._reserved = self._bind(number)
        self.number: int = self._reserved.getsockname()[1]

    @staticmethod
    def _answered(number: int) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            return probe.connect_ex((HOST, number)) == 0

    @staticmethod
    def _bind(number: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind((HOST, number))
        except OSError:
            made.close()
            raise
        return made

    def socket(self) -> socket.socket:
        """One more socket on this port, bound but not listening, to hand over."""
        return self._bind(self.number)

    def close(self) -> None:
        self._reserved.close()
