"""What an engine tells, in the shapes of Docker, old and new, and of Podman; and nothing secret in what is printed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from archon_align.docker.objects import (
    Container,
    Port,
    inspected_container_of,
    listed_container_of,
    moment,
    service_of,
    task_of,
)
from archon_align.docker.probes import EMBED, HEALTH, is_probe

SECRET = "hunter2-of-the-tests"
SERVICE: dict[str, Any] = {
    "ID": "s1",
    "Version": {"Index": 41},
    "UpdatedAt": "2026-01-02T03:04:05.123456789Z",
    "Spec": {
        "Name": "archon-prod_archon-server",
        "Labels": {"com.docker.stack.namespace": "archon-prod"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "registry/archon/server:latest@sha256:abc",
                "Env": ["LOG_LEVEL=INFO", f"KEY={SECRET}=", "BARE"],
            }
        },
        "Mode": {"Replicated": {"Replicas": 2}},
        "EndpointSpec": {"Ports": [{"TargetPort": 8181, "PublishedPort": 18181}]},
    },
}


def test_a_service_with_all_its_parts() -> None:
    found = service_of(SERVICE)
    assert (found.id, found.stack, found.short_name, found.version, found.replicas) == (
        "s1", "archon-prod", "archon-server", 41, 2,
    )  # fmt: skip
    assert found.image == "registry/archon/server:latest"
    assert found.environment == {"LOG_LEVEL": "INFO", "KEY": f"{SECRET}=", "BARE": ""}
    assert found.ports == (Port(18181, 8181),)
    assert found.updated_at == datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)
    assert SECRET not in repr(found)


def test_a_service_with_nothing_but_what_it_must_have() -> None:
    spec = {"Name": "plain", "Labels": None, "TaskTemplate": {"ContainerSpec": {"Image": "x"}}, "Mode": {"Global": {}}}
    found = service_of({"ID": "s2", "Version": {"Index": 1}, "Spec": spec})
    assert (found.stack, found.short_name, found.replicas, found.environment) == ("", "plain", 1, {})
    assert (found.ports, found.has_previous, found.update_state) == ((), False, "")


def test_a_task_that_failed_tells_why() -> None:
    status = {
        "State": "failed",
        "Err": "task: non-zero exit (3)",
        "ContainerStatus": {"ContainerID": "c", "ExitCode": 3},
    }
    found = task_of({"ID": "t", "DesiredState": "shutdown", "Status": status, "NodeID": "n"})
    assert (found.error, found.exit_code, found.container_id, found.running) == (
        "task: non-zero exit (3)",
        3,
        "c",
        False,
    )
    rejected = task_of(
        {"ID": "t", "DesiredState": "shutdown", "Status": {"State": "rejected", "Err": "No such image: x"}}
    )
    assert (rejected.error, rejected.exit_code, rejected.container_id) == ("No such image: x", None, "")


@pytest.mark.parametrize(
    ("status", "health"),
    [
        ("Up 2 minutes (healthy)", "healthy"),
        ("Up 2 minutes (unhealthy)", "unhealthy"),
        ("Up 3 seconds (health: starting)", "starting"),
        ("Restarting (1) 3 seconds ago", ""),
        ("Exited (0) 2 hours ago", ""),
        ("", ""),
    ],
)
def test_health_is_read_from_the_status(status: str, health: str) -> None:
    assert listed_container_of({"Id": "c", "Status": status}).health == health


def test_a_listed_container_of_docker_and_of_podman() -> None:
    docker = listed_container_of(
        {
            "Id": "c1",
            "Names": ["/other/alias", "/web"],
            "Image": "web:latest",
            "State": "running",
            "Created": 1767322800,
            "Labels": {"com.docker.compose.project": "p", "com.docker.compose.service": "web"},
            "Ports": [
                {"IP": "192.0.2.1", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
                {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
                {"PrivatePort": 9, "Type": "udp"},
            ],
        }
    )
    assert (docker.name, docker.stack, docker.service) == ("web", "p", "web")
    assert docker.ports == (Port(0, 9, "udp"), Port(8080, 80))
    podman = listed_container_of(
        {"Id": "c2", "Names": ["/web"], "Image": "web", "State": "running", "Labels": None, "Ports": None}
    )
    assert (podman.labels, podman.ports, podman.created_at) == ({}, (), None)


def test_an_inspected_container_hides_its_environment() -> None:
    found = inspected_container_of(
        {
            "Id": "c",
            "Name": "/web",
            "Created": "2026-01-02T03:04:05Z",
            "State": {"Status": "running", "StartedAt": "0001-01-01T00:00:00Z", "Health": {"Status": "healthy"}},
            "Config": {"Image": "web", "Labels": None, "Env": [f"KEY={SECRET}"]},
            "NetworkSettings": {
                "Ports": {
                    "80/tcp": [{"HostIp": "192.0.2.1", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
                    "53/udp": None,
                    "81/tcp": [{"HostIp": "", "HostPort": ""}],
                }
            },
        }
    )
    assert found.ports == (Port(0, 53, "udp"), Port(8080, 80), Port(0, 81))
    assert (found.started_at, found.health) == (None, "healthy")
    assert found.environment == {"KEY": SECRET}
    assert SECRET not in repr(found)


def test_a_container_that_is_made_anew_in_the_same_way_is_configured_alike() -> None:
    def inspected(number: str, note: str, image: str) -> Container:
        return inspected_container_of(
            {
                "Id": number * 12,
                "State": {"Status": "running"},
                "Config": {
                    "Image": image,
                    "Hostname": number * 12,
                    "Env": ["A=b", f"HOSTNAME={number * 12}"],
                    "Labels": {"ours": "yes", "com.docker.compose.config-hash": note},
                },
                "HostConfig": {"CapAdd": ["B", "A"], "LogConfig": {"Path": f"/log/{number}"}},
                "Mounts": [{"Destination": "/data", "Source": "/volumes/data", "Name": "data", "RW": True}],
                "NetworkSettings": {"Networks": {"net": {"IPAddress": note, "IPAMConfig": None}}},
            }
        )

    one, other, another = inspected("1", "x", "web"), inspected("2", "y", "web"), inspected("2", "y", "web2")
    assert (one.environment, one.configuration) == (other.environment, other.configuration)
    assert one.configuration != another.configuration
    assert one.environment == {"A": "b"}


@pytest.mark.parametrize("given", [{}, {"Id": "c", "Ports": [{}]}, [], "text", None])
def test_what_is_no_container_is_an_error_of_known_kind(given: Any) -> None:
    with pytest.raises((KeyError, TypeError, AttributeError)):
        listed_container_of(given)


def test_moments_of_docker() -> None:
    assert moment("2026-01-02T03:04:05.1+01:00") == datetime(2026, 1, 2, 2, 4, 5, 100000, UTC)
    assert moment("0001-01-01T00:00:00Z") is None
    assert moment("soon") is None
    assert moment(0) == datetime(1970, 1, 1, tzinfo=UTC)


def test_only_the_fixed_programs_are_probes() -> None:
    assert is_probe(["python", "-c", EMBED, "http://x/v1", "model", "", "5"])
    assert is_probe(["python3", "-c", HEALTH, "8181"])
    for argv in (["python", "-c", EMBED + " "], ["sh", "-c", EMBED], ["python", EMBED], ["python", "-c"], []):
        assert not is_probe(argv)
