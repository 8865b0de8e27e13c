"""A compose stack on a real engine: what `docker compose up -d` makes of its file, container by container.

Of the file's keys those of _KEYS are known; another is refused, so that nothing of a file is silently left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from . import compose
from .compose import JSON, DeployFailed
from .engine_proxy import EngineProxy
from .store import Stack

_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"
_NUMBER = "com.docker.compose.container-number"
_HASH = "com.docker.compose.config-hash"
_KEYS = {
    *("image", "container_name", "hostname", "command", "working_dir", "user", "stop_signal", "restart", "cap_add"),
    *("environment", "labels", "volumes", "networks"),
}
_GRACE_SECONDS = 10


class ComposeProject:
    """The containers of one stack, whose compose project has its name."""

    def __init__(self, engine: EngineProxy, stack: Stack) -> None:
        self._engine = engine
        self._stack = stack

    async def up(self, *, pull: bool) -> list[str]:
        """Make what is not there, make anew what is configured otherwise, start the rest; the names of all services.

        A process that ends right after its start is no failure. Raises DeployFailed.
        """
        if pull:
            raise DeployFailed("the lab has no registry to pull images from")
        content = compose.interpolated(self._stack.file, self._stack.variables())
        networks = _networks(content)
        for name, given in content["services"].items():
            wanted = self._wanted(str(name), given, networks)
            there = await self._containers(str(name))
            if not there:
                made = await self._made(_name(self._stack, str(name), given), wanted)
            elif there[0]["Labels"].get(_HASH) == wanted["Labels"][_HASH]:
                made = there[0]["Id"]
            else:
                made = await self._made_anew(there[0], _name(self._stack, str(name), given), wanted)
            await self._engine.ask("POST", f"/containers/{made}/start", f"start service {name}")
        return [str(name) for name in content["services"]]

    async def down(self, kept: tuple[str, ...] = ()) -> None:
        """Remove the containers of all services but these. Raises DeployFailed."""
        for container in await self._containers():
            if container["Labels"].get(_SERVICE) not in kept:
                await self._gone(container["Id"])

    async def _containers(self, service: str = "") -> list[JSON]:
        labels = [f"{_PROJECT}={self._stack.name}", *([f"{_SERVICE}={service}"] if service else [])]
        filters = json.dumps({"label": labels})
        return list(
            await self._engine.ask("GET", "/containers/json", "list", params={"all": "1", "filters": filters}) or []
        )

    async def _made(self, name: str, wanted: JSON) -> str:
        made = await self._engine.ask("POST", "/containers/create", "create", params={"name": name}, content=wanted)
        return str(made["Id"])

    async def _made_anew(self, old: JSON, name: str, wanted: JSON) -> str:
        """In compose's order: the old one runs until the new one has been made."""
        made = await self._made(f"{old['Id'][:12]}_{name}", wanted)
        await self._gone(old["Id"])
        await self._engine.ask("POST", f"/containers/{made}/rename", "rename", params={"name": name})
        return made

    async def _gone(self, container: str) -> None:
        await self._engine.ask("POST", f"/containers/{container}/stop", "stop", params={"t": str(_GRACE_SECONDS)})
        await self._engine.ask("DELETE", f"/containers/{container}", "remove")

    def _wanted(self, name: str, given: Any, networks: Mapping[str, str]) -> JSON:
        """The body that creates the container, as Docker's API has it."""
        if not isinstance(given, dict) or not given.get("image"):
            raise DeployFailed(
                f'service "{name}" has neither an image nor a build context specified: invalid compose project'
            )
        if unknown := sorted(given.keys() - _KEYS):
            raise DeployFailed(f"services.{name}: the lab's compose does not know {', '.join(unknown)}")
        attached = {networks.get(key, key): value or {} for key, value in (given.get("networks") or {}).items()}
        labels = dict(pair.partition("=")[::2] for pair in compose.pairs(given.get("labels"), {}))
        wanted: JSON = {
            "Image": given["image"],
            "Hostname": given.get("hostname", ""),
            "Cmd": given.get("command"),
            "WorkingDir": given.get("working_dir", ""),
            "User": given.get("user", ""),
            "StopSignal": given.get("stop_signal", ""),
            "Env": _environment(given.get("environment"), self._stack.variables()),
            "Labels": {**labels, _PROJECT: self._stack.name, _SERVICE: name, _NUMBER: "1"},
            "HostConfig": {
                "Binds": given.get("volumes") or [],
                "CapAdd": given.get("cap_add") or [],
                "RestartPolicy": {"Name": given.get("restart", "no")},
                "NetworkMode": next(iter(attached), "bridge"),
            },
            "NetworkingConfig": {
                "EndpointsConfig": {
                    network: {"IPAMConfig": {"IPv4Address": value["ipv4_address"]}} if "ipv4_address" in value else {}
                    for network, value in attached.items()
                }
            },
        }
        # By this a service that is configured otherwise is known; the values of its variables are in it.
        wanted["Labels"][_HASH] = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
        return wanted


def _name(stack: Stack, service: str, given: Mapping[str, Any]) -> str:
    return str(given.get("container_name") or f"{stack.name}-{service}-1")


def _networks(content: Mapping[str, Any]) -> dict[str, str]:
    """The engine's names of the file's networks, all of which somebody else has made. Raises DeployFailed."""
    found = {}
    for key, given in (content.get("networks") or {}).items():
        if not (given or {}).get("external"):
            raise DeployFailed(f"networks.{key}: the lab's compose makes no networks, only external ones are known")
        found[str(key)] = str(given.get("name", key))
    return found


def _environment(given: Any, variables: Mapping[str, str]) -> list[str]:
    """A bare KEY is taken from the variables, and left out where they do not have it."""
    if isinstance(given, dict):
        given = [key if value is None else f"{key}={value}" for key, value in given.items()]
    return sorted(
        item if "=" in item else f"{item}={variables[item]}"
        for item in map(str, given or [])
        if "=" in item or item in variables
    )
