"""Docker's Engine API, as far as anybody needs it here, with Docker's status codes and words."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from . import docker_exec, docker_shapes
from .docker_shapes import API_VERSION, ENGINE_VERSION, OLDEST_API
from .objects import JSON, NODE_NAME, Container, Service, Task, labelled
from .store import Store
from .swarm import Refused, Swarm

Filters = dict[str, list[str]]
Visible = Callable[[Service], bool]
_Handler = Callable[["DockerApi", "Call"], Awaitable[Response]]
_VERSIONED = re.compile(r"/v(\d+)\.(\d+)(/.*)")
_STREAM = "application/vnd.docker.multiplexed-stream"


class Call:
    """One request below the engine's root, with the named parts of its path."""

    def __init__(self, request: Request, body: bytes, parts: Mapping[str, str], visible: Visible) -> None:
        self.query = request.query_params
        self.parts = parts
        self.visible = visible
        self._body = body

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() not in ("", "0", "no", "false", "none")

    def body(self) -> JSON:
        if not self._body:
            raise Refused(400, "invalid JSON: got EOF while reading request body")
        try:
            content = json.loads(self._body)
        except ValueError as error:
            raise Refused(400, f"invalid JSON: {error}") from error
        if not isinstance(content, dict):
            raise Refused(400, "invalid JSON: json: cannot unmarshal into Go value")
        return content

    def filters(self, known: tuple[str, ...]) -> Filters:
        """`filters` in either of its forms, {"label": ["a"]} or {"label": {"a": true}}."""
        text = self.query.get("filters", "")
        try:
            content: Any = json.loads(text) if text else {}
            found = {str(name): [str(value) for value in values] for name, values in content.items()}
        except (ValueError, TypeError, AttributeError):
            raise Refused(400, f"invalid filters: {text}") from None
        for name in found:
            if name not in known:
                raise Refused(400, f"invalid filter '{name}'")
        return found


class DockerApi:
    """The engine of the one Swarm environment. `visible` says what a person may see of it."""

    def __init__(self, swarm: Swarm, store: Store) -> None:
        self._swarm = swarm
        self._store = store
        self._execs: dict[str, docker_exec.Exec] = {}

    async def answer(self, request: Request, path: str, visible: Visible) -> Response:
        """The answer to a request for `path` (with or without an API version)."""
        try:
            if versioned := _VERSIONED.fullmatch(path):
                self._check_version((int(versioned[1]), int(versioned[2])))
                path = versioned[3]
            for method, pattern, handler in _ROUTES:
                match = pattern.fullmatch(path)
                if match and (request.method == method or (method == "GET" and request.method == "HEAD")):
                    return await handler(self, Call(request, await request.body(), match.groupdict(), visible))
            raise Refused(404, "page not found")
        except Refused as refused:
            return JSONResponse({"message": refused.message}, refused.status)

    @staticmethod
    def _check_version(asked: tuple[int, int]) -> None:
        for wrong, word, limit, name in (
            (asked > API_VERSION, "new", API_VERSION, "Maximum"),
            (asked < OLDEST_API, "old", OLDEST_API, "Minimum"),
        ):
            if wrong:
                raise Refused(400, f"client version {asked[0]}.{asked[1]} is too {word}. {name} supported API version is {limit[0]}.{limit[1]}")  # fmt: skip

    # -- services and tasks

    def _services(self, call: Call) -> list[Service]:
        return [service for service in self._swarm.services.values() if call.visible(service)]

    def _service(self, call: Call) -> Service:
        service = self._swarm.find(call.parts["id"])
        if not call.visible(service):
            raise Refused(403, "Access denied to resource")
        return service

    async def list_services(self, call: Call) -> Response:
        filters = call.filters(("id", "label", "mode", "name"))

        def matches(service: Service) -> bool:
            return (
                all(labelled(service.spec.get("Labels") or {}, wanted) for wanted in filters.get("label", []))
                and any(service.name.startswith(name) for name in filters.get("name", [service.name]))
                and any(service.id.startswith(start) for start in filters.get("id", [service.id]))
                and "replicated" in filters.get("mode", ["replicated"])
            )

        status = call.flag("status")
        return _json([docker_shapes.service(found, status=status) for found in self._services(call) if matches(found)])

    async def inspect_service(self, call: Call) -> Response:
        return _json(docker_shapes.service(self._service(call)))

    async def update_service(self, call: Call) -> Response:
        service, text = self._service(call), call.query.get("version", "")
        if not text.isdigit():
            raise Refused(
                400, f"invalid service version '{text}': strconv.ParseUint: parsing \"{text}\": invalid syntax"
            )
        spec, rollback = call.body(), call.query.get("rollback", "")
        if rollback not in ("", "none", "previous"):
            raise Refused(400, f"unrecognized rollback option {rollback}")
        if int(text) != service.version:
            raise Refused(500, "rpc error: code = Unknown desc = update out of sequence")
        if rollback == "previous":
            self._swarm.roll_back(service)
        else:
            self._swarm.update(service, spec)
        return _json({"Warnings": None})

    async def list_tasks(self, call: Call) -> Response:
        filters = call.filters(("desired-state", "id", "label", "name", "node", "service"))
        services = {self._swarm.find(name).id for name in filters.get("service", [])}
        visible = {service.id: service for service in self._services(call)}

        def matches(task: Task) -> bool:
            return (
                task.service in visible
                and (not services or task.service in services)
                and task.desired in filters.get("desired-state", [task.desired])
                and any(task.id.startswith(start) for start in filters.get("id", [task.id]))
                and any(node in (self._store.node_id, NODE_NAME) for node in filters.get("node", [self._store.node_id]))
                and any(f"{visible[task.service].name}.{task.slot}".startswith(name) for name in filters.get("name", [""]))
                and not filters.get("label")
            )  # fmt: skip

        return _json([docker_shapes.task(task, self._store) for task in self._swarm.tasks() if matches(task)])

    async def inspect_task(self, call: Call) -> Response:
        for task in self._swarm.tasks():
            if task.id.startswith(call.parts["id"]) and call.visible(self._swarm.services[task.service]):
                return _json(docker_shapes.task(task, self._store))
        raise Refused(404, f"task {call.parts['id']} not found")

    # -- containers

    def _container(self, call: Call) -> Container:
        container = self._swarm.container(call.parts["id"])
        if container not in self._containers(call):
            raise Refused(403, "Access denied to resource")
        return container

    def _containers(self, call: Call) -> list[Container]:
        """Newest first."""
        found = [task.container for service in self._services(call) for task in service.tasks if task.container is not None]  # fmt: skip
        return sorted(found, key=lambda container: container.created, reverse=True)

    async def list_containers(self, call: Call) -> Response:
        filters = call.filters(("ancestor", "exited", "health", "id", "label", "name", "network", "status"))
        everything = call.flag("all") or "status" in filters

        def matches(container: Container) -> bool:
            return (
                (everything or container.state == "running")
                and all(labelled(container.labels, wanted) for wanted in filters.get("label", []))
                and any(re.search(name, f"/{container.name}") for name in filters.get("name", [""]))
                and any(container.id.startswith(start) for start in filters.get("id", [""]))
                and container.state in filters.get("status", [container.state])
                and (container.health or "none") in filters.get("health", [container.health or "none"])
            )

        return _json([docker_shapes.listed_container(found) for found in self._containers(call) if matches(found)])

    async def inspect_container(self, call: Call) -> Response:
        return _json(docker_shapes.container(self._container(call)))

    async def container_logs(self, call: Call) -> Response:
        if not (call.flag("stdout") or call.flag("stderr")):
            raise Refused(400, "Bad parameters: you must choose at least one stream")
        container = self._container(call)
        lines = container.log.read_bytes().splitlines(keepends=True) if container.log.exists() else []
        tail = call.query.get("tail", "all")
        kept = lines[-int(tail) :] if tail.isdigit() and int(tail) else [] if tail == "0" else lines
        return Response(b"".join(docker_exec.frame(docker_exec.STDOUT, line) for line in kept), media_type=_STREAM)

    async def restart_container(self, call: Call) -> Response:
        await self._swarm.restart(self._container(call))
        return Response(status_code=204)

    async def create_exec(self, call: Call) -> Response:
        made = docker_exec.create(self._container(call), call.body())
        self._execs[made.id] = made
        return _json({"Id": made.id}, 201)

    def _exec(self, call: Call) -> docker_exec.Exec:
        found = self._execs.get(call.parts["id"])
        if found is None:
            raise Refused(404, f"No such exec instance: {call.parts['id']}")
        return found

    async def start_exec(self, call: Call) -> Response:
        execution, detached = self._exec(call), bool(call.body().get("Detach"))
        output = await docker_exec.run(execution)
        if not detached:
            kind = "application/vnd.docker.raw-stream" if execution.tty else _STREAM
            return StreamingResponse(output, media_type=kind)

        async def drain() -> None:
            async for _ in output:
                pass

        return Response(status_code=200, background=BackgroundTask(drain))

    async def inspect_exec(self, call: Call) -> Response:
        return _json(docker_exec.shape(self._exec(call)))

    # -- the engine itself

    async def ping(self, _call: Call) -> Response:
        headers = {
            "Api-Version": ".".join(map(str, API_VERSION)),
            "Docker-Experimental": "false",
            "Ostype": "linux",
            "Server": f"Docker/{ENGINE_VERSION} (linux)",
            "Swarm": "active/manager",
            "Cache-Control": "no-cache, no-store, must-revalidate",
        }
        return PlainTextResponse("OK", headers=headers)

    async def info(self, call: Call) -> Response:
        return _json(docker_shapes.info(self._store, self._containers(call)))

    async def version(self, _call: Call) -> Response:
        return _json(docker_shapes.version())

    async def swarm(self, _call: Call) -> Response:
        return _json(docker_shapes.swarm(self._store))

    async def nodes(self, _call: Call) -> Response:
        return _json([docker_shapes.node(self._store)])

    async def inspect_node(self, call: Call) -> Response:
        if call.parts["id"] not in (self._store.node_id, NODE_NAME, "self"):
            raise Refused(404, f"node {call.parts['id']} not found")
        return _json(docker_shapes.node(self._store))


def _json(content: object, status: int = 200) -> Response:
    return JSONResponse(content, status)


def _route(method: str, path: str, handler: _Handler) -> tuple[str, re.Pattern[str], _Handler]:
    return method, re.compile(path.replace("{id}", "(?P<id>[^/]+)")), handler


_ROUTES = (
    _route("GET", "/services", DockerApi.list_services),
    _route("GET", "/services/{id}", DockerApi.inspect_service),
    _route("POST", "/services/{id}/update", DockerApi.update_service),
    _route("GET", "/tasks", DockerApi.list_tasks),
    _route("GET", "/tasks/{id}", DockerApi.inspect_task),
    _route("GET", "/containers/json", DockerApi.list_containers),
    _route("GET", "/containers/{id}/json", DockerApi.inspect_container),
    _route("GET", "/containers/{id}/logs", DockerApi.container_logs),
    _route("POST", "/containers/{id}/restart", DockerApi.restart_container),
    _route("POST", "/containers/{id}/exec", DockerApi.create_exec),
    _route("POST", "/exec/{id}/start", DockerApi.start_exec),
    _route("GET", "/exec/{id}/json", DockerApi.inspect_exec),
    _route("GET", "/_ping", DockerApi.ping),
    _route("GET", "/info", DockerApi.info),
    _route("GET", "/version", DockerApi.version),
    _route("GET", "/swarm", DockerApi.swarm),
    _route("GET", "/nodes", DockerApi.nodes),
    _route("GET", "/nodes/{id}", DockerApi.inspect_node),
)
