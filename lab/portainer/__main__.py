"""python -m lab.portainer --lab FOLDER --fd N"""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

import uvicorn

from .app import create_app
from .engine_proxy import EngineProxy


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal ends it, and every child with it."""
    parser = argparse.ArgumentParser(prog="python -m lab.portainer", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="inherited socket to serve on")
    parser.add_argument("--lab", type=Path, required=True, help="folder of the lab it belongs to")
    parser.add_argument("--engine", type=EngineProxy, help="unix:///path of a real engine for the proxy to Docker")
    options = parser.parse_args(arguments)
    app = create_app(options.lab, options.engine)
    certificate, key = app.state.store.certificate
    config = uvicorn.Config(
        app,
        loop="asyncio",
        log_level="warning",
        server_header=False,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        timeout_graceful_shutdown=1,
    )
    with socket.socket(fileno=options.fd) as listener:
        uvicorn.Server(config).run([listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
