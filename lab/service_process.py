"""The embedding service as a detached process of one lab: started, recognised and ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from .state import HOST, ProcessRecord, ServiceRecord, lab_error

_MODULE = "lab.embedding_service"
_REPOSITORY = Path(__file__).parents[1]
_ANSWER_SECONDS = 90
_ALIVE_SECONDS = 20
_STOP_SECONDS = 5


def is_alive(record: ServiceRecord) -> bool:
    """Whether that very process exists and answers."""
    return process_of(record) is not None and _answers(record.base_url, timeout=_ALIVE_SECONDS)


@dataclass(frozen=True)
class Claim:
    """A base URL that is already certain, and the service behind it, which may have to be started still."""

    base_url: str
    _folder: Path
    _running: ServiceRecord | None
    _listener: socket.socket | None

    def complete(self) -> ServiceRecord:
        """The service's record, once it answers. Raises AlignError if it does not start."""
        if self._running is not None:
            return self._running
        assert self._listener is not None  # noqa: S101 - one of the two is set
        return _start(self._folder, self._listener, self.base_url)


def claim(folder: Path, before: ServiceRecord | None) -> Claim:
    """The service recorded `before` if it answers, else a socket for a new one, on the same port if that is free."""
    if before is not None and is_alive(before):
        return Claim(before.base_url, folder, before, None)
    stop(before, folder)
    try:
        listener = socket.create_server((HOST, (urlsplit(before.base_url).port or 0) if before else 0))
    except OSError:
        listener = socket.create_server((HOST, 0))
    return Claim(f"http://{HOST}:{listener.getsockname()[1]}/v1", folder, None, listener)


def _start(folder: Path, listener: socket.socket, url: str) -> ServiceRecord:
    # The new process inherits the socket, so that no other can take the port meanwhile.
    log = folder / "embedding.log"
    path = os.pathsep.join(filter(None, [str(_REPOSITORY), os.environ.get("PYTHONPATH")]))
    with log.open("w") as output, listener:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, "--fd", str(listener.fileno()), "--lab", str(folder)],
            cwd=_REPOSITORY,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        started = psutil.Process(process.pid).create_time()
    if not _answers(url, timeout=_ANSWER_SECONDS) or process.poll() is not None:
        raise lab_error(
            "The lab's embedding service did not start.",
            url,
            f"an answer within {_ANSWER_SECONDS} s",
            " ".join(log.read_text(errors="replace").split())[-400:] or "no answer",
            f"Read {log}; run make setup if a package is missing.",
        )
    return ServiceRecord(url, process.pid, started)


def stop(record: ProcessRecord | None, folder: Path, module: str = _MODULE) -> None:
    """End the recorded process and any other of this module that was started for this folder and forgotten."""
    known = process_of(record) if record else None
    # A process that is not ours may hide its command line (None) or end while it is looked at.
    candidates = [known] if known else []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if process.pid != (known.pid if known else 0) and module in command and command[-2:] == ["--lab", str(folder)]:
            candidates.append(process)
    for process in candidates:
        try:
            process.terminate()
            process.wait(_STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(_ANSWER_SECONDS)
        except psutil.NoSuchProcess:
            continue


def process_of(record: ProcessRecord) -> psutil.Process | None:
    """That very process, None when it has ended."""
    try:
        process = psutil.Process(record.pid)
        alive = abs(process.create_time() - record.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if alive else None


def _answers(url: str, *, timeout: float) -> bool:
    try:
        return httpx.get(url.removesuffix("/v1") + "/api/version", timeout=timeout, trust_env=False).is_success
    except httpx.HTTPError:
        return False
