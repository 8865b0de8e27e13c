"""The lab: DEV, PROD, the embedding service and Portainer with the Archons, brought up, reset and taken down as one."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import psycopg
from archon_align.embedded.server import EmbeddedServer
from archon_align.errors import AlignError

from . import archons, databases, portainer_process, service_process
from .databases import ADMIN, OWNER, STANDARD
from .state import HOST, ArchonRecord, PortainerRecord, State, StateFolder, lab_error

DEFAULT_FOLDER = Path(__file__).parents[1] / ".lab"
WORLDS = ("dev", "prod")


@dataclass(frozen=True)
class WorldStatus:
    """One database: its URI (without a password) while its server runs, and in a line what state it is in."""

    name: str
    uri: str | None
    condition: str


@dataclass(frozen=True)
class ArchonStatus:
    """One Archon: where it answers, and in a line whether it is ready."""

    name: str
    record: ArchonRecord
    condition: str


@dataclass(frozen=True)
class LabStatus:
    """What runs: the two databases, the embedding service's base URL (None when it does not answer), PROD's variant,
    Portainer (None when it does not answer), and the Archons, none in a lab without them."""

    worlds: tuple[WorldStatus, ...]
    embedding_base_url: str | None
    variant: str
    portainer: PortainerRecord | None = None
    archons: tuple[ArchonStatus, ...] = ()


@contextmanager
def _told() -> Iterator[None]:
    """Foreseeable failures of the machine and the servers become an AlignError."""
    try:
        yield
    except (OSError, psycopg.Error, psutil.Error, subprocess.SubprocessError) as error:
        raise lab_error(
            "The lab could not do that.",
            "the lab's servers",
            "a machine with free memory and disk, and servers that answer",
            f"{type(error).__name__}: {' '.join(str(error).split())}",
            "Run python -m lab down, then python -m lab up; remove the lab's folder if that does not help.",
        ) from error


def _free_port(preferred: int | None) -> int:
    for port in (preferred or 0, 0):
        try:
            with socket.create_server((HOST, port)) as probe:
                return int(probe.getsockname()[1])
        except OSError:
            continue
    raise OSError(f"no free port on {HOST}")


def _archons_of(state: State | None) -> Mapping[str, ArchonRecord]:
    return (state.archon or {}) if state is not None else {}


class _World:
    """One server and the port it listens on, if it runs."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder / name
        self._server = EmbeddedServer(self._folder)

    @property
    def port(self) -> int | None:
        """The running server's port, or None."""
        if self._server.pid() is None:
            return None
        try:
            return int((self._server.data / "postmaster.pid").read_text().split("\n")[3])
        except (OSError, ValueError, IndexError):
            return None

    def superuser_dsn(self, port: int) -> str:
        return f"{self._server.dsn()} port={port} connect_timeout=30"

    def start(self, preferred_port: int | None, password: str) -> int:
        """Make sure that the server runs and knows the roles' password; returns its port."""
        port = self.port
        if port is not None:
            try:
                databases.ensure_roles(self.superuser_dsn(port), password)
            except psycopg.OperationalError:
                self.stop()  # it runs but cannot be reached, for instance because its socket was removed
            else:
                return port
        (self._server.data / "postmaster.pid").unlink(missing_ok=True)  # names a process that is not our server
        try:
            port = self._start_server(preferred_port)
        except AlignError:
            port = self._start_again()
        databases.ensure_roles(self.superuser_dsn(port), password)
        return port

    def _start_again(self) -> int:
        """After a failed start: the port was taken in between, a killed server's children were still ending, or its
        files are damaged (it runs without fsync). In the last case they are made anew, since a lab's data can be."""
        time.sleep(1)
        try:
            return self._start_server(None)
        except AlignError:
            self._server.remove()
            return self._start_server(None)

    def _start_server(self, preferred_port: int | None) -> int:
        port = _free_port(preferred_port)
        self._server = EmbeddedServer(self._folder, settings={"listen_addresses": HOST, "port": str(port)})
        self._server.start()
        return port

    def stop(self) -> None:
        if self.port is not None:
            self._server.stop()

    def remove(self) -> None:
        self.stop()
        self._server.remove()


class Lab:
    """One lab below `folder`; several may run side by side. Every method raises AlignError for foreseeable failures.

    Without `archon` neither Portainer nor the Archons are started; None means as the last time, with them at the first.
    """

    def __init__(self, folder: Path = DEFAULT_FOLDER, *, archon: bool | None = True) -> None:
        self._files = StateFolder(folder)
        self._archon = archon
        self._worlds = {name: _World(name, self._files.path) for name in WORLDS}

    def up(self) -> None:
        """Start what does not run and build what is not there. Quick when all is well; existing data stay as they are."""
        with _told(), self._files.locked():
            self._up()

    def reset(self, variant: str = STANDARD) -> None:
        """Bring both databases back to the start state, PROD as `variant` (one of VARIANTS), ending their users' sessions;
        starts the lab if it is down."""
        with _told(), self._files.locked():
            self._up(rebuild_as=variant)

    def down(self) -> None:
        """Stop everything; the databases keep their contents for the next `up`."""
        with _told(), self._files.locked():
            self._down()

    def remove(self) -> None:
        """Stop everything and remove all data of this lab."""
        with _told(), self._files.locked():
            self._down()
            for world in self._worlds.values():
                world.remove()
            self._files.forget_archon()

    def status(self) -> LabStatus:
        """What runs and in which state the databases are."""
        state = self._files.read()
        alive = state is not None and service_process.is_alive(state.embedding)
        worlds = []
        for name, world in self._worlds.items():
            port = world.port
            uri = self._files.uri(port) if port is not None else None
            try:
                condition = "not running" if port is None else databases.condition(self._files.uri(port, ADMIN))
            except psycopg.Error as error:
                condition = f"unusable: {' '.join(str(error).split())}"
            worlds.append(WorldStatus(name, uri, condition))
        known = state or self._files.last()
        portainer = state.portainer if state else None
        if portainer is not None and not portainer_process.is_alive(portainer):
            portainer = None
        return LabStatus(
            tuple(worlds),
            state.embedding.base_url if state is not None and alive else None,
            known.variant if known else STANDARD,
            portainer,
            tuple(self._archon_status(portainer, name, record) for name, record in _archons_of(state).items()),
        )

    @staticmethod
    def _archon_status(portainer: PortainerRecord | None, name: str, record: ArchonRecord) -> ArchonStatus:
        condition = archons.condition(record)
        if condition != "ready" and portainer is not None and (reason := archons.why(portainer, name)):
            condition = f"not ready: {reason}"
        return ArchonStatus(name, record, condition)

    def dsn(self, world: str, role: str = OWNER) -> str:
        """The URI of `dev` or `prod`, as the owner that archon-align connects as, or as ADMIN. Raises AlignError when it
        is down."""
        port = self._worlds[world].port
        if port is None:
            raise lab_error(
                "The lab is not running.", str(self._files.path), "a running server", "none", "Run python -m lab up."
            )
        return self._files.uri(port, role)

    @property
    def embedding_base_url(self) -> str:
        """The embedding service's base URL, ending in /v1. Raises AlignError when the lab was not brought up."""
        state = self._files.read()
        if state is None:
            raise lab_error(
                "The lab is not running.", str(self._files.path), "a state file", "none", "Run python -m lab up."
            )
        return state.embedding.base_url

    def _up(self, *, rebuild_as: str | None = None) -> None:
        before = self._files.read() or self._files.last()
        archon = self._wanted(before)
        password = self._files.password()
        service = service_process.claim(self._files.path, before.embedding if before else None)

        def bring_up(name: str, preferred_port: int | None) -> tuple[int, str]:
            world = self._worlds[name]
            port = world.start(preferred_port, password)
            superuser = world.superuser_dsn(port)
            found = databases.variant(superuser)
            if rebuild_as is None and found is not None:
                return port, found
            variant = rebuild_as or (before.variant if before else STANDARD)
            databases.rebuild(superuser, name, service.base_url, variant)
            return port, variant

        def start_portainer() -> PortainerRecord | None:
            if not archon:
                return None
            record = portainer_process.start(self._files.path, before.portainer if before else None)
            if rebuild_as is not None:
                portainer_process.tell(record, "POST", "stop")
            return record

        with ThreadPoolExecutor(4) as pool:
            started = pool.submit(start_portainer)
            dev = pool.submit(bring_up, "dev", before.dev_port if before else None)
            prod = pool.submit(bring_up, "prod", before.prod_port if before else None)
            embedding = pool.submit(service.complete)
        (dev_port, _), (prod_port, variant) = dev.result(), prod.result()
        portainer = started.result()
        state = State(dev_port, prod_port, embedding.result(), variant, portainer, {})
        if portainer is not None:
            archons.prepare(self._files, {"dev": dev_port, "prod": prod_port}, service.base_url)
            portainer_process.tell(portainer, "POST", "up", begin="true" if rebuild_as is not None else "false")
            state = replace(state, archon=archons.records(portainer))
        self._files.write(state)
        if portainer is not None:
            archons.wait_ready(portainer, _archons_of(state))

    def _wanted(self, before: State | None) -> bool:
        """Whether this lab has Archons: as said, as before, or because they run already."""
        if before is not None and before.portainer is not None and portainer_process.is_alive(before.portainer):
            return True
        if self._archon is not None:
            return self._archon
        return before is None or before.archon is None or bool(before.archon)

    def _down(self) -> None:
        before = self._files.read()
        with ThreadPoolExecutor(4) as pool:
            ends = [pool.submit(world.stop) for world in self._worlds.values()]
            ends.append(pool.submit(portainer_process.stop, before.portainer if before else None, self._files.path))
            ends.append(pool.submit(service_process.stop, before.embedding if before else None, self._files.path))
            for end in ends:
                end.result()
        self._files.set_aside()
