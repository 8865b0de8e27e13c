"""The one HTTP client: what it trusts, what it refuses to send, and how it tells of servers that misbehave."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import http.server
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archon_align.errors import AlignError
from archon_align.web.trust import Trust
from archon_align.web.wire import Allowed, BadAnswer, NotAllowed, Server, Unreachable, Wire
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SECRET = "hunter2-of-the-tests"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers)))  # type: ignore[attr-defined]
        status, headers, pieces = self.server.answer  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()
            if len(pieces) > 1:
                time.sleep(0.2)

    do_POST = do_GET  # noqa: N815


class Running:
    def __init__(self, server: http.server.ThreadingHTTPServer, url: str) -> None:
        self.server, self.url = server, url

    def answer(self, status: int, *pieces: bytes, **headers: str) -> None:
        self.server.answer = (status, headers, pieces)  # type: ignore[attr-defined]

    @property
    def seen(self) -> list[tuple[str, str, dict[str, str]]]:
        return self.server.seen  # type: ignore[attr-defined,no-any-return]


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Running]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.seen = []  # type: ignore[attr-defined]
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    running = Running(server, f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}")
    running.answer(200, b"{}")
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def plain() -> Iterator[Running]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A self-signed certificate with its key, as small servers make one, and its fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path, hashlib.sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest()


@pytest.fixture
def encrypted(certificate: tuple[Path, str]) -> Iterator[Running]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[0])
    with serving(context) as running:
        yield running


def server_of(running: Running, **fields: object) -> Server:
    return Server("Archon", running.url, headers={"X-API-Key": SECRET}, **fields)  # type: ignore[arg-type]


def test_a_reply_comes_back_whatever_its_status(plain: Running) -> None:
    plain.answer(422, json.dumps({"message": "Invalid credentials", "details": "Unauthorized"}).encode())
    with Wire(server_of(plain)) as wire:
        reply = wire.send("POST", "/api/auth", json={"a": 1}, params={"endpointId": 3})
    assert (reply.status, reply.ok, reply.message()) == (422, False, "Invalid credentials: Unauthorized")
    ((verb, path, headers),) = plain.seen
    assert (verb, path, headers["X-API-Key"]) == ("POST", "/api/auth?endpointId=3", SECRET)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"detail": {"error": "no such thing"}}', "no such thing"),
        (b'{"detail": "plain"}', "plain"),
        (b"<html>\n  log in </html>", "<html> log in </html>"),
        (b"", "status 500"),
        (b'{"detail": [{"loc": ["body"], "msg": "field required"}]}', '[{"loc":["body"],"msg":"field required"}]'),
    ],
)
def test_error_texts_of_every_shape_are_found(plain: Running, body: bytes, text: str) -> None:
    plain.answer(500, body)
    with Wire(server_of(plain)) as wire:
        assert wire.send("GET", "/x").message() == text


def test_check_mode_sends_only_what_is_on_the_list(plain: Running) -> None:
    allowed = [Allowed("GET", "/api/stacks(/[0-9]+)?"), Allowed("POST", "/api/auth")]
    with Wire(server_of(plain), allowed=allowed) as wire:
        assert wire.send("GET", "/api/stacks/3").ok
        for verb, path in (("PUT", "/api/stacks/3"), ("GET", "/api/stacks/3/file"), ("POST", "/api/auth/logout")):
            with pytest.raises(NotAllowed):
                wire.send(verb, path)
    assert [path for _, path, _ in plain.seen] == ["/api/stacks/3"]


def test_no_cookie_is_sent_back_and_no_redirect_followed(plain: Running) -> None:
    plain.answer(302, b"", **{"Set-Cookie": "portainer_api_key=abc", "Location": plain.url + "/elsewhere"})
    with Wire(server_of(plain)) as wire:
        assert [wire.send("GET", "/a").status, wire.send("GET", "/b").status] == [302, 302]
    assert all("Cookie" not in headers for _, _, headers in plain.seen)
    assert len(plain.seen) == 2


def test_a_server_that_drips_is_given_up(plain: Running) -> None:
    plain.answer(200, *[b"x"] * 200)
    with Wire(server_of(plain)) as wire, pytest.raises(Unreachable):
        wire.send("GET", "/", timeout=0.5)


def test_a_reply_has_a_size(plain: Running) -> None:
    plain.answer(200, b"x" * 5000)
    with Wire(server_of(plain)) as wire, pytest.raises(BadAnswer):
        wire.send("GET", "/", limit=4000)


def test_what_is_not_json_is_told(plain: Running) -> None:
    plain.answer(200, b"<html>log in</html>")
    with Wire(server_of(plain)) as wire, pytest.raises(BadAnswer) as told:
        wire.send("GET", "/").json()
    assert "<html>log in" in told.value.found


def test_nobody_there_is_told_without_secrets() -> None:
    server = Server("Portainer", "http://user:hunter3@127.0.0.1:1/base?token=hunter4", headers={"X-API-Key": SECRET})
    with Wire(server) as wire, pytest.raises(Unreachable) as told:
        wire.send("GET", "/api/status")
    text = f"{told.value} {server!r}"
    assert "http://127.0.0.1:1/base" in str(told.value)
    assert not any(secret in text for secret in (SECRET, "hunter3", "hunter4"))


@pytest.mark.parametrize("address", ["", "host:9000", "ftp://host", "https://"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(AlignError, match="cannot be used"):
        Server("Portainer", address)


def right(certificate: tuple[Path, str]) -> Iterator[Trust]:
    path, pin = certificate
    yield Trust(ca_file=str(path))
    yield Trust(fingerprint=pin)
    yield Trust(fingerprint="SHA256:" + pin.upper())
    yield Trust(fingerprint=":".join(pin[at : at + 2] for at in range(0, 64, 2)))
    yield Trust(insecure=True)


def test_a_certificate_is_trusted_in_three_ways(encrypted: Running, certificate: tuple[Path, str]) -> None:
    for trust in right(certificate):
        with Wire(server_of(encrypted, trust=trust)) as wire:
            assert wire.send("GET", "/").ok


@pytest.mark.parametrize("make", [Trust, lambda: Trust(fingerprint="ab" * 32)], ids=["no way", "another one"])
def test_any_other_certificate_is_refused_before_a_byte_is_sent(encrypted: Running, make: Callable[[], Trust]) -> None:
    with Wire(server_of(encrypted, trust=make())) as wire, pytest.raises(Unreachable) as told:
        wire.send("GET", "/")
    assert told.value.code == "tls_untrusted"
    assert encrypted.seen == []


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"ca_file": "/nowhere/ca.pem"}, "CA file"),
        ({"fingerprint": "abc"}, "malformed"),
        ({"fingerprint": "ab" * 32, "insecure": True}, "one way"),
    ],
)
def test_a_trust_that_cannot_be_meant_is_told(fields: dict[str, object], word: str) -> None:
    with pytest.raises(AlignError, match=word):
        Trust(**fields).context()  # type: ignore[arg-type]
