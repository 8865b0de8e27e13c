"""The command line of both stand-ins: their socket, their environment, their log."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine

import uvicorn
from starlette.types import ASGIApp

from ..state import HOST

WRONG_USAGE = 64
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


async def listen(app: ASGIApp, listener: socket.socket, *, websockets: bool) -> None:
    """Listen on a bound socket until a signal comes."""
    config = uvicorn.Config(
        app,
        ws="wsproto" if websockets else "none",
        lifespan="auto",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=5,
    )
    await uvicorn.Server(config).serve(sockets=[listener])


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(WRONG_USAGE, f"{self.prog}: {message}\n")


def run(
    arguments: list[str] | None,
    program: str,
    required: tuple[str, ...],
    work: Callable[[socket.socket], Coroutine[object, object, int]],
) -> int:
    """The command line of a server: its socket, its environment and its log; then its work, whose exit code is returned."""
    parser = _Arguments(prog=f"python -m {program}", description=f"See the package {program.rpartition('.')[0]}.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="port to listen at")
    where.add_argument("--fd", type=int, help="inherited socket, bound and not yet listening")
    parser.add_argument("--host", default=HOST, help="address of --port (default: %(default)s)")
    options = parser.parse_args(arguments)
    if missing := [name for name in required if not os.environ.get(name)]:
        parser.error(f"the environment has no {', '.join(missing)}")
    level = os.environ.get("LOG_LEVEL", "INFO").upper()
    logging.basicConfig(
        level=level if level in _LEVELS else "INFO", format="%(asctime)s | %(name)s | %(levelname)s | %(message)s"
    )
    # Archon's own lines count; those of its libraries would repeat every request.
    for name in ("httpx", "httpcore", "uvicorn", "mcp", "asyncio", "python_multipart"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return asyncio.run(work(_listener(options.host, options.port, options.fd)))


def _listener(host: str, port: int | None, fd: int | None) -> socket.socket:
    if fd is not None:
        return socket.socket(fileno=fd)
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, port or 0))
    return made
