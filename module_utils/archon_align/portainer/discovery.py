"""From environments, stacks and services to containers as hosts of an inventory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..docker.engine import EngineRefused
from ..docker.objects import Container
from ..errors import AlignError
from .client import Portainer, environment_missing
from .objects import Environment

TASK_ID_LABEL = "com.docker.swarm.task.id"
NODE_LABEL = "com.docker.swarm.node.id"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which containers become hosts: names of environments and stacks, states, labels; what is empty asks for all.

    A label with an empty value asks for the label alone.
    """

    environments: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def has(self, container: Container) -> bool:
        return (
            (not self.stacks or container.stack in self.stacks)
            and (not self.states or container.state in self.states)
            and all(
                key in container.labels and value in ("", container.labels[key]) for key, value in self.labels.items()
            )
        )


@dataclass(frozen=True, slots=True)
class Found:
    """Hosts with their variables (JSON types, nothing secret), and what could not be asked."""

    hosts: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...] = ()


def discover(portainer: Portainer, wanted: Wanted) -> Found:
    """Ask Portainer for all that is `wanted`. An environment that does not answer is a warning, the only one asked an error.

    Raises AlignError, also for an environment named in `wanted` that Portainer does not have.
    """
    portainer.status()  # one that is away or is no Portainer is told at once, without the patience that questions have
    known = portainer.environments()
    for name in wanted.environments:
        if name not in {one.name for one in known}:
            raise environment_missing(name, [one.name for one in known])
    chosen = [one for one in known if one.docker and (not wanted.environments or one.name in wanted.environments)]
    hosts: list[dict[str, Any]] = []
    warnings = []
    failures = []
    for environment in chosen:
        try:
            hosts += _of_environment(portainer, environment, wanted)
        except AlignError as error:
            failures.append(error)
            warnings.append(f"Environment {environment.name} was left out. {error.what} {error.found}")
    if failures and len(failures) == len(chosen):
        raise failures[0]
    return Found(tuple(_named(hosts)), tuple(warnings))


def _of_environment(portainer: Portainer, environment: Environment, wanted: Wanted) -> list[dict[str, Any]]:
    if not environment.up:
        raise AlignError(
            "Portainer says that an environment is down.",
            object_name=f"Portainer environment {environment.name}",
            expected="one that Portainer reaches",
            found="down since Portainer last looked",
            remedy="Bring it up, or leave it out by naming the others in `environments`.",
            code="environment_down",
        )
    engine = portainer.engine(environment.id)
    containers = [one for one in engine.containers(wanted.labels) if wanted.has(one)]
    nodes = {}
    if any(NODE_LABEL in one.labels for one in containers):
        # Only a Swarm manager tells its nodes' names, and only to those who may ask.
        with suppress(EngineRefused):
            nodes = engine.nodes()
    return [host_variables(container, environment.name, nodes) for container in containers]


def host_variables(container: Container, environment: str, nodes: Mapping[str, str]) -> dict[str, Any]:
    """A container as a host. Its environment variables are not among them: they hold secrets."""
    node = container.labels.get(NODE_LABEL, "")
    return {
        "container_id": container.id,
        "container_name": container.name,
        "container_image": container.image,
        "container_state": container.state,
        "container_health": container.health,
        "container_node": nodes.get(node, node),
        "container_ports": [
            {"published": port.published, "target": port.target, "protocol": port.protocol} for port in container.ports
        ],
        "container_labels": dict(container.labels),
        "portainer_environment": environment,
        "portainer_stack": container.stack,
        "portainer_service": container.service,
    }


def _named(hosts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hosts with a name each (`name`): a Swarm container's without its task id, which every restart changes.

    Where that is not unique the environment is added, and last the beginning of the container's id.
    """
    named = [{**host, "name": _lasting_name(host)} for host in hosts]
    for variable, length in (("portainer_environment", None), ("container_id", 12)):
        times = Counter(host["name"] for host in named)
        named = [
            {**host, "name": f"{host['name']}.{host[variable][:length]}"} if times[host["name"]] > 1 else host
            for host in named
        ]
    return sorted(named, key=lambda host: str(host["name"]))


def _lasting_name(host: Mapping[str, Any]) -> str:
    task = host["container_labels"].get(TASK_ID_LABEL, "")
    return str(host["container_name"]).removesuffix(f".{task}") if task else str(host["container_name"])
