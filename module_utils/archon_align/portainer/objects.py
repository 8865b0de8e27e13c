"""What Portainer tells of itself, its environments and its stacks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SWARM, COMPOSE, KUBERNETES = 1, 2, 3
_DOCKER_TYPES = (1, 2, 4)
_UP = 1


@dataclass(frozen=True, slots=True)
class Status:
    """Which Portainer answers."""

    version: str
    instance_id: str


@dataclass(frozen=True, slots=True)
class Environment:
    """One of Portainer's environments (its API calls them endpoints). `docker`: it has the Docker API."""

    id: int
    name: str
    up: bool
    docker: bool
    swarm: bool


@dataclass(frozen=True, slots=True)
class Stack:
    """One stack. `environment` is all its variables, secrets included: never shown."""

    id: int
    name: str
    kind: int
    environment_id: int
    active: bool
    environment: Mapping[str, str] = field(repr=False)
    git_reference: str = ""
    from_git: bool = False
    auto_update: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


def environment_of(given: Mapping[str, Any]) -> Environment:
    """Raises KeyError, TypeError, AttributeError for what is none."""
    snapshots = given.get("Snapshots") or []
    return Environment(
        id=int(given["Id"]),
        name=str(given["Name"]),
        up=int(given.get("Status", _UP)) == _UP,
        docker=int(given.get("Type", 1)) in _DOCKER_TYPES,
        swarm=bool(snapshots and snapshots[0].get("Swarm")),
    )


def stack_of(given: Mapping[str, Any]) -> Stack:
    """Raises KeyError, TypeError, AttributeError for what is none."""
    git = given.get("GitConfig") or {}
    return Stack(
        id=int(given["Id"]),
        name=str(given["Name"]),
        kind=int(given.get("Type", SWARM)),
        environment_id=int(given.get("EndpointId", 0)),
        active=int(given.get("Status", _UP)) == _UP,
        environment={str(pair["name"]): str(pair.get("value") or "") for pair in given.get("Env") or []},
        git_reference=str(git.get("ReferenceName", "")),
        from_git=bool(git),
        auto_update=bool(given.get("AutoUpdate")),
        raw=given,
    )
