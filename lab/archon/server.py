"""The stand-in for archon-server. Run it with `python -m lab.archon.server --fd N` or `--port N`; see the package."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine

import psycopg
import socketio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from . import health_routes, knowledge_routes, project_routes, service, settings_routes, task_routes, template_routes
from .keys import InvalidKey
from .rest import RestError
from .service import Service

WRONG_USAGE = 64
START_FAILED = 3
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

logger = logging.getLogger("archon")


async def _fastapi_error(_request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    return JSONResponse({"detail": getattr(error, "detail", "Internal Server Error")}, status)


def create_app(running: Service) -> ASGIApp:
    """HTTP and Socket.IO of a server that has started."""
    routes = [
        *health_routes.ROUTES,
        *settings_routes.ROUTES,
        *knowledge_routes.ROUTES,
        *project_routes.ROUTES,
        *task_routes.ROUTES,
        *template_routes.ROUTES,
    ]
    everyone = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    app = Starlette(routes=routes, middleware=[everyone], exception_handlers={404: _fastapi_error, 405: _fastapi_error})
    app.state.service = running
    wrapped: ASGIApp = socketio.ASGIApp(running.sockets, other_asgi_app=app)
    return wrapped


async def _serve(listener: socket.socket) -> int:
    try:
        running = await service.start()
    except InvalidKey as error:
        logger.error("Failed to initialize credentials: %s", error)
        return START_FAILED
    except (RestError, psycopg.Error) as error:
        logger.error("Failed to initialize credentials: %s", " ".join(str(error).split()))
        return START_FAILED
    try:
        await listen(create_app(running), listener)
    finally:
        await running.close()
    return 0


async def listen(app: ASGIApp, listener: socket.socket, ws: str = "wsproto") -> None:
    """Listen on a bound socket until a signal comes."""
    config = uvicorn.Config(
        app,
        ws=ws,
        lifespan="auto" if ws == "none" else "off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=5,
    )
    await uvicorn.Server(config).serve(sockets=[listener])


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(WRONG_USAGE, f"{self.prog}: {message}\n")


def run(
    arguments: list[str] | None,
    program: str,
    required: tuple[str, ...],
    work: Callable[[socket.socket], Coroutine[object, object, int]],
) -> int:
    """The command line of a server: its socket, its environment and its log; then its work, whose exit code is returned."""
    parser = _Arguments(prog=f"python -m {program}", description=f"See the package {program.rpartition('.')[0]}.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="loopback port")
    where.add_argument("--fd", type=int, help="inherited socket, bound and not yet listening")
    options = parser.parse_args(arguments)
    if missing := [name for name in required if not os.environ.get(name)]:
        parser.error(f"the environment has no {', '.join(missing)}")
    level = os.environ.get("LOG_LEVEL", "INFO").upper()
    logging.basicConfig(
        level=level if level in _LEVELS else "INFO", format="%(asctime)s | %(name)s | %(levelname)s | %(message)s"
    )
    # Archon's own lines count; those of its libraries would repeat every request.
    for name in ("httpx", "httpcore", "uvicorn", "mcp", "asyncio", "python_multipart"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return asyncio.run(work(_listener(options.port, options.fd)))


def _listener(port: int | None, fd: int | None) -> socket.socket:
    if fd is not None:
        return socket.socket(fileno=fd)
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port or 0))
    return made


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal ends it; 3 when the start fails."""
    return run(arguments, "lab.archon.server", ("SUPABASE_URL", "SUPABASE_SERVICE_KEY", "SUPABASE_JWT_SECRET"), _serve)


if __name__ == "__main__":
    sys.exit(main())
