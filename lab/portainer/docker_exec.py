"""Exec in a container: a real process with the container's environment, its output multiplexed as Docker does."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from .objects import JSON, Container
from .processes import start
from .swarm import Refused

STDOUT, STDERR = 1, 2
_CHUNK = 32 << 10


@dataclass
class Exec:
    """One exec instance."""

    container: Container
    argv: list[str]
    env: list[str]
    tty: bool
    attached: dict[int, bool]
    id: str = field(default_factory=lambda: secrets.token_hex(32))
    process: asyncio.subprocess.Process | None = None
    exit_code: int | None = None
    begun: bool = False
    following: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.exit_code is None


def create(container: Container, body: JSON) -> Exec:
    """An exec that is not started yet. Raises Refused."""
    if container.state != "running":
        raise Refused(409, f"container {container.id} is not running")
    argv = body.get("Cmd")
    if not isinstance(argv, list) or not argv:
        raise Refused(400, "no exec command specified")
    attached = {STDOUT: bool(body.get("AttachStdout")), STDERR: bool(body.get("AttachStderr"))}
    return Exec(container, [str(part) for part in argv], list(body.get("Env") or []), bool(body.get("Tty")), attached)


def frame(stream: int, payload: bytes) -> bytes:
    """One frame of a multiplexed stream."""
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


async def run(execution: Exec) -> AsyncIterator[bytes]:
    """Start it and give its output as it comes. A program that is not there is told in the output, with exit code 127.
    Raises Refused before the first piece."""
    if execution.begun:
        raise Refused(409, f"exec command {execution.id} has already run")
    if execution.container.state != "running":
        raise Refused(409, f"container {execution.container.id} is not running")
    execution.begun = True
    extra = dict(pair.partition("=")[::2] for pair in execution.env)
    try:
        process = await start(
            execution.argv,
            {**execution.container.environment(), **extra},
            output=asyncio.subprocess.PIPE,
            errors=asyncio.subprocess.STDOUT if execution.tty else asyncio.subprocess.PIPE,
        )
    except OSError:
        execution.exit_code = 127
        return _one(execution, f'OCI runtime exec failed: exec failed: unable to start container process: exec: "{execution.argv[0]}": executable file not found in $PATH: unknown\r\n')  # fmt: skip
    execution.process = process
    execution.container.execs.append(process)
    return _output(execution, process)


async def _one(execution: Exec, text: str) -> AsyncIterator[bytes]:
    yield text.encode() if execution.tty else frame(STDOUT, text.encode())


async def _output(execution: Exec, process: asyncio.subprocess.Process) -> AsyncIterator[bytes]:
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(64)
    listened = True

    async def read(number: int, stream: asyncio.StreamReader | None) -> None:
        while stream is not None and (piece := await stream.read(_CHUNK)):
            if listened and (execution.tty or execution.attached[number]):
                await pieces.put(piece if execution.tty else frame(number, piece))

    async def follow() -> None:
        await asyncio.gather(read(STDOUT, process.stdout), read(STDERR, process.stderr))
        code = await process.wait()
        execution.exit_code = 128 - code if code < 0 else code
        execution.container.execs.remove(process)
        if listened:
            await pieces.put(None)

    execution.following = asyncio.create_task(follow())
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
    finally:
        # It goes on when nobody listens any more, as in a real container.
        listened = False
        while not pieces.empty():
            pieces.get_nowait()


def shape(execution: Exec) -> JSON:
    """An exec as inspected."""
    return {
        "ID": execution.id,
        "Running": execution.running,
        "ExitCode": execution.exit_code,
        "ProcessConfig": {
            "tty": execution.tty,
            "entrypoint": execution.argv[0],
            "arguments": execution.argv[1:],
            "privileged": False,
        },
        "OpenStdin": False,
        "OpenStdout": execution.attached[STDOUT],
        "OpenStderr": execution.attached[STDERR],
        "CanRemove": False,
        "ContainerID": execution.container.id,
        "DetachKeys": "",
        "Pid": execution.process.pid if execution.process and execution.running else 0,
    }
