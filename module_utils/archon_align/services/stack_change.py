"""Changing variables of a stack in Portainer: those that were planned alone, everything else compared equal afterwards."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..docker.objects import Service
from ..errors import AlignError
from ..portainer.client import Portainer
from ..portainer.objects import Stack
from .environment import Change, EnvironmentPlan
from .installation import Found, Installation
from .readiness import Readiness
from .restarting import replaced


@dataclass(frozen=True, slots=True)
class Picture:
    """A stack as it is: its file, its variables and its services by id. All of it may hold secrets."""

    file: str = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)
    services: Mapping[str, Service] = field(repr=False)


def photograph(portainer: Portainer, stack: Stack, installation: Installation) -> Picture:
    """Raises AlignError."""
    now = portainer.stack(stack.id)
    services = installation.engine.services(installation.stack)
    return Picture(portainer.stack_file(stack.id), dict(now.environment), {one.id: one for one in services})


def change(
    portainer: Portainer,
    stack: Stack,
    installation: Installation,
    found: Found,
    planned: EnvironmentPlan,
    readiness: Readiness,
    *,
    before: Picture,
    seconds: float,
) -> None:
    """Deploy the stack with the planned variables and wait, at most `seconds`, until the service is ready.

    Raises AlignError when anything else changed, or the service does not become ready; the former variables are put back then
    and verified.
    """
    now = photograph(portainer, stack, installation)
    if now.file != before.file or now.variables != before.variables:
        raise AlignError(
            "Somebody else has changed the stack just now.",
            object_name=f"Portainer stack {stack.name}",
            expected="the file and variables that were read a moment ago",
            found="others",
            remedy="Nothing was changed. Run again when nobody else works on the stack.",
            code="stack_changed_meanwhile",
        )
    after = {**now.variables, **{one.variable: one.after for one in planned.changes}}
    try:
        _deploy(portainer, stack, after, now.file)
        problem = replaced(installation, found, readiness, seconds=seconds)
        problem = problem or _differs(now, photograph(portainer, stack, installation), found, planned.changes)
    except AlignError as error:
        problem = f"{error.what} {error.found}"
    if not problem:
        return
    raise AlignError(
        "The variables of a stack could not be changed.",
        object_name=f"Portainer stack {stack.name}: {', '.join(one.variable for one in planned.changes)}",
        expected=f"only these changed, and {found.name} ready with them",
        found=f"{problem}; {_put_back(portainer, stack, installation, found, now, readiness, seconds=seconds)}",
        remedy="Correct the cause and run again. The settings in the database stay.",
        code="stack_not_changed",
    )


def _deploy(portainer: Portainer, stack: Stack, variables: Mapping[str, str], file: str) -> None:
    if stack.from_git:
        portainer.redeploy_git(stack, variables)
    else:
        portainer.update_stack(stack, variables, file)


def _differs(before: Picture, after: Picture, found: Found, changes: Sequence[Change]) -> str:
    """What differs though it should not, in words without values; '' for nothing."""
    if after.file != before.file:
        return "the stack's file is another one now"
    wanted = {**before.variables, **{one.variable: one.after for one in changes}}
    names = sorted(name for name in {*wanted, *after.variables} if wanted.get(name) != after.variables.get(name))
    if names:
        return f"variables differ from what was sent: {', '.join(names)}"
    keys = {one.key for one in changes}
    for service_id in {*before.services, *after.services}:
        one, other = before.services.get(service_id), after.services.get(service_id)
        if one is None or other is None:
            return f"service {(one or other or found).name} {'is new' if one is None else 'is gone'}"
        ignored = keys if service_id == found.id else set()
        if _spec(one, ignored) != _spec(other, ignored):
            return f"more than these variables of service {one.name} changed"
    wrong = [one.key for one in changes if after.services[found.id].environment.get(one.key) != one.after]
    return f"the service does not have them: {', '.join(wrong)}" if wrong else ""


def _spec(service: Service, ignored: set[str]) -> dict[str, Any]:
    spec: dict[str, Any] = copy.deepcopy(dict(service.spec))
    container = spec["TaskTemplate"]["ContainerSpec"]
    container["Env"] = sorted(item for item in container.get("Env") or [] if item.partition("=")[0] not in ignored)
    return spec


def _put_back(
    portainer: Portainer,
    stack: Stack,
    installation: Installation,
    found: Found,
    before: Picture,
    readiness: Readiness,
    *,
    seconds: float,
) -> str:
    """Deploy the former variables, wait and compare; what became of it, in words."""
    try:
        now = next((one for one in installation.services() if one.id == found.id), found)
        _deploy(portainer, stack, before.variables, before.file)
        left = _differs(before, photograph(portainer, stack, installation), found, ())
        if left:
            return f"the former variables were put back, but {left}"
        if now.environment == found.environment and now.running:
            return "the former variables were put back"
        problem = replaced(installation, now, readiness, seconds=seconds, rolling_back=True)
    except AlignError as error:
        return f"the former variables could not be put back: {error.what} {error.found}"
    if problem:
        return f"the former variables were put back, but the service is not ready: {problem}"
    return "the former variables were put back, and the service is ready with them"
