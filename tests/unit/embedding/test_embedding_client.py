"""The client against every foreseeable answer."""

from __future__ import annotations

import base64
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from archon_align.embedding.client import EmbeddingClient
from archon_align.embedding.endpoint import Endpoint, normalised
from archon_align.embedding.failures import (
    RequestRejected,
    RequestTooLong,
    ServiceUnavailable,
    ServiceUnusable,
)
from archon_align.errors import AlignError
from hypothesis import given
from hypothesis import strategies as st

URL = "http://127.0.0.1:11434/v1"
SECRET = "s3cret-token"
Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler, *, dimensions: int = 3, token: str = "", timeout: float = 5.0) -> EmbeddingClient:
    endpoint = Endpoint(URL, "nomic-embed-text", dimensions, timeout=timeout, token=token)
    return EmbeddingClient(endpoint, transport=httpx.MockTransport(handler))


def answer(vectors: list[object], *, indices: list[object] | None = None) -> httpx.Response:
    numbers = indices if indices is not None else list(range(len(vectors)))
    data = [{"embedding": vector, "index": number} for vector, number in zip(vectors, numbers, strict=True)]
    return httpx.Response(200, content=json.dumps({"data": data}).encode())


def unit(position: int) -> list[float]:
    return [float(number == position) for number in range(3)]


def encoded(vector: list[float]) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


@pytest.mark.parametrize(
    ("given_url", "expected"),
    [
        ("http://host:11434", "http://host:11434/v1"),
        ("http://host:11434/", "http://host:11434/v1"),
        (" http://host:11434/v1/ ", "http://host:11434/v1"),
        ("https://host/api/v1/embeddings", "https://host/api/v1"),
        ("http://host/v1beta/openai", "http://host/v1beta/openai"),
        ("http://[::1]:11434", "http://[::1]:11434/v1"),
    ],
)
def test_urls_are_normalised(given_url: str, expected: str) -> None:
    assert normalised(given_url) == expected


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "host:11434",
        "ftp://host/v1",
        "http://",
        "http://host:99999/v1",
        "http://host/v1?key=hidden",
        "http://[::1/v1",
    ],
)
def test_unusable_urls_are_refused(bad: str) -> None:
    with pytest.raises(AlignError, match="archon_embedding_base_url") as caught:
        normalised(bad)
    assert "hidden" not in str(caught.value)


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(AlignError) as caught:
        Endpoint("http://user:hidden@host/v1", "m", 3)
    assert "hidden" not in str(caught.value)


def test_the_request_is_what_openai_clients_send_and_base64_comes_back_in_order() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answer([encoded(unit(1)), encoded(unit(0))], indices=[1, 0])

    vectors = client(handler, token=SECRET).embed(["eins", "zwei"])
    assert vectors.tolist() == [unit(0), unit(1)]
    assert str(seen[0].url) == f"{URL}/embeddings"
    assert orjson.loads(seen[0].content) == {
        "model": "nomic-embed-text",
        "input": ["eins", "zwei"],
        "encoding_format": "base64",
    }
    assert seen[0].headers["authorization"] == f"Bearer {SECRET}"


def test_a_server_without_base64_gets_floats_from_then_on() -> None:
    formats = []

    def handler(request: httpx.Request) -> httpx.Response:
        formats.append(orjson.loads(request.content)["encoding_format"])
        return answer([unit(0)]) if formats[-1] == "float" else httpx.Response(422, json={"detail": "encoding_format"})

    service = client(handler)
    service.introduce(["a"])
    service.embed(["b"])
    assert formats == ["base64", "float", "float"]


def test_a_wrong_reply_is_not_taken_for_a_server_without_base64() -> None:
    replies = iter([answer([encoded([float("nan"), 0.0, 0.0])]), answer([unit(0)])])
    with pytest.raises(RequestRejected) as caught:
        client(lambda _: next(replies)).introduce(["a"])
    assert caught.value.code == "embedding_not_finite"


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_no_json_are_the_texts_fault(word: str) -> None:
    content = f'{{"data": [{{"index": 0, "embedding": [1.0, {word}, 0.0]}}]}}'
    with pytest.raises(RequestRejected) as caught:
        client(lambda _: httpx.Response(200, text=content)).embed(["a"])
    assert caught.value.code == "embedding_not_finite"


@given(st.permutations(range(6)))
def test_any_order_of_a_reply_is_put_right(order: list[int]) -> None:
    vectors: list[list[float]] = [[float(number + 1), 0.0, 0.0] for number in range(6)]
    handler: Handler = lambda _: answer([vectors[number] for number in order], indices=list(order))  # noqa: E731
    assert client(handler).embed(["t"] * 6).tolist() == vectors


@pytest.mark.parametrize(
    ("vectors", "indices", "code"),
    [
        ([unit(0)], [0], "embedding_count"),
        ([unit(0), unit(1), unit(2)], [0, 1, 2], "embedding_count"),
        ([unit(0), unit(1)], [0, 0], "embedding_indices"),
        ([unit(0), unit(1)], [1, 2], "embedding_indices"),
        ([unit(0), unit(1)], [0, None], "embedding_indices"),
        ([unit(0), unit(1)], [0, True], "embedding_indices"),
        ([unit(0), [1.0, 0.0]], [0, 1], "embedding_dimension_mixed"),
        ([unit(0), [1.0, None, 0.0]], [0, 1], "embedding_not_finite"),
        ([unit(0), [1.0, "x", 0.0]], [0, 1], "embedding_not_numbers"),
        ([unit(0), [[1.0], [0.0], [0.0]]], [0, 1], "embedding_not_numbers"),
        ([unit(0), {"a": 1}], [0, 1], "embedding_not_numbers"),
        ([unit(0), "not base64!"], [0, 1], "embedding_not_numbers"),
        ([unit(0), "AAAA"], [0, 1], "embedding_not_numbers"),
        ([encoded(unit(0)), "!" + encoded(unit(1))[1:]], [0, 1], "embedding_not_numbers"),
        ([encoded(unit(0))[:-1] + "=", encoded(unit(1))], [0, 1], "embedding_not_numbers"),
        ([unit(0), [1e39, 0.0, 0.0]], [0, 1], "embedding_not_finite"),
        ([unit(0), encoded([float("nan"), 0.0, 0.0])], [0, 1], "embedding_not_finite"),
        ([unit(0), encoded([float("inf"), 0.0, 0.0])], [0, 1], "embedding_not_finite"),
        ([unit(0), [0.0, 0.0, 0.0]], [0, 1], "embedding_zero"),
    ],
)
def test_wrong_vectors_are_rejected(vectors: list[object], indices: list[object], code: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        client(lambda _: answer(vectors, indices=indices)).embed(["a", "b"])
    assert caught.value.code == code


def test_a_length_other_than_one_is_rejected_once_the_model_is_known_to_normalise() -> None:
    replies = iter([answer([unit(0)]), answer([[1.02, 0.0, 0.0]])])
    service = client(lambda _: next(replies))
    service.introduce(["a"])
    with pytest.raises(RequestRejected) as caught:
        service.embed(["b"])
    assert caught.value.code == "embedding_norm"


def test_a_model_that_does_not_normalise_is_accepted() -> None:
    service = client(lambda _: answer([[3.0, 4.0, 0.0]]))
    service.introduce(["a"])
    assert service.unit is False
    assert service.embed(["b"]).tolist() == [[3.0, 4.0, 0.0]]


def test_one_wrong_dimension_throughout_is_the_wrong_model() -> None:
    with pytest.raises(ServiceUnusable, match="archon_embedding_dimensions") as caught:
        client(lambda _: answer([unit(0), unit(1)]), dimensions=4).embed(["a", "b"])
    assert caught.value.code == "embedding_dimension"


def _raise(error: Exception) -> Handler:
    def handler(_: httpx.Request) -> httpx.Response:
        raise error

    return handler


@pytest.mark.parametrize(
    ("handler", "kind", "words"),
    [
        (_raise(httpx.ConnectError("[Errno 111] Connection refused")), ServiceUnavailable, "Connection refused"),
        (_raise(httpx.ConnectTimeout("")), ServiceUnavailable, "within 5 s"),
        (_raise(httpx.ReadTimeout("")), ServiceUnavailable, "within 5 s"),
        (_raise(httpx.RemoteProtocolError("peer closed connection")), ServiceUnavailable, "peer closed"),
        (_raise(httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")), ServiceUnusable, "SSL_CERT_FILE"),
        (_raise(httpx.ProxyError("407")), ServiceUnavailable, "NO_PROXY"),
        (lambda _: httpx.Response(503, text="loading model"), ServiceUnavailable, "loading model"),
        (lambda _: httpx.Response(429), ServiceUnavailable, "HTTP 429"),
        (lambda _: httpx.Response(200, text='{"data": [{"embe'), ServiceUnavailable, "complete JSON"),
        (lambda _: httpx.Response(200, text=""), ServiceUnavailable, "complete JSON"),
        (lambda _: httpx.Response(200, text='{"data": [{"embedding": [NaN, '), ServiceUnavailable, "complete JSON"),
        (lambda _: httpx.Response(200, text="<html>hello"), ServiceUnusable, "web page"),
        (lambda _: httpx.Response(200, html="hello"), ServiceUnusable, "web page"),
        (
            lambda _: httpx.Response(302, headers={"location": "http://other/?k=hidden"}),
            ServiceUnusable,
            "http://other/",
        ),
        (lambda _: httpx.Response(401, json={"error": f"bad key {SECRET}"}), ServiceUnusable, "token"),
        (lambda _: httpx.Response(404, text="404 page not found"), ServiceUnusable, "archon_embedding_base_url"),
        (
            lambda _: httpx.Response(307, headers={"location": "https://u:hidden@other/v1"}),
            ServiceUnusable,
            "'other/v1'",
        ),
        (lambda _: httpx.Response(403, json={"error": {"message": "You are not allowed"}}), ServiceUnusable, "0600"),
        (lambda _: httpx.Response(407), ServiceUnusable, "NO_PROXY"),
        (
            lambda _: httpx.Response(501, json={"error": {"message": "this model does not support embeddings"}}),
            ServiceUnusable,
            "not an embedding model",
        ),
        (
            lambda _: httpx.Response(403, json={"error": {"message": "You are not allowed to generate embeddings"}}),
            ServiceUnusable,
            "not an embedding model",
        ),
        (
            lambda _: httpx.Response(400, json={"error": {"message": "the input length exceeds the context length"}}),
            RequestTooLong,
            "too long",
        ),
        (lambda _: httpx.Response(413, html="<h1>Request Entity Too Large"), RequestTooLong, "HTTP 413"),
        (
            lambda _: httpx.Response(400, json={"error": '{"error":{"code":400,"message":"boom inside"}}'}),
            RequestRejected,
            "HTTP 400: boom inside",
        ),
        (lambda _: httpx.Response(200, json={"error": {"message": "rate"}}), RequestRejected, "HTTP 200: rate"),
        (lambda _: httpx.Response(200, json={"embedding": []}), ServiceUnusable, "ends in /v1"),
        (lambda _: httpx.Response(400, json={"error": {"message": "EOF"}}), RequestRejected, "HTTP 400: EOF"),
        (lambda _: httpx.Response(500, json={"error": "boom"}), RequestRejected, "HTTP 500: boom"),
        (lambda _: httpx.Response(200, json=[1]), RequestRejected, "another shape"),
        (lambda _: httpx.Response(200, json={"error": "no"}), RequestRejected, "HTTP 200: no"),
        (lambda _: httpx.Response(200, content=b"x" * 2_000_000), ServiceUnusable, "longer reply"),
    ],
)
def test_each_failure_is_of_its_kind(handler: Handler, kind: type[AlignError], words: str) -> None:
    with pytest.raises(kind) as caught:
        client(handler, token=SECRET).embed(["a"])
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert f"{URL}/embeddings" in str(caught.value)


def test_a_missing_model_names_the_command_and_what_is_there() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"object": "list", "data": [{"id": "llama3:latest"}]})
        return httpx.Response(404, json={"error": {"message": 'model "nomic-embed-text" not found'}})

    with pytest.raises(ServiceUnusable) as caught:
        client(handler).embed(["a"])
    assert "ollama pull nomic-embed-text" in caught.value.remedy
    assert "llama3:latest" in caught.value.found


def test_identity_of_ollama_and_of_others() -> None:
    replies = {
        "/api/version": {"version": "0.12.6"},
        "/api/tags": {
            "models": [{"name": "other:latest", "digest": "x"}, {"name": "nomic-embed-text:latest", "digest": "d"}]
        },
    }
    found = client(lambda request: httpx.Response(200, json=replies[request.url.path])).identity()
    assert (found.version, found.digest) == ("0.12.6", "d")
    found = client(lambda _: httpx.Response(200, text="<html>")).identity()
    assert (found.version, found.digest) == ("", "")


def test_proxy_variables_do_not_touch_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "no-such-scheme://user:hidden@proxy")
    monkeypatch.setenv("ALL_PROXY", "no-such-scheme://user:hidden@proxy")
    for here in (URL, "http://localhost:1/v1", "http://[::1]:1/v1"):
        EmbeddingClient(Endpoint(here, "m", 3)).close()
    with pytest.raises(ServiceUnusable, match="HTTP_PROXY") as caught:
        EmbeddingClient(Endpoint("http://192.0.2.1/v1", "m", 3))
    assert "hidden" not in str(caught.value)


@pytest.fixture
def dripping() -> Iterator[str]:
    """A server that sends one byte at a time and never ends."""

    class Drip(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(2000):
                    self.wfile.write(b" ")
                    time.sleep(0.05)
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Drip) as listening:
        listening.daemon_threads = True
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_a_dripping_server_does_not_outlast_the_timeout(dripping: str) -> None:
    started = time.monotonic()
    with EmbeddingClient(Endpoint(dripping, "m", 3, timeout=0.3)) as service, pytest.raises(ServiceUnavailable):
        service.embed(["a"])
    assert time.monotonic() - started < 50  # not as long as it drips


def test_the_token_file_must_be_private(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o644)
    with pytest.raises(AlignError, match="0644") as caught:
        Endpoint.of(URL, "m", 3, timeout=1, token_file=str(file))
    assert SECRET not in str(caught.value)
    file.chmod(0o600)
    endpoint = Endpoint.of(URL, "m", 3, timeout=1, token_file=str(file))
    assert endpoint.token == SECRET
    assert SECRET not in repr(endpoint)


@pytest.mark.parametrize("content", [b"", b"two words", b"two\nlines", b"\xff\xfe", b"caf\xc3\xa9"])
def test_a_token_file_must_hold_one_word(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(AlignError, match="token"):
        Endpoint.of(URL, "m", 3, timeout=1, token_file=str(file))
    with pytest.raises(AlignError, match="No such file"):
        Endpoint.of(URL, "m", 3, timeout=1, token_file=str(tmp_path / "none"))
