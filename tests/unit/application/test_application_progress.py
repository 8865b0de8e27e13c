"""An upload's progress: by the lab's own Socket.IO, behind TLS and a path, and where nobody answers or somebody hangs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import socketio
import uvicorn
from archon_align.application import progress
from archon_align.application.progress import Event, Follower, follow
from archon_align.web.trust import Trust

from lab.archon.progress import Progress, new_server

PATIENCE = 60.0
UPLOAD = "an upload's id"
STORED: dict[str, Any] = {"chunksStored": 3, "wordCount": 40, "sourceId": "file_ä_1"}


@dataclass
class Archon:
    """Archon's Socket.IO alone, in this process."""

    url: str
    server: socketio.AsyncServer
    loop: asyncio.AbstractEventLoop

    def tell(self, status: str, percentage: int, **more: Any) -> None:
        told = Progress(self.server, UPLOAD).tell(status, percentage, f"{status}…", **more)
        asyncio.run_coroutine_threadsafe(told, self.loop).result(PATIENCE)

    def wait_for_subscription(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while UPLOAD not in self.server.manager.rooms.get("/", {}):
            assert time.monotonic() < deadline, "nobody has subscribed"
            time.sleep(0.01)


@contextlib.contextmanager
def archon(prefix: str = "", certificate: Path | None = None) -> Iterator[Archon]:
    server = new_server()
    app = socketio.ASGIApp(server, socketio_path=f"{prefix}/socket.io")
    config = uvicorn.Config(
        app, ws="wsproto", log_config=None, timeout_graceful_shutdown=1,
        ssl_certfile=certificate, ssl_keyfile=certificate,
    )  # fmt: skip
    running = uvicorn.Server(config)
    loop = asyncio.new_event_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(running.serve([listener]))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        scheme = "https" if certificate else "http"
        try:
            yield Archon(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}{prefix}", server, loop)
        finally:
            running.should_exit = True
            thread.join(PATIENCE)


@contextlib.contextmanager
def hanging(*answers: bytes) -> Iterator[str]:
    """A server that gives these answers, one for each connection, and then accepts whatever comes and is silent."""
    left = list(answers)
    kept: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                made, _ = listener.accept()
                kept.append(made)
                if left:
                    made.recv(65536)
                    made.sendall(left.pop(0))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for one in kept:
                one.close()


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def followed(url: str, trust: Trust, running: Archon) -> tuple[Follower, Event | None]:
    with follow(url, trust) as follower:
        assert follower.connected
        follower.subscribe(UPLOAD)
        running.wait_for_subscription()
        running.tell("starting", 0)
        running.tell("document_storage", 40)
        running.tell("completed", 100, **STORED)
        return follower, follower.wait(PATIENCE)


@pytest.mark.parametrize("prefix", ["", "/archon/prod"])
def test_stages_and_the_end_are_told(prefix: str) -> None:
    with archon(prefix) as running:
        follower, last = followed(running.url, Trust(), running)
    assert last == Event("completed", 100.0, "completed…", "file_ä_1", 3)
    assert {event.status for event in follower.events} >= {"completed"}


@pytest.mark.parametrize("way", ["ca_file", "fingerprint", "insecure"])
def test_tls_is_trusted_as_everywhere_else(way: str, certificate: tuple[Path, str]) -> None:
    path, pin = certificate
    trust = {
        "ca_file": Trust(ca_file=str(path)),
        "fingerprint": Trust(fingerprint=pin),
        "insecure": Trust(insecure=True),
    }[way]
    with archon("/archon", path) as running:
        assert followed(running.url, trust, running)[1] is not None


@pytest.mark.parametrize("trust", [Trust(), Trust(fingerprint="00" * 32)], ids=["authorities", "fingerprint"])
def test_a_stranger_s_certificate_is_not_talked_to(trust: Trust, certificate: tuple[Path, str]) -> None:
    with archon(certificate=certificate[0]) as running, follow(running.url, trust) as follower:
        assert not follower.connected


def test_an_error_is_an_end_with_its_text() -> None:
    with archon() as running, follow(running.url, Trust()) as follower:
        follower.subscribe(UPLOAD)
        running.wait_for_subscription()
        running.tell("error", 0, error="Unsupported file type")
        assert follower.wait(PATIENCE) == Event("error", 0.0, "Unsupported file type")


def test_what_comes_late_does_not_hide_the_end() -> None:
    follower = Follower(connected=True)
    for given in ({"status": "completed", "percentage": 100}, {"status": "finalization", "percentage": 97}):
        follower._heard(given)
    last = follower.wait(PATIENCE)
    assert (last and last.status, len(follower.events)) == ("completed", 2)


@pytest.mark.parametrize("given", [None, "completed", [], {}, {"status": ""}, {"percentage": 3}])
def test_what_is_no_event_is_passed_over(given: object) -> None:
    follower = Follower(connected=True)
    follower._heard(given)
    assert (follower.events, follower.wait(0)) == ([], None)


def test_numbers_that_are_none_do_no_harm() -> None:
    follower = Follower(connected=True)
    follower._heard(
        {"status": "error", "percentage": "many", "chunksStored": "some", "error": {"a": 1}, "sourceId": None}
    )
    assert follower.wait(0) == Event("error", 0.0, "{'a': 1}")


HANDSHAKE = b'0{"sid":"x","upgrades":[],"pingInterval":60000,"pingTimeout":300000}'


@pytest.mark.parametrize(
    "answers",
    [
        [answer("404 Not Found", b'{"detail":"Not Found"}')],
        [answer("200 OK", b"<html>log in</html>")],
        [answer("302 Found", b"", "Location: /elsewhere"), answer("200 OK", HANDSHAKE)],
        [],
        [answer("200 OK", HANDSHAKE)],
    ],
    ids=["no socket", "no archon", "led elsewhere", "hangs at once", "hangs after the handshake"],
)
def test_a_server_without_a_usable_socket_is_no_failure(answers: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(progress, "_MOST_SECONDS", 2.0)
    begun = time.monotonic()
    with hanging(*answers) as url, follow(url, Trust()) as follower:
        follower.subscribe(UPLOAD)
        assert (follower.connected, follower.wait(0), follower.events) == (False, None, [])
    # The library alone would wait for 305 s, as the handshake says.
    assert time.monotonic() - begun < 120


def test_nobody_there_is_no_failure() -> None:
    with follow("http://127.0.0.1:1/archon", Trust()) as follower:
        assert follower.wait(0) is None
    assert not follower.connected


def test_a_server_that_goes_away_meanwhile_is_no_failure() -> None:
    with archon() as running, follow(running.url, Trust()) as follower:
        follower.subscribe(UPLOAD)
        running.wait_for_subscription()
        asyncio.run_coroutine_threadsafe(running.server.shutdown(), running.loop).result(PATIENCE)
        assert follower.wait(0.2) is None
