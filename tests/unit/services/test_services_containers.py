"""Plain containers, restarts by hand, and what is told when something fails."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from archon_align.context import Context
from archon_align.docker.objects import COMPOSE_SERVICE_LABEL, COMPOSE_STACK_LABEL, Container
from archon_align.errors import AlignError
from archon_align.findings import Finding
from archon_align.services import telling
from archon_align.services.installation import Containers, on_engine, role_of
from archon_align.services.opening import Where
from archon_align.services.readiness import Readiness
from archon_align.services.restarting import redacted, restart
from archon_align.services.waiting import wait_for_restart

START = datetime(2026, 1, 1, tzinfo=UTC)
SERVER = Container(
    "c1", "project-archon-server-1", "archon/archon-server:latest", "running", "", START,
    {COMPOSE_STACK_LABEL: "project", COMPOSE_SERVICE_LABEL: "archon-server"}, (), START, {"TOKEN": "secret-in-the-log"},
)  # fmt: skip


class Engine:
    """Answers as the client of an engine does, from one container that can be restarted."""

    def __init__(self, *containers: Container, after: dict[str, Any] | None = None) -> None:
        self.known = {one.id: one for one in containers}
        self.after = after or {}

    def is_swarm_manager(self) -> bool:
        return False

    def containers(self, labels: dict[str, str] | None = None) -> list[Container]:
        return [one for one in self.known.values() if (labels or {}).items() <= one.labels.items()]

    def container(self, number: str) -> Container:
        return self.known[number]

    def restart_container(self, number: str) -> None:
        self.known[number] = replace(self.known[number], started_at=datetime(2026, 1, 2, tzinfo=UTC), **self.after)

    def logs(self, number: str, *, lines: int) -> str:
        assert lines
        return f"starting {number}\nInvalid API key: secret-in-the-log\n"


@pytest.mark.parametrize(
    ("name", "image", "role"),
    [
        ("archon-server", "x", "server"),
        ("dev-archon-mcp", "x", "mcp"),
        ("project-archon-server-1", "x", "server"),
        ("backend", "registry/archon/archon-server:1.2", "server"),
        ("archon_ui", "x", "ui"),
        ("archon-server2", "postgres", ""),
        ("db", "supabase/postgres", ""),
    ],
)
def test_what_a_service_is(name: str, image: str, role: str) -> None:
    assert role_of(name, image) == role


def test_containers_are_found_by_project_or_else_by_name() -> None:
    bare = replace(SERVER, id="c2", name="archon-server", labels={})
    other = replace(SERVER, id="c3", name="db", image="postgres", labels={})
    by_project = on_engine(Engine(SERVER, bare, other), "project", kind="engine")  # type: ignore[arg-type]
    by_name = on_engine(Engine(bare, other), "project", kind="engine")  # type: ignore[arg-type]
    assert [one.id for one in by_project.services()] == ["c1"]
    assert [(one.id, one.role) for one in by_name.services()] == [("c2", "server")]


def ready_server(answer: Callable[[], bool]) -> http.server.HTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready = b"true" if answer() else b"false"
            body = b'{"service": "archon-backend", "status": "healthy", "ready": ' + ready + b"}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_a_container_is_restarted_and_waited_for() -> None:
    engine = Engine(SERVER)
    installation = Containers("engine", "project", engine)  # type: ignore[arg-type]
    server = ready_server(lambda: engine.known["c1"].started_at != START)
    try:
        readiness = Readiness(f"http://127.0.0.1:{server.server_port}")
        assert readiness.by_http()
        restart(installation, installation.services()[0], readiness, seconds=60)
        assert readiness.by_http() == ""
    finally:
        server.shutdown()
        server.server_close()


def test_a_container_that_does_not_come_up_tells_its_log_without_secrets() -> None:
    installation = Containers("engine", "project", Engine(SERVER, after={"state": "exited"}))  # type: ignore[arg-type]
    with pytest.raises(AlignError) as caught:
        restart(installation, installation.services()[0], Readiness(), seconds=60, undo="Undo it like this.")
    assert "the container is exited" in caught.value.found
    assert "Invalid API key: (not shown)" in caught.value.found
    assert "it stays as it is" in caught.value.found
    assert "Undo it like this." in caught.value.remedy


def test_short_words_of_an_environment_stay_readable_in_a_log() -> None:
    assert redacted("INFO true longer-than-that", {"A": "INFO", "B": "longer-than-that"}) == "INFO true (not shown)"


def test_what_was_stored_for_a_failed_restart_can_be_undone(make_context: Callable[..., Context]) -> None:
    context = make_context("", phase="services")
    assert telling.undo_data(context) == ""
    point = context.run.artifacts / "restore-points" / "data.jsonl"
    point.parent.mkdir(parents=True)
    point.touch()
    assert f"restore_point={context.run.id}:data" in telling.undo_data(context)


def test_a_restart_by_hand_is_seen_by_refusal_and_readiness() -> None:
    asked = Finding("restart_archon_server", "warning", "archon-server", "restart it", "do it")
    states = iter([True, True, False])
    server = ready_server(lambda: next(states, False))
    readiness = Readiness(f"http://127.0.0.1:{server.server_port}")
    assert [one.code for one in wait_for_restart(readiness, asked, seconds=0.6)][-1] == "restart_not_seen"
    server.shutdown()
    server.server_close()
    assert "restart_not_seen" in {one.code for one in wait_for_restart(Readiness(), asked, seconds=1)}


def test_the_backend_is_chosen_by_what_has_an_address() -> None:
    assert Where().chosen == "none"
    assert Where(engine_url="unix:///x").chosen == "engine"
    assert Where(engine_url="unix:///x", portainer_url="https://p").chosen == "portainer"
    assert Where(backend="none", portainer_url="https://p").chosen == "none"
    with pytest.raises(AlignError, match="no address"):
        _ = Where(backend="portainer").chosen
