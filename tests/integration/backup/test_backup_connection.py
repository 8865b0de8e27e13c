"""How pg_dump connects: secrets out of sight, TLS never given up, always to the server that exported the snapshot."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from archon_align.backup import phase, tools
from archon_align.backup.scratch import Scratch
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.embedded.server import EmbeddedServer
from archon_align.errors import AlignError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.ports import reserved

MakeContext = Callable[..., Context]
PASSWORD = r"p:a\s%s 'w\"ör:d\\ "
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server that wants a password over TCP."""
    with ExitStack() as stack:
        number = stack.enter_context(reserved())
        settings = {"listen_addresses": "127.0.0.1", "port": str(number)}
        server = stack.enter_context(EmbeddedServer(tmp_path_factory.mktemp("tcp") / "server", settings=settings))
        with psycopg.connect(f"{server.dsn()} port={number}", autocommit=True) as admin:
            literal = psycopg.sql.Literal(PASSWORD).as_string(admin)
            admin.execute(f"CREATE ROLE keeper LOGIN PASSWORD {literal}".encode())
            admin.execute("CREATE DATABASE prod OWNER keeper")
        with psycopg.connect(f"{server.dsn('prod')} port={number}", autocommit=True) as admin:
            admin.execute("CREATE TABLE archon_tasks AS SELECT 1 AS id; ALTER TABLE archon_tasks OWNER TO keeper")
        yield number


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are the subject here; proving each dump would only take time."""
    monkeypatch.setattr(Scratch, "begin", lambda _: Future())
    monkeypatch.setattr(Scratch, "work", lambda *_: Future())
    monkeypatch.setattr(phase, "_prove", lambda *arguments: arguments[-1]["critical"].update(verified=False) or [])


@pytest.fixture
def witness(tmp_path: Path) -> Callable[[EmbeddedServer], str]:
    """A pg_dump that first writes its arguments and its environment into a file."""

    def make(server: EmbeddedServer) -> str:
        path = tmp_path / "pg_dump"
        path.write_text(f'#!/bin/sh\n(echo "$@"; env) >> {tmp_path}/seen\nexec "{server.bin}/pg_dump" "$@"\n')
        path.chmod(0o755)
        return str(path)

    return make


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("way", ["uri", "keywords", "environment", "passfile"])
def test_no_secret_is_to_be_seen(
    way: str,
    port: int,
    server: EmbeddedServer,
    witness: Callable[[EmbeddedServer], str],
    make_context: MakeContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = f"host=localhost port={port} user=keeper dbname=prod"
    quoted = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
    passfile = tmp_path / "passfile"
    passfile.write_text("*:*:*:*:" + PASSWORD.replace("\\", "\\\\").replace(":", "\\:") + "\n")
    passfile.chmod(0o600)
    if way == "environment":
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
    dsn = {
        "uri": f"postgresql://keeper:{quote(PASSWORD, safe='')}@localhost:{port}/prod",
        "keywords": f"{base} password='{quoted}'",
        "environment": base,
        "passfile": f"{base} passfile={passfile}",
    }[way]
    outcome = phase.run(make_context(dsn, phase="backup"), phase.Options(pg_dump=witness(server)))
    assert outcome.details["backup"]["rows"] == 1
    seen = (tmp_path / "seen").read_text()
    assert "dbname=prod" in seen
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "ör:d"):
        assert secret not in seen
    artifacts = (tmp_path / "artifacts").rglob("*")
    assert not any(b"\xc3\xb6r:d" in path.read_bytes() for path in artifacts if path.is_file())


def test_a_wrong_password_is_told_without_it(port: int, make_context: MakeContext) -> None:
    dsn = f"host=127.0.0.1 port={port} user=keeper dbname=prod password=nonsense"
    with pytest.raises(AlignError) as raised:
        phase.run(make_context(dsn, phase="backup"), phase.Options())
    assert raised.value.code == "wrong_password"
    assert "nonsense" not in str(raised.value)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no such option")
def test_a_cut_network_is_noticed_at_both_ends_and_by_pg_dump(port: int, make_context: MakeContext) -> None:
    dsn = make_conninfo(host="127.0.0.1", port=port, user="keeper", dbname="prod", password=PASSWORD)
    context = make_context(dsn)
    with open_session(context, context.prod) as session:
        with socket.socket(fileno=os.dup(session.connection.fileno())) as wire:
            assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        assert session.value("SELECT current_setting('tcp_keepalives_idle')") == "10"
        with tools.credentials(session, "align backup") as (shown, _):
            assert conninfo_to_dict(shown)["tcp_user_timeout"] == "30000"


@pytest.fixture
def tls_port(port: int, tmp_path: Path) -> Iterator[int]:
    """A door to the server that lets only TLS in: the bundled server was built without it."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-nodes", "-subj", "/CN=localhost"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", *subject, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    door = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        while True:
            try:
                client, _ = door.accept()
            except OSError:
                return
            if client.recv(8) != _SSL_REQUEST:
                client.close()
                continue
            client.sendall(b"S")
            try:
                secure = context.wrap_socket(client, server_side=True)
            except OSError:
                continue
            inner = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=pump, args=(secure, inner), daemon=True).start()
            threading.Thread(target=pump, args=(inner, secure), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield int(door.getsockname()[1])
    door.close()


@pytest.mark.usefixtures("unproved")
def test_tls_is_kept(tls_port: int, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    dsn = f"host=127.0.0.1 port={tls_port} user=keeper dbname=prod sslmode=require"
    outcome = phase.run(make_context(dsn, phase="backup"), phase.Options())
    assert outcome.details["backup"]["rows"] == 1


def test_tls_is_not_given_up_in_silence(
    tls_port: int, server: EmbeddedServer, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sslmode=prefer a pg_dump without TLS would send everything in the clear."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setattr(tools, "_LENDER", "no_such_package")
    dsn = f"host=127.0.0.1 port={tls_port} user=keeper dbname=prod sslmode=prefer"
    with pytest.raises(AlignError) as raised:
        phase.run(make_context(dsn, phase="backup"), phase.Options(pg_dump=str(server.bin / "pg_dump")))
    assert raised.value.code == "pg_dump_without_tls"
