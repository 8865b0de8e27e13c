"""Archon's stand-ins for a test, each as a child process on a free loopback port.

    with embedding_service.serve() as vectors, serve.server(dsn, EMBEDDING_PROVIDER="ollama", EMBEDDING_BASE_URL=vectors.base_url) as archon:
        httpx.get(f"{archon.url}/health")
        archon.restart()                       # reads the settings anew; another environment by keywords
        with serve.mcp(archon.url) as mcp: …   # mcp.url ends in /mcp

`dsn` is a libpq URI or conninfo whose role may become service_role; keywords are the process's environment. With `wait=False`
nothing is awaited: `wait_ready()` or `exit_code()` do. `stop()` ends it, `kill()` at once; `log()` is what it wrote.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ..portainer.processes import Port, environment
from ..state import HOST, lab_error
from . import keys

_REPOSITORY = Path(__file__).parents[2]
_READY_SECONDS = 120.0
_STOP_SECONDS = 30.0


class Running:
    """One stand-in. Its port stays its own between two starts, and refuses connections then."""

    def __init__(self, module: str, path: str, given: Mapping[str, str], log: Path) -> None:
        self._module = module
        self._environment = dict(given)
        self._log = log
        self._port = Port()
        self.url = f"http://{HOST}:{self._port.number}{path}"
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _start(self) -> subprocess.Popen[bytes]:
        with self._port.socket() as handed, self._log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", self._module, "--fd", str(handed.fileno())],
                cwd=_REPOSITORY,
                env=environment(self._environment),
                pass_fds=[handed.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_ready(self) -> None:
        """Return when it listens. Raises AlignError when it ended instead."""
        deadline = time.monotonic() + _READY_SECONDS
        while not self.listens():
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                raise lab_error(
                    "The lab's Archon did not start.",
                    self._module,
                    f"listening within {_READY_SECONDS:.0f} s",
                    f"exit code {ended}: {self.log()[-400:]}" if ended is not None else "no listener",
                    "Read the log above.",
                )
            time.sleep(0.02)

    def listens(self) -> bool:
        """Whether a connection is accepted."""
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self._port.number)) == 0

    def exit_code(self) -> int:
        """Await its end. Raises subprocess.TimeoutExpired after two minutes."""
        return self._process.wait(_READY_SECONDS)

    def restart(self, **changed: str) -> None:
        """Stop it and start it again with these variables changed; it is ready afterwards."""
        self.stop()
        self._environment |= changed
        self._process = self._start()
        self.wait_ready()

    def stop(self) -> None:
        """End it as Docker does: asked first, then killed."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(_STOP_SECONDS)

    def log(self) -> str:
        """All that it has written, over all its starts."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        self.kill()
        self._port.close()


@contextmanager
def server(dsn: str, *, wait: bool = True, **variables: str) -> Iterator[Running]:
    """archon-server on a database, with a key made for it unless SUPABASE_SERVICE_KEY is among the variables."""
    secret = keys.new_secret()
    given = {
        "SUPABASE_URL": dsn,
        "SUPABASE_SERVICE_KEY": keys.service_key(secret),
        "SUPABASE_JWT_SECRET": secret,
        **variables,
    }
    with _running("lab.archon.server", "", given, wait=wait) as running:
        yield running


@contextmanager
def mcp(server_url: str, *, wait: bool = True, **variables: str) -> Iterator[Running]:
    """archon-mcp in front of a server."""
    where = urlsplit(server_url)
    given = {"ARCHON_SERVER_HOST": where.hostname or HOST, "ARCHON_SERVER_PORT": str(where.port), **variables}
    with _running("lab.archon.mcp", "/mcp", given, wait=wait) as running:
        yield running


@contextmanager
def _running(module: str, path: str, given: Mapping[str, str], *, wait: bool) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="archon-") as folder:
        running = Running(module, path, given, Path(folder) / "log")
        try:
            if wait:
                running.wait_ready()
            yield running
        finally:
            running.close()
