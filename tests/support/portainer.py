"""The lab's Portainer alone, with small web servers as its services, for tests of whatever talks to Portainer or Docker."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from lab import portainer_process
from lab.portainer.store import folder_of, write_start
from lab.state import PortainerRecord

WAIT_SECONDS = 60.0
IMAGE = "registry.example/web:latest"

# Listens late on the socket that it is handed, as a service that has to start; /env/NAME tells a variable.
WEB = """
import http.server, os, signal, socket, sys
handed = socket.socket(fileno=int(sys.argv[1]))
if os.environ.get("KEY") == "wrong":
    print("Invalid API key", file=sys.stderr)
    sys.exit(3)
if os.environ.get("POLITE"):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ.get(self.path.rpartition("/")[2], "").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("", 0), Handler, bind_and_activate=False)
server.socket = handed
handed.listen()
server.serve_forever()
"""

WEB_FILE = """
version: "3.8"
services:
  web:
    image: registry.example/web:latest
    environment:
      - WORD=${WORD}
      - KEY=${KEY:-right}
      - POLITE=${POLITE:-}
    ports: ["${WEB_PORT}:${WEB_PORT}"]
    healthcheck:
      test: ["CMD", "curl", "-f", "http://localhost:${WEB_PORT}/health"]
      interval: 100ms
      retries: 3
      start_period: 60s
    stop_grace_period: 2s
    deploy:
      restart_policy: {condition: on-failure, delay: 100ms, max_attempts: 3}
      update_config: {monitor: 200ms}
"""

WEB_STACK: Mapping[str, Any] = {
    "name": "demo",
    "file": WEB_FILE,
    "env": {"WEB_PORT": "@port:web@", "WORD": "hello", "UNUSED": "kept", "PASSWORD": "secret-of-the-stack"},
}


@dataclass(frozen=True)
class StandIn:
    """A running stand-in of Portainer. `client` logs in with the administrator's API key."""

    record: PortainerRecord
    folder: Path
    client: httpx.Client

    @property
    def api_key(self) -> str:
        return Path(self.record.api_key_file).read_text().strip()

    def password(self, user: str = "admin") -> str:
        return (folder_of(self.folder) / f"{user}-password").read_text().strip()

    def nobody(self) -> httpx.Client:
        """A client that trusts the certificate and says nothing of who it is."""
        return httpx.Client(base_url=self.record.url, verify=_trust(self.record), timeout=30, trust_env=False)

    def docker(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return self.client.request(method, f"/api/endpoints/1/docker{path}", **arguments)

    def service(self, name: str = "demo_web") -> dict[str, Any]:
        return dict(self.docker("GET", f"/services/{name}").json())

    def tasks(self, service: str = "demo_web", **filters: list[str]) -> list[dict[str, Any]]:
        wanted = json.dumps({"service": [service], **filters})
        return list(self.docker("GET", "/tasks", params={"filters": wanted}).json())

    def faults(self, **faults: Any) -> None:
        """Replace all faults in force; with no argument it is healthy again."""
        self.client.put("/_lab/faults", json=faults).raise_for_status()

    def requests(self) -> list[dict[str, Any]]:
        """What it was asked, oldest first."""
        return list(self.client.get("/_lab/requests").json())

    def forget_requests(self) -> None:
        self.client.delete("/_lab/requests")

    @property
    def url(self) -> str:
        """Where the first port of the lab answers."""
        return f"http://127.0.0.1:{self.client.get('/_lab/ports').json()['web']}"

    def begin(self) -> None:
        """Everything as at first, and running."""
        portainer_process.tell(self.record, "POST", "stop")
        portainer_process.tell(self.record, "POST", "up", begin="true")
        self.wait(lambda: self.tasks()[-1]["Status"]["State"] == "running")

    def wait(self, condition: Callable[[], Any]) -> Any:
        """What `condition` gives as soon as it is true."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (found := condition()):
            assert time.monotonic() < deadline, [task["Status"] for task in self.tasks()]
            time.sleep(0.03)
        return found


def _trust(record: PortainerRecord) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=record.ca_file)


@contextmanager
def stand_in(
    folder: Path,
    stacks: tuple[Mapping[str, Any], ...] = (WEB_STACK,),
    images: Mapping[str, Mapping[str, Any]] = {},
) -> Iterator[StandIn]:
    """Run the stand-in with these stacks (and their services) until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {IMAGE: {"command": ["python", "-c", WEB, "{fd}"]}, **images}
    write_start(folder, {"images": known, "ports": {"web": 0, "other": 0}, "stacks": [dict(stack) for stack in stacks]})
    record = portainer_process.start(folder, None)
    try:
        key = {"X-API-Key": Path(record.api_key_file).read_text().strip()}
        with httpx.Client(
            base_url=record.url, verify=_trust(record), headers=key, timeout=30, trust_env=False
        ) as client:
            portainer_process.tell(record, "POST", "up")
            yield StandIn(record, folder, client)
    finally:
        portainer_process.stop(record, folder)
