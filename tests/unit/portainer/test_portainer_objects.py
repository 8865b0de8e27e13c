"""Portainer's own shapes, credentials that are never printed, and containers as hosts of an inventory."""

from __future__ import annotations

from typing import Any

import pytest
from archon_align.docker.objects import Container, Port
from archon_align.errors import AlignError
from archon_align.portainer.client import Access, without
from archon_align.portainer.discovery import NODE_LABEL, TASK_ID_LABEL, Wanted, host_variables, named
from archon_align.portainer.objects import environment_of, stack_of

SECRET = "hunter2-of-the-tests"


def test_a_stack_hides_its_variables() -> None:
    pairs = [
        {"name": "KEY", "value": SECRET},
        {"name": "EMPTY", "value": ""},
        {"name": "NULL", "value": None},
        {"name": "BARE"},
    ]
    found = stack_of({"Id": 3, "Name": "archon-prod", "EndpointId": 1, "Env": pairs, "GitConfig": None})
    assert found.environment == {"KEY": SECRET, "EMPTY": "", "NULL": "", "BARE": ""}
    assert (found.from_git, found.active, found.auto_update) == (False, True, False)
    assert SECRET not in repr(found)
    bound = stack_of({"Id": 3, "Name": "x", "Env": None, "GitConfig": {"ReferenceName": "refs/heads/main"}})
    assert (bound.from_git, bound.git_reference, bound.environment) == (True, "refs/heads/main", {})


def test_environments_of_all_kinds() -> None:
    swarm = environment_of({"Id": 1, "Name": "a", "Type": 1, "Status": 1, "Snapshots": [{"Swarm": True}]})
    assert (swarm.docker, swarm.swarm, swarm.up) == (True, True, True)
    kubernetes = environment_of({"Id": 2, "Name": "b", "Type": 5, "Status": 2, "Snapshots": None})
    assert (kubernetes.docker, kubernetes.swarm, kubernetes.up) == (False, False, False)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"url": "https://x"}, "no_credentials"),
        ({"url": "https://x", "username": "admin"}, "no_credentials"),
        ({"url": f"https://admin:{SECRET}@x:9443", "api_key": "k"}, "bad_variable"),
    ],
)
def test_access_that_cannot_be_used(given: dict[str, Any], code: str) -> None:
    with pytest.raises(AlignError) as told:
        Access(**given)
    assert told.value.code == code
    assert SECRET not in str(told.value)


def test_credentials_are_not_printed() -> None:
    assert SECRET not in repr(Access("https://x", api_key=SECRET))
    assert SECRET not in repr(Access("https://x", username="admin", password=SECRET))


def test_secrets_are_taken_out_of_a_message_longest_first() -> None:
    assert (
        without(f"cannot use {SECRET}-more: true", [SECRET, f"{SECRET}-more", "true", ""])
        == "cannot use (not shown): true"
    )


def container(name: str, **given: Any) -> Container:
    values: dict[str, Any] = {
        "id": f"{name}-id-of-64-digits",
        "image": "web:latest",
        "state": "running",
        "health": "",
        "created_at": None,
        "labels": {},
        "ports": (),
        **given,
    }
    return Container(name=name, **values)


def test_a_container_as_a_host_has_no_environment_variables() -> None:
    found = host_variables(
        container("web", environment={"KEY": SECRET}, labels={NODE_LABEL: "n1"}, ports=(Port(0, 80), Port(0, 81))),
        "lab",
        service_ports=(Port(8080, 80),),
    )
    assert SECRET not in repr(found)
    assert found["container_node"] == "n1"
    assert found["container_ports"] == [
        {"published": 8080, "target": 80, "protocol": "tcp"},
        {"published": 0, "target": 81, "protocol": "tcp"},
    ]
    assert host_variables(container("web", labels={NODE_LABEL: "n1"}), "lab", "node-1")["container_node"] == "node-1"


def hosts(*given: tuple[str, str, str, str]) -> list[dict[str, Any]]:
    return [
        host_variables(
            container(
                f"{name}.{task}" if task else name,
                id=f"{index:012x}".ljust(64, "0"),
                state=state,
                labels={TASK_ID_LABEL: task},
            ),
            environment,
        )
        for index, (environment, name, task, state) in enumerate(given, 1)
    ]


def test_a_host_keeps_its_name_over_restarts_and_beside_what_has_ended() -> None:
    once = hosts(("a", "web.1", "t1", "running"))
    later = hosts(("a", "web.1", "t1", "exited"), ("a", "web.1", "t2", "running"), ("a", "web.1", "t0", "exited"))
    assert [host["name"] for host in named(once)] == ["web.1"]
    assert [host["name"] for host in named(later)] == ["web.1", "web.1.000000000001", "web.1.000000000003"]
    assert {host["name"]: host["container_state"] for host in named(later)}["web.1"] == "running"


def test_names_are_unique() -> None:
    both = hosts(("a", "web", "", "running"), ("b", "web", "", "running"), ("b", "db", "", "running"))
    assert [host["name"] for host in named(both)] == ["db", "web.a", "web.b"]
    two = hosts(("a", "web.1", "t1", "running"), ("a", "web.1", "t2", "running"))
    assert [host["name"] for host in named(two)] == ["web.1.000000000001", "web.1.000000000002"]


def test_filters() -> None:
    one = container("web", labels={"com.docker.stack.namespace": "demo", "tier": "front"})
    assert Wanted().has(one)
    assert Wanted(stacks=("demo", "x"), states=("running",), labels={"tier": "front"}).has(one)
    assert Wanted(labels={"tier": ""}).has(one)
    for other in (
        Wanted(stacks=("x",)),
        Wanted(states=("exited",)),
        Wanted(labels={"tier": "back"}),
        Wanted(labels={"no": ""}),
    ):
        assert not other.has(one)
