"""The objects of the engine in the shapes of Docker's API."""

from __future__ import annotations

from datetime import datetime

from .objects import JSON, NODE_NAME, Container, Service, Task, now, stamp
from .store import Store

ENGINE_VERSION = "27.3.1"
API_VERSION, OLDEST_API = (1, 47), (1, 24)


def service(given: Service, *, status: bool = False) -> JSON:
    """A service, `status` with its numbers of tasks."""
    shape: JSON = {
        "ID": given.id,
        "Version": {"Index": given.version},
        "CreatedAt": stamp(given.created),
        "UpdatedAt": stamp(given.updated),
        "Spec": given.spec,
        "Endpoint": {"Spec": given.spec.get("EndpointSpec") or {}, "Ports": given.ports, "VirtualIPs": []},
    }
    if given.previous is not None:
        shape["PreviousSpec"] = given.previous
    if given.status is not None:
        shape["UpdateStatus"] = given.status
    if status:
        shape["ServiceStatus"] = {
            "RunningTasks": given.running(),
            "DesiredTasks": given.replicas,
            "CompletedTasks": sum(task.state == "complete" for task in given.tasks),
        }
    return shape


def task(given: Task, store: Store) -> JSON:
    """A task of Swarm."""
    status: JSON = {"Timestamp": stamp(given.changed), "State": given.state, "Message": given.message, "PortStatus": {}}
    if given.error:
        status["Err"] = given.error
    if given.container is not None:
        found = given.container
        status["ContainerStatus"] = {"ContainerID": found.id, "PID": found.pid, "ExitCode": found.exit_code}
    return {
        "ID": given.id,
        "Version": {"Index": given.version},
        "CreatedAt": stamp(given.created),
        "UpdatedAt": stamp(given.changed),
        "Labels": {},
        "Spec": given.spec,
        "ServiceID": given.service,
        "Slot": given.slot,
        "NodeID": store.node_id,
        "Status": status,
        "DesiredState": given.desired,
    }


def _ago(moment: datetime | None) -> str:
    seconds = int((now() - (moment or now())).total_seconds())
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return f"{seconds} second{'s' * (seconds > 1)}"
    if seconds < 3600:
        return "About a minute" if seconds < 120 else f"{seconds // 60} minutes"
    return "About an hour" if seconds < 7200 else f"{seconds // 3600} hours"


def _status(given: Container) -> str:
    if given.state == "running":
        health = {"": "", "starting": " (health: starting)"}.get(given.health, f" ({given.health})")
        return f"Up {_ago(given.started)}{health}"
    return "Created" if given.state == "created" else f"Exited ({given.exit_code}) {_ago(given.finished)} ago"


def listed_container(given: Container) -> JSON:
    """A container as in the list, with what Portainer adds to it."""
    # Swarm publishes at its ingress, which a container knows nothing of.
    ports = [{"PrivatePort": port["TargetPort"], "Type": "tcp"} for port in given.ports if given.state == "running"]
    return {
        "Id": given.id,
        "Names": [f"/{given.name}"],
        "Image": given.image,
        "ImageID": "sha256:" + given.image.rpartition("sha256:")[2].ljust(64, "0")[:64],
        "Command": " ".join(given.argv),
        "Created": int(given.created.timestamp()),
        "Ports": ports,
        "Labels": given.labels,
        "State": given.state,
        "Status": _status(given),
        "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
        "IsPortainer": False,
        "Portainer": {"ResourceControl": {"Id": 1, "Type": 6, "AdministratorsOnly": True}},
    }


def container(given: Container) -> JSON:
    """A container as inspected."""
    state: JSON = {
        "Status": given.state,
        "Running": given.state == "running",
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Dead": False,
        "Pid": given.pid,
        "ExitCode": given.exit_code,
        "Error": given.error,
        "StartedAt": stamp(given.started),
        "FinishedAt": stamp(given.finished),
    }
    if given.health:
        state["Health"] = {"Status": given.health, "FailingStreak": 0, "Log": []}
    return {
        "Id": given.id,
        "Created": stamp(given.created),
        "Path": given.argv[0],
        "Args": given.argv[1:],
        "State": state,
        "Image": listed_container(given)["ImageID"],
        "Name": f"/{given.name}",
        "RestartCount": 0,
        "Platform": "linux",
        "Config": {
            "Hostname": given.id[:12],
            "Env": given.env,
            "Cmd": given.argv,
            "Image": given.image,
            "Labels": given.labels,
            "Tty": False,
            "ExposedPorts": {f"{port['TargetPort']}/tcp": {} for port in given.ports},
        },
        "HostConfig": {"NetworkMode": "default", "RestartPolicy": {"Name": "", "MaximumRetryCount": 0}},
        "NetworkSettings": {"Ports": {f"{port['TargetPort']}/tcp": None for port in given.ports}, "Networks": {}},
        "Mounts": [],
    }


def info(store: Store, containers: list[Container]) -> JSON:
    """What GET /info says."""
    running = sum(found.state == "running" for found in containers)
    return {
        "ID": "5d4a8f1c-0b9e-4c52-9a53-1f7be1c4d0aa",
        "Containers": len(containers),
        "ContainersRunning": running,
        "ContainersPaused": 0,
        "ContainersStopped": len(containers) - running,
        "Images": len(store.images),
        "Driver": "overlay2",
        "SystemTime": stamp(now()),
        "OperatingSystem": "archon-align lab",
        "OSType": "linux",
        "Architecture": "x86_64",
        "NCPU": 2,
        "MemTotal": 8 << 30,
        "Name": NODE_NAME,
        "ServerVersion": ENGINE_VERSION,
        "Swarm": {
            "NodeID": store.node_id,
            "NodeAddr": "127.0.0.1",
            "LocalNodeState": "active",
            "ControlAvailable": True,
            "Error": "",
            "RemoteManagers": [{"NodeID": store.node_id, "Addr": "127.0.0.1:2377"}],
            "Nodes": 1,
            "Managers": 1,
            "Cluster": swarm(store),
        },
        "Warnings": None,
    }


def swarm(store: Store) -> JSON:
    """What GET /swarm says; the ID is what Portainer calls SwarmID."""
    return {
        "ID": store.swarm_id,
        "Version": {"Index": 10},
        "Spec": {"Name": "default", "Orchestration": {"TaskHistoryRetentionLimit": 5}},
    }


def version() -> JSON:
    """What GET /version says."""
    newest, oldest = (".".join(map(str, number)) for number in (API_VERSION, OLDEST_API))
    return {
        "Platform": {"Name": "Docker Engine - Community"},
        "Version": ENGINE_VERSION,
        "ApiVersion": newest,
        "MinAPIVersion": oldest,
        "GitCommit": "41ca978",
        "GoVersion": "go1.22.7",
        "Os": "linux",
        "Arch": "amd64",
        "KernelVersion": "6.1.0",
    }


def node(store: Store) -> JSON:
    """The one node."""
    return {
        "ID": store.node_id,
        "Version": {"Index": 9},
        "CreatedAt": "2025-01-01T00:00:00.000000000Z",
        "UpdatedAt": "2025-01-01T00:00:00.000000000Z",
        "Spec": {"Labels": {}, "Role": "manager", "Availability": "active"},
        "Description": {
            "Hostname": NODE_NAME,
            "Platform": {"Architecture": "x86_64", "OS": "linux"},
            "Engine": {"EngineVersion": ENGINE_VERSION},
        },
        "Status": {"State": "ready", "Addr": "127.0.0.1"},
        "ManagerStatus": {"Leader": True, "Reachability": "reachable", "Addr": "127.0.0.1:2377"},
    }
