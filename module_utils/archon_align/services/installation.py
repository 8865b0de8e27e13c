"""Archon's services where they run: a Swarm stack behind Portainer or an engine, or plain containers of Docker or Podman."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from ..docker.engine import Engine, EngineRefused
from ..docker.objects import (
    COMPOSE_NUMBER_LABEL,
    COMPOSE_SERVICE_LABEL,
    COMPOSE_STACK_LABEL,
    Container,
    Service,
    Task,
)
from ..errors import AlignError

SERVER = "server"
DEFAULT_PORT = 8181
_ROLE = re.compile(r"(?:^|[-_/.])archon[-_](server|mcp|agents|ui|frontend|docs)(?=$|[-_:.@])")
_ALIVE = ("new", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running")
_STOPPED_ROLLBACKS = ("rollback_paused",)
_GONE = 404
_STOPPED_UPDATES = ("paused", "rollback_started", "rollback_paused", "rollback_completed")


def role_of(name: str, image: str) -> str:
    """What a service is by its name, or else by its image: server, mcp, agents, ui, …; '' for none of Archon's."""
    found = _ROLE.search(name) or _ROLE.search(image)
    return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class Found:
    """One service as it is now. `environment` may hold secrets; `started_at` is by the engine's clock, None without a process.

    `key` stays what it is when compose makes the container anew, which has another `id` then. `service` is its key in the
    stack's file, '' for a container of no stack. `instances` are the ids of the tasks or the container with its start, by which
    a restart is recognised.
    """

    id: str
    name: str
    role: str
    image: str
    replicas: int
    running: bool
    started_at: datetime | None
    container_id: str
    environment: Mapping[str, str] = field(repr=False)
    port: int = DEFAULT_PORT
    problem: str = ""
    instances: frozenset[str] = frozenset()
    key: str = ""
    service: str = ""


@dataclass(frozen=True, slots=True)
class Configured:
    """What a service is configured as, to be compared: its environment, and `rest`, everything else. Both may hold secrets."""

    name: str
    environment: Mapping[str, str] = field(repr=False)
    rest: Mapping[str, Any] = field(repr=False)

    def same(self, other: Configured, *, but: Collection[str] = ()) -> bool:
        """Whether they are configured alike, `but` for these keys of the environment."""

        def kept(one: Configured) -> dict[str, str]:
            return {key: value for key, value in one.environment.items() if key not in but}

        return self.rest == other.rest and kept(self) == kept(other)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a restart is: `done`, or failed with a `problem`, or neither yet."""

    done: bool = False
    problem: str = ""
    container_id: str = ""


class Installation(Protocol):
    """PROD's Archon. Methods raise AlignError."""

    @property
    def kind(self) -> str: ...
    @property
    def stack(self) -> str: ...
    @property
    def engine(self) -> Engine: ...
    def services(self) -> list[Found]: ...
    def configured(self) -> dict[str, Configured]:
        """What each service of the stack, by its key, is configured as."""

    def restart(self, found: Found) -> None: ...
    def progress(self, found: Found, *, rolling_back: bool = False) -> Progress:
        """How far what replaces `found` is."""

    def roll_back(self, found: Found) -> None:
        """Begin to bring back the former state. Raises AlignError where there is no way back."""


@dataclass(frozen=True, slots=True)
class SwarmStack:
    """The services of a Swarm stack. `force` restarts one by its id (Portainer's own way, or the engine's)."""

    kind: str
    stack: str
    engine: Engine
    force: Callable[[Service], None]

    def services(self) -> list[Found]:
        return [self._found(service) for service in self.engine.services(self.stack)]

    def _found(self, service: Service) -> Found:
        tasks = self.engine.tasks(service.id)
        running = [task for task in tasks if task.running]
        newest = max(running or tasks, key=_age, default=None)
        # All its processes have to be younger than a change; that of the last try counts where none runs.
        started = min((task.created_at for task in running or tasks[-1:] if task.created_at), default=None)
        return Found(
            service.id,
            service.name,
            role_of(service.short_name, service.image),
            service.image,
            service.replicas,
            bool(running),
            started,
            newest.container_id if newest and newest.running else "",
            service.environment,
            next((port.target for port in service.ports if port.target), DEFAULT_PORT),
            "" if running else _problem(tasks, service),
            frozenset(task.id for task in tasks),
            service.id,
            service.short_name,
        )

    def configured(self) -> dict[str, Configured]:
        return {
            one.id: Configured(one.name, one.environment, _without_environment(one.spec))
            for one in self.engine.services(self.stack)
        }

    def restart(self, found: Found) -> None:
        self.force(self.engine.service(found.id))

    def roll_back(self, found: Found) -> None:
        service = self.engine.service(found.id)
        if not service.has_previous:
            raise AlignError(
                "A service has no former state to go back to.",
                object_name=found.name,
                expected="the specification before the restart",
                found="none that Swarm remembers",
                remedy="Look at the service's tasks and log.",
                code="no_previous_state",
            )
        # Swarm may have begun by itself, and asking for it once more would bring back the failing one.
        if not service.update_state.startswith("rollback_"):
            self.engine.roll_back(service)

    def progress(self, found: Found, *, rolling_back: bool = False) -> Progress:
        service = self.engine.service(found.id)
        tasks = self.engine.tasks(found.id)
        fresh = [task for task in tasks if task.id not in found.instances]
        leaving = [task for task in tasks if task.id in found.instances and task.state in _ALIVE]
        running = [task for task in fresh if task.running]
        if len(running) >= max(1, service.replicas) and not leaving:
            return Progress(done=True, container_id=running[-1].container_id)
        stopped = _STOPPED_ROLLBACKS if rolling_back else _STOPPED_UPDATES
        if service.update_state in stopped and fresh and not running:
            return Progress(problem=_problem(fresh, service), container_id=_last_container(fresh))
        return Progress(container_id=_last_container(fresh))


def _without_environment(spec: Mapping[str, Any]) -> dict[str, Any]:
    rest: dict[str, Any] = copy.deepcopy(dict(spec))
    rest["TaskTemplate"]["ContainerSpec"].pop("Env", None)
    return rest


def _age(task: Task) -> float:
    return task.created_at.timestamp() if task.created_at else 0.0


def _last_container(tasks: Sequence[Task]) -> str:
    """The container whose log tells most: that of the newest task that failed, or else of the newest."""
    made = [task for task in tasks if task.container_id]
    return next((task.container_id for task in reversed(made) if task.error), made[-1].container_id if made else "")


def _problem(tasks: Sequence[Task], service: Service) -> str:
    """The newest task's own error text, or what Swarm says of the update."""
    failed = next((task for task in reversed(tasks) if task.error), None)
    if failed is not None:
        return failed.error
    last = f"its newest task is {tasks[-1].state}" if tasks else "it has no task"
    return ": ".join(part for part in (last, service.update_message) if part)


@dataclass(frozen=True, slots=True)
class Containers:
    """Plain containers: those of a compose project, or else the ones whose name is Archon's."""

    kind: str
    stack: str
    engine: Engine

    def services(self) -> list[Found]:
        known = self._of_project()
        if not known:
            known = [one for one in self.engine.containers() if role_of(one.name, "") and not one.stack]
        return [self._found(self.engine.container(one.id)) for one in known]

    def _of_project(self) -> list[Container]:
        return self.engine.containers({COMPOSE_STACK_LABEL: self.stack})

    def configured(self) -> dict[str, Configured]:
        inspected = [self.engine.container(one.id) for one in self._of_project()]
        return {self._key(one): Configured(one.name, one.environment, one.configuration) for one in inspected}

    def _key(self, container: Container) -> str:
        labels = container.labels
        if labels.get(COMPOSE_STACK_LABEL) != self.stack:
            return container.id
        return f"{labels.get(COMPOSE_SERVICE_LABEL, '')} {labels.get(COMPOSE_NUMBER_LABEL, '1')}"

    def _found(self, container: Container) -> Found:
        running = container.state == "running"
        return Found(
            container.id,
            container.name,
            role_of(container.service or container.name, container.image),
            container.image,
            1,
            running,
            container.started_at or container.created_at,
            container.id if running else "",
            container.environment,
            next((port.target for port in container.ports if port.target), DEFAULT_PORT),
            "" if running else f"the container is {container.state}",
            frozenset((_instance(container),)),
            self._key(container),
            container.labels.get(COMPOSE_SERVICE_LABEL, "") if container.stack == self.stack else "",
        )

    def restart(self, found: Found) -> None:
        self.engine.restart_container(found.id)

    def roll_back(self, found: Found) -> None:
        raise AlignError(
            "A container that was restarted has no former state to go back to.",
            object_name=found.name,
            expected="a service of Swarm",
            found="a container, which has kept its image and environment",
            remedy="Look at the container's log.",
            code="no_previous_state",
        )

    def progress(self, found: Found, *, rolling_back: bool = False) -> Progress:  # noqa: ARG002
        container = self._now(found)
        if container is None:
            return Progress()
        if _instance(container) in found.instances:
            return Progress(container_id=container.id)
        if container.state in ("exited", "dead"):
            return Progress(problem=f"the container is {container.state}", container_id=container.id)
        return Progress(
            done=container.state == "running" and container.health in ("", "healthy"), container_id=container.id
        )

    def _now(self, found: Found) -> Container | None:
        """The container, or the one that compose has made in its place; None before it has."""
        try:
            return self.engine.container(found.id)
        except EngineRefused as refused:
            if refused.http_status != _GONE:
                raise
        made = next((one for one in self._of_project() if self._key(one) == found.key), None)
        return self.engine.container(made.id) if made else None


def _instance(container: Container) -> str:
    return f"{container.id} {container.started_at}"


def on_engine(engine: Engine, stack: str, *, kind: str, force: Callable[[Service], None] | None = None) -> Installation:
    """The stack where the engine is a Swarm manager that has it, plain containers otherwise. Raises AlignError."""
    swarm = engine.is_swarm_manager() and bool(_services(engine, stack))
    installation: Installation = (
        SwarmStack(kind, stack, engine, force or engine.force_update) if swarm else Containers(kind, stack, engine)
    )
    return installation


def _services(engine: Engine, stack: str) -> list[Service]:
    try:
        return engine.services(stack)
    except EngineRefused as refused:
        if refused.http_status == 503:  # what an engine that is no manager answers
            return []
        raise
