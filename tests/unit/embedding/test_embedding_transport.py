"""The client against servers that break HTTP, TLS and their promises, over real sockets."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from archon_align.embedding.client import EmbeddingClient
from archon_align.embedding.endpoint import Endpoint
from archon_align.embedding.failures import RequestRejected, ServiceUnavailable, ServiceUnusable
from archon_align.errors import AlignError

VECTOR = base64.b64encode(np.asarray([0.6, 0.8, 0.0], "<f4").tobytes()).decode()
GOOD = json.dumps({"data": [{"index": 0, "embedding": VECTOR}]}).encode()
Talk = Callable[[socket.socket], None]


def head(content: bytes, *, length: int | None = None, extra: str = "") -> bytes:
    size = len(content) if length is None else length
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n{extra}\r\n".encode()


def read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        if not (part := connection.recv(65536)):
            return b""
        received += part
    before, _, body = received.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in before.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return before + b"\r\n\r\n" + body


@contextlib.contextmanager
def listening(talk: Talk, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that lets `talk` have each connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                connection.settimeout(5)
                if context is not None:
                    with context.wrap_socket(connection, server_side=True) as secured:
                        talk(secured)
                else:
                    talk(connection)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


def answering(content: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        while read_request(connection):
            connection.sendall(content)

    return talk


def embed(url: str, *, timeout: float = 60.0, text: str = "a") -> list[list[float]]:
    with EmbeddingClient(Endpoint(url, "m", 3, timeout=timeout)) as client:
        rows: list[list[float]] = client.embed([text]).tolist()
        return rows


def failure(url: str, *, timeout: float = 60.0) -> AlignError:
    with pytest.raises(AlignError) as caught:
        embed(url, timeout=timeout)
    assert "Traceback" not in str(caught.value)
    return caught.value


def test_a_connection_is_used_again() -> None:
    connections = []

    def talk(connection: socket.socket) -> None:
        connections.append(connection)
        answering(head(GOOD) + GOOD)(connection)

    with listening(talk) as port, EmbeddingClient(Endpoint(f"http://127.0.0.1:{port}", "m", 3)) as client:
        for _ in range(5):
            client.embed(["a"])
    assert len(connections) == 1


def test_no_compression_is_asked_for() -> None:
    seen: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        seen.append(read_request(connection))
        connection.sendall(head(GOOD) + GOOD)

    with listening(talk) as port:
        embed(f"http://127.0.0.1:{port}")
    assert b"accept-encoding: identity" in seen[0].lower()


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (head(GOOD, length=len(GOOD) + 50) + GOOD, "embedding_cut"),  # promises more than it sends
        (head(GOOD, length=len(GOOD) - 5) + GOOD, "embedding_malformed"),  # and less
        (head(GOOD, length=0) + GOOD, "embedding_malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n" + GOOD, "embedding_cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "embedding_cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"dat", "embedding_cut"),
        (b"220 mail.example ESMTP\r\n", "embedding_cut"),
        (b"", "embedding_cut"),
        (head(GOOD, extra="Content-Encoding: gzip\r\n") + GOOD, "embedding_truncated"),
    ],
)  # fmt: skip
def test_broken_replies_are_nobodys_fault_and_nothing_comes_of_them(reply: bytes, code: str) -> None:
    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(reply)

    with listening(talk) as port:
        error = failure(f"http://127.0.0.1:{port}")
    assert (type(error), error.code) == (ServiceUnavailable, code)


def test_a_server_that_closes_idle_connections_costs_one_try_at_most() -> None:
    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head(GOOD) + GOOD)  # and closes, though it did not say so

    with listening(talk) as port, EmbeddingClient(Endpoint(f"http://127.0.0.1:{port}", "m", 3)) as client:
        for _ in range(5):
            try:
                client.embed(["a"])
            except ServiceUnavailable:
                client.embed(["a"])
            time.sleep(0.02)


@pytest.mark.parametrize("silent_after", [b"", b"HTTP/1.1 200 OK\r\n", head(GOOD), head(GOOD) + GOOD[:20]])
def test_silence_ends_with_the_timeout(silent_after: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(silent_after)
        time.sleep(60)

    with listening(talk) as port:
        started = time.monotonic()
        error = failure(f"http://127.0.0.1:{port}", timeout=0.3)
    assert time.monotonic() - started < 30  # not as long as the server is silent
    assert (type(error), error.code) == (ServiceUnavailable, "embedding_timeout")
    assert "0.3 s" in error.found


def test_a_server_that_does_not_read_ends_with_the_timeout() -> None:
    with listening(lambda _: time.sleep(60)) as port:
        started = time.monotonic()
        with pytest.raises(ServiceUnavailable) as caught:
            embed(f"http://127.0.0.1:{port}", timeout=0.3, text="x" * 20_000_000)
    assert time.monotonic() - started < 30  # not as long as the server is silent
    assert caught.value.code == "embedding_timeout"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x01\x02\x1f\x7f\x9f",
        "tab\tnew\r\nline",
        "\U0001f469\u200d\U0001f469 and \u202ertl\u202c",
        '"\\u0000\\"',
        "\ufeff\ufffe\uffff",
        "x" * 1_000_000,
    ],
)
def test_odd_texts_arrive_as_they_are(text: str) -> None:
    seen: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        seen.append(read_request(connection))
        connection.sendall(head(GOOD) + GOOD)

    with listening(talk) as port:
        embed(f"http://127.0.0.1:{port}", text=text)
    assert json.loads(seen[0].partition(b"\r\n\r\n")[2])["input"] == [text]


def test_half_a_surrogate_is_refused_before_it_is_sent() -> None:
    with pytest.raises(RequestRejected) as caught, EmbeddingClient(Endpoint("http://127.0.0.1:9", "m", 3)) as client:
        client.embed(["good", "bad \ud800"])
    assert caught.value.code == "embedding_text_encoding"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 alone, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *subject, "-keyout", f"{file}.key", "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    return file


@pytest.fixture
def secured(certificate: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, f"{certificate}.key")
    with listening(answering(head(GOOD) + GOOD), context) as port:
        yield port


def test_a_certificate_that_nobody_signed_is_refused(secured: int) -> None:
    error = failure(f"https://127.0.0.1:{secured}")
    assert (type(error), error.code) == (ServiceUnusable, "embedding_tls")
    assert "SSL_CERT_FILE" in error.remedy


def test_it_is_trusted_where_the_environment_says_so_also_on_this_machine(
    secured: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert len(embed(f"https://127.0.0.1:{secured}")) == 1
    error = failure(f"https://localhost:{secured}")
    assert (type(error), error.code) == (ServiceUnusable, "embedding_tls")
    assert "name" in error.remedy


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_certificates_that_cannot_be_read_are_named(
    tmp_path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(ServiceUnusable, match="SSL_CERT_FILE") as caught:
        EmbeddingClient(Endpoint("https://127.0.0.1:9", "m", 3))
    assert caught.value.code == "embedding_environment"


def test_https_to_a_port_that_speaks_http() -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with listening(talk) as port:
        error = failure(f"https://127.0.0.1:{port}")
    assert (type(error), error.code) == (ServiceUnusable, "embedding_tls")
    assert "http://" in error.remedy


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",  # Go
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 59\r\n\r\n<center>The plain HTTP request was sent to HTTPS port</cente",
    ],
)
def test_http_to_a_port_that_speaks_https(reply: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(reply)

    with listening(talk) as port:
        error = failure(f"http://127.0.0.1:{port}")
    assert (type(error), error.code) == (ServiceUnusable, "embedding_tls")
    assert "https://" in error.remedy


def test_http_to_a_real_tls_server_is_clear(secured: int) -> None:
    error = failure(f"http://127.0.0.1:{secured}")
    assert (type(error), error.code) == (ServiceUnavailable, "embedding_cut")
    assert "https" in error.found


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """A service that is not on this machine, so that proxies count; nothing is ever sent there."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return "http://192.0.2.1:11434/v1"


def test_a_proxy_that_is_not_there_is_told_from_a_service_that_is_not(
    elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:hidden@127.0.0.1:9")
    error = failure(elsewhere)
    assert (type(error), error.code) == (ServiceUnavailable, "embedding_proxy")
    assert "HTTP_PROXY" in error.expected
    assert "hidden" not in str(error)
    assert failure("http://127.0.0.1:9").code == "embedding_unreachable"


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            ServiceUnusable,
            "embedding_proxy",
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nDown", ServiceUnavailable, "embedding_busy"),
        (head(GOOD) + GOOD, None, ""),
    ],
)
def test_what_a_proxy_answers(
    elsewhere: str, reply: bytes, kind: type[AlignError] | None, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(answering(reply)) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        if kind is None:
            assert len(embed(elsewhere)) == 1
            return
        error = failure(elsewhere)
    assert (type(error), error.code) == (kind, code)


def test_thirty_two_requests_at_a_time_have_thirty_two_connections() -> None:
    gate = threading.Barrier(32)

    def talk(connection: socket.socket) -> None:
        while read_request(connection):
            gate.wait(60)
            connection.sendall(head(GOOD) + GOOD)

    with listening(talk) as port, EmbeddingClient(Endpoint(f"http://127.0.0.1:{port}", "m", 3)) as client:
        failures: list[Exception] = []

        def request() -> None:
            try:
                client.embed(["a"])
            except AlignError as error:
                failures.append(error)

        threads = [threading.Thread(target=request) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
