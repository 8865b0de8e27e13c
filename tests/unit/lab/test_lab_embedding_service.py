"""The lab's embedding service answers as Ollama does."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from lab import vectors
from lab.embedding_service import RunningService, main, serve

MODEL = "nomic-embed-text"
CLIENT = httpx.Client(trust_env=False)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningService]:
    with serve() as service:
        yield service


@pytest.fixture
def service(running: RunningService) -> Iterator[RunningService]:
    running.set_faults()
    running.forget_requests()
    yield running
    running.set_faults()


def post(service: RunningService, path: str, timeout: float = 20, **body: object) -> httpx.Response:
    return CLIENT.post(service.url + path, json=body, timeout=timeout)


def rows(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.array([item["embedding"] for item in response.json()["data"]])


def test_a_text_gets_a_unit_vector_of_768_dimensions_whatever_it_is_sent_with(service: RunningService) -> None:
    texts = ["a cat sat on the mat", "", "  ", "ünï\u200bcode 数据", "the stock market fell"]
    together = rows(post(service, "/v1/embeddings", model=MODEL, input=texts))
    alone = [rows(post(service, "/v1/embeddings", model=MODEL, input=text))[0] for text in texts]
    assert together.shape == (5, 768)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together, alone, atol=1e-6)


def test_texts_alike_in_meaning_are_closer_than_others(service: RunningService) -> None:
    cat, kitten, market = rows(
        post(
            service, "/v1/embeddings", model=MODEL, input=["a cat on a mat", "kittens sleep on rugs", "interest rates"]
        )
    )
    assert cat @ kitten > cat @ market + 0.1


def test_the_orthonormal_map_keeps_every_cosine() -> None:
    basis = vectors.load()._carry
    assert np.allclose(basis @ basis.T, np.eye(256), atol=1e-5)


def test_base64_is_little_endian_float32(service: RunningService) -> None:
    plain = rows(post(service, "/v1/embeddings", model=MODEL, input="hello"))[0]
    encoded = post(service, "/v1/embeddings", model=MODEL, input="hello", encoding_format="base64").json()
    assert np.allclose(np.frombuffer(base64.b64decode(encoded["data"][0]["embedding"]), "<f4"), plain, atol=1e-7)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
def test_fewer_dimensions_truncate_and_renormalise_and_more_are_ignored(service: RunningService, path: str) -> None:
    def ask(**more: object) -> np.ndarray:
        content = post(service, path, model=MODEL, input="hello world", **more).json()
        return np.array(content["embeddings"][0] if path == "/api/embed" else content["data"][0]["embedding"])

    whole, short = ask(), ask(dimensions=256)
    assert np.allclose(short, whole[:256] / np.linalg.norm(whole[:256]), atol=1e-5)
    assert np.allclose(ask(dimensions=1536), whole)


def test_the_native_answer_has_ollamas_fields(service: RunningService) -> None:
    content = post(service, "/api/embed", model=MODEL, input=["one", "two"]).json()
    assert set(content) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    assert content["model"] == MODEL
    assert post(service, "/api/embed", model=MODEL).json() == {"model": MODEL, "embeddings": []}


def test_over_long_text_is_truncated_silently_except_where_that_was_refused(service: RunningService) -> None:
    long = "word " * 3000
    first = rows(post(service, "/v1/embeddings", model=MODEL, input=long))
    assert np.allclose(first, rows(post(service, "/v1/embeddings", model=MODEL, input=long + "unheard of " * 500)))
    assert post(service, "/api/embed", model=MODEL, input=long).status_code == 200
    refused = post(service, "/api/embed", model=MODEL, input=["short", long], truncate=False)
    assert (refused.status_code, refused.json()) == (400, {"error": "the input length exceeds the context length"})


@pytest.mark.parametrize(
    ("body", "status", "kind", "message"),
    [
        ({"model": "gemma", "input": "x"}, 404, "not_found_error", "model 'gemma' not found"),
        ({"model": "nomic-embed-text:v1.5", "input": "x"}, 404, "not_found_error", "not found"),
        ({"input": "x"}, 404, "not_found_error", "model '' not found"),
        ({"model": MODEL, "input": None}, 400, "invalid_request_error", "invalid input"),
        ({"model": MODEL}, 400, "invalid_request_error", "invalid input"),
        ({"model": MODEL, "input": []}, 400, "invalid_request_error", "invalid input"),
        ({"model": MODEL, "input": [1, 2]}, 400, "invalid_request_error", "invalid input type"),
        ({"model": MODEL, "input": "x", "encoding_format": "hex"}, 400, "invalid_request_error", "Supported values"),
        ({"model": MODEL, "input": "x", "dimensions": "768"}, 400, "invalid_request_error", "cannot unmarshal string"),
    ],
)
def test_errors_of_the_openai_route(
    service: RunningService, body: dict[str, object], status: int, kind: str, message: str
) -> None:
    response = post(service, "/v1/embeddings", **body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"], error["code"]) == (status, kind, None, None)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "text"),
    [
        ("GET", "/", None, 200, "Ollama is running"),
        ("GET", "/nowhere", None, 404, "404 page not found"),
        ("GET", "/api/embed", None, 405, "405 method not allowed"),
        ("POST", "/api/embed", b"", 400, '{"error":"missing request body"}'),
        ("POST", "/api/embed", b'{"model": "x", "input": "a"}', 404, '{"error":"model \'x\' not found"}'),
        ("POST", "/api/embed", b'{"model": "nomic-embed-text", "input": 5}', 400, '{"error":"invalid input type"}'),
        ("POST", "/api/show", b'{"model": "x"}', 404, '{"error":"model \'x\' not found"}'),
        ("POST", "/api/show", b"{}", 400, '{"error":"model is required"}'),
    ],
)
def test_errors_of_the_native_routes(
    service: RunningService, method: str, path: str, content: bytes | None, status: int, text: str
) -> None:
    response = CLIENT.request(method, service.url + path, content=content)
    assert (response.status_code, response.text) == (status, text)
    broken = CLIENT.post(service.url + "/api/embed", content=b"{nonsense")
    assert broken.status_code == 400
    assert set(broken.json()) == {"error"}


def test_the_model_is_listed_shown_and_reported_loaded(service: RunningService) -> None:
    rows(post(service, "/v1/embeddings", model="Nomic-Embed-Text:latest", input="x"))
    assert CLIENT.get(service.url + "/api/version").json()["version"]
    assert CLIENT.get(service.url + "/api/tags").json()["models"][0]["name"] == f"{MODEL}:latest"
    assert CLIENT.get(service.url + "/api/ps").json()["models"][0]["name"] == f"{MODEL}:latest"
    assert CLIENT.get(service.base_url + "/models").json()["data"][0]["id"] == f"{MODEL}:latest"
    assert CLIENT.get(service.base_url + "/models/nomic-embed-text").status_code == 200
    assert CLIENT.get(service.base_url + "/models/other").status_code == 404
    assert post(service, "/api/show", model=MODEL).json()["model_info"]["nomic-bert.embedding_length"] == 768


def test_a_missing_model_can_be_pulled(service: RunningService) -> None:
    service.set_faults(model_missing=True)
    assert post(service, "/v1/embeddings", model=MODEL, input="x").status_code == 404
    assert CLIENT.get(service.url + "/api/tags").json() == {"models": []}
    lines = [json.loads(line) for line in post(service, "/api/pull", model=MODEL).text.splitlines()]
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-1] == {"status": "success"}
    assert "completed" not in lines[1]
    assert lines[-4]["completed"] == lines[-4]["total"]
    assert post(service, "/v1/embeddings", model=MODEL, input="x").status_code == 200
    unknown = post(service, "/api/pull", model="nobody/nothing", stream=False)
    assert (unknown.status_code, unknown.json()) == (500, {"error": "pull model manifest: file does not exist"})


def pulled(service: RunningService) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    with CLIENT.stream("POST", service.url + "/api/pull", json={"model": MODEL}) as reply:
        assert reply.status_code == 200
        for line in reply.iter_lines():
            lines.append(json.loads(line))
            if len(lines) > 30:
                break
    return lines


def test_a_pull_fails_inside_its_stream_breaks_off_or_stands_still(service: RunningService) -> None:
    service.set_faults(model_missing=True, pull_error="max retries exceeded: EOF")
    assert pulled(service)[-1] == {"error": "max retries exceeded: EOF"}
    service.set_faults(model_missing=True, pull_cuts=1)
    with pytest.raises(httpx.RemoteProtocolError):
        pulled(service)
    rest = pulled(service)
    assert rest[-1] == {"status": "success"}
    assert rest[2]["completed"] == rest[2]["total"] * 6 // 10  # type: ignore[operator]
    service.set_faults(model_missing=True, pull_stall=True)
    assert len({json.dumps(line) for line in pulled(service)}) == 2
    assert post(service, "/v1/embeddings", model=MODEL, input="x").status_code == 404


def test_a_chat_model_says_so_and_has_no_embeddings(service: RunningService) -> None:
    service.set_faults(chat_model=True)
    assert post(service, "/api/show", model=MODEL).json()["capabilities"] == ["completion", "tools"]
    for path in ("/v1/embeddings", "/api/embed"):
        refused = post(service, path, model=MODEL, input="x")
        assert refused.status_code == 501
        assert "this model does not support embeddings" in refused.text


def test_another_model_under_the_same_name_has_another_digest_and_other_vectors(service: RunningService) -> None:
    digest = CLIENT.get(service.url + "/api/tags").json()["models"][0]["digest"]
    first = rows(post(service, "/v1/embeddings", model=MODEL, input="x"))
    service.set_faults(other_model=True)
    assert CLIENT.get(service.url + "/api/tags").json()["models"][0]["digest"] != digest
    assert float(first[0] @ rows(post(service, "/v1/embeddings", model=MODEL, input="x"))[0]) < 0.5


def test_some_releases_refuse_what_they_say_they_cut(service: RunningService) -> None:
    service.set_faults(refuse_long=True)
    assert post(service, "/v1/embeddings", model=MODEL, input="word " * 3000).status_code == 400
    assert post(service, "/v1/embeddings", model=MODEL, input="word " * 300).status_code == 200


def test_one_failing_text_fails_the_whole_request(service: RunningService) -> None:
    service.set_faults(fail_marked=True, marker="POISON")
    assert post(service, "/v1/embeddings", model=MODEL, input=["good", "a POISON pill"]).status_code == 400
    assert post(service, "/v1/embeddings", model=MODEL, input=["good", "better"]).status_code == 200


def test_vectors_can_be_spoilt(service: RunningService) -> None:
    texts = ["first", "second MARK", "third"]
    healthy = rows(post(service, "/v1/embeddings", model=MODEL, input=texts))
    service.set_faults(bad_vector="zero", marker="MARK")
    assert [row.any() for row in rows(post(service, "/v1/embeddings", model=MODEL, input=texts))] == [True, False, True]
    service.set_faults(bad_vector="nan")
    assert np.isnan(rows(post(service, "/v1/embeddings", model=MODEL, input=texts))).all()
    service.set_faults(bad_vector="infinity")
    assert np.isinf(json.loads(post(service, "/api/embed", model=MODEL, input=texts).text)["embeddings"]).all()
    service.set_faults(dimension=1536)
    assert rows(post(service, "/v1/embeddings", model=MODEL, input=texts)).shape == (3, 1536)
    service.set_faults(drop_last=True)
    assert len(rows(post(service, "/v1/embeddings", model=MODEL, input=texts))) == 2
    service.set_faults(shuffled=True)
    shuffled = post(service, "/v1/embeddings", model=MODEL, input=texts)
    assert [item["index"] for item in shuffled.json()["data"]] == [2, 1, 0]
    assert np.allclose(rows(shuffled)[::-1], healthy)


def test_it_can_fail_hang_and_answer_nonsense(service: RunningService) -> None:
    service.set_faults(status=503, first=2)
    assert [post(service, "/v1/embeddings", model=MODEL, input="x").status_code for _ in range(3)] == [503, 503, 200]
    service.set_faults(malformed=True)
    response = post(service, "/v1/embeddings", model=MODEL, input="x")
    assert response.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        response.json()
    service.set_faults(hang=True)
    with pytest.raises(httpx.ReadTimeout):
        post(service, "/v1/embeddings", timeout=0.2, model=MODEL, input="x")
    assert CLIENT.get(service.url + "/api/version").status_code == 200


def test_requests_are_served_one_at_a_time_unless_there_are_more_slots(service: RunningService) -> None:
    def seconds(target: RunningService, latency: float) -> float:
        target.set_faults(latency=latency)
        threads = [
            threading.Thread(target=post, args=(target, "/v1/embeddings"), kwargs={"model": MODEL, "input": "x"})
        ]
        threads += [threading.Thread(target=post, args=(target, "/api/embed"), kwargs={"model": MODEL, "input": "x"})]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.monotonic() - started

    rows(post(service, "/v1/embeddings", model=MODEL, input="the model is loaded now"))
    assert seconds(service, 0.4) >= 0.8
    with serve(slots=2) as roomy:  # a slow machine has overhead of its own
        assert any(seconds(roomy, latency) < 2 * latency for latency in (0.4, 2.0, 10.0))


def test_the_control_route_sets_faults_and_shows_requests(service: RunningService) -> None:
    faults = service.url + "/_lab/faults"
    assert CLIENT.put(faults, json={"status": 500}).json()["status"] == 500
    assert post(service, "/v1/embeddings", model=MODEL, input=["some text"]).status_code == 500
    assert CLIENT.delete(faults).json()["status"] is None
    seen = CLIENT.get(service.url + "/_lab/requests").json()["requests"]
    assert seen == service.requests == [
        {"method": "POST", "path": "/v1/embeddings", "status": 500, "model": MODEL, "texts": ["some text"]}
    ]  # fmt: skip
    for wrong in ({"statuss": 500}, {"status": "500"}, {"bad_vector": "minus"}, {"marker": 5}):
        assert CLIENT.put(faults, json=wrong).status_code == 400


def test_the_command_refuses_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--faults", "{"], ["--faults", '{"x": 1}'], ["--port", "many"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 64
    assert "unknown faults ['x']" in capsys.readouterr().err
