"""The lab's Portainer: who is let in, how it says no, and that it is not kinder than the real one."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from archon_align.errors import AlignError
from archon_align.web.trust import Trust
from archon_align.web.wire import Server, Wire
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.portainer import StandIn, stand_in


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with stand_in(tmp_path_factory.mktemp("portainer"), stacks=()) as made:
        yield made


@pytest.fixture
def portainer(running: StandIn) -> Iterator[StandIn]:
    running.faults()
    running.forget_requests()
    yield running
    running.faults()


@pytest.fixture
def nobody(portainer: StandIn) -> Iterator[httpx.Client]:
    """A client that keeps no cookies, unless it is given some."""
    with portainer.nobody() as client:
        yield client


def log_in(client: httpx.Client, portainer: StandIn, user: str = "admin") -> str:
    body = {"Username": user, "Password": portainer.password(user)}
    reply = client.post("/api/auth", json=body)
    assert reply.status_code == 200
    return str(reply.json()["jwt"])


def test_the_certificate_is_self_signed_and_trusted_by_file_or_fingerprint(portainer: StandIn) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{portainer.record.url}/api/system/status", verify=ssl.create_default_context(), trust_env=False)
    for trust in (Trust(ca_file=portainer.record.ca_file), Trust(fingerprint=portainer.record.fingerprint)):
        with Wire(Server("Portainer", portainer.record.url, trust=trust)) as wire:
            assert wire.send("GET", "/api/system/status").json()["Version"].startswith("2.")
    with Wire(Server("Portainer", portainer.record.url, trust=Trust(fingerprint="0" * 64))) as wire, pytest.raises(AlignError):  # fmt: skip
        wire.send("GET", "/api/system/status")


def test_secrets_on_disk_are_the_owners_alone(portainer: StandIn) -> None:
    folder = Path(portainer.record.api_key_file).parent
    assert folder.stat().st_mode & 0o077 == 0
    for name in ("api-key", "admin-password", "key.pem", "store.json", "start.json"):
        assert (folder / name).stat().st_mode & 0o077 == 0, name


def test_a_log_in_gives_a_session_and_a_cookie(portainer: StandIn, nobody: httpx.Client) -> None:
    reply = nobody.post("/api/auth", json={"uSERNAME": "Admin", "password": portainer.password()})
    assert reply.status_code == 200
    assert "portainer_api_key" in reply.cookies
    nobody.cookies.clear()
    token = reply.json()["jwt"]
    me = nobody.get("/api/users/me", headers={"Authorization": f"Bearer {token}"}).json()
    assert me == {"Id": 1, "Username": "admin", "Role": 1}


@pytest.mark.parametrize(
    ("body", "status", "message", "details"),
    [
        (b'{"Username": "admin", "Password": "wrong"}', 422, "Invalid credentials", "Unauthorized"),
        (b'{"Username": "nobody", "Password": "wrong"}', 422, "Invalid credentials", "Unauthorized"),
        (b'{"Username": "admin"}', 400, "Invalid request payload", "Invalid password"),
        (b'{"Username": ""}', 400, "Invalid request payload", "Invalid username"),
        (b"Username=admin", 400, "Invalid request payload", None),
    ],
)
def test_a_log_in_is_refused(nobody: httpx.Client, body: bytes, status: int, message: str, details: str | None) -> None:
    reply = nobody.post("/api/auth", content=body)
    assert (reply.status_code, reply.json()["message"]) == (status, message)
    assert set(reply.json()) == {"message", "details"}
    assert details in (None, reply.json()["details"])


def test_without_or_with_a_wrong_token_nothing_is_told(portainer: StandIn, nobody: httpx.Client) -> None:
    for path in ("/api/stacks", "/api/endpoints", "/api/system/version", "/api/endpoints/1/docker/services"):
        for headers, message in (
            ({}, "A valid authorization token is missing"),
            ({"Authorization": "Bearer a.b.c"}, "Invalid JWT token"),
            ({"X-API-Key": "ptr_wrong"}, "Invalid JWT token"),
        ):
            reply = nobody.get(path, headers=headers)
            assert (reply.status_code, reply.json()) == (401, {"message": message, "details": "Unauthorized"})
    assert nobody.get("/api/system/status").status_code == 200
    assert not any(seen["authenticated"] for seen in portainer.requests())


def test_both_headers_at_once_are_refused(portainer: StandIn, nobody: httpx.Client) -> None:
    token = log_in(nobody, portainer)
    nobody.cookies.clear()
    both = {"X-API-Key": portainer.api_key, "Authorization": f"Bearer {token}"}
    reply = nobody.get("/api/stacks", headers=both)
    assert (reply.status_code, reply.json()["message"]) == (
        403,
        "api key and auth header are not allowed at the same time",
    )
    # With a cookie the check is another one, and the API key comes first.
    nobody.cookies.set("portainer_api_key", token)
    assert nobody.get("/api/stacks", headers={**both, "X-API-Key": "ptr_wrong"}).status_code == 401
    assert nobody.get("/api/stacks", headers=both).status_code == 200
    assert portainer.requests()[-1]["by"] == "api_key"


def test_the_cookie_needs_a_csrf_token_for_everything_but_reading(portainer: StandIn, nobody: httpx.Client) -> None:
    log_in(nobody, portainer)
    reading = nobody.get("/api/endpoints")
    assert reading.status_code == 200
    body = {"ServiceID": "x"}
    refused = nobody.put("/api/endpoints/1/forceupdateservice", json=body)
    assert (refused.status_code, refused.text) == (403, "Forbidden - CSRF token not found in request\n")
    wrong = nobody.put("/api/endpoints/1/forceupdateservice", json=body, headers={"X-CSRF-Token": "wrong"})
    assert (wrong.status_code, wrong.text) == (403, "Forbidden - CSRF token invalid\n")
    token = {"X-CSRF-Token": reading.headers["X-CSRF-Token"]}
    assert nobody.put("/api/endpoints/1/forceupdateservice", json=body, headers=token).status_code == 500
    # A bearer token beside the cookie does not help.
    bearer = {"Authorization": f"Bearer {nobody.cookies['portainer_api_key']}"}
    assert nobody.put("/api/endpoints/1/forceupdateservice", json=body, headers=bearer).status_code == 403
    nobody.cookies.clear()
    assert nobody.put("/api/endpoints/1/forceupdateservice", json=body, headers=bearer).status_code == 500


def test_sessions_and_keys_end(portainer: StandIn, nobody: httpx.Client) -> None:
    token = log_in(nobody, portainer)
    nobody.cookies.clear()
    bearer = {"Authorization": f"Bearer {token}"}
    portainer.faults(token_expired=True)
    assert nobody.get("/api/stacks", headers=bearer).json()["message"] == "Invalid JWT token"
    portainer.faults(api_key_revoked=True)
    assert nobody.get("/api/stacks", headers=bearer).status_code == 200
    assert portainer.client.get("/api/stacks").status_code == 401


def test_an_api_key_is_made_with_the_password_and_for_oneself_alone(portainer: StandIn) -> None:
    body = {"password": portainer.password(), "description": "made by a test"}
    made = portainer.client.post("/api/users/1/tokens", json=body)
    assert made.status_code == 201
    with portainer.nobody() as client:
        assert client.get("/api/users/me", headers={"x-api-key": made.json()["rawAPIKey"]}).status_code == 200
    assert portainer.client.post("/api/users/2/tokens", json=body).status_code == 403
    assert portainer.client.post("/api/users/1/tokens", json={**body, "password": "wrong"}).status_code == 403


def test_a_standard_user_sees_little(portainer: StandIn, nobody: httpx.Client) -> None:
    bearer = {"Authorization": f"Bearer {log_in(nobody, portainer, 'reader')}"}
    nobody.cookies.clear()
    assert [found["Id"] for found in nobody.get("/api/endpoints", headers=bearer).json()] == [1]
    assert nobody.get("/api/endpoints/2", headers=bearer).status_code == 403
    assert nobody.get("/api/stacks", headers=bearer).json() == []
    assert nobody.get("/api/endpoints/1/docker/services", headers=bearer).json() == []
    assert "Env" not in nobody.get("/api/system/version", headers=bearer).json()["Build"]
    assert "Env" in portainer.client.get("/api/system/version").json()["Build"]


def test_2_19_knows_no_cookies_and_no_csrf(portainer: StandIn, nobody: httpx.Client) -> None:
    portainer.faults(version="2.19.5")
    assert nobody.get("/api/system/status").json()["Version"] == nobody.get("/api/status").json()["Version"] == "2.19.5"
    token = log_in(nobody, portainer)
    assert not nobody.cookies
    both = {"Authorization": f"Bearer {token}", "X-API-Key": portainer.api_key}
    assert nobody.get("/api/stacks", headers=both).status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        reply = nobody.get("/api/stacks", headers=headers)
        assert (reply.status_code, reply.json()["message"]) == (401, "A valid authorisation token is missing")


def test_versions_lack_routes(portainer: StandIn, nobody: httpx.Client) -> None:
    portainer.faults(version="2.16.2")
    assert nobody.get("/api/system/status").status_code == 404
    assert nobody.get("/api/status").status_code == 200
    portainer.faults(version="3.0.0")
    assert nobody.get("/api/status").status_code == 404
    assert nobody.get("/api/system/status").json()["Version"] == "3.0.0"


def test_the_log_tells_every_request(portainer: StandIn, nobody: httpx.Client) -> None:
    nobody.get("/api/stacks")
    portainer.client.get("/api/endpoints", params={"limit": "1"})
    portainer.client.put("/api/stacks/99", json={})
    seen = [
        {key: entry[key] for key in ("method", "path", "authenticated", "status")} for entry in portainer.requests()
    ]
    assert seen == [
        {"method": "GET", "path": "/api/stacks", "authenticated": False, "status": 401},
        {"method": "GET", "path": "/api/endpoints", "authenticated": True, "status": 200},
        {"method": "PUT", "path": "/api/stacks/99", "authenticated": True, "status": 404},
    ]
    assert portainer.requests()[1]["query"] == "limit=1"
    assert portainer.api_key not in str(portainer.requests())


def test_bursts_hangs_drips_and_broken_answers(portainer: StandIn) -> None:
    client = portainer.client
    portainer.faults(status=503, path="/api/stacks", first=2)
    assert client.get("/api/endpoints").status_code == 200
    assert [client.get("/api/stacks").status_code for _ in range(3)] == [503, 503, 200]
    portainer.faults(malformed=True)
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        client.get("/api/stacks").json()
    portainer.faults(hang=True, path="/api/stacks")
    with pytest.raises(httpx.ReadTimeout):
        client.get("/api/stacks", timeout=1)
    portainer.faults(drip=True)
    with client.stream("GET", "/api/stacks") as reply:
        pieces = reply.iter_raw()
        assert [next(pieces), next(pieces)] == [b"[", b" "]
    assert client.put("/_lab/faults", json={"sideways": True}).status_code == 400
    assert client.put("/_lab/faults", json={"first": True}).status_code == 400


def test_before_a_real_engine_the_proxy_passes_everything_through(tmp_path: Path) -> None:
    asked: list[tuple[str, str, bytes, dict[str, str]]] = []

    async def engine(request: Request) -> Response:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        asked.append((request.method, target, await request.body(), dict(request.headers)))
        return JSONResponse({"message": "no such thing"}, 404, headers={"Api-Version": "1.41"})

    methods = ["GET", "POST"]
    config = uvicorn.Config(Starlette(routes=[Route("/{path:path}", engine, methods=methods)]), log_level="warning")
    server = uvicorn.Server(config)
    with socket.socket(socket.AF_UNIX) as listener, socket.create_server(("127.0.0.1", 0)) as own:
        path = f"/tmp/lab-engine-{os.getpid()}"  # noqa: S108 - a socket's path has to be short
        listener.bind(path)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        command = [sys.executable, "-m", "lab.portainer", "--lab", str(tmp_path), "--engine", f"unix://{path}"]
        process = subprocess.Popen([*command, "--fd", str(own.fileno())], pass_fds=[own.fileno()])
        try:
            url = f"https://127.0.0.1:{own.getsockname()[1]}"
            with Wire(Server("Portainer", url, timeout=60, trust=Trust(insecure=True))) as wire:
                assert wire.send("GET", "/api/status").ok
            key = {"X-API-Key": (tmp_path / "portainer" / "api-key").read_text().strip()}
            with Wire(Server("Portainer", url, timeout=60, trust=Trust(insecure=True), headers=key)) as wire:
                reply = wire.send(
                    "POST", "/api/endpoints/1/docker/containers/x/exec", params={"a": "1"}, json={"Cmd": ["x"]}
                )
            assert (reply.status, reply.json(), reply.headers["api-version"]) == (
                404,
                {"message": "no such thing"},
                "1.41",
            )
            method, target, body, headers = asked[0]
            assert (method, target, body) == ("POST", "/containers/x/exec?a=1", b'{"Cmd":["x"]}')
            assert "x-api-key" not in headers
        finally:
            process.terminate()
            process.wait(30)
            server.should_exit = True
            thread.join(30)
            Path(path).unlink(missing_ok=True)
