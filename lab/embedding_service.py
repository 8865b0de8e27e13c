"""The lab's embedding service: a stand-in for Ollama with real vectors.

Run it with `python -m lab.embedding_service --port 11434`, or serve it from a test with `serve()`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict

import uvicorn
from anyio import to_thread
from archon_align.errors import AlignError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import vectors
from .faults import Faults
from .ollama_api import ROUTES, State
from .state import HOST

WRONG_USAGE = 64


class _Recorder:
    """Remembers each request outside /_lab/ with its status, and the texts that an embedding handler adds."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen: dict[str, object] = {"method": scope["method"], "path": scope["path"], "status": None}
        scope["lab_seen"] = seen
        if not scope["path"].startswith("/_lab/"):
            self._state.requests.append(seen)

        async def note_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            await send(message)

        await self._app(scope, receive, note_status)


async def _not_found(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("404 page not found", 404)


async def _wrong_method(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("405 method not allowed", 405)


def create_app(faults: Faults = Faults(), *, slots: int = 1) -> Starlette:  # noqa: B008 - frozen
    """The service as an ASGI application. `slots` requests are embedded at a time; Ollama serves one."""
    state = State(asyncio.Semaphore(slots), faults)

    @contextlib.asynccontextmanager
    async def load_model(_app: Starlette) -> AsyncIterator[None]:
        # In the background, so that the service answers at once; as with Ollama, the first embedding waits for the model.
        loading = asyncio.create_task(to_thread.run_sync(vectors.load, abandon_on_cancel=True))
        yield
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError, AlignError):
            await loading

    app = Starlette(
        routes=ROUTES, lifespan=load_model, exception_handlers={404: _not_found, 405: _wrong_method}, middleware=[]
    )
    app.add_middleware(_Recorder, state=state)
    app.state.lab = state
    return app


class RunningService:
    """A service in a thread of this process; made by `serve()`."""

    def __init__(self, app: Starlette, port: int) -> None:
        self._state: State = app.state.lab
        self.url = f"http://{HOST}:{port}"
        self.base_url = f"{self.url}/v1"

    def set_faults(self, **faults: object) -> None:
        """Replace all faults in force (see Faults); with no argument the service is healthy again."""
        self._state.faults = Faults.from_mapping(faults)
        self._state.pulled = 0

    @property
    def requests(self) -> list[dict[str, object]]:
        """The requests seen, oldest first: method, path, status, and for embeddings model and (shortened) texts."""
        return list(self._state.requests)

    def forget_requests(self) -> None:
        """Start the list of requests anew."""
        self._state.requests.clear()


@contextlib.contextmanager
def serve(*, slots: int = 1, **faults: object) -> Iterator[RunningService]:
    """Serve on a free loopback port in a thread until the block ends; keyword arguments are the first faults."""
    app = create_app(Faults.from_mapping(faults), slots=slots)
    with socket.create_server((HOST, 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise AlignError(
                    "The embedding service did not start.",
                    object_name="lab.embedding_service",
                    expected="listening within 20 s",
                    found="the thread ended" if not thread.is_alive() else "no answer",
                    remedy="Read the log lines above.",
                    code="lab",
                )
            time.sleep(0.005)
        try:
            yield RunningService(app, listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(timeout=10)


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(WRONG_USAGE, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal ends it."""
    parser = _Arguments(prog="python -m lab.embedding_service", description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--port", type=int, default=11434, help="port (default: %(default)s)")
    where.add_argument("--fd", type=int, help="inherited listening socket, used by the lab")
    parser.add_argument("--host", default=HOST, help="address to listen at (default: %(default)s)")
    parser.add_argument("--lab", help="folder of the lab it belongs to, by which the lab recognises it")
    parser.add_argument("--slots", type=int, default=1, help="requests embedded at a time (default: 1, as Ollama)")
    parser.add_argument("--faults", default="{}", help=f"JSON object, any of {sorted(asdict(Faults()))}")
    options = parser.parse_args(arguments)
    try:
        faults = Faults.from_mapping(json.loads(options.faults))
    except (ValueError, TypeError) as error:
        parser.error(f"--faults: {error}")
    app = create_app(faults, slots=options.slots)
    uvicorn.run(
        app, host=options.host, port=options.port, fd=options.fd, log_level="warning", timeout_graceful_shutdown=1
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
