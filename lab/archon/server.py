"""The stand-in for archon-server. Run it with `python -m lab.archon.server --fd N` or `--port N`; see the package."""

from __future__ import annotations

import logging
import socket
import sys

import psycopg
import socketio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from . import health_routes, knowledge_routes, project_routes, service, settings_routes, task_routes, template_routes
from .command import listen, run
from .keys import InvalidKey
from .rest import RestError
from .service import Service

START_FAILED = 3

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
        await listen(create_app(running), listener, websockets=True)
    finally:
        await running.close()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal ends it; 3 when the start fails."""
    return run(arguments, "lab.archon.server", ("SUPABASE_URL", "SUPABASE_SERVICE_KEY", "SUPABASE_JWT_SECRET"), _serve)


if __name__ == "__main__":
    sys.exit(main())
