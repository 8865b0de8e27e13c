"""Brings services to what is wanted as Swarm does: tasks with history, restarts, updates stop-first, pauses and rollbacks."""

from __future__ import annotations

import asyncio
import copy
import hashlib
from collections.abc import Callable

from .compose import IMAGE_LABEL
from .faults import Lab
from .node import Node
from .objects import JSON, Container, Service, Task, now, stamp
from .processes import kill_group
from .store import Store

_HISTORY = 5  # ended tasks that are remembered of each slot
_NANO = 1_000_000_000


class Refused(Exception):
    """An error of the Docker engine: its status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Swarm:
    """One manager with one node: the machine that the lab runs on."""

    def __init__(self, store: Store, lab: Lab) -> None:
        self._store = store
        self._lab = lab
        self._index = 10
        self.node = Node(store, lab)
        self.services: dict[str, Service] = {}

    # -- what is asked of it

    def find(self, reference: str) -> Service:
        """A service by id, name or unambiguous start of an id. Raises Refused."""
        for service in self.services.values():
            if reference in (service.id, service.name):
                return service
        near = [service for service in self.services.values() if reference and service.id.startswith(reference)]
        if len(near) == 1:
            return near[0]
        raise Refused(404, f"service {reference} not found")

    def tasks(self) -> list[Task]:
        return [task for service in self.services.values() for task in service.tasks]

    def containers(self) -> list[Container]:
        return [task.container for task in self.tasks() if task.container is not None]

    def container(self, reference: str) -> Container:
        """A container by id, name or unambiguous start of an id. Raises Refused."""
        near = []
        for container in self.containers():
            if reference in (container.id, container.name):
                return container
            if reference and container.id.startswith(reference):
                near.append(container)
        if len(near) == 1:
            return near[0]
        raise Refused(404, f"No such container: {reference}")

    def pinned(self, image: str) -> tuple[str, list[str] | None]:
        """The image with its digest, or as it is and a warning when the registry does not know it."""
        name = image.partition("@")[0]
        if self.node.pullable(name):
            return f"{name}@sha256:{hashlib.sha256(name.encode()).hexdigest()}", None
        return image, [
            f"unable to pin image {image} to digest: errors: denied: requested access to the resource is denied"
        ]

    # -- what is done to it

    def create(self, spec: JSON) -> Service:
        """Add a service. Raises Refused."""
        self._check(spec, None)
        service = Service(copy.deepcopy(spec), self._next())
        self.services[service.id] = service
        self._reconcile(service)
        return service

    def update(self, service: Service, spec: JSON) -> None:
        """Make this the service's whole spec. Raises Refused."""
        self._check(spec, service)
        service.previous, service.previous_spec_version = service.spec, service.spec_version
        changed = service.spec["TaskTemplate"] != spec["TaskTemplate"] or service.spec.get("EndpointSpec") != spec.get("EndpointSpec")  # fmt: skip
        service.spec = copy.deepcopy(spec)
        service.status = None
        if changed:
            service.spec_version = self._index + 1
        self._touch(service)
        self._reconcile(service)

    def force_update(self, service: Service) -> None:
        spec = copy.deepcopy(service.spec)
        spec["TaskTemplate"]["ForceUpdate"] = int(spec["TaskTemplate"].get("ForceUpdate") or 0) + 1
        self.update(service, spec)

    def roll_back(self, service: Service, reason: str = "manually requested rollback") -> None:
        """Exchange the spec with the one before. Raises Refused when there is none."""
        if service.previous is None:
            raise Refused(400, f"rpc error: code = FailedPrecondition desc = service {service.id} does not have a previous spec")  # fmt: skip
        service.spec, service.previous = service.previous, service.spec
        service.spec_version, service.previous_spec_version = service.previous_spec_version, service.spec_version
        service.status = {"State": "rollback_started", "StartedAt": stamp(now()), "Message": reason}
        self._touch(service)
        self._reconcile(service)

    async def remove(self, service: Service) -> None:
        """Take a service and its tasks away."""
        self.services.pop(service.id, None)
        if service.updater is not None:
            service.updater.cancel()
        await asyncio.gather(*(self._shut_down(task) for task in service.tasks))
        for task in service.tasks:
            self.node.forget(task)

    def given_up(self) -> dict[str, str]:
        """Services with a slot that nobody tries to fill any more, with the last error there and the end of its log."""
        found = {}
        for service in self.services.values():
            if service.updater is not None and not service.updater.done():
                continue
            for slot in range(1, service.replicas + 1):
                tried = [task for task in service.tasks if task.slot == slot]
                if tried and all(task.ended and task.desired == "shutdown" for task in tried):
                    log = tried[-1].container.log if tried[-1].container else None
                    words = log.read_text(errors="replace").split() if log and log.exists() else []
                    found[service.name] = f"{tried[-1].error or tried[-1].state} {' '.join(words)[-300:]}".strip()
        return found

    def revive(self) -> None:
        """Fill slots that have run out of tries, as after a person's `force update`; what runs is left alone."""
        for service in self.services.values():
            if any(service.current(slot) is None for slot in range(1, service.replicas + 1)):
                self._reconcile(service)

    async def restart(self, container: Container) -> None:
        """`docker restart`: the process ends; if that looks like a failure, Swarm replaces the task at once."""
        if container.process is None:
            return
        container.restarting = True
        await self.node.stop(container)

    def end(self) -> None:
        """Kill everything, at once."""
        for container in self.containers():
            for process in (container.process, *container.execs):
                if process is not None:
                    kill_group(process)

    # -- inside

    def _next(self) -> int:
        self._index += 1
        return self._index

    def _touch(self, service: Service) -> None:
        service.version, service.updated = self._next(), now()

    def _check(self, spec: JSON, service: Service | None) -> None:
        def invalid(text: str, code: str = "InvalidArgument", status: int = 400) -> Refused:
            return Refused(status, f"rpc error: code = {code} desc = {text}")

        container = ((spec.get("TaskTemplate") or {}) if isinstance(spec, dict) else {}).get("ContainerSpec")
        if not isinstance(container, dict):
            raise invalid("TaskSpec: missing runtime")
        if not spec.get("Name"):
            raise invalid("name must be valid as a DNS name component")
        if not container.get("Image"):
            raise invalid("ContainerSpec: image reference must be provided")
        if not isinstance(((spec.get("Mode") or {}).get("Replicated") or {}).get("Replicas"), int):
            raise invalid("service mode change is not allowed" if service else "service mode must be given", "Unimplemented", 501)  # fmt: skip
        if service is not None and service.name != spec["Name"]:
            raise invalid("renaming services is not supported", "Unimplemented", 501)
        for other in self.services.values():
            if other is service:
                continue
            if other.name == spec["Name"]:
                raise invalid(f"name conflicts with an existing object: service {other.name} already exists", "AlreadyExists", 409)  # fmt: skip
            taken = {port.get("PublishedPort") for port in other.ports}
            for port in (spec.get("EndpointSpec") or {}).get("Ports") or []:
                if port.get("PublishedPort") in taken:
                    raise invalid(f"port '{port['PublishedPort']}' is already in use by service '{other.name}' ({other.id}) as an ingress port")  # fmt: skip

    def _reconcile(self, service: Service) -> None:
        if service.updater is not None:
            service.updater.cancel()
        service.restarts.clear()
        service.updater = asyncio.create_task(self._bring_about(service))

    async def _bring_about(self, service: Service) -> None:
        for extra in [task for task in service.tasks if task.slot > service.replicas and task.desired != "shutdown"]:
            await self._shut_down(extra)
        slots = range(1, service.replicas + 1)
        outdated = [slot for slot in slots if (task := service.current(slot)) and task.spec_version != service.spec_version]  # fmt: skip
        if outdated and service.status is None:
            service.status = {"State": "updating", "StartedAt": stamp(now()), "Message": "update in progress"}
            self._touch(service)
        for slot in slots:
            current = service.current(slot)
            if current is not None and slot not in outdated:
                continue
            for leaving in [task for task in service.tasks if task.slot == slot and not task.ended]:
                await self._shut_down(leaving)
            made = self._start_task(service, slot)
            if slot in outdated and not await self._survives(service, made):
                self._update_failed(service, made)
                return
        self._update_done(service)

    async def _survives(self, service: Service, task: Task) -> bool:
        """Whether a new task runs and still does when the time to monitor it is over."""
        while task.state != "running" and not task.ended:
            task.moved.clear()
            await task.moved.wait()
        monitor = int((service.spec.get("UpdateConfig") or {}).get("Monitor") or 5 * _NANO) / _NANO
        deadline = asyncio.get_running_loop().time() + monitor
        while not task.ended:
            task.moved.clear()
            try:
                await asyncio.wait_for(task.moved.wait(), deadline - asyncio.get_running_loop().time())
            except TimeoutError:
                return True
        return False

    def _update_done(self, service: Service) -> None:
        if service.status and service.status["State"] in ("updating", "rollback_started"):
            updating = service.status["State"] == "updating"
            service.status["State"] = "completed" if updating else "rollback_completed"
            service.status["Message"] = "update completed" if updating else "rollback completed"
            service.status["CompletedAt"] = stamp(now())
            self._touch(service)

    def _update_failed(self, service: Service, task: Task) -> None:
        why = f"due to failure or early termination of task {task.id}"
        rolling_back = (service.status or {}).get("State") == "rollback_started"
        action = (service.spec.get("UpdateConfig") or {}).get("FailureAction") or "pause"
        if action == "rollback" and not rolling_back and service.previous is not None:
            service.updater = None  # it is this very coroutine, which ends here
            self.roll_back(service, f"update rolled back {why}")
            return
        if action == "continue":
            self._update_done(service)
            return
        service.status = {
            **(service.status or {}),
            "State": "rollback_paused" if rolling_back else "paused",
            "Message": f"{'rollback' if rolling_back else 'update'} paused {why}",
        }
        self._touch(service)

    def _start_task(self, service: Service, slot: int, *, delay: float = 0) -> Task:
        task = Task(service.id, slot, copy.deepcopy(service.spec["TaskTemplate"]), service.spec_version, self._next())
        task.desired = "ready" if delay else "running"
        service.tasks.append(task)
        self._forget_old(service, slot)
        task.work = asyncio.create_task(self._run(service, task, delay))
        return task

    async def _run(self, service: Service, task: Task, delay: float) -> None:
        def move(state: str, message: str, error: str = "") -> None:
            task.state, task.message, task.error = state, message, error
            task.changed, task.version = now(), self._next()
            task.moved.set()

        again = True
        while again:
            again = await self.node.run(service, task, move, delay)
        if task.desired != "shutdown":
            self._ended(service, task)

    def _ended(self, service: Service, task: Task) -> None:
        """A task ended that nobody wanted to end: try again, as the restart policy allows."""
        policy = task.spec.get("RestartPolicy") or {}
        condition = policy.get("Condition") or "any"
        again = condition == "any" or (condition == "on-failure" and task.state != "complete")
        task.desired = "shutdown"
        attempts, tried = int(policy.get("MaxAttempts") or 0), service.restarts.get(task.slot, 0)
        if not again or (attempts and tried >= attempts) or service.id not in self.services:
            return
        if service.current(task.slot) is not None or task.slot > service.replicas:
            return
        service.restarts[task.slot] = tried + 1
        self._start_task(service, task.slot, delay=int(policy.get("Delay") or 5 * _NANO) / _NANO)

    async def _shut_down(self, task: Task) -> None:
        task.desired = "shutdown"
        if task.stopping is None:
            task.stopping = asyncio.create_task(self._stop_task(task))
        # Once begun it is carried to its end, even if whoever waits for it is called off by another update.
        await asyncio.shield(task.stopping)

    async def _stop_task(self, task: Task) -> None:
        if task.container is not None and task.container.state == "running":
            await self.node.stop(task.container)
        elif task.work is not None and not task.ended:
            task.work.cancel()
        if task.work is not None:
            await asyncio.wait([task.work])
        if not task.ended:
            task.state, task.message, task.changed, task.version = "shutdown", "shutdown", now(), self._next()
            task.moved.set()

    def _forget_old(self, service: Service, slot: int) -> None:
        old = [task for task in service.tasks if task.slot == slot and task.ended]
        for task in old[:-_HISTORY]:
            service.tasks.remove(task)
            self.node.forget(task)


def deploy(swarm: Swarm, specs: list[JSON], stack: str, *, pull: bool) -> list[str]:
    """`docker stack deploy`: create or update each service; returns the names. Raises Refused with the first failure."""
    known = {service.name: service for service in swarm.services.values() if service.stack == stack}
    for spec in specs:
        container, existing = spec["TaskTemplate"]["ContainerSpec"], known.get(spec["Name"])
        if existing is None:
            container["Image"], _ = swarm.pinned(container["Image"])
            _told("create", spec["Name"], lambda spec=spec: swarm.create(spec))  # type: ignore[misc]
            continue
        before = existing.spec["TaskTemplate"]
        spec["TaskTemplate"]["ForceUpdate"] = before.get("ForceUpdate") or 0
        if pull:
            container["Image"], _ = swarm.pinned(container["Image"])
        elif (existing.spec.get("Labels") or {}).get(IMAGE_LABEL) == container["Image"]:
            container["Image"] = before["ContainerSpec"]["Image"]
        _told("update", spec["Name"], lambda spec=spec, existing=existing: swarm.update(existing, spec))  # type: ignore[misc]
    return [spec["Name"] for spec in specs]


def _told(verb: str, name: str, act: Callable[[], object]) -> None:
    try:
        act()
    except Refused as refused:
        text = f"failed to {verb} service {name}: Error response from daemon: {refused.message}"
        raise Refused(refused.status, text) from refused
