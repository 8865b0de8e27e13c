"""The lab's Portainer as a detached process: started, recognised, told what to run, and ended with all that it runs."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from . import service_process
from .portainer.store import fingerprint, folder_of
from .state import HOST, PortainerRecord, lab_error

_MODULE = "lab.portainer"
_REPOSITORY = Path(__file__).parents[1]
_ANSWER_SECONDS = 60
_ALIVE_SECONDS = 20


def _client(record: PortainerRecord, timeout: float) -> httpx.Client:
    context = ssl.create_default_context(cafile=record.ca_file)
    return httpx.Client(base_url=record.url, verify=context, timeout=timeout, trust_env=False)


def is_alive(record: PortainerRecord) -> bool:
    """Whether that very process exists and answers."""
    return service_process.process_of(record) is not None and _answers(record, _ALIVE_SECONDS)


def _answers(record: PortainerRecord, timeout: float) -> bool:
    try:
        with _client(record, timeout) as client:
            return client.get("/_lab/ports").is_success
    except (httpx.HTTPError, OSError):
        return False


def start(folder: Path, before: PortainerRecord | None, engine: str = "") -> PortainerRecord:
    """The Portainer recorded `before` if it answers, else a new one, on the same port if that is free. It runs no service
    until it is told to; with an `engine` (unix:///path) it stands before that. Raises AlignError if it does not start."""
    if before is not None and is_alive(before):
        return before
    stop(before, folder)
    try:
        listener = socket.create_server((HOST, (urlsplit(before.url).port or 0) if before else 0))
    except OSError:
        listener = socket.create_server((HOST, 0))
    log = folder / "portainer.log"
    path = os.pathsep.join(filter(None, [str(_REPOSITORY), os.environ.get("PYTHONPATH")]))
    with log.open("w") as output, listener:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", _MODULE, "--fd", str(listener.fileno()), "--lab", str(folder)),
                *(("--engine", engine) if engine else ()),
            ],
            cwd=_REPOSITORY,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        started = psutil.Process(process.pid).create_time()
        url = f"https://{HOST}:{listener.getsockname()[1]}"
    files = folder_of(folder)
    deadline = time.monotonic() + _ANSWER_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            record = PortainerRecord(
                url, str(files / "certificate.pem"), fingerprint(folder), str(files / "api-key"), process.pid, started
            )
        except (OSError, ValueError):  # the certificate of a first start is still being made
            time.sleep(0.05)
            continue
        # The socket listens already: this waits until somebody answers.
        if _answers(record, max(1.0, deadline - time.monotonic())):
            return record
    stop(None, folder)
    raise lab_error(
        "The lab's Portainer did not start.",
        url,
        f"an answer within {_ANSWER_SECONDS} s",
        " ".join(log.read_text(errors="replace").split())[-400:] or "no answer",
        f"Read {log}; run make setup if a package is missing.",
    )


def tell(record: PortainerRecord, method: str, path: str, **query: str) -> Any:
    """Ask for something below /_lab/. Raises AlignError when it is refused."""
    try:
        with _client(record, _ANSWER_SECONDS) as client:
            reply = client.request(method, f"/_lab/{path}", params=query)
            found = f"status {reply.status_code}: {reply.text[:400]}"
            if reply.is_success:
                return reply.json()
    except (httpx.HTTPError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
    raise lab_error(
        f"The lab's Portainer did not {path}.", record.url, "success", found, "Run python -m lab down, then up again."
    )


def stop(record: PortainerRecord | None, folder: Path) -> None:
    """End it, and with it every process that it runs."""
    service_process.stop(record, folder, _MODULE)
