"""The variables of a compose stack: its containers are made anew, compared, and made anew once more when they do not come up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from archon_align.docker.engine import EngineRefused
from archon_align.docker.objects import COMPOSE_SERVICE_LABEL, COMPOSE_STACK_LABEL, Container
from archon_align.errors import AlignError
from archon_align.portainer.objects import COMPOSE, Stack
from archon_align.services.installation import Containers, Found
from archon_align.services.readiness import Readiness
from archon_align.services.stack_change import KeptStack, change, photograph, planned
from archon_align.web.wire import Reply

START = datetime(2026, 1, 1, tzinfo=UTC)
FILE = """
services:
  archon-server: {image: archon/archon-server, environment: ["KEY=${KEY}", "LEVEL=${LEVEL:-INFO}", "FIXED=yes"]}
  archon-mcp: {image: archon/archon-mcp}
"""
SECRET = "secret-of-the-stack"


def made(service: str, number: int, environment: Mapping[str, str], **fields: Any) -> Container:
    """The container that compose makes of a service, for the `number`th time."""
    labels = {COMPOSE_STACK_LABEL: "project", COMPOSE_SERVICE_LABEL: service}
    return Container(
        f"{service}{number}", f"project-{service}-1", f"archon/{service}", "running", "", START, labels, (),
        START + timedelta(hours=number), dict(environment), **fields,
    )  # fmt: skip


class Engine:
    """Answers as the client of an engine does, from the containers that a deployment has left."""

    def __init__(self) -> None:
        self.known = {one.id: one for one in (made("archon-server", 1, server()), made("archon-mcp", 1, {}))}

    def containers(self, labels: Mapping[str, str] | None = None) -> list[Container]:
        assert labels == {COMPOSE_STACK_LABEL: "project"}
        return [replace(one, environment={}, configuration={}) for one in self.known.values()]

    def container(self, number: str) -> Container:
        if number not in self.known:
            raise EngineRefused(Reply(f"GET /containers/{number}/json", 404, {}, b'{"message": "no"}'), "No.")
        return self.known[number]

    def execute(self, number: str, *_: object, **__: object) -> Any:
        raise EngineRefused(Reply(f"POST /containers/{number}/exec", 403, {}, b'{"message": "no"}'), "No.")

    def logs(self, number: str, *, lines: int) -> str:
        return f"{lines} lines of {number}: Invalid API key {SECRET}\n"


def server(**other: str) -> dict[str, str]:
    return {"KEY": SECRET, "LEVEL": "INFO", "FIXED": "yes", **other}


class Portainer:
    """Deploys as compose does: a container whose environment is another one is made anew. `spoils` does more, or less."""

    def __init__(self, engine: Engine, spoils: str = "") -> None:
        self.engine = engine
        self.spoils = spoils
        self.variables = {"KEY": SECRET, "OTHER": "kept"}
        self.deployed: list[dict[str, str]] = []

    def stack(self, number: int) -> Stack:
        return Stack(number, "project", COMPOSE, 1, True, self.variables)

    def stack_file(self, _number: int) -> str:
        return FILE

    def update_stack(self, _stack: Stack, environment: Mapping[str, str], file: str) -> None:
        assert file == FILE
        self.variables = dict(environment)
        self.deployed.append(self.variables)
        number = len(self.deployed) + 1
        first = number == 2
        fields: dict[str, Any] = {"state": "exited"} if self.spoils == "end" and first else {}
        if self.spoils == "image" and first:
            fields["configuration"] = {"Image": "another"}
        level = self.variables.get("LEVEL", "INFO")
        if self.spoils == "deaf" and first:
            level = "INFO"
        new = replace(made("archon-server", number, server(LEVEL=level)), **fields)
        neighbours = [one for one in self.engine.known.values() if one.service != "archon-server"]
        if self.spoils == "neighbour" and first:
            neighbours = []
        elif self.spoils == "neighbour":
            neighbours = [made("archon-mcp", number, {})]
        self.engine.known = {one.id: one for one in [new, *neighbours]}


def work(spoils: str = "") -> tuple[KeptStack, Portainer, Found]:
    engine = Engine()
    portainer = Portainer(engine, spoils)
    installation = Containers("portainer", "project", engine)  # type: ignore[arg-type]
    kept = KeptStack(portainer, portainer.stack(1), installation)  # type: ignore[arg-type]
    return kept, portainer, next(one for one in installation.services() if one.role == "server")


def changed(kept: KeptStack, found: Found) -> None:
    plan = planned(kept, found, {"LEVEL": "DEBUG"})
    change(kept, found, plan.changes, Readiness(), before=photograph(kept), seconds=60)


def test_a_container_that_compose_has_made_anew_is_found_by_its_labels() -> None:
    kept, portainer, found = work()
    assert [finding.code for finding in planned(kept, found, {"FIXED": "no"}).findings] == ["environment_not_passed"]
    changed(kept, found)
    assert portainer.deployed == [{"KEY": SECRET, "OTHER": "kept", "LEVEL": "DEBUG"}]
    now = next(one for one in kept.installation.services() if one.key == found.key)
    assert (now.id, found.id, now.name) == ("archon-server2", "archon-server1", found.name)
    assert planned(kept, now, {"LEVEL": "DEBUG"}).changes == ()


@pytest.mark.parametrize(
    ("spoils", "told"),
    [
        ("end", "the container is exited; its log ends: 12 lines of archon-server2: Invalid API key (not shown)"),
        ("image", "more than these variables of service project-archon-server-1 changed"),
        ("neighbour", "service project-archon-mcp-1 is gone"),
        ("deaf", "the service does not have them: LEVEL"),
    ],
)
def test_what_is_not_as_it_was_planned_is_put_back(spoils: str, told: str) -> None:
    kept, portainer, found = work(spoils)
    with pytest.raises(AlignError) as caught:
        changed(kept, found)
    assert caught.value.code == "stack_not_changed"
    assert told in caught.value.found
    assert "the former variables were put back" in caught.value.found
    assert SECRET not in str(caught.value)
    assert portainer.deployed[1:] == [{"KEY": SECRET, "OTHER": "kept"}]
    assert kept.installation.configured()[found.key].environment == server()


def test_a_container_that_is_gone_and_not_made_anew_is_waited_for() -> None:
    kept, portainer, found = work()
    del portainer.engine.known[found.id]
    progress = kept.installation.progress(found)
    assert (progress.done, progress.problem) == (False, "")


def test_containers_of_no_kept_stack_have_their_environment_for_life() -> None:
    kept, _, found = work()
    for nobody, one in ((None, found), (kept, replace(found, service=""))):
        plan = planned(nobody, one, {"LEVEL": "DEBUG"})
        assert plan.changes == ()
        assert [finding.code for finding in plan.findings] == ["environment_not_changed"]
    assert planned(None, found, {"LEVEL": "INFO"}).findings == ()
