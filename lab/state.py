"""What a lab remembers in its folder: the state file that the inventory reads, the passfile, and the lock."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from archon_align.errors import AlignError

from .archon import keys
from .databases import ADMIN, DATABASE, OWNER, STANDARD, VARIANTS

HOST = "127.0.0.1"
PORTAINER = "portainer"  # where its files are below a lab's folder
_LOCK_SECONDS = 120


def lab_error(what: str, name: str, expected: str, found: str, remedy: str) -> AlignError:
    """A failure of the lab in the five parts of every error."""
    return AlignError(what, object_name=name, expected=expected, found=found, remedy=remedy, code="lab")


class ProcessRecord(Protocol):
    """A process that the lab started; `started` is its birth, so that a reused pid is not mistaken for it."""

    @property
    def pid(self) -> int: ...

    @property
    def started(self) -> float: ...


@dataclass(frozen=True)
class ServiceRecord:
    """The embedding service's process."""

    base_url: str
    pid: int
    started: float


@dataclass(frozen=True)
class PortainerRecord:
    """The process of the lab's Portainer, how to trust it and the file with an API key for it."""

    url: str
    ca_file: str
    fingerprint: str
    api_key_file: str
    pid: int
    started: float


@dataclass(frozen=True)
class ArchonRecord:
    """Where one Archon and its MCP server answer."""

    url: str
    mcp_url: str


@dataclass(frozen=True)
class State:
    """Ports of the two servers, the embedding service, which variant PROD was built as, and Portainer with the Archons that
    it runs, if any, as of the last `up`."""

    dev_port: int
    prod_port: int
    embedding: ServiceRecord
    variant: str = STANDARD
    portainer: PortainerRecord | None = None
    archon: Mapping[str, ArchonRecord] | None = None  # by world; empty in a lab without them, None if nobody said


class StateFolder:
    """The files below one lab's folder. Secrets are readable by their owner alone."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.absolute()
        self.passfile = self.path / "passfile"
        self._state_file = self.path / "state.json"
        self._last_file = self.path / "last-state.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other lab commands on this folder out until the block ends. Raises AlignError after two minutes."""
        self._prepare()
        with (self.path / "lock").open("a+") as lock:
            deadline = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        lock.seek(0)
                        raise lab_error(
                            "Another lab command is at work on this folder and does not finish.",
                            str(self.path),
                            f"the lock within {_LOCK_SECONDS} s",
                            f"held by process {lock.read().strip() or 'unknown'}",
                            "Wait for it or end it, then try again.",
                        ) from None
                    time.sleep(0.05)
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def _prepare(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = self.path.stat().st_uid
        except OSError as error:
            raise lab_error(
                "The lab's folder cannot be made.",
                str(self.path),
                "a folder that this user may write",
                error.strerror or str(error),
                "Choose another one with --folder.",
            ) from error
        if owner != os.geteuid():
            # Two users' servers on one folder would not see each other.
            raise lab_error(
                "The lab's folder belongs to another user.",
                str(self.path),
                f"user id {os.geteuid()}",
                f"user id {owner}",
                "Run as that user, or choose another folder with --folder.",
            )

    def read(self) -> State | None:
        """The state of a lab that was brought up and not taken down, or None."""
        return self._read(self._state_file)

    def last(self) -> State | None:
        """The state before the last `down`, whose ports the next `up` prefers, or None."""
        return self._read(self._last_file)

    def _read(self, path: Path) -> State | None:
        try:
            content = json.loads(path.read_text())
            record = content["embedding"]
            service = ServiceRecord(str(record["base_url"]), int(record["pid"]), float(record["started"]))
            variant = content.get("variant")
            return State(
                int(content["dev"]["port"]),
                int(content["prod"]["port"]),
                service,
                variant if variant in VARIANTS else STANDARD,
                PortainerRecord(**content["portainer"]) if content.get("portainer") else None,
                {world: ArchonRecord(**record) for world, record in content["archon"].items()}
                if "archon" in content
                else None,
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, state: State) -> None:
        """Replace the state file in one step."""
        worlds = {
            world: {"dsn": self.uri(port), "admin_dsn": self.uri(port, ADMIN), "host": HOST, "port": port}
            for world, port in (("dev", state.dev_port), ("prod", state.prod_port))
        }
        content: dict[str, object] = {**worlds, "embedding": asdict(state.embedding), "variant": state.variant}
        content["archon"] = {world: asdict(record) for world, record in (state.archon or {}).items()}
        if state.portainer is not None:
            content["portainer"] = asdict(state.portainer)
        self._replace(self._state_file, json.dumps(content, indent=2) + "\n")

    def set_aside(self) -> None:
        """Nothing runs any more: the state becomes the last one."""
        with suppress(FileNotFoundError):
            self._state_file.replace(self._last_file)

    def uri(self, port: int, role: str = OWNER) -> str:
        """A connection URI without a password: it names the passfile instead."""
        return f"postgresql://{role}@{HOST}:{port}/{DATABASE}?passfile={quote(str(self.passfile))}"

    def password(self) -> str:
        """The password of the roles that log in, made at the first call."""
        try:
            found = self.passfile.read_text().rstrip("\n").rsplit(":", 1)[1]
        except (OSError, IndexError):
            found = secrets.token_urlsafe(24)
        # Written each time: libpq ignores a passfile that others may read.
        self._replace(self.passfile, f"{HOST}:*:*:*:{found}\n")
        return found

    def archon_secret(self, world: str) -> str:
        """What the service keys of one world's Archon are signed with, made at the first call."""
        path = self.path / f"archon-{world}-secret"
        with suppress(OSError):
            if found := path.read_text().strip():
                return found
        made = keys.new_secret()
        self._replace(path, made + "\n")
        return made

    def forget_archon(self) -> None:
        """Remove what Portainer and the Archons left."""
        shutil.rmtree(self.path / PORTAINER, ignore_errors=True)
        for path in (*self.path.glob("archon-*-secret"), self.path / "portainer.log"):
            path.unlink(missing_ok=True)

    def _replace(self, path: Path, text: str) -> None:
        partial = path.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
        partial.replace(path)
