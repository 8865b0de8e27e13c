"""PROD's Archon as a compose stack that Portainer keeps: stack.py NAME (one of STORIES).

What is so is asked of podman, of Portainer's own API and of Archon's address; what was so before is kept in a file.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from runs import FOLDER, LIMIT, NET, PREFIX, PROJECT, Wrong, playing, podman, run_driver, wait

STACK = f"{PREFIX}-stack"
SERVER, MCP = f"{STACK}-archon-server", f"{STACK}-archon-mcp"
_REMEMBERED = FOLDER / "before" / "stack.json"
_CONTAINERS = ("ps", "--all", "--filter", f"label=com.docker.compose.project={STACK}")
_HASH = "com.docker.compose.config-hash"
_WRONG_KEY = "a-key-that-is-none"
# Seconds; a server that ends is noticed long before.
_READY = 90
# What the run changes: variables of the stack, and with them the server's environment.
WANTED = {
    "EMBEDDING_PROVIDER": "ollama",
    "EMBEDDING_BASE_URL": f"http://{NET}.12:11434/v1",
    "LOG_LEVEL": "DEBUG",
}
JSON = dict[str, Any]


def portainer() -> httpx.Client:
    """Portainer's API as its administrator has it."""
    told = json.loads((FOLDER / "portainer.json").read_text())
    trust = ssl.create_default_context(cafile=told["ca_file"])
    key = {"X-API-Key": Path(told["api_key_file"]).read_text().strip()}
    return httpx.Client(base_url=f"{told['url']}/api", verify=trust, headers=key, timeout=LIMIT, trust_env=False)


def container(name: str) -> JSON:
    """What podman says of a container: which one it is, and how it was made."""
    told = json.loads(podman("container", "inspect", name))[0]
    config, host = told["Config"], told["HostConfig"]
    return {
        "id": told["Id"],
        "started": told["State"]["StartedAt"],
        "state": told["State"]["Status"],
        "environment": dict(item.partition("=")[::2] for item in config["Env"]),
        "made": {
            "image": told["Image"],
            "command": [config["Entrypoint"], config["Cmd"], config["WorkingDir"], config["User"], config["StopSignal"]],
            "hostname": config["Hostname"],
            "labels": {key: value for key, value in config["Labels"].items() if key != _HASH},
            "mounts": sorted((one["Destination"], one["Source"], one["RW"]) for one in told["Mounts"]),
            "networks": {name: one["IPAddress"] for name, one in told["NetworkSettings"]["Networks"].items()},
            "rights": [host["CapAdd"], host["CapDrop"], host["Privileged"], host["RestartPolicy"]],
        },
    }  # fmt: skip


def picture() -> JSON:
    """The stack as Portainer has it, and its containers as the engine has them."""
    with portainer() as client:
        stack = next(one for one in client.get("/stacks").raise_for_status().json() if one["Name"] == STACK)
        file = client.get(f"/stacks/{stack['Id']}/file").raise_for_status().json()
    found = {
        "variables": {one["name"]: one["value"] for one in stack["Env"]},
        "file": file,
        SERVER: container(SERVER),
        MCP: container(MCP),
        "containers": sorted(podman(*_CONTAINERS, "--format={{.Names}}").split()),
    }
    # What is written to a file and read again has lists for tuples.
    return dict(json.loads(json.dumps(found)))


def remembered() -> JSON:
    """The picture that was kept last."""
    return dict(json.loads(_REMEMBERED.read_text()))


def remember() -> str:
    """Keep what is so now."""
    _REMEMBERED.parent.mkdir(mode=0o700, exist_ok=True)
    _REMEMBERED.touch(mode=0o600)
    _REMEMBERED.write_text(json.dumps(picture()))
    return "kept"


def _require(what: str, found: object, expected: object) -> None:
    """Raises Wrong, without values: they may be secrets."""
    if found == expected:
        return
    names = ""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = ", ".join(sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)))
    raise Wrong(f"{what} should be otherwise: {names or 'see there'}")


def _require_but(before: JSON, now: JSON, changed: dict[str, str]) -> None:
    """The server is another container with these variables, and everything else is as before. Raises Wrong."""
    _require("the stack's variables", now["variables"], {**before["variables"], **changed})
    _require("the server's environment", now[SERVER]["environment"], {**before[SERVER]["environment"], **changed})
    _require("how the server was made", now[SERVER]["made"], before[SERVER]["made"])
    for same in ("file", MCP, "containers"):
        _require(same, now[same], before[same])
    if now[SERVER]["id"] == before[SERVER]["id"] or now[SERVER]["state"] != "running":
        raise Wrong(
            f"the server is {now[SERVER]['state']}, and {now[SERVER]['id'][:12]} as it was {before[SERVER]['id'][:12]}"
        )


def ready() -> bool:
    """Whether Archon says so at its address."""
    try:
        return httpx.get(f"http://{NET}.23:8181/health", timeout=LIMIT, trust_env=False).json()["ready"] is True
    except (httpx.TransportError, ValueError, KeyError):
        return False


def _lives(since: float) -> list[tuple[str, str]]:
    """What became of the server's containers by the engine's own log: which was started, and with which code it ended."""
    lines = podman(
        "events", "--stream=false", "--format=json", f"--since={since:.0f}", "--filter=type=container"
    ).splitlines()
    events = [json.loads(line) for line in lines if line.strip()]
    return [
        (one["ID"], "started" if one["Status"] == "start" else f"ended with {one.get('ContainerExitCode', 0)}")
        for one in events
        if one["Name"].endswith(SERVER) and one["Status"] in ("start", "died")
    ]


def bad_start() -> str:
    """A run changes a variable so that the server does not come up, says so, and puts back what was. Raises Wrong."""
    before = picture()
    since = time.time()
    unwanted = json.dumps({"archon_services_environment": {"SUPABASE_SERVICE_KEY": _WRONG_KEY}})
    with playing(
        "--tags=services", f"--extra-vars={unwanted}", f"--extra-vars=archon_services_ready_timeout={_READY}"
    ) as run:
        if run.end() == 0:
            raise Wrong(f"the run did not fail:\n{run.output[-6000:]}")
        run.expect(("failed",), "the former variables were put back, and the service is ready with them", "services")
        run.expect(("failed",), "stack_not_changed", "services")
        run.expect(("failed",), "Invalid API key", "services")  # the container's own log
        told = run.output + json.dumps(run.report)
        for name in ("SUPABASE_SERVICE_KEY", "SUPABASE_JWT_SECRET"):
            if before["variables"][name] in told:
                raise Wrong(f"the run has told the value of {name}")
        if _WRONG_KEY in told:
            raise Wrong("the run has told the value that it was given")
    now = picture()
    _require_but(before, now, {})
    if not ready():
        raise Wrong("the server is not ready")
    lives = _lives(since)
    refused = [one for one, became in lives if became == "ended with 3"]
    if len(refused) != 1 or refused[0] in (before[SERVER]["id"], now[SERVER]["id"]):
        raise Wrong(f"no container in between was refused its key: {lives}")
    remember()
    return f"three containers of the server, of which {refused[0][:12]} ended with exit code 3; as before"


def changed() -> str:
    """The run has changed what was wanted and nothing else, and the server was made anew with it. Raises Wrong."""
    before, now = remembered(), picture()
    _require_but(before, now, WANTED)
    if not ready():
        raise Wrong("the server is not ready")
    return f"{', '.join(sorted(WANTED))} changed; {before[SERVER]['id'][:12]} is {now[SERVER]['id'][:12]} now"


def _plain(given: JSON) -> Any:
    """ansible-inventory marks what came from outside."""
    return given["__ansible_unsafe"] if given.keys() == {"__ansible_unsafe"} else given


def inventory() -> str:
    """The inventory plugin has the containers, with what the engine says of them. Raises Wrong."""
    command = ["ansible-inventory", "--inventory", str(FOLDER / "containers.yml"), "--list"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=LIMIT, check=False)
    if listed.returncode:
        raise Wrong(f"there is no inventory: {listed.stderr[-2000:]}")
    found = json.loads(listed.stdout, object_hook=_plain)
    hosts = found["_meta"]["hostvars"]
    told = {name: (one["container_id"], one["container_state"], one["portainer_stack"]) for name, one in hosts.items()}
    expected = {name: (container(name)["id"], "running", STACK) for name in (SERVER, MCP)}
    if told != expected or sorted(found["archon_prod_containers"]["hosts"]) != sorted(expected):
        raise Wrong(f"the inventory has {told}, and {found.keys()}, not {expected}")
    return f"{', '.join(sorted(told))} as hosts"


def stop() -> str:
    """Portainer stops the stack, and none of its containers is left. Raises Wrong."""
    with portainer() as client:
        stack = next(one for one in client.get("/stacks").raise_for_status().json() if one["Name"] == STACK)
        if stack["Status"] == 1:
            client.post(f"/stacks/{stack['Id']}/stop", params={"endpointId": 1}).raise_for_status()
    wait("no container of the stack is left", lambda: not podman(*_CONTAINERS, "--quiet").split())
    return "stopped"


STORIES: dict[str, Callable[[], str]] = {
    "remember": remember,
    "bad_start": bad_start,
    "changed": changed,
    "inventory": inventory,
    "stop": stop,
}

if __name__ == "__main__":
    sys.exit(run_driver(lambda name: STORIES[name](), STORIES))
