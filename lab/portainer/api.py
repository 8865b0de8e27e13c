"""Portainer's API: environments, stacks, the proxy to Docker, forced updates and webhooks."""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from .access import Access, Caller, Problem
from .docker_api import DockerApi
from .docker_shapes import ENGINE_VERSION
from .engine_proxy import EngineProxy
from .faults import Lab
from .objects import JSON, Service
from .stacks_api import Stacks, member
from .store import DOWN_ENVIRONMENT, ENVIRONMENT, Store, digest
from .swarm import Refused, Swarm

_INSTANCE = "299ab403-70a8-4c05-92f7-bf7a994d50df"
_NO_ENVIRONMENT = "Unable to find an environment with the specified identifier inside the database"
_SYSTEM_SINCE, _STATUS_UNTIL = (2, 17), (3, 0)


class Call:
    """One request: its parts, and who sent it (nobody on public routes)."""

    def __init__(self, request: Request, body: bytes, parts: Mapping[str, str], caller: Caller | None) -> None:
        self.request = request
        self.query = request.query_params
        self.parts = parts
        self._body = body
        self._caller = caller

    @property
    def caller(self) -> Caller:
        if self._caller is None:
            raise Problem(401, "A valid authorization token is missing", "Unauthorized")
        return self._caller

    def body(self) -> JSON:
        try:
            content = json.loads(self._body)
        except ValueError as error:
            raise Problem(400, "Invalid request payload", str(error)) from error
        if not isinstance(content, dict):
            raise Problem(400, "Invalid request payload", "json: cannot unmarshal into Go value")
        return content

    def numbers(self, name: str) -> list[int]:
        """A list in the query: repeated, and with or without brackets. Raises Problem."""
        given = self.query.getlist(name) + self.query.getlist(f"{name}[]")
        if not all(value.isdigit() for value in given):
            raise Problem(400, f"Invalid query parameter: {name}", "Invalid query parameter")
        return [int(value) for value in given]


_Handler = Callable[["Portainer", Call], Awaitable[Response]]


class Portainer:
    """One Portainer with two environments: the lab's Swarm, or a real engine, and one that is down."""

    def __init__(self, store: Store, lab: Lab, swarm: Swarm, access: Access, engine: EngineProxy | None) -> None:
        self._store = store
        self._lab = lab
        self._swarm = swarm
        self._access = access
        self._docker = DockerApi(swarm, store)
        self._engine = engine
        self.stacks = Stacks(store, lab, swarm, engine)
        self._webhooks: list[JSON] = []

    async def answer(self, request: Request, caller: Caller | Problem) -> Response:
        """The answer to a request below /api."""
        path = request.url.path.removeprefix("/api")
        try:
            for method, pattern, handler, is_public in _ROUTES:
                match = pattern.fullmatch(path)
                if match is None or (method not in ("*", request.method)) or not self._exists(path):
                    continue
                if isinstance(caller, Problem) and not is_public:
                    raise caller
                known = None if isinstance(caller, Problem) else caller
                return await handler(self, Call(request, await request.body(), match.groupdict(), known))
        except Problem as problem:
            return problem.response()
        return PlainTextResponse("404 page not found\n", 404)

    def _exists(self, path: str) -> bool:
        version = self._lab.faults.number
        if path.startswith("/system/") or path.endswith("/forceupdateservice"):
            return version >= _SYSTEM_SINCE
        return path != "/status" or version < _STATUS_UNTIL

    # -- system and users

    async def log_in(self, call: Call) -> Response:
        body = call.body()
        given = [member(body, name, "") for name in ("Username", "Password")]
        for name, value in zip(("username", "password"), given, strict=True):
            if not isinstance(value, str) or not value:
                raise Problem(400, "Invalid request payload", f"Invalid {name}")
        return self._access.log_in(*given)

    async def log_out(self, _call: Call) -> Response:
        return Response(status_code=204)

    async def status(self, _call: Call) -> Response:
        return JSONResponse({"Version": self._lab.faults.version, "InstanceID": _INSTANCE})

    async def version(self, call: Call) -> Response:
        number = self._lab.faults.version
        build: JSON = {"BuildNumber": "5432", "ImageTag": number, "GoVersion": "1.24.6"}
        if call.caller.is_admin:
            build["Env"] = ["PATH=/usr/bin", "PORTAINER_SECRET_OF_THE_LAB=not-for-any-log"]
        return JSONResponse({"UpdateAvailable": False, "LatestVersion": number, "ServerVersion": number, "ServerEdition": "CE", "DatabaseVersion": number, "Build": build})  # fmt: skip

    async def me(self, call: Call) -> Response:
        user = call.caller.user
        return JSONResponse({"Id": user.id, "Username": user.name, "Role": user.role})

    async def make_key(self, call: Call) -> Response:
        caller, body = call.caller, call.body()
        if call.parts["id"] != str(caller.user.id):
            raise Problem(403, "Permission denied to create user access token", "Unauthorized")
        if self._store.log_in(caller.user.name, str(member(body, "password") or "")) is None:
            raise Problem(403, "Current password doesn't match", "Current password does not match the password provided")  # fmt: skip
        description = str(member(body, "description") or "")
        if not description:
            raise Problem(400, "Invalid request payload", "invalid description: cannot be empty")
        key = f"ptr_{secrets.token_urlsafe(24)}"
        caller.user.keys[digest(key)] = description
        self._store.save()
        shape = {"id": len(caller.user.keys), "userId": caller.user.id, "description": description, "prefix": key[:7], "dateCreated": 0, "lastUsed": 0}  # fmt: skip
        return JSONResponse({"rawAPIKey": key, "apiKey": shape}, 201)

    # -- environments

    def _environment(self, number: int) -> JSON:
        up = number == ENVIRONMENT
        running = sum(container.state == "running" for container in self._swarm.containers())
        snapshot = {
            "Time": 0, "DockerVersion": ENGINE_VERSION, "Swarm": self._engine is None, "TotalCPU": 2, "TotalMemory": 8 << 30,
            "RunningContainerCount": running, "ServiceCount": len(self._swarm.services), "NodeCount": 1,
            "StackCount": len({service.stack for service in self._swarm.services.values()}),
        }  # fmt: skip
        return {
            "Id": number,
            "Name": "lab-swarm" if up else "lab-standby",
            "Type": 1 if up else 2,
            "URL": "unix:///var/run/docker.sock" if up else "tcp://127.0.0.1:9",
            "GroupId": 1,
            "PublicURL": "127.0.0.1" if up else "",
            "Gpus": [],
            "TLSConfig": {"TLS": False, "TLSSkipVerify": False},
            "TagIds": [],
            "Status": 1 if up else 2,
            "Snapshots": [snapshot] if up else [],
            "UserAccessPolicies": {"2": {"RoleId": 0}} if up else {},
            "TeamAccessPolicies": {},
            "SecuritySettings": {"allowBindMountsForRegularUsers": True, "allowStackManagementForRegularUsers": True},
        }

    async def environments(self, call: Call) -> Response:
        available = [ENVIRONMENT, DOWN_ENVIRONMENT] if call.caller.is_admin else [ENVIRONMENT]
        found = [self._environment(number) for number in available]
        search, name = call.query.get("search", "").lower(), call.query.get("name", "")
        for member_name, wanted in (
            ("Id", call.numbers("endpointIds")),
            ("Type", call.numbers("types")),
            ("Status", call.numbers("status")),
        ):
            found = [shape for shape in found if not wanted or shape[member_name] in wanted]
        found = [shape for shape in found if search in f"{shape['Name']} {shape['URL']}".lower() and name in ("", shape["Name"])]  # fmt: skip
        # `start` counts from 1; 0 means the same.
        start, limit = (int(call.query.get(key, "0") or 0) for key in ("start", "limit"))
        page = found[max(0, start - 1) :][:limit] if limit else found
        if "true" in (call.query.get("excludeSnapshots"), call.query.get("excludeSnapshot")):
            page = [{**shape, "Snapshots": []} for shape in page]
        headers = {"X-Total-Count": str(len(found)), "X-Total-Available": str(len(available))}
        return JSONResponse(page, headers=headers)

    def _allowed(self, call: Call) -> int:
        """The environment in the path. Raises Problem."""
        text = call.parts["id"]
        if not text.isdigit():
            raise Problem(400, "Invalid environment identifier route variable", "Invalid route variable")
        if int(text) not in (ENVIRONMENT, DOWN_ENVIRONMENT):
            raise Problem(404, _NO_ENVIRONMENT, "object not found inside the database")
        if int(text) != ENVIRONMENT and not call.caller.is_admin:
            raise Problem(403, "Permission denied to access environment", "Access denied to environment")
        return int(text)

    async def environment(self, call: Call) -> Response:
        return JSONResponse(self._environment(self._allowed(call)))

    async def docker(self, call: Call) -> Response:
        if self._allowed(call) != ENVIRONMENT:
            return Response(status_code=502)  # what Go's reverse proxy says when nobody is there

        if self._engine is not None:
            return await self._engine.answer(call.request, call.parts["path"])

        def visible(_service: Service) -> bool:
            return call.caller.is_admin

        return await self._docker.answer(call.request, call.parts["path"], visible)

    async def force_update(self, call: Call) -> Response:
        environment, body = self._allowed(call), call.body()
        reference = str(member(body, "ServiceID") or "")
        try:
            if environment != ENVIRONMENT:
                raise Refused(
                    500, "Cannot connect to the Docker daemon at tcp://127.0.0.1:9. Is the docker daemon running?"
                )
            service = self._swarm.find(reference)
        except Refused as refused:
            raise Problem(
                500, "Error looking up service", f"Error response from daemon: {refused.message}"
            ) from refused
        if not call.caller.is_admin:
            raise Problem(403, "Permission denied to force update service", "Access denied to resource")
        warnings = self._force(service, pull=bool(member(body, "PullImage")))
        return JSONResponse({"Warnings": warnings})

    def _force(self, service: Service, *, pull: bool) -> list[str] | None:
        spec: Any = json.loads(json.dumps(service.spec))
        template = spec["TaskTemplate"]
        template["ForceUpdate"] = int(template.get("ForceUpdate") or 0) + 1
        warnings = None
        if pull:
            container = template["ContainerSpec"]
            container["Image"], warnings = self._swarm.pinned(container["Image"].partition("@sha")[0])
        self._swarm.update(service, spec)
        return warnings

    # -- stacks

    async def list_stacks(self, call: Call) -> Response:
        try:
            filters = json.loads(call.query.get("filters") or "{}")
        except ValueError as error:
            raise Problem(400, "Invalid query parameter: filters", str(error)) from error
        return JSONResponse(self.stacks.listed(call.caller, filters if isinstance(filters, dict) else {}))

    async def stack(self, call: Call) -> Response:
        return JSONResponse(self.stacks.shape(self.stacks.find(call.caller, call.parts["id"])))

    async def stack_file(self, call: Call) -> Response:
        return JSONResponse({"StackFileContent": self.stacks.find(call.caller, call.parts["id"]).file})

    async def change_stack(self, call: Call) -> Response:
        stack = self.stacks.find(call.caller, call.parts["id"])
        environment = self.stacks.environment(call.query.get("endpointId"))
        action = call.parts.get("action") or ""
        if action == "start":
            return JSONResponse(await self.stacks.start(call.caller, stack))
        if action == "stop":
            return JSONResponse(await self.stacks.stop(call.caller, stack))
        if action == "git":
            return JSONResponse(self.stacks.set_git(call.caller, stack, environment, call.body()))
        if action == "git/redeploy":
            return JSONResponse(await self.stacks.redeploy(call.caller, stack, environment, call.body()))
        return JSONResponse(await self.stacks.update(call.caller, stack, environment, call.body()))

    async def delete_stack(self, call: Call) -> Response:
        stack = self.stacks.find(call.caller, call.parts["id"])
        self.stacks.environment(call.query.get("endpointId"))
        await self.stacks.delete(stack)
        return Response(status_code=204)

    async def stack_webhook(self, call: Call) -> Response:
        await self.stacks.by_webhook(call.parts["id"])
        return Response(status_code=204)

    # -- webhooks of services

    async def list_webhooks(self, _call: Call) -> Response:
        return JSONResponse(self._webhooks)

    async def make_webhook(self, call: Call) -> Response:
        body = call.body()
        resource = str(member(body, "ResourceID") or "")
        if not resource:
            raise Problem(400, "Invalid request payload", "Invalid ResourceID")
        if any(webhook["ResourceId"] == resource for webhook in self._webhooks):
            raise Problem(409, "A webhook for this resource already exists", "A webhook for this resource already exists")  # fmt: skip
        made = {"Id": len(self._webhooks) + 1, "Token": str(uuid.uuid4()), "ResourceId": resource, "EndpointId": member(body, "EndpointID"), "RegistryId": 0, "Type": 1}  # fmt: skip
        self._webhooks.append(made)
        return JSONResponse(made)

    async def run_webhook(self, call: Call) -> Response:
        for webhook in self._webhooks:
            if webhook["Token"] == call.parts["id"]:
                try:
                    self._force(self._swarm.find(webhook["ResourceId"]), pull=True)
                except Refused as refused:
                    raise Problem(500, "Error looking up service", refused.message) from refused
                return Response(status_code=204)
        raise Problem(404, "Unable to find a webhook with this token", "object not found inside the database")


def _route(
    method: str, path: str, handler: _Handler, *, public: bool = False
) -> tuple[str, re.Pattern[str], _Handler, bool]:
    return method, re.compile(path.replace("{id}", "(?P<id>[^/]+)")), handler, public


_ROUTES = (
    _route("POST", "/auth", Portainer.log_in, public=True),
    _route("POST", "/auth/logout", Portainer.log_out, public=True),
    _route("GET", "/status", Portainer.status, public=True),
    _route("GET", "/system/status", Portainer.status, public=True),
    _route("GET", "/system/version", Portainer.version),
    _route("GET", "/users/me", Portainer.me),
    _route("POST", "/users/{id}/tokens", Portainer.make_key),
    _route("GET", "/endpoints", Portainer.environments),
    _route("GET", "/endpoints/{id}", Portainer.environment),
    _route("PUT", "/endpoints/{id}/forceupdateservice", Portainer.force_update),
    _route("*", "/endpoints/{id}/(?:agent/)?docker(?P<path>/.*)", Portainer.docker),
    _route("GET", "/stacks", Portainer.list_stacks),
    _route("POST", "/stacks/webhooks/{id}", Portainer.stack_webhook, public=True),
    _route("GET", "/stacks/{id}", Portainer.stack),
    _route("GET", "/stacks/{id}/file", Portainer.stack_file),
    _route("PUT", "/stacks/{id}(?:/(?P<action>git/redeploy))?", Portainer.change_stack),
    _route("POST", "/stacks/{id}/(?P<action>git|start|stop)", Portainer.change_stack),
    _route("DELETE", "/stacks/{id}", Portainer.delete_stack),
    _route("GET", "/webhooks", Portainer.list_webhooks),
    _route("POST", "/webhooks", Portainer.make_webhook),
    _route("POST", "/webhooks/{id}", Portainer.run_webhook, public=True),
)
