"""The Archons of a lab: the stacks that its Portainer begins with, and whether they are ready."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from . import portainer_process
from .archon import keys
from .portainer.store import COMPOSE_STACK, INACTIVE, write_start
from .state import HOST, ArchonRecord, PortainerRecord, StateFolder

READY_SECONDS = 120
_STACKS = Path(__file__).parent / "data" / "stacks"
_TAGS = {"dev": "dev", "prod": "latest"}


def prepare(files: StateFolder, database_ports: Mapping[str, int], embedding_base_url: str) -> None:
    """Say what Portainer begins with: both stacks as the plan found them, and an idle one of another kind."""
    images: dict[str, Any] = {}
    stacks: list[dict[str, Any]] = []
    for world, tag in _TAGS.items():
        secret = files.archon_secret(world)
        for service in ("server", "mcp"):
            images[f"registry.example/archon/archon-{service}:{tag}"] = {
                "command": ["python", "-m", f"lab.archon.{service}", "--fd", "{fd}"],
                "environment": {"SUPABASE_JWT_SECRET": secret} if service == "server" else {},
            }
        variables = {
            "SUPABASE_URL": files.uri(database_ports[world]),
            "SUPABASE_SERVICE_KEY": keys.service_key(secret),
            "LOG_LEVEL": "INFO" if world == "prod" else "DEBUG",
            "ARCHON_SERVER_PORT": f"@port:{world}-server@",
            "ARCHON_MCP_PORT": f"@port:{world}-mcp@",
            "ARCHON_SERVER_HOST": HOST,  # there is no name service in the lab
            "EMBEDDING_PROVIDER": "ollama",
            "EMBEDDING_BASE_URL": embedding_base_url,
            "EMBEDDING_MODEL": "nomic-embed-text",
            "EMBEDDING_DIMENSIONS": "768",
        }
        file = (_STACKS / f"archon-{world}.yml").read_text()
        stacks.append({"name": f"archon-{world}", "file": file, "env": variables})
    stacks.append({"name": "monitoring", "file": "services: {}\n", "type": COMPOSE_STACK, "status": INACTIVE})
    ports = {f"{world}-{service}": 0 for world in _TAGS for service in ("server", "mcp")}
    write_start(files.path, {"images": images, "ports": ports, "stacks": stacks})


def records(portainer: PortainerRecord) -> dict[str, ArchonRecord]:
    """Where each Archon answers, or will."""
    ports = portainer_process.tell(portainer, "GET", "ports")
    return {
        world: ArchonRecord(f"http://{HOST}:{ports[f'{world}-server']}", f"http://{HOST}:{ports[f'{world}-mcp']}/mcp")
        for world in _TAGS
    }


def condition(record: ArchonRecord, timeout: float = 5) -> str:
    """`ready`, or what is missing."""
    try:
        reply = httpx.get(f"{record.url}/health", timeout=timeout, trust_env=False)
        if not reply.is_success or reply.json().get("ready") is not True:
            return f"not ready: /health answers {reply.status_code} {reply.text[:100]}"
    except (httpx.HTTPError, ValueError, AttributeError) as error:
        return f"not ready: {error}"
    # Never by a request: one without a session can hang a fresh MCP server for good.
    with socket.socket() as probe:
        probe.settimeout(timeout)
        return "ready" if probe.connect_ex((HOST, urlsplit(record.mcp_url).port or 0)) == 0 else "ready, but MCP is not"


def wait_ready(portainer: PortainerRecord, archon: Mapping[str, ArchonRecord]) -> None:
    """Wait until all are ready, one has run out of tries or two minutes are over; `condition` tells then."""
    deadline = time.monotonic() + READY_SECONDS
    while any(condition(record) != "ready" for record in archon.values()) and time.monotonic() < deadline:
        if portainer_process.tell(portainer, "GET", "down"):
            return
        time.sleep(0.1)


def why(portainer: PortainerRecord, world: str) -> str:
    """What Swarm says of a world's services that are down, '' when it says nothing."""
    down: dict[str, str] = portainer_process.tell(portainer, "GET", "down")
    told = [f"{name}: {error}" for name, error in down.items() if name.startswith(f"archon-{world}_")]
    return "; ".join(told)
