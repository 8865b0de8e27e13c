"""What a Docker engine in Swarm mode knows of: services, their tasks and the containers of these."""

from __future__ import annotations

import asyncio
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .compose import NAMESPACE

JSON = dict[str, Any]
NODE_NAME = "lab-node"
ENDED = ("complete", "shutdown", "failed", "rejected", "remove", "orphaned")
_BASE36 = string.digits + string.ascii_lowercase


def swarm_id() -> str:
    """An id as Swarm's objects have them."""
    return "".join(secrets.choice(_BASE36) for _ in range(25))


def now() -> datetime:
    return datetime.now(UTC)


def stamp(moment: datetime | None) -> str:
    """A moment as Docker writes it, with its year 1 for never."""
    return "0001-01-01T00:00:00Z" if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


@dataclass
class Container:
    """One container: in the lab, a process with its log."""

    name: str
    image: str
    argv: list[str]
    env: list[str]
    labels: dict[str, str]
    log: Path
    ports: list[JSON]
    grace: float  # seconds between SIGTERM and SIGKILL
    id: str = field(default_factory=lambda: secrets.token_hex(32))
    created: datetime = field(default_factory=now)
    started: datetime | None = None
    finished: datetime | None = None
    state: str = "created"
    exit_code: int = 0
    error: str = ""
    health: str = ""  # '' without a health check
    process: asyncio.subprocess.Process | None = None
    execs: list[asyncio.subprocess.Process] = field(default_factory=list)
    restarting: bool = False  # a person's restart, not Swarm's

    @property
    def pid(self) -> int:
        return self.process.pid if self.process and self.state == "running" else 0

    def environment(self) -> dict[str, str]:
        return dict(pair.partition("=")[::2] for pair in self.env)


@dataclass
class Task:
    """One try to run one slot of a service. States and desired states are Swarm's."""

    service: str
    slot: int
    spec: JSON
    spec_version: int
    version: int
    id: str = field(default_factory=swarm_id)
    desired: str = "running"
    state: str = "new"
    message: str = "created"
    error: str = ""
    created: datetime = field(default_factory=now)
    changed: datetime = field(default_factory=now)
    container: Container | None = None
    work: asyncio.Task[None] | None = None
    stopping: asyncio.Task[None] | None = None
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass
class Service:
    """A service with the tasks that Swarm remembers of it, oldest first."""

    spec: JSON
    version: int
    id: str = field(default_factory=swarm_id)
    previous: JSON | None = None
    spec_version: int = 0
    previous_spec_version: int = 0
    created: datetime = field(default_factory=now)
    updated: datetime = field(default_factory=now)
    status: JSON | None = None  # UpdateStatus
    tasks: list[Task] = field(default_factory=list)
    restarts: dict[int, int] = field(default_factory=dict)  # by slot, of this spec
    updater: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return str(self.spec["Name"])

    @property
    def stack(self) -> str:
        return str((self.spec.get("Labels") or {}).get(NAMESPACE, ""))

    @property
    def replicas(self) -> int:
        return int(self.spec["Mode"]["Replicated"]["Replicas"])

    @property
    def ports(self) -> list[JSON]:
        return list((self.spec.get("EndpointSpec") or {}).get("Ports") or [])

    def current(self, slot: int) -> Task | None:
        """The task that holds a slot, if Swarm still wants it there."""
        wanted = (task for task in reversed(self.tasks) if task.slot == slot and task.desired in ("ready", "running"))
        return next(wanted, None)

    def running(self) -> int:
        return sum(task.state == "running" and task.desired == "running" for task in self.tasks)


def labelled(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether a `label` filter, `key` or `key=value`, matches."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)
