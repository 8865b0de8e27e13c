"""Portainer's stacks: what they are, what deploys them and what loses their variables."""

from __future__ import annotations

import time
import uuid
from typing import Any

from . import compose
from .access import Caller, Problem
from .compose_project import ComposeProject
from .engine_proxy import EngineProxy
from .faults import Lab
from .store import ACTIVE, COMPOSE_STACK, DOWN_ENVIRONMENT, ENVIRONMENT, INACTIVE, JSON, SWARM_STACK, Stack, Store
from .swarm import Refused, Swarm, deploy

_NOT_FOUND = "Unable to find a stack with the specified identifier inside the database"
_NO_ENVIRONMENT = "Unable to find the environment associated to the stack inside the database"
DOWN_TEXT = "Cannot connect to the Docker daemon at tcp://127.0.0.1:9. Is the docker daemon running?"
_TWIN = 1000  # added to a stack's id for its namesake of another environment


def member(body: JSON, name: str, default: Any = None) -> Any:
    """A member of a JSON object as Go finds it: whatever the case of its letters."""
    return next((value for key, value in body.items() if key.lower() == name.lower()), default)


def _pairs(body: JSON) -> list[JSON]:
    """`Env` as the whole new list; not given, it is an empty one. Raises Problem."""
    given = member(body, "Env")
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(pair, dict) for pair in given):
        raise Problem(400, "Invalid request payload", "json: cannot unmarshal into Go struct field .Env of type []portainer.Pair")  # fmt: skip
    return [{"name": str(member(pair, "name", "")), "value": str(member(pair, "value", ""))} for pair in given]


class Stacks:
    """The stacks of all environments."""

    def __init__(self, store: Store, lab: Lab, swarm: Swarm, engine: EngineProxy | None) -> None:
        self._store = store
        self._lab = lab
        self._swarm = swarm
        self._engine = engine

    def _all(self) -> list[Stack]:
        faults = self._lab.faults
        known = [stack for stack in self._store.stacks if stack.name != faults.stack_missing]
        twins = [
            Stack(**{**vars(stack), "id": stack.id + _TWIN, "environment": DOWN_ENVIRONMENT})
            for stack in known
            if stack.name == faults.stack_twice
        ]
        return [*known, *twins]

    def shape(self, stack: Stack) -> JSON:
        """A stack as Portainer shows it: its variables in clear, secrets included."""
        twin = stack.environment == DOWN_ENVIRONMENT
        return {
            "Id": stack.id,
            "Name": stack.name,
            "Type": stack.type,
            "EndpointId": stack.environment,
            "SwarmId": "" if stack.type != SWARM_STACK else self._store.swarm_id[::-1] if twin else self._store.swarm_id,
            "EntryPoint": "docker-compose.yml",
            "Env": stack.env,
            "ResourceControl": {"Id": stack.id, "ResourceId": f"{stack.environment}_{stack.name}", "Type": 6, "AdministratorsOnly": True},
            "Status": stack.status,
            "ProjectPath": f"/data/compose/{stack.id}",
            "CreationDate": stack.created,
            "CreatedBy": "admin",
            "UpdateDate": stack.updated,
            "UpdatedBy": stack.updated_by,
            "AdditionalFiles": None,
            "AutoUpdate": stack.auto_update,
            "Option": {"Prune": False},
            "GitConfig": stack.git,
            "FromAppTemplate": False,
            "Namespace": "",
        }  # fmt: skip

    def listed(self, caller: Caller, filters: JSON) -> list[JSON]:
        """A filter by environment alone matches compose stacks; Swarm stacks are found by their SwarmID."""
        environment, swarm = member(filters, "EndpointID") or 0, member(filters, "SwarmID") or ""
        shapes = [self.shape(stack) for stack in self._all()] if caller.is_admin else []
        if not environment and not swarm:
            return shapes
        return [
            shape
            for shape in shapes
            if (shape["SwarmId"] == swarm if shape["Type"] == SWARM_STACK else shape["EndpointId"] == environment)
        ]

    def find(self, caller: Caller, number: str) -> Stack:
        """One stack. Raises Problem."""
        if not number.isdigit():
            raise Problem(400, "Invalid stack identifier route variable", "Invalid route variable")
        found = next((stack for stack in self._all() if stack.id == int(number)), None)
        if found is None:
            raise Problem(404, _NOT_FOUND, "object not found inside the database")
        if not caller.is_admin:
            raise Problem(403, "Access denied to resource", "Access denied to resource")
        return found

    @staticmethod
    def environment(query: str | None) -> int:
        """The environment that a writing request must name. Raises Problem."""
        if query is None or not query.isdigit():
            raise Problem(400, "Invalid query parameter: endpointId", "Invalid query parameter")
        if int(query) not in (ENVIRONMENT, DOWN_ENVIRONMENT):
            raise Problem(404, _NO_ENVIRONMENT, "object not found inside the database")
        return int(query)

    async def update(self, caller: Caller, stack: Stack, environment: int, body: JSON) -> JSON:
        """PUT: the file and the whole list of variables are replaced and deployed; a git-backed stack is detached."""
        content = member(body, "StackFileContent")
        if not isinstance(content, str) or not content:
            raise Problem(400, "Invalid request payload", "Invalid stack file content")
        wanted = Stack(**{**vars(stack), "file": content, "env": _pairs(body), "environment": environment})
        await self._deploy(wanted, pull=bool(member(body, "PullImage")), prune=bool(member(body, "Prune")))
        wanted.git = wanted.auto_update = None
        return self._keep(caller, wanted)

    def set_git(self, caller: Caller, stack: Stack, environment: int, body: JSON) -> JSON:
        """POST git: other settings for the next redeployment; nothing is deployed."""
        if stack.git is None:
            raise Problem(400, "Stack is not created from git")
        reference = str(member(body, "RepositoryReferenceName") or "refs/heads/main")
        automatic = member(body, "AutoUpdate")
        wanted = Stack(**{**vars(stack), "env": _pairs(body), "environment": environment})
        wanted.git = {**stack.git, "ReferenceName": reference}
        wanted.auto_update = automatic if isinstance(automatic, dict) else None
        return self._keep(caller, wanted)

    async def redeploy(self, caller: Caller, stack: Stack, environment: int, body: JSON) -> JSON:
        """PUT git/redeploy: the repository's file with this whole list of variables."""
        if stack.git is None:
            raise Problem(400, "Stack is not created from git")
        reference = str(member(body, "RepositoryReferenceName") or "refs/heads/main")
        wanted = Stack(**{**vars(stack), "file": stack.repository, "env": _pairs(body), "environment": environment})
        if reference != "refs/heads/main":
            raise Problem(500, "Unable to clone git repository", f"reference not found: {reference}")
        wanted.git = {**stack.git, "ReferenceName": reference, "ConfigHash": uuid.uuid4().hex + "0" * 8}
        await self._deploy(wanted, pull=bool(member(body, "PullImage")), prune=bool(member(body, "Prune")))
        return self._keep(caller, wanted)

    async def start(self, caller: Caller, stack: Stack) -> JSON:
        """Deploy a stopped stack. Raises Problem."""
        if stack.status == ACTIVE:
            raise Problem(400, "Stack is already active")
        await self._deploy(stack, pull=False, prune=False)
        return self._keep(caller, Stack(**{**vars(stack), "status": ACTIVE}))

    async def stop(self, caller: Caller, stack: Stack) -> JSON:
        """Remove a stack's services and keep the stack. Raises Problem."""
        if stack.status == INACTIVE:
            raise Problem(400, "Stack is already inactive")
        await self._remove_services(stack, ())
        return self._keep(caller, Stack(**{**vars(stack), "status": INACTIVE}))

    async def delete(self, stack: Stack) -> None:
        """Remove a stack with its services."""
        await self._remove_services(stack, ())
        self._store.stacks = [kept for kept in self._store.stacks if kept.id != stack.id]
        self._store.save()

    async def by_webhook(self, token: str) -> None:
        """A push to the repository: redeploy what it holds. Raises Problem."""
        for stack in self._store.stacks:
            if stack.git is not None and stack.auto_update and stack.auto_update.get("Webhook") == token:
                stack.file = stack.repository
                await self._deploy(stack, pull=False, prune=False)
                self._store.save()
                return
        raise Problem(404, "Unable to find the stack by webhook ID", "object not found inside the database")

    async def bring_up(self, changed: set[str]) -> None:
        """Deploy what is active and not there or changed, and fill slots that ran out of tries."""
        there = {service.stack for service in self._swarm.services.values()} - changed
        for stack in self._store.stacks:
            deployable = stack.status == ACTIVE and stack.type == self._kind and stack.environment == ENVIRONMENT
            if deployable and stack.name not in there:
                await self._deploy(stack, pull=False, prune=False)
        self._swarm.revive()

    def back_by_git(self, name: str) -> None:
        """For tests: the stack comes from a git repository that holds its present file."""
        for stack in self._store.stacks:
            if stack.name == name:
                stack.repository = stack.file
                stack.git = {"URL": "https://git.example/archon.git", "ReferenceName": "refs/heads/main", "ConfigFilePath": "docker-compose.yml", "Authentication": None, "ConfigHash": "0" * 40, "TLSSkipVerify": False}  # fmt: skip
                stack.auto_update = {"Interval": "", "Webhook": str(uuid.uuid4()), "ForceUpdate": False}
                self._store.save()

    @property
    def _kind(self) -> int:
        """The type of the stacks that can be deployed: the real engine is no Swarm."""
        return SWARM_STACK if self._engine is None else COMPOSE_STACK

    async def _deploy(self, stack: Stack, *, pull: bool, prune: bool) -> None:
        if stack.environment != ENVIRONMENT or stack.type != self._kind:
            raise Problem(500, f"failed to deploy a stack: {DOWN_TEXT}", f"failed to deploy a stack: {DOWN_TEXT}")
        try:
            if self._engine is not None:
                names = await ComposeProject(self._engine, stack).up(pull=pull)
            else:
                names = deploy(
                    self._swarm, compose.services(stack.name, stack.file, stack.variables()), stack.name, pull=pull
                )
        except compose.DeployFailed as failed:
            raise Problem(500, f"failed to deploy a stack: {failed}") from failed
        except Refused as refused:
            raise Problem(500, f"failed to deploy a stack: {refused.message}") from refused
        if prune:
            await self._remove_services(stack, tuple(names))

    async def _remove_services(self, stack: Stack, kept: tuple[str, ...]) -> None:
        if self._engine is not None:
            try:
                await ComposeProject(self._engine, stack).down(kept)
            except compose.DeployFailed as failed:
                raise Problem(500, f"failed to remove a stack: {failed}") from failed
        for service in list(self._swarm.services.values()):
            if service.stack == stack.name and service.name not in kept:
                await self._swarm.remove(service)

    def _keep(self, caller: Caller, stack: Stack) -> JSON:
        stack.updated, stack.updated_by = int(time.time()), caller.user.name
        self._store.stacks = [stack if kept.id == stack.id else kept for kept in self._store.stacks]
        self._store.save()
        return self.shape(stack)
