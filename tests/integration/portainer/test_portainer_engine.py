"""The client of an engine, over Portainer's proxy and at a socket of its own."""

from __future__ import annotations

import datetime
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from archon_align.docker import engine as engine_module
from archon_align.docker.engine import READING, Engine, EngineRefused
from archon_align.docker.objects import STACK_LABEL, Service
from archon_align.docker.probes import HEALTH
from archon_align.portainer.client import Portainer
from archon_align.web.wire import BadAnswer, NotAllowed, Server, Unreachable, Wire

from tests.support.portainer import StandIn

STACK_SECRET = "secret-of-the-stack"


def settled(lab: StandIn, engine: Engine) -> Service:
    """The service when no update is under way, which would change its version."""
    going_on = ("updating", "rollback_started")
    return lab.wait(lambda: (one := engine.service("demo_web")).update_state not in going_on and one)  # type: ignore[no-any-return]


@pytest.fixture
def engine(lab: StandIn, portainer: Portainer) -> Engine:
    found = portainer.engine(1)
    lab.wait(lambda: lab.tasks()[-1]["Status"]["State"] == "running")
    settled(lab, found)
    lab.forget_requests()
    return found


@pytest.fixture
def container(lab: StandIn, engine: Engine) -> str:
    found = lab.wait(lambda: next((one.container_id for one in engine.tasks("demo_web") if one.running), ""))
    return str(found)


def test_what_runs(engine: Engine, container: str) -> None:
    (service,) = engine.services("demo")
    assert (service.name, service.short_name, service.stack) == ("demo_web", "web", "demo")
    assert engine.services("nope") == []
    (listed,) = [one for one in engine.containers({STACK_LABEL: "demo"}, running_only=True) if one.id == container]
    assert (listed.state, listed.stack, listed.service) == ("running", "demo", "demo_web")
    assert listed.environment == {}
    inspected = engine.container(container)
    assert inspected.environment["WORD"] == service.environment["WORD"]
    assert STACK_SECRET not in f"{service}{listed}{inspected}"
    assert engine.is_swarm_manager()
    assert list(engine.nodes().values()) == ["lab-node"]
    assert abs(engine.now() - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=5)


def test_a_command_in_a_container(engine: Engine, container: str) -> None:
    program = "import sys; sys.stdout.write('out €\\n' * 3); sys.stderr.write('err'); sys.exit(4)"
    ended = engine.execute(container, ["python", "-c", program], 60)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (4, "out €\n" * 3, "err")
    # Arguments reach the program as they are: no shell is between.
    odd = ["a b", "$HOME", '"', "'; exit", "", "é"]
    shown = engine.execute(container, ["python", "-c", "import sys, json; print(json.dumps(sys.argv[1:]))", *odd], 60)
    assert json.loads(shown.stdout) == odd
    assert engine.execute(container, ["no-such-program"], 60).exit_code in (126, 127)


def test_a_command_that_takes_too_long_or_says_too_much(
    lab: StandIn, engine: Engine, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unreachable) as slow:
        engine.execute(container, ["python", "-c", "import time; time.sleep(60)"], 4)
    assert slow.value.code == "command_timeout"
    monkeypatch.setattr(engine_module, "OUTPUT_BYTES", 1000)
    with pytest.raises(BadAnswer) as much:
        engine.execute(container, ["python", "-c", "print('x' * 5000)"], 60)
    assert much.value.code == "command_output_too_long"


def test_what_is_not_there(engine: Engine) -> None:
    for ask in (
        lambda: engine.container("nope"),
        lambda: engine.service("nope"),
        lambda: engine.restart_container("a/../b ?"),
        lambda: engine.execute("nope", ["true"]),
    ):
        with pytest.raises(EngineRefused) as told:
            ask()
        assert (told.value.code, told.value.http_status) == ("not_found", 404)


def test_a_restart_by_a_version_that_is_no_more_is_read_again(lab: StandIn, engine: Engine) -> None:
    stale = engine.service("demo_web")
    forced = int(stale.spec["TaskTemplate"].get("ForceUpdate") or 0)
    engine.force_update(stale)
    settled(lab, engine)
    engine.force_update(stale)
    assert engine.service("demo_web").spec["TaskTemplate"]["ForceUpdate"] == forced + 2
    assert [one["status"] for one in lab.requests() if one["path"].endswith("/update")] == [200, 500, 200]
    engine.roll_back(settled(lab, engine))
    assert engine.service("demo_web").spec["TaskTemplate"]["ForceUpdate"] == forced + 1


def test_a_version_that_never_fits_is_a_clear_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = engine.service("demo_web")
    engine.force_update(stale)
    monkeypatch.setattr(engine, "service", lambda _id: stale)
    with pytest.raises(EngineRefused, match="could not be updated") as told:
        engine.force_update(stale)
    assert "out of sequence" in told.value.found
    assert "Somebody else" in told.value.remedy


def test_a_task_tells_why_it_ended(lab: StandIn, engine: Engine) -> None:
    lab.faults(start_fails=["web"])
    engine.force_update(engine.service("demo_web"))
    failed = lab.wait(lambda: [one for one in engine.tasks("demo_web") if one.state == "failed"])
    assert (failed[-1].error, failed[-1].exit_code) == ("task: non-zero exit (3)", 3)
    lab.faults()
    lab.begin()


class PodmanHandler(http.server.BaseHTTPRequestHandler):
    """The few answers of Podman's API that differ: null for nothing, and no Swarm."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        status, body = {
            "/containers/json": (200, b"null"),
            "/_ping": (200, b"OK"),
            "/info": (200, b'{"Swarm": {"LocalNodeState": "inactive", "ControlAvailable": false}}'),
        }.get(path, (404, b'{"cause": "", "message": "Path not found", "response": 404}'))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "socket"


class PodmanServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Wire]:
    path = str(tmp_path / "s")
    with PodmanServer(path, PodmanHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Wire(Server("Container engine", "http://localhost", timeout=30, socket=path), allowed=READING) as wire:
            yield wire
        server.shutdown()
        thread.join()


def test_an_engine_without_a_swarm_at_a_unix_socket(podman: Wire) -> None:
    engine = Engine(podman)
    assert engine.containers() == []
    assert not engine.is_swarm_manager()
    assert engine.now().tzinfo is not None
    with pytest.raises(EngineRefused) as told:
        engine.services("demo")
    assert told.value.code == "not_found"


def test_in_check_mode_only_a_probe_is_executed(podman: Wire) -> None:
    engine = Engine(podman)
    with pytest.raises(NotAllowed, match="does not run this command"):
        engine.execute("c", ["rm", "x"])
    # READING alone has no exec at all: this one is stopped by the wire.
    with pytest.raises(NotAllowed, match="does not send"):
        engine.execute("c", ["python", "-c", HEALTH, "1"])
