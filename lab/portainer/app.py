"""The stand-in as an ASGI application: Portainer below /api, what belongs to the lab below /_lab/."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from .access import Access, Caller, Problem
from .api import Portainer
from .engine_proxy import EngineProxy
from .faults import Faults, Lab
from .store import SWARM_STACK, Store
from .swarm import Swarm

_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]


class _Site:
    """Everything behind one address."""

    def __init__(self, lab_folder: Path, engine: EngineProxy | None) -> None:
        self.lab = Lab()
        self.store = Store(lab_folder)
        self.swarm = Swarm(self.store, self.lab)
        self.access = Access(self.store, self.lab)
        self.portainer = Portainer(self.store, self.lab, self.swarm, self.access, engine)

    async def serve(self, request: Request) -> Response:
        """Portainer's side: noted, spoilt by a fault or answered."""
        try:
            caller: Caller | Problem = self.access.caller(request)
        except Problem as problem:
            caller = problem
        seen: dict[str, object] = {
            "method": request.method,
            "path": request.url.path,
            "query": request.url.query,
            "authenticated": isinstance(caller, Caller),
            "by": caller.by if isinstance(caller, Caller) else "",
            "status": None,
        }
        self.lab.requests.append(seen)
        response = await self._spoilt(request) or self.access.csrf(request)
        if response is None:
            if request.url.path.startswith("/api/"):
                response = await self.portainer.answer(request, caller)
                self.access.give_csrf(request, response)
            else:
                response = PlainTextResponse("<!doctype html><title>Portainer</title>", media_type="text/html")
        seen["status"] = response.status_code
        return response

    async def _spoilt(self, request: Request) -> Response | None:
        faults = self.lab.faults
        if not faults.spoils(request.url.path):
            return None
        self.lab.faults = faults.after_request()
        if faults.hang:
            while not await request.is_disconnected():
                await asyncio.sleep(0.1)
            return Response(status_code=499)
        if faults.drip:

            async def drops() -> AsyncIterator[bytes]:
                yield b"["
                while True:
                    await asyncio.sleep(0.2)
                    yield b" "

            return StreamingResponse(drops(), media_type="application/json")
        if faults.malformed:
            return Response(b'[{"Id": 1, "Name": "lab-sw', media_type="application/json")
        return PlainTextResponse("<html><h1>Bad Gateway</h1></html>", faults.status or 502, media_type="text/html")

    async def faults(self, request: Request) -> Response:
        """GET what goes wrong, PUT what shall, DELETE for a healthy Portainer."""
        if request.method == "PUT":
            try:
                self.lab.faults = Faults.from_mapping(json.loads(await request.body()))
            except (ValueError, TypeError) as error:
                return JSONResponse({"error": str(error)}, 400)
        elif request.method == "DELETE":
            self.lab.faults = Faults()
        return JSONResponse(asdict(self.lab.faults))

    async def requests(self, request: Request) -> Response:
        """GET the log of requests, oldest first; DELETE begins it anew."""
        if request.method == "DELETE":
            self.lab.requests.clear()
        return JSONResponse(list(self.lab.requests))

    async def ports(self, _request: Request) -> Response:
        """The ports by name."""
        return JSONResponse({name: port.number for name, port in self.store.ports.items()})

    async def down(self, _request: Request) -> Response:
        """Services that Swarm has given up, with the last error and the end of their log, and stacks that run none."""
        found = self.swarm.given_up()
        there = {service.stack for service in self.swarm.services.values()}
        for stack in self.store.stacks:
            if stack.type == SWARM_STACK and stack.name not in there:
                found[f"{stack.name}_"] = "the stack is stopped"
        return JSONResponse(found)

    async def up(self, request: Request) -> Response:
        """Start what is not there; with `?begin=true` all stacks go back to their beginning before."""
        if request.query_params.get("begin") == "true" or not self.store.stacks:
            self.store.begin()
            changed: set[str] = set()
        else:
            changed = self.store.follow()
        self.store.save()
        try:
            await self.portainer.stacks.bring_up(changed)
        except Problem as problem:
            return problem.response()
        return JSONResponse({"services": [service.name for service in self.swarm.services.values()]})

    async def stop(self, _request: Request) -> Response:
        """Stop all services; a healthy Portainer that was asked nothing stays."""
        await asyncio.gather(*(self.swarm.remove(service) for service in list(self.swarm.services.values())))
        self.lab.faults = Faults()
        self.lab.requests.clear()
        return JSONResponse({})

    async def git(self, request: Request) -> Response:
        """Let a stack come from git."""
        self.portainer.stacks.back_by_git(request.path_params["name"])
        return JSONResponse({})


def create_app(lab_folder: Path, engine: EngineProxy | None = None) -> Starlette:
    """The application for one lab; `app.state.store` has the certificate to serve it with. With an `engine` the proxy to
    Docker leads there, and compose stacks are deployed there."""
    site = _Site(lab_folder, engine)

    @contextlib.asynccontextmanager
    async def until_the_end(_app: Starlette) -> AsyncIterator[None]:
        yield
        site.swarm.end()

    routes = [
        Route("/_lab/faults", site.faults, methods=["GET", "PUT", "DELETE"]),
        Route("/_lab/requests", site.requests, methods=["GET", "DELETE"]),
        Route("/_lab/ports", site.ports),
        Route("/_lab/down", site.down),
        Route("/_lab/up", site.up, methods=["POST"]),
        Route("/_lab/stop", site.stop, methods=["POST"]),
        Route("/_lab/git/{name}", site.git, methods=["POST"]),
        Route("/{path:path}", site.serve, methods=_METHODS),
    ]
    app = Starlette(routes=routes, lifespan=until_the_end)
    app.state.store = site.store
    return app
