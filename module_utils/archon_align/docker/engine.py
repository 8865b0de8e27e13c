"""One Docker engine: what runs on it, and the few things that are done to it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import orjson

from ..errors import AlignError
from ..web.wire import Allowed, BadAnswer, NotAllowed, Reply, Unreachable, Wire, bad_answer
from .objects import (
    STACK_LABEL,
    Container,
    Service,
    Task,
    inspected_container_of,
    listed_container_of,
    service_of,
    task_of,
)
from .probes import is_probe
from .stream import demultiplex

_ID = "[A-Za-z0-9_.%-]+"
# What only reads. An exec starts a process of ours in the container, so check mode has it for the probes of probes.py alone,
# which the plan's reachability test needs: these requests are let through, and `Engine.execute` looks at the command.
READING = (
    Allowed("GET", "/(_ping|version|info|containers/json|services|tasks|nodes)"),
    Allowed("GET", f"/(containers/{_ID}/json|services/{_ID}|tasks/{_ID}|exec/{_ID}/json)"),
)
PROBING = (Allowed("POST", f"/containers/{_ID}/exec"), Allowed("POST", f"/exec/{_ID}/start"))
OUTPUT_BYTES = 1 << 20
_TRIES = 3
_PAUSE_SECONDS = 0.5
_BUSY = (500, 502, 503, 504)


class EngineRefused(AlignError):
    """The engine (or Portainer before it) answered with an error. `http_status` is HTTP's."""

    def __init__(self, reply: Reply, what: str, *, remedy: str = "") -> None:
        super().__init__(
            what,
            object_name=reply.where,
            expected="success",
            found=f"{reply.status}: {reply.message()}",
            remedy=remedy or "See the engine's own message, and whether this user may do that.",
            code={401: "not_logged_in", 403: "forbidden", 404: "not_found"}.get(reply.status, "engine_refused"),
        )
        self.http_status = reply.status


@dataclass(frozen=True, slots=True)
class Executed:
    """A finished command in a container."""

    exit_code: int
    stdout: str
    stderr: str


class Engine:
    """`prefix` is the path of Portainer's proxy, '' at the engine itself. `send` replaces `wire.send` where more is needed.

    Over a wire with an allow-list (check mode) it executes probes only.
    """

    def __init__(self, wire: Wire, prefix: str = "", *, send: Callable[..., Reply] | None = None) -> None:
        self._send = send or wire.send
        self._restricted = wire.restricted
        self._prefix = prefix
        self._skew: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """The engine's own clock, to the second. Raises AlignError."""
        if self._skew is None:
            self._get("/_ping", parsed=False)
        if self._skew is None:
            raise bad_answer("/_ping", "a Date header", "none")
        date, seen = self._skew
        return datetime.fromtimestamp(date.timestamp() + time.monotonic() - seen, date.tzinfo)

    def containers(self, labels: Mapping[str, str] | None = None, *, running_only: bool = False) -> list[Container]:
        """Containers with all these labels (an empty value asks for the label alone)."""
        wanted = [f"{key}={value}" if value else key for key, value in (labels or {}).items()]
        filters = {"label": wanted} if wanted else {}
        found = self._get("/containers/json", all=0 if running_only else 1, filters=filters)
        return self._each("/containers/json", found, listed_container_of)

    def container(self, container_id: str) -> Container:
        path = f"/containers/{quote(container_id, safe='')}/json"
        return self._one(path, self._get(path), inspected_container_of)

    def services(self, stack: str = "") -> list[Service]:
        """The services of a stack, all without one. Raises EngineRefused where the engine is no Swarm manager."""
        filters = {"label": [f"{STACK_LABEL}={stack}"]} if stack else {}
        return self._each("/services", self._get("/services", filters=filters), service_of)

    def service(self, service_id: str) -> Service:
        path = f"/services/{quote(service_id, safe='')}"
        return self._one(path, self._get(path), service_of)

    def tasks(self, service_id: str) -> list[Task]:
        """A service's tasks, oldest first, ended ones too."""
        found = self._each("/tasks", self._get("/tasks", filters={"service": [service_id]}), task_of)
        return sorted(found, key=lambda task: (task.created_at.timestamp() if task.created_at else 0.0, task.id))

    def nodes(self) -> dict[str, str]:
        """Host names by node id."""
        return {
            str(node["ID"]): str((node.get("Description") or {}).get("Hostname", ""))
            for node in self._get("/nodes")
            if isinstance(node, dict) and "ID" in node
        }

    def is_swarm_manager(self) -> bool:
        info = self._get("/info")
        return isinstance(info, dict) and bool((info.get("Swarm") or {}).get("ControlAvailable"))

    def force_update(self, service: Service) -> None:
        """Start the service's tasks anew, by the same spec. Raises EngineRefused."""

        def change(now: Service) -> dict[str, Any]:
            spec = copy.deepcopy(dict(now.spec))
            template = spec["TaskTemplate"]
            template["ForceUpdate"] = int(template.get("ForceUpdate") or 0) + 1
            return spec

        self._update(service, change)

    def roll_back(self, service: Service) -> None:
        """Bring back the service's previous spec. Raises EngineRefused."""
        self._update(service, lambda now: dict(now.spec), rollback="previous")

    def _update(self, service: Service, change: Callable[[Service], dict[str, Any]], **params: str) -> None:
        path = f"/services/{quote(service.id, safe='')}/update"
        now = service
        for last in (False, True):
            reply = self._send(
                "POST", self._prefix + path, params={"version": now.version, **params}, json=change(now), timeout=60
            )
            if reply.ok:
                return
            stale = "out of sequence" in reply.message()
            if last or not stale:
                remedy = "Somebody else updates it at the same time. Run again when nobody does." if stale else ""
                raise EngineRefused(reply, f"Service {service.name} could not be updated.", remedy=remedy)
            now = self.service(service.id)

    def restart_container(self, container_id: str, *, grace: int = 10) -> None:
        """Raises EngineRefused."""
        path = f"/containers/{quote(container_id, safe='')}/restart"
        reply = self._send("POST", self._prefix + path, params={"t": grace}, timeout=grace + 60)
        if not reply.ok:
            raise EngineRefused(reply, "A container could not be restarted.")

    def logs(self, container_id: str, *, lines: int) -> str:
        """The last lines that a container wrote; they may hold secrets. Raises EngineRefused."""
        path = f"/containers/{quote(container_id, safe='')}/logs"
        reply = self._send(
            "GET", self._prefix + path, params={"stdout": 1, "stderr": 1, "tail": lines}, limit=OUTPUT_BYTES
        )
        if not reply.ok:
            raise EngineRefused(reply, "A container's log could not be read.")
        return "".join(demultiplex(reply.content))

    def execute(self, container_id: str, argv: Sequence[str], timeout: float = 30.0) -> Executed:
        """Run a command in a container, without a shell, and wait for it at most `timeout` seconds.

        A command that takes longer goes on: an exec cannot be ended. Raises EngineRefused, Unreachable, BadAnswer (more than
        OUTPUT_BYTES of output), and NotAllowed in check mode for anything but a probe.
        """
        path = f"/containers/{quote(container_id, safe='')}/exec"
        if self._restricted and not is_probe(argv):
            raise NotAllowed(
                "Check mode does not run this command in a container.",
                object_name=f"container {container_id[:12]}",
                expected="one of the probes that only ask",
                found="another command",
                remedy="Run without --check to do it.",
                code="not_allowed_in_check_mode",
            )
        body = {"AttachStdout": True, "AttachStderr": True, "Tty": False, "Cmd": list(argv)}
        reply = self._send("POST", self._prefix + path, json=body)
        if not reply.ok:
            raise EngineRefused(reply, "A command could not be prepared in a container.")
        made = reply.json()
        if not isinstance(made, dict) or not made.get("Id"):
            raise bad_answer(path, "an Id", "none")
        run = f"/exec/{made['Id']}"
        begin = f"{self._prefix}{run}/start"
        try:
            output = self._send(
                "POST", begin, json={"Detach": False, "Tty": False}, timeout=timeout, limit=OUTPUT_BYTES
            )
        except (Unreachable, BadAnswer) as error:
            if error.code not in ("timeout", "bad_answer"):
                raise
            slow = error.code == "timeout"
            raise type(error)(
                "A command in a container did not end in time." if slow else "A command in a container says too much.",
                object_name=f"container {container_id[:12]}: {argv[0]}",
                expected=f"its end within {timeout:g} s" if slow else f"at most {OUTPUT_BYTES} bytes of output",
                found=error.found,
                remedy="See what the container does; the command goes on in it until it ends by itself.",
                code="command_timeout" if slow else "command_output_too_long",
            ) from None
        if not output.ok:
            raise EngineRefused(output, "A command could not be run in a container.")
        deadline = time.monotonic() + _PAUSE_SECONDS * 20
        while True:
            state = self._get(f"{run}/json")
            if isinstance(state, dict) and not state.get("Running") and state.get("ExitCode") is not None:
                return Executed(int(state["ExitCode"]), *demultiplex(output.content))
            if time.monotonic() > deadline:
                raise bad_answer(begin, "the exit code of a command whose output has ended", "none")
            time.sleep(_PAUSE_SECONDS / 10)

    def _get(self, path: str, *, parsed: bool = True, filters: Mapping[str, Any] | None = None, **params: int) -> Any:
        """A read, tried again where the server says that it is busy."""
        asked: dict[str, str | int] = dict(params)
        if filters:
            asked["filters"] = orjson.dumps(filters).decode()
        for attempt in range(_TRIES):
            last = attempt == _TRIES - 1
            try:
                reply = self._send("GET", self._prefix + path, params=asked)
            except Unreachable:
                if last:
                    raise
            else:
                self._note_clock(reply)
                if reply.ok:
                    return reply.json() if parsed else None
                if last or reply.status not in _BUSY:
                    raise EngineRefused(reply, "The engine did not tell.")
            time.sleep(_PAUSE_SECONDS * (attempt + 1))
        raise AssertionError("unreachable")

    def _note_clock(self, reply: Reply) -> None:
        try:
            self._skew = (parsedate_to_datetime(reply.headers["date"]), time.monotonic())
        except (KeyError, ValueError):
            return

    def _each[Shape](self, path: str, found: object, shape: Callable[[Mapping[str, Any]], Shape]) -> list[Shape]:
        # Podman and older engines send null for an empty list.
        if found is not None and not isinstance(found, list):
            raise bad_answer(path, "a list", type(found).__name__)
        return [self._one(path, one, shape) for one in found or []]

    @staticmethod
    def _one[Shape](path: str, found: Any, shape: Callable[[Mapping[str, Any]], Shape]) -> Shape:
        try:
            return shape(found)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise bad_answer(path, "an object in the engine's shape", f"{type(error).__name__}: {error}") from None
