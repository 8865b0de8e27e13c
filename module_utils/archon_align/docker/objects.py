"""What an engine tells of services, tasks and containers, as far as it matters here. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

STACK_LABEL = "com.docker.stack.namespace"
SERVICE_LABEL = "com.docker.swarm.service.name"
COMPOSE_STACK_LABEL = "com.docker.compose.project"
COMPOSE_SERVICE_LABEL = "com.docker.compose.service"
# A compose project may have several containers of one service.
COMPOSE_NUMBER_LABEL = "com.docker.compose.container-number"
# What compose notes of a container for itself; with every other configuration it is another.
_COMPOSE_NOTES = "com.docker.compose."
# Docker's word for "never".
_NEVER = 1
# "Up 2 minutes (healthy)", "Up 2 seconds (health: starting)"; but "Restarting (1) 3 seconds ago".
_HEALTH = re.compile(r"\((?:health: )?(healthy|unhealthy|starting)\)")


@dataclass(frozen=True, slots=True)
class Port:
    """A published port; `published` is 0 where it is not."""

    published: int
    target: int
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Service:
    """A Swarm service. `environment` may hold secrets and is never shown; `spec` is the whole of it, as the engine wants it back."""

    id: str
    name: str
    stack: str
    image: str
    replicas: int
    version: int
    updated_at: datetime | None
    ports: tuple[Port, ...]
    labels: Mapping[str, str]
    environment: Mapping[str, str] = field(repr=False)
    spec: Mapping[str, Any] = field(repr=False)
    has_previous: bool = False
    update_state: str = ""
    update_message: str = ""

    @property
    def short_name(self) -> str:
        """The service's name within its stack."""
        return self.name.removeprefix(f"{self.stack}_") if self.stack else self.name


@dataclass(frozen=True, slots=True)
class Task:
    """One run of a service's container. `state` is what it is in, `desired` what Swarm wants; `error` is the task's own text."""

    id: str
    service_id: str
    state: str
    desired: str
    error: str
    message: str
    created_at: datetime | None
    changed_at: datetime | None
    container_id: str
    node_id: str
    exit_code: int | None = None
    force_update: int = 0

    @property
    def running(self) -> bool:
        return self.state == "running" and self.desired == "running"


@dataclass(frozen=True, slots=True)
class Container:
    """A container of the list, with what its inspection adds where that was asked for. `environment` may hold secrets.

    `configuration` is what else it was made with, as far as a container that is made anew in the same way has the same.
    """

    id: str
    name: str
    image: str
    state: str
    health: str
    created_at: datetime | None
    labels: Mapping[str, str]
    ports: tuple[Port, ...]
    started_at: datetime | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    configuration: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def stack(self) -> str:
        return self.labels.get(STACK_LABEL) or self.labels.get(COMPOSE_STACK_LABEL, "")

    @property
    def service(self) -> str:
        """The service's full name in Swarm, its short one in a compose project."""
        return self.labels.get(SERVICE_LABEL) or self.labels.get(COMPOSE_SERVICE_LABEL, "")


def moment(text: object) -> datetime | None:
    """A time of Docker's (RFC 3339 with up to nine decimals, or seconds); None for its year 1 and for anything else."""
    if isinstance(text, int | float):
        return datetime.fromtimestamp(text, UTC)
    if not isinstance(text, str) or not text:
        return None
    head, point, rest = text.partition(".")
    if point:
        digits = len(rest) - len(rest.lstrip("0123456789"))
        text = f"{head}.{rest[:digits][:6]:0<6}{rest[digits:]}"
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return None if found.year == _NEVER else found


def pairs(given: object) -> dict[str, str]:
    """KEY=value items as a mapping; a bare KEY is an empty value."""
    items = given if isinstance(given, list) else []
    return {key: value for key, _, value in (str(item).partition("=") for item in items)}


def service_of(given: Mapping[str, Any]) -> Service:
    """Raises KeyError, TypeError, AttributeError for what is no service."""
    spec = given["Spec"]
    container = spec["TaskTemplate"].get("ContainerSpec") or {}
    labels = dict(spec.get("Labels") or {})
    status = given.get("UpdateStatus") or {}
    published = (given.get("Endpoint") or {}).get("Ports") or (spec.get("EndpointSpec") or {}).get("Ports") or []
    return Service(
        id=given["ID"],
        name=spec["Name"],
        stack=labels.get(STACK_LABEL, ""),
        image=str(container.get("Image", "")).partition("@")[0],
        replicas=int(((spec.get("Mode") or {}).get("Replicated") or {}).get("Replicas", 1)),
        version=int(given["Version"]["Index"]),
        updated_at=moment(given.get("UpdatedAt")),
        ports=tuple(
            Port(int(port.get("PublishedPort") or 0), int(port["TargetPort"]), str(port.get("Protocol", "tcp")))
            for port in published
        ),
        labels=labels,
        environment=pairs(container.get("Env")),
        spec=spec,
        has_previous=bool(given.get("PreviousSpec")),
        update_state=str(status.get("State", "")),
        update_message=str(status.get("Message", "")),
    )


def task_of(given: Mapping[str, Any]) -> Task:
    """Raises KeyError, TypeError, AttributeError for what is no task."""
    status = given["Status"]
    container = status.get("ContainerStatus") or {}
    return Task(
        id=given["ID"],
        service_id=str(given.get("ServiceID", "")),
        state=str(status["State"]),
        desired=str(given.get("DesiredState", "")),
        error=str(status.get("Err", "")),
        message=str(status.get("Message", "")),
        created_at=moment(given.get("CreatedAt")),
        changed_at=moment(status.get("Timestamp")),
        container_id=str(container.get("ContainerID", "")),
        node_id=str(given.get("NodeID", "")),
        exit_code=container.get("ExitCode"),
        force_update=int((given.get("Spec") or {}).get("ForceUpdate") or 0),
    )


def listed_container_of(given: Mapping[str, Any]) -> Container:
    """One item of the list. Raises KeyError, TypeError, AttributeError for what is no container."""
    health = _HEALTH.search(str(given.get("Status", "")))
    ports = {
        Port(int(port.get("PublicPort") or 0), int(port["PrivatePort"]), str(port.get("Type", "tcp")))
        for port in given.get("Ports") or []
    }
    # With links of old a container has further names, below others' names.
    names = sorted(given.get("Names") or [""], key=lambda name: str(name).count("/"))
    return Container(
        id=given["Id"],
        name=str(names[0]).removeprefix("/"),
        image=str(given.get("Image", "")).partition("@")[0],
        state=str(given.get("State", "")),
        health=health[1] if health else "",
        created_at=moment(given.get("Created")),
        labels=dict(given.get("Labels") or {}),
        ports=_sorted(ports),
    )


def _sorted(ports: set[Port]) -> tuple[Port, ...]:
    return tuple(sorted(ports, key=lambda port: (port.target, port.published, port.protocol)))


def inspected_container_of(given: Mapping[str, Any]) -> Container:
    """An inspected container. Raises KeyError, TypeError, AttributeError for what is none."""
    config, state = given["Config"], given["State"]
    found = pairs(config.get("Env"))
    bound = (given.get("NetworkSettings") or {}).get("Ports") or {}
    # One item for IPv4, one for IPv6.
    ports = {
        Port(int(binding.get("HostPort") or 0), int(name.partition("/")[0]), name.partition("/")[2] or "tcp")
        for name, bindings in bound.items()
        for binding in bindings or [{}]
    }
    return Container(
        id=given["Id"],
        name=str(given.get("Name", "")).removeprefix("/"),
        image=str(config.get("Image", "")).partition("@")[0],
        state=str(state["Status"]),
        health=str((state.get("Health") or {}).get("Status", "")),
        created_at=moment(given.get("Created")),
        labels=dict(config.get("Labels") or {}),
        ports=_sorted(ports),
        started_at=moment(state.get("StartedAt")),
        # Podman tells the host's name, too, which is another for every container unless somebody chose it.
        environment={key: value for key, value in found.items() if (key, value) != ("HOSTNAME", given["Id"][:12])},
        configuration=_configuration(given),
    )


def _configuration(given: Mapping[str, Any]) -> dict[str, Any]:
    """Chosen by name: an engine's own notes (ids, paths of logs, addresses that it gave) differ from container to container."""
    config, host = given["Config"], given.get("HostConfig") or {}
    networks = (given.get("NetworkSettings") or {}).get("Networks") or {}
    mounts = [
        (str(one.get("Destination")), str(one.get("Name") or one.get("Source")), bool(one.get("RW", True)))
        for one in given.get("Mounts") or []
    ]
    return {
        **{name: config.get(name) for name in ("Image", "Entrypoint", "Cmd", "User", "WorkingDir", "Healthcheck")},
        **{name: host.get(name) for name in ("PortBindings", "RestartPolicy", "Privileged", "Memory", "NanoCpus")},
        "CapAdd": sorted(host.get("CapAdd") or []),
        "CapDrop": sorted(host.get("CapDrop") or []),
        "Mounts": sorted(mounts),
        "Networks": {name: (one or {}).get("IPAMConfig") for name, one in networks.items()},
        "Labels": {
            name: value for name, value in (config.get("Labels") or {}).items() if not name.startswith(_COMPOSE_NOTES)
        },
    }
