"""The one node of the lab's Swarm: pulls images, starts and watches the process of a task, and stops it."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from ..state import HOST
from .faults import Lab
from .objects import JSON, Container, Service, Task, now
from .processes import Port, kill_group, start
from .store import Store

_NANO = 1_000_000_000
_HTTP_CHECK = re.compile(r"https?://(?:localhost|127\.0\.0\.1):(\d+)(/[^\s'\"]*)?")
_TCP_CHECK = re.compile(r"(?:localhost|127\.0\.0\.1)['\"]?,\s*(\d+)")
_NEVER_READY = ["python", "-c", "import time\ntime.sleep(10**6)"]
_FAILS = ["python", "-c", "import sys\nprint('the lab lets this start fail')\nsys.exit(3)"]


class Move(Protocol):
    """Puts a task into a state, with Swarm's message and error."""

    def __call__(self, state: str, message: str, error: str = "") -> None: ...


class Node:
    """Runs tasks. Images are those of the store; a pulled one is known by its digest."""

    def __init__(self, store: Store, lab: Lab) -> None:
        self._store = store
        self._lab = lab
        self._ports: dict[int, Port] = {}

    def pullable(self, image: str) -> bool:
        """Whether the registry hands this image out."""
        name = image.partition("@")[0]
        refused = any(part in name for part in self._lab.faults.not_pulled)
        return self._named(name) in self._store.images and not refused

    async def run(self, service: Service, task: Task, move: Move, delay: float) -> bool:
        """Carry one task through its life. True when its container was restarted by a person and is to run again."""
        spec: JSON = task.spec["ContainerSpec"]
        image = str(spec["Image"])
        if task.container is None:
            for state in ("pending", "assigned", "accepted", "preparing"):
                move(state, state)
                await asyncio.sleep(0)
            if self._named(image.partition("@")[0]) not in self._store.images or not (
                "@" in image or self.pullable(image)
            ):
                move("rejected", "preparing", f"No such image: {image}")
                return False
            move("ready", "prepared")
            if delay:
                await asyncio.sleep(delay)
                task.desired = "running"
            task.container = self._create(service, task)
        container = task.container
        move("starting", "starting")
        if problem := await self._start(container):
            container.state, container.error, container.exit_code = "created", problem, 127
            move("failed", "starting", f"starting container failed: {problem}")
            return False
        container.restarting = False
        container.health = "starting" if spec.get("Healthcheck") else ""
        watch = asyncio.create_task(self._watch(container, spec.get("Healthcheck"), lambda: move("running", "started")))
        try:
            code = await container.process.wait() if container.process else 0
        except asyncio.CancelledError:
            await self.stop(container)
            raise
        finally:
            watch.cancel()
        self._finish(container, code)
        unhealthy = container.health == "unhealthy"
        if task.desired == "shutdown":
            move("shutdown", "shutdown")
        elif container.exit_code == 0 and container.restarting:
            return True
        elif container.exit_code == 0 and not unhealthy:
            move("complete", "finished")
        else:
            reason = ": dockerexec: unhealthy container" if unhealthy else ""
            move("failed", "started", f"task: non-zero exit ({container.exit_code}){reason}")
        return False

    async def stop(self, container: Container) -> None:
        """SIGTERM, and SIGKILL when its grace is over; its execs end with it."""
        process = container.process
        if process is None or process.returncode is not None:
            return
        kill_group(process, signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), container.grace)
        kill_group(process)
        await process.wait()
        for execution in container.execs:
            kill_group(execution)

    def forget(self, task: Task) -> None:
        """Remove what a task that nobody remembers any more left behind."""
        if task.container is not None:
            task.container.log.unlink(missing_ok=True)

    def _named(self, image: str) -> str:
        return image if ":" in image.rpartition("/")[2] else f"{image}:latest"

    def _create(self, service: Service, task: Task) -> Container:
        spec: JSON = task.spec["ContainerSpec"]
        image = str(spec["Image"])
        name = f"{service.name}.{task.slot}.{task.id}"
        argv = list(spec.get("Args") or self._store.images[self._named(image.partition("@")[0])].command)
        faults = self._lab.faults
        if faults.concerns(faults.never_ready, service.name):
            argv = _NEVER_READY
        elif faults.concerns(faults.start_fails, service.name):
            argv = _FAILS
        labels = {
            **(spec.get("Labels") or {}),
            "com.docker.swarm.node.id": self._store.node_id,
            "com.docker.swarm.service.id": service.id,
            "com.docker.swarm.service.name": service.name,
            "com.docker.swarm.task": "",
            "com.docker.swarm.task.id": task.id,
            "com.docker.swarm.task.name": name,
        }
        return Container(
            name,
            image,
            argv,
            list(spec.get("Env") or []),
            labels,
            self._store.folder / "logs" / f"{task.id}.log",
            service.ports,
            int(spec.get("StopGracePeriod") or 10 * _NANO) / _NANO,
        )

    async def _start(self, container: Container) -> str:
        """Start the process; returns what went wrong, '' for nothing."""
        published = next((int(port.get("PublishedPort") or 0) for port in container.ports), 0)
        try:
            handed = self._port(published).socket()
        except OSError as error:
            return f"driver failed programming external connectivity on endpoint {container.name}: {error.strerror}"
        image = self._store.images[self._named(container.image.partition("@")[0])]
        env = {**image.environment, **container.environment()}
        with handed, container.log.open("ab") as log:
            argv = [part.replace("{fd}", str(handed.fileno())) for part in container.argv]
            try:
                container.process = await start(
                    argv, env, output=log.fileno(), errors=log.fileno(), pass_fds=[handed.fileno()]
                )
            except OSError as error:
                reason = (
                    "executable file not found in $PATH" if isinstance(error, FileNotFoundError) else error.strerror
                )
                return f'exec: "{argv[0]}": {reason}: unknown'
        container.state, container.started, container.finished = "running", now(), None
        return ""

    def _port(self, number: int) -> Port:
        known = [*self._store.ports.values(), *self._ports.values()]
        found = next((port for port in known if port.number == number), None)
        if found is None:
            found = Port(number)
            self._ports[found.number] = found
        return found

    async def _watch(self, container: Container, check: JSON | None, healthy: Callable[[], None]) -> None:
        """A task without a health check runs as soon as its process does; with one, when it is healthy."""
        if not check:
            healthy()
            return
        interval, period = (int(check.get(name) or 0) / _NANO for name in ("Interval", "StartPeriod"))
        begun, failures = asyncio.get_running_loop().time(), 0
        while True:
            await asyncio.sleep(interval or 30)
            if await self._passes(check):
                failures = 0
                if container.health != "healthy":
                    container.health = "healthy"
                    healthy()
                continue
            in_grace = container.health == "starting" and asyncio.get_running_loop().time() - begun < period
            failures += not in_grace
            if failures >= int(check.get("Retries") or 3):
                container.health = "unhealthy"
                if container.process is not None:
                    kill_group(container.process)
                return

    async def _passes(self, check: JSON) -> bool:
        """What the health check's command would find out, asked without starting an interpreter for it."""
        text = " ".join(map(str, check.get("Test") or []))
        http = _HTTP_CHECK.search(text)
        match = http or _TCP_CHECK.search(text)
        if match is None:
            return True
        try:
            async with asyncio.timeout(int(check.get("Timeout") or 30 * _NANO) / _NANO):
                reader, writer = await asyncio.open_connection(HOST, int(match[1]))
                try:
                    if not http:
                        return True
                    path = match[2] or "/"
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                    return (await reader.readline())[9:10] in (b"2", b"3")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    @staticmethod
    def _finish(container: Container, code: int) -> None:
        container.exit_code = 128 - code if code < 0 else code
        container.state, container.finished = "exited", now()
        for execution in container.execs:
            kill_group(execution)
