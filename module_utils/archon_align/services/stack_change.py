"""Changing variables of a stack in Portainer: those that were planned alone, everything else compared equal afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import AlignError
from ..findings import Finding
from ..portainer.client import Portainer
from ..portainer.objects import Stack
from .environment import Change, EnvironmentPlan, plan
from .installation import Configured, Found, Installation
from .readiness import Readiness
from .restarting import replaced


@dataclass(frozen=True, slots=True)
class KeptStack:
    """A stack that Portainer keeps, of Swarm or of compose, and what runs of it."""

    portainer: Portainer
    stack: Stack
    installation: Installation


@dataclass(frozen=True, slots=True)
class Picture:
    """A stack as it is: its file, its variables and its services by their keys. All of it may hold secrets."""

    file: str = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)
    services: Mapping[str, Configured] = field(repr=False)


def planned(kept: KeptStack | None, found: Found, wanted: Mapping[str, str]) -> EnvironmentPlan:
    """What to change so that `found` gets this environment; a finding where nobody keeps its variables. Raises AlignError."""
    if kept is None or not found.service:
        differing = [key for key, value in wanted.items() if found.environment.get(key) != value]
        finding = Finding(
            "environment_not_changed",
            "warning",
            f"{found.name}: {', '.join(differing)}",
            "The environment is another one than is wanted. It is changed only in a stack that Portainer keeps; a container of no "
            "such stack has its environment for life.",
            "Change it in the compose or stack file, and deploy that.",
        )
        return EnvironmentPlan(found.name, findings=(finding,) if differing else ())
    return plan(
        kept.portainer.stack_file(kept.stack.id),
        kept.stack.environment,
        service=found.service,
        name=found.name,
        environment=found.environment,
        wanted=wanted,
    )


def photograph(kept: KeptStack) -> Picture:
    """Raises AlignError."""
    now = kept.portainer.stack(kept.stack.id)
    return Picture(kept.portainer.stack_file(kept.stack.id), dict(now.environment), kept.installation.configured())


def change(
    kept: KeptStack,
    found: Found,
    changes: Sequence[Change],
    readiness: Readiness,
    *,
    before: Picture,
    seconds: float,
) -> None:
    """Deploy the stack with these changes of its variables and wait, at most `seconds`, until the service is ready.

    Raises AlignError when anything else changed, or the service does not become ready; the former variables are put back then
    and verified.
    """
    now = photograph(kept)
    if now.file != before.file or now.variables != before.variables:
        raise AlignError(
            "Somebody else has changed the stack just now.",
            object_name=f"Portainer stack {kept.stack.name}",
            expected="the file and variables that were read a moment ago",
            found="others",
            remedy="Nothing was changed. Run again when nobody else works on the stack.",
            code="stack_changed_meanwhile",
        )
    after = {**now.variables, **{one.variable: one.after for one in changes}}
    try:
        _deploy(kept, after, now.file)
        problem = replaced(kept.installation, found, readiness, seconds=seconds)
        problem = problem or _differs(now, photograph(kept), found, changes)
    except AlignError as error:
        problem = f"{error.what} {error.found}"
    if not problem:
        return
    raise AlignError(
        "The variables of a stack could not be changed.",
        object_name=f"Portainer stack {kept.stack.name}: {', '.join(one.variable for one in changes)}",
        expected=f"only these changed, and {found.name} ready with them",
        found=f"{problem}; {_put_back(kept, found, now, readiness, seconds=seconds)}",
        remedy="Correct the cause and run again. The settings in the database stay.",
        code="stack_not_changed",
    )


def _deploy(kept: KeptStack, variables: Mapping[str, str], file: str) -> None:
    if kept.stack.from_git:
        kept.portainer.redeploy_git(kept.stack, variables)
    else:
        kept.portainer.update_stack(kept.stack, variables, file)


def _differs(before: Picture, after: Picture, found: Found, changes: Sequence[Change]) -> str:
    """What differs though it should not, in words without values; '' for nothing."""
    if after.file != before.file:
        return "the stack's file is another one now"
    wanted = {**before.variables, **{one.variable: one.after for one in changes}}
    names = sorted(name for name in {*wanted, *after.variables} if wanted.get(name) != after.variables.get(name))
    if names:
        return f"variables differ from what was sent: {', '.join(names)}"
    keys = {one.key for one in changes}
    for service in {*before.services, *after.services}:
        one, other = before.services.get(service), after.services.get(service)
        if one is None or other is None:
            return f"service {(one or other or found).name} {'is new' if one is None else 'is gone'}"
        if not one.same(other, but=keys if service == found.key else ()):
            return f"more than these variables of service {one.name} changed"
    wrong = [one.key for one in changes if after.services[found.key].environment.get(one.key) != one.after]
    return f"the service does not have them: {', '.join(wrong)}" if wrong else ""


def _put_back(kept: KeptStack, found: Found, before: Picture, readiness: Readiness, *, seconds: float) -> str:
    """Deploy the former variables, wait and compare; what became of it, in words."""
    try:
        now = next((one for one in kept.installation.services() if one.key == found.key), found)
        _deploy(kept, before.variables, before.file)
        left = _differs(before, photograph(kept), found, ())
        if left:
            return f"the former variables were put back, but {left}"
        if now.environment == found.environment and now.running:
            return "the former variables were put back"
        problem = replaced(kept.installation, now, readiness, seconds=seconds, rolling_back=True)
    except AlignError as error:
        return f"the former variables could not be put back: {error.what} {error.found}"
    if problem:
        return f"the former variables were put back, but the service is not ready: {problem}"
    return "the former variables were put back, and the service is ready with them"
