"""From environments, stacks and services to containers as hosts of an inventory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..docker.engine import EngineRefused
from ..docker.objects import Container, Port, Service
from ..errors import AlignError
from .client import Portainer, environment_missing
from .objects import Environment

TASK_ID_LABEL = "com.docker.swarm.task.id"
NODE_LABEL = "com.docker.swarm.node.id"
_RUNNING = "running"


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
            warnings.append(f"Portainer's environment {environment.name} is not in the inventory: {error.found}.")
    if failures and len(failures) == len(chosen):
        raise failures[0]
    return Found(tuple(named(hosts)), tuple(warnings))


def _of_environment(portainer: Portainer, environment: Environment, wanted: Wanted) -> list[dict[str, Any]]:
    if not environment.up:
        raise AlignError(
            "An environment is down.",
            object_name=f"Portainer environment {environment.name}",
            expected="one that Portainer reaches",
            found="Portainer says that it is down",
            remedy="Bring it up, or leave it out by naming the others in `environments`.",
            code="environment_down",
        )
    engine = portainer.engine(environment.id)
    containers = [one for one in engine.containers(wanted.labels) if wanted.has(one)]
    nodes: dict[str, str] = {}
    services: list[Service] = []
    if any(NODE_LABEL in one.labels for one in containers):
        # Only a Swarm manager tells them, and only to those who may ask.
        with suppress(EngineRefused):
            nodes = engine.nodes()
            services = engine.services()
    ports = {service.name: service.ports for service in services}
    return [
        host_variables(one, environment.name, nodes.get(one.labels.get(NODE_LABEL, ""), ""), ports.get(one.service, ()))
        for one in containers
    ]


def host_variables(
    container: Container, environment: str, node: str = "", service_ports: Sequence[Port] = ()
) -> dict[str, Any]:
    """A container as a host. Its environment variables are not among them: they hold secrets.

    Swarm publishes ports for the service, of which its containers know nothing.
    """
    published = {(port.target, port.protocol) for port in service_ports}
    ports = [*service_ports, *(one for one in container.ports if (one.target, one.protocol) not in published)]
    return {
        "container_id": container.id,
        "container_name": container.name,
        "container_image": container.image,
        "container_state": container.state,
        "container_health": container.health,
        "container_node": node or container.labels.get(NODE_LABEL, ""),
        "container_ports": [
            {"published": port.published, "target": port.target, "protocol": port.protocol} for port in ports
        ],
        "container_labels": dict(container.labels),
        "portainer_environment": environment,
        "portainer_stack": container.stack,
        "portainer_service": container.service,
    }


def named(hosts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hosts with a name each (`name`): a Swarm container's without its task id, which every restart changes.

    Of several in one environment the only running one has it, and the others the beginning of their container's id behind it;
    what several environments have, has the environment's name behind it.
    """
    places = Counter(_place(host) for host in hosts)
    running = Counter(_place(host) for host in hosts if host["container_state"] == _RUNNING)
    found = []
    for host in hosts:
        place = _place(host)
        alone = places[place] == 1 or (running[place] == 1 and host["container_state"] == _RUNNING)
        found.append({**host, "name": place[1] if alone else f"{place[1]}.{host['container_id'][:12]}"})
    times = Counter(host["name"] for host in found)
    found = [
        {**host, "name": f"{host['name']}.{host['portainer_environment']}"} if times[host["name"]] > 1 else host
        for host in found
    ]
    return sorted(found, key=lambda host: str(host["name"]))


def _place(host: Mapping[str, Any]) -> tuple[str, str]:
    task = host["container_labels"].get(TASK_ID_LABEL, "")
    name = str(host["container_name"])
    return host["portainer_environment"], name.removesuffix(f".{task}") if task else name
