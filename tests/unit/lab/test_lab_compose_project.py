"""A compose stack of the lab's Portainer on an engine: what is made anew, and in which order, and what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lab.portainer.compose import DeployFailed
from lab.portainer.compose_project import ComposeProject
from lab.portainer.store import COMPOSE_STACK, Stack

FILE = """
networks: {net: {external: true, name: the-net}}
services:
  web: {image: web, command: [serve], environment: ["LEVEL=${LEVEL:-INFO}", BARE], networks: {net: {ipv4_address: 198.18.1.2}}}
  other: {image: other, environment: {LEVEL: fixed}}
"""


class Engine:
    """Keeps what it is told to make; `missing` is an image that it does not have."""

    def __init__(self, missing: str = "") -> None:
        self.missing = missing
        self.known: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.made = 0

    async def ask(self, method: str, path: str, doing: str, *, params: Any = None, content: Any = None) -> Any:
        if method == "GET":
            wanted = [one.partition("=") for one in json.loads(params["filters"])["label"]]
            return [
                {"Id": number, "Labels": one["Labels"]}
                for number, one in self.known.items()
                if all(one["Labels"].get(key) == value for key, _, value in wanted)
            ]
        number = path.split("/")[2]
        if method == "DELETE":
            doing = f"{doing} {self.known.pop(number)['name']}"
        elif number == "create":
            if content["Image"] == self.missing:
                raise DeployFailed("No such image")
            self.made += 1
            self.known[f"id{self.made}"] = {**content, "name": params["name"]}
            self.asked.append(f"create {params['name']}")
            return {"Id": f"id{self.made}"}
        elif path.endswith("/rename"):
            self.known[number]["name"] = params["name"]
        self.asked.append(doing)
        return None


def up(engine: Engine, file: str = FILE, **env: str) -> list[str]:
    pairs = [{"name": name, "value": value} for name, value in env.items()]
    stack = Stack(1, "project", file, pairs, COMPOSE_STACK)
    engine.asked.clear()
    return asyncio.run(ComposeProject(engine, stack).up(pull=False))  # type: ignore[arg-type] # answers alike


def test_what_is_configured_otherwise_is_made_anew_and_nothing_else() -> None:
    engine = Engine()
    assert up(engine) == ["web", "other"]
    web = engine.known["id1"]
    assert (web["name"], web["Env"], web["HostConfig"]["NetworkMode"]) == ("project-web-1", ["LEVEL=INFO"], "the-net")
    assert web["NetworkingConfig"]["EndpointsConfig"]["the-net"]["IPAMConfig"] == {"IPv4Address": "198.18.1.2"}
    up(engine)
    assert engine.asked == ["start service web", "start service other"]
    up(engine, LEVEL="DEBUG", BARE="x")
    assert engine.asked == [
        *("create id1_project-web-1", "stop", "remove project-web-1", "rename", "start service web"),
        "start service other",
    ]
    assert {one["name"]: one["Env"] for one in engine.known.values()} == {
        "project-web-1": ["BARE=x", "LEVEL=DEBUG"],
        "project-other-1": ["LEVEL=fixed"],
    }
    up(engine, LEVEL="DEBUG", BARE="y")  # nothing but what the file does not write out
    assert "stop" in engine.asked


def test_a_deployment_that_is_refused_leaves_what_runs() -> None:
    engine = Engine(missing="web2")
    up(engine)
    before = dict(engine.known)
    for file, told in (
        (FILE.replace("image: web,", "image: web2,"), "No such image"),
        (FILE.replace("image: web,", "image: web, secrets: [a],"), "does not know secrets"),
        (FILE.replace("{external: true, name: the-net}", "{}"), "only external ones"),
        (FILE.replace("image: web,", ""), "neither an image"),
    ):
        with pytest.raises(DeployFailed, match=told):
            up(engine, file)
        assert engine.known == before


def test_a_stopped_stack_has_no_containers() -> None:
    engine = Engine()
    up(engine)
    project = ComposeProject(engine, Stack(1, "project", FILE, [], COMPOSE_STACK))  # type: ignore[arg-type] # answers alike
    asyncio.run(project.down(("web",)))
    assert [one["name"] for one in engine.known.values()] == ["project-web-1"]
    asyncio.run(project.down())
    assert engine.known == {}
