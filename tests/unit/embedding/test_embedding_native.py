"""Ollama's own API, and servers that have none or only half of it."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest
from archon_align.embedding.client import EmbeddingClient
from archon_align.embedding.endpoint import Endpoint
from archon_align.embedding.failures import RequestRejected, RequestTooLong, ServiceUnavailable, ServiceUnusable
from archon_align.embedding.native import Description, OllamaApi, PullStep
from archon_align.errors import AlignError
from fake_service import FakeService

Handler = Callable[[httpx.Request], httpx.Response]


def native(handler: Handler, *, token: str = "") -> OllamaApi:
    endpoint = Endpoint("http://127.0.0.1:11434/v1", "nomic-embed-text", 3, timeout=5, token=token)
    return OllamaApi(EmbeddingClient(endpoint, transport=httpx.MockTransport(handler)))


def only(path: str, reply: httpx.Response) -> Handler:
    return lambda request: reply if request.url.path == path else httpx.Response(404, text="404 page not found")


def test_ollama_describes_its_model() -> None:
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return FakeService(context=2048).answer(request)

    assert native(handler).describe() == Description(2048)
    assert (asked[0].method, asked[0].url.path, json.loads(asked[0].content)) == (
        "POST",
        "/api/show",
        {"model": "nomic-embed-text"},
    )


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(404, text="404 page not found"),
        httpx.Response(404, json={"detail": "Not Found"}),
        httpx.Response(405),
        httpx.Response(200, html="<html>Welcome"),
        httpx.Response(200, json={"version": "1"}),
        httpx.Response(200, json=[]),
        httpx.Response(500, text="boom"),
        httpx.Response(401, json={"error": "unauthorized"}),
        httpx.Response(403, text="only /v1 is open"),
    ],
)
def test_a_server_without_ollamas_api_describes_nothing(reply: httpx.Response) -> None:
    assert native(lambda _: reply).describe() is None


def test_a_missing_model_is_told_from_a_missing_path() -> None:
    reply = httpx.Response(404, json={"error": "model 'nomic-embed-text' not found"})
    with pytest.raises(ServiceUnusable) as caught:
        native(lambda _: reply).describe()
    assert caught.value.code == "embedding_model_missing"
    assert "ollama pull nomic-embed-text" in caught.value.remedy
    assert "archon_embedding_pull: true" in caught.value.remedy


@pytest.mark.parametrize("capabilities", [["completion", "tools"], ["completion"]])
def test_a_model_without_the_capability_is_no_embedding_model(capabilities: list[str]) -> None:
    with pytest.raises(ServiceUnusable, match="not an embedding model") as caught:
        native(FakeService(capabilities=capabilities).answer).describe()
    assert "completion" in caught.value.found
    assert caught.value.code == "embedding_not_a_model"


@pytest.mark.parametrize("capabilities", [None, [], ["embedding"]])
def test_a_server_that_tells_no_capabilities_is_believed(capabilities: list[str] | None) -> None:
    assert native(FakeService(capabilities=capabilities).answer).describe() == Description(16)


def test_a_server_that_cannot_be_reached_is_not_taken_for_another_kind() -> None:
    def down(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused")

    with pytest.raises(ServiceUnavailable, match="refused"):
        native(down).describe()
    with pytest.raises(ServiceUnavailable, match="loading"):
        native(lambda _: httpx.Response(503, text="loading")).describe()


def test_texts_are_sent_whole_or_refused() -> None:
    service = FakeService()
    assert OllamaApi(service.client()).embed(["a", "b c"]).shape == (2, 3)
    with pytest.raises(RequestTooLong, match="context length"):
        OllamaApi(service.client()).embed(["a", "w " * 20])


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        ({"embeddings": [[1, 0, 0]]}, RequestRejected, "embedding_count"),
        ({"embeddings": []}, RequestRejected, "embedding_count"),
        ({"embeddings": {"0": [1, 0, 0]}}, RequestRejected, "embedding_reply_shape"),
        ({"embedding": [1, 0, 0]}, RequestRejected, "embedding_reply_shape"),
        ({"data": []}, RequestRejected, "embedding_reply_shape"),
        ({"embeddings": [[1, 0, 0], [1, 0]]}, RequestRejected, "embedding_dimension_mixed"),
        ({"embeddings": [[1, 0], [1, 0]]}, ServiceUnusable, "embedding_dimension"),
        ({"embeddings": [[1, 0, 0], [1, None, 0]]}, RequestRejected, "embedding_not_finite"),
        ({"embeddings": [[1, 0, 0], [1, 1e39, 0]]}, RequestRejected, "embedding_not_finite"),
        ({"embeddings": [[1, 0, 0], [0, 0, 0]]}, RequestRejected, "embedding_zero"),
        ({"embeddings": [[1, 0, 0], [1, [0], 0]]}, RequestRejected, "embedding_not_numbers"),
        ({"embeddings": [[1, 0, 0], None]}, RequestRejected, "embedding_not_numbers"),
    ],
)
def test_wrong_vectors_are_rejected(reply: object, kind: type[AlignError], code: str) -> None:
    with pytest.raises(kind) as caught:
        native(only("/api/embed", httpx.Response(200, json=reply))).embed(["a", "b"])
    assert caught.value.code == code


def test_lengths_are_checked_as_on_the_other_path() -> None:
    client = FakeService().client()
    client.introduce(["a"])
    assert client.unit
    api = native(only("/api/embed", httpx.Response(200, json={"embeddings": [[2, 0, 0]]})))
    api._client.unit = True
    with pytest.raises(RequestRejected, match="length 1"):
        api.embed(["a"])


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ('{"status":"pulling manifest"}', PullStep("pulling manifest")),
        ('{"status":"pulling 97","digest":"sha256:97","total":10}', PullStep("pulling 97", "", "sha256:97", 0, 10)),
        (
            '{"status":"pulling 97","digest":"sha256:97","total":10,"completed":4}',
            PullStep("pulling 97", "", "sha256:97", 4, 10),
        ),
        (
            '{"error":"pull model manifest: file does not exist"}',
            PullStep("", "pull model manifest: file does not exist"),
        ),
        ('{"status":"x","total":"10","completed":true}', PullStep("x")),
        ('{"status":"pulling', None),
        ("[]", None),
        ("", None),
    ],
)
def test_the_lines_of_a_pull(line: str, step: PullStep | None) -> None:
    assert PullStep.of(line) == step
