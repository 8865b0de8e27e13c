"""From the variables to PROD's installation: by Portainer, by an engine's address, or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..docker.engine import PROBING, READING, Engine
from ..errors import AlignError
from ..portainer.client import Access, Portainer
from ..portainer.objects import SWARM
from ..web.trust import Trust
from ..web.wire import Server, Wire
from .installation import Containers, Installation, SwarmStack, on_engine
from .stack_change import KeptStack

PORTAINER, ENGINE, NONE = "portainer", "engine", "none"
BACKENDS = (PORTAINER, ENGINE, NONE)
_LOCAL = "unix://"


@dataclass(frozen=True, slots=True)
class Where:
    """How PROD's services are reached. `backend` '' takes Portainer if its URL is given, else the engine, else none."""

    backend: str = ""
    stack: str = "archon-prod"
    portainer_url: str = ""
    portainer_api_key: str = field(default="", repr=False)
    portainer_username: str = ""
    portainer_password: str = field(default="", repr=False)
    portainer_trust: Trust = field(default_factory=Trust)
    engine_url: str = field(default="", repr=False)
    portainer_environment: str = ""

    @property
    def chosen(self) -> str:
        """The backend that is meant. Raises AlignError when its address is not given."""
        urls = {PORTAINER: self.portainer_url, ENGINE: self.engine_url}
        if not self.backend:
            return next((name for name, url in urls.items() if url), NONE)
        if self.backend in urls and not urls[self.backend]:
            raise AlignError(
                "The backend for services has no address.",
                object_name=f"archon_{self.backend}_url",
                expected=f"the address, since archon_services_backend is {self.backend}",
                found="none",
                remedy=f"Set archon_{self.backend}_url, or archon_services_backend: none.",
                code="bad_variable",
            )
        return self.backend


@dataclass(frozen=True, slots=True)
class Opened:
    """The installation, and its stack where Portainer keeps one (then its variables can be changed)."""

    installation: Installation
    kept: KeptStack | None = None


@contextmanager
def opened(where: Where, *, check: bool) -> Iterator[Opened | None]:
    """PROD's installation, None for the backend `none`. Raises AlignError when it cannot be found."""
    chosen = where.chosen
    if chosen == PORTAINER:
        access = Access(
            where.portainer_url,
            api_key=where.portainer_api_key,
            username="" if where.portainer_api_key else where.portainer_username,
            password="" if where.portainer_api_key else where.portainer_password,
            trust=where.portainer_trust,
        )
        with Portainer(access, check=check) as portainer:
            yield _by_portainer(portainer, where.stack, where.portainer_environment)
    elif chosen == ENGINE:
        with Wire(_server(where.engine_url), allowed=(*READING, *PROBING) if check else None) as wire:
            yield Opened(on_engine(Engine(wire), where.stack, kind=ENGINE))
    else:
        yield None


def _by_portainer(portainer: Portainer, name: str, environment: str) -> Opened:
    try:
        stack = portainer.find_stack(name, environment)
    except AlignError as missing:
        if missing.code != "stack_missing":
            raise
        return _not_deployed_by_portainer(portainer, name, environment, missing)
    installation: Installation = (
        _swarm(portainer, name, stack.environment_id)
        if stack.kind == SWARM
        else Containers(PORTAINER, name, portainer.engine(stack.environment_id))
    )
    return Opened(installation, KeptStack(portainer, stack, installation))


def _not_deployed_by_portainer(portainer: Portainer, name: str, environment: str, missing: AlignError) -> Opened:
    """A stack that somebody deployed past Portainer is on one of its engines all the same; it has no variables there."""
    environments = [one for one in portainer.environments() if one.up and one.docker and one.swarm]
    for number in (one.id for one in environments if environment in ("", one.name)):
        engine = portainer.engine(number)
        if engine.services(name):
            return Opened(_swarm(portainer, name, number))
    raise missing


def _swarm(portainer: Portainer, name: str, number: int) -> SwarmStack:
    return SwarmStack(
        PORTAINER, name, portainer.engine(number), lambda service: portainer.force_update(number, service.id)
    )


def _server(url: str) -> Server:
    if url.startswith(_LOCAL):
        return Server("Container engine", "http://localhost", socket=url.removeprefix(_LOCAL))
    return Server("Container engine", url)
