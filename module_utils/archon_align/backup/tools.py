"""pg_dump and pg_restore: found, measured against the server, and run with every secret out of sight."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from psycopg.conninfo import make_conninfo

from ..database.session import KEEPALIVES, Session, parse_dsn
from ..errors import AlignError
from .leftovers import SECRET, mark

_VERSION = re.compile(r"\(PostgreSQL\)\s+(\d+)\S*")
_SECRET = ("password", "sslpassword")
_SERVICE = "archon-align"
_LENDER = "psycopg_binary"
POLL_SECONDS = 0.02
PROGRESS_SECONDS = 2.0
GUARD_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Tool:
    """One of PostgreSQL's client programs and its version as it states it."""

    path: Path
    version: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def major(self) -> int:
        return int(re.split(r"\D", self.version, maxsplit=1)[0])


def find_tool(path: Path) -> Tool:
    """The tool at `path`. Raises AlignError when it is missing or does not say a PostgreSQL version."""
    try:
        answer = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment(),
        )
        found = (answer.stdout + answer.stderr).strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        found = getattr(error, "strerror", None) or "no answer within 30 s"
    else:
        if match := _VERSION.search(found):
            return Tool(path, match.group().split()[-1])
    raise AlignError(
        f"{path.name} cannot be used.",
        object_name=str(path),
        expected="an executable that states a PostgreSQL version",
        found=" ".join(found.split()) or "no output",
        remedy="Leave backup_pg_dump empty to use the bundled one, or set it to a working pg_dump.",
        code="pg_dump_unusable",
    )


def require_not_older(tool: Tool, server_version: str, server_major: int) -> None:
    """Raise AlignError when the tool is older than the server: it would refuse, or miss what it does not know."""
    if tool.major < server_major:
        raise AlignError(
            "pg_dump is older than the server.",
            object_name=str(tool.path),
            expected=f"pg_dump {server_major} or newer, as the server is PostgreSQL {server_version}",
            found=f"pg_dump {tool.version}",
            remedy=f"Install the client tools of PostgreSQL {server_major} or newer and set backup_pg_dump to their pg_dump.",
            code="pg_dump_too_old",
        )


def with_tls(tool: Tool) -> Tool:
    """`tool` able to speak TLS. Raises AlignError when it cannot: data must not travel in the clear unasked.

    The bundled pg_dump was built without TLS. The libpq that psycopg brings has it and the same interface, so it is
    put before the tool's own.
    """
    candidates = [tool]
    spec = importlib.util.find_spec(_LENDER)
    if spec is not None and spec.origin:
        libraries = Path(spec.origin).parent.with_name(f"{_LENDER}.libs")
        candidates += [Tool(tool.path, tool.version, {"LD_PRELOAD": str(path)}) for path in libraries.glob("libpq-*")]
    for candidate in candidates:
        # Nobody listens on port 1: a tool without TLS complains about sslmode before it tries to connect.
        answer = subprocess.run(
            [candidate.path, "--no-password", "--dbname=host=127.0.0.1 port=1 sslmode=require connect_timeout=2"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment(candidate.environment),
        )
        if "not compiled in" not in answer.stderr:
            return candidate
    raise AlignError(
        "The connection uses TLS, and this pg_dump cannot.",
        object_name=str(tool.path),
        expected="a pg_dump built with TLS",
        found=f"pg_dump {tool.version} without TLS, and no libpq of psycopg[binary] to lend it",
        remedy="Install psycopg[binary], or set backup_pg_dump to a pg_dump from your system's packages.",
        code="pg_dump_without_tls",
    )


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours for a child process, without the password it may hold, with messages in English because they are read."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PGPASSWORD", "LANGUAGE")}
    return {**kept, "LC_ALL": "C", **(extra or {})}


def _passfile_line(password: str) -> str:
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    return f"*:*:*:*:{escaped}\n"


@contextmanager
def credentials(session: Session, application_name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """A conninfo string free of secrets for the very server `session` is on, and the environment it needs.

    A password goes into a passfile and a key's passphrase into a service file, both 0600 and gone afterwards.
    """
    parts = parse_dsn(session.target)
    password = parts.get("password") or os.environ.get("PGPASSWORD")
    info = session.connection.info
    # A DSN may name several hosts, and a name several addresses; a snapshot is known to one server alone.
    here = {"host": info.host, "port": str(info.port), "dbname": info.dbname, "user": info.user}
    if info.hostaddr and not info.host.startswith("/"):
        here["hostaddr"] = info.hostaddr
    # A dump waits for what the server sends, which after a cut in the network is nothing.
    shown = {key: value for key, value in {**KEEPALIVES, **parts, **here}.items() if key not in _SECRET}
    shown["application_name"] = application_name
    shown["connect_timeout"] = str(max(2, round(session.context.connect_timeout)))
    needed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix=f"{SECRET}{mark()}-") as folder:
        if password is not None:
            shown["passfile"] = str(_secret_file(Path(folder) / "passfile", _passfile_line(password)))
        if "sslpassword" in parts:
            service = f"[{_SERVICE}]\nsslpassword={parts['sslpassword']}\n"
            needed["PGSERVICEFILE"] = str(_secret_file(Path(folder) / "service", service))
            shown["service"] = _SERVICE
        yield make_conninfo(**shown), needed


def _secret_file(path: Path, text: str) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    return path


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit status and what it said on standard error."""

    status: int
    said: str


class Running:
    """A program in the background: it is killed on leaving the `with` block if it still runs, and after `timeout` s.

    `guard` is called several times a second while it is waited for; what it raises ends the program. `output` takes its
    standard output, `limit` is the variable that sets `timeout`.
    """

    def __init__(
        self,
        tool: Tool,
        arguments: Sequence[str],
        *,
        timeout: float,
        extra: dict[str, str] | None = None,
        guard: Callable[[], None] = lambda: None,
        output: IO[bytes] | None = None,
        limit: str = "backup_timeout",
    ) -> None:
        self.name = tool.path.name
        self._guard = guard
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._limit = limit
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit; a pipe could fill up and block
        self._process = subprocess.Popen(
            [tool.path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output or subprocess.DEVNULL,
            stderr=self._errors,
            env=environment({**tool.environment, **(extra or {})}),
            umask=0o077,
            start_new_session=True,
            # Python ignores the signal of a limit of file sizes: so do they then, and say what they met.
            restore_signals=False,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._errors.close()

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> Ended:
        """Wait for its end, calling `meanwhile` every other second. Raises AlignError when the time is up."""
        told = guarded = time.monotonic()
        while self._process.poll() is None:
            now = time.monotonic()
            if now > self._deadline:
                self._process.kill()
                raise AlignError(
                    f"{self.name} did not end in time and was killed.",
                    object_name=self.name,
                    expected=f"an end within {self._timeout:.0f} s",
                    found="still running",
                    remedy=f"Look for what blocks it (pg_stat_activity, network), or raise {self._limit}.",
                    code=self._limit,
                )
            if now - guarded >= GUARD_SECONDS:
                self._guard()
                guarded = now
            if now - told >= PROGRESS_SECONDS:
                meanwhile()
                told = now
            time.sleep(POLL_SECONDS)
        self._errors.seek(0)
        return Ended(self._process.returncode, self._errors.read().decode(errors="replace").strip())


def first_error(said: str) -> str:
    """The line of a tool's output that names the cause, in one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\berror:|ERROR:|FATAL:", line)]
    return (telling or lines or ["no message"])[0]
