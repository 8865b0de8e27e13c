"""The service's check: the plan's real call, and what it says of the columns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from archon_align.context import Context
from archon_align.embedding.client import EmbeddingClient
from archon_align.embedding.endpoint import Endpoint
from archon_align.embedding.failures import ServiceUnavailable, ServiceUnusable
from archon_align.embedding.native import OllamaApi
from archon_align.embedding.overlong import TextLimit
from archon_align.embedding.phase import Options
from archon_align.embedding.service import probe
from archon_align.embedding.vectors import cosines
from archon_align.errors import AlignError
from archon_align.outcome import PhaseOutcome

from lab.embedding_service import RunningService, serve

PAGES, EXAMPLES = "public.archon_crawled_pages", "public.archon_code_examples"


def test_the_probe_tells_what_answers(
    prod: str, make_context: Callable[..., Context], options: Callable[..., Options]
) -> None:
    context = make_context(prod, prod, check=True)
    outcome = probe(options().endpoints, context)
    found = outcome.details["embedding_service"]
    assert (outcome.status, outcome.changed, found["dimension"], found["model"]) == (
        "aligned",
        False,
        768,
        "nomic-embed-text",
    )
    assert found["version"]
    assert found["digest"]
    assert found["url"].endswith("/v1/embeddings")


def test_the_probe_compares_with_the_columns(
    prod: str,
    new_database: Callable[[str], str],
    make_context: Callable[..., Context],
    options: Callable[..., Options],
) -> None:
    old = new_database("CREATE TABLE archon_crawled_pages (id bigint, content text, embedding vector(1536))")
    given = options().endpoints
    outcome = probe(given, make_context(old, prod))
    assert [finding.code for finding in outcome.findings] == ["embedding_column_dimension"]
    with pytest.raises(AlignError, match="1536"):
        probe(given, make_context(old, old))


def test_the_probe_of_nothing_is_clear() -> None:
    with pytest.raises(AlignError, match="refused") as caught:
        probe([Endpoint("http://127.0.0.1:9", "m", 3)])
    assert caught.value.code == "embedding_unreachable"


@pytest.fixture
def second() -> Iterator[RunningService]:
    with serve() as running:
        yield running


def endpoints(*services: RunningService | str, timeout: float = 20.0) -> list[Endpoint]:
    urls = [service if isinstance(service, str) else service.base_url for service in services]
    return [Endpoint(url, "nomic-embed-text", 768, timeout=timeout) for url in urls]


def told(outcome: PhaseOutcome) -> list[dict[str, object]]:
    found: list[dict[str, object]] = outcome.details["embedding_service"]["endpoints"]
    return found


def test_every_endpoint_is_asked_and_those_that_fail_are_findings(
    service: RunningService, second: RunningService
) -> None:
    outcome = probe(endpoints("http://127.0.0.1:9", service, second))
    assert [(answer["usable"], answer["error"]) for answer in told(outcome)] == [
        (False, "embedding_unreachable"),
        (True, ""),
        (True, ""),
    ]
    assert [(finding.code, finding.severity) for finding in outcome.findings] == [("embedding_unreachable", "warning")]
    assert "127.0.0.1:9" in outcome.findings[0].object
    assert outcome.details["embedding_service"]["url"] == f"{service.base_url}/embeddings"
    assert told(outcome)[1]["context_length"] == 2048


def test_all_at_once_so_that_one_that_hangs_costs_its_timeout_alone(
    service: RunningService, second: RunningService
) -> None:
    service.set_faults(hang=True)
    second.set_faults(hang=True)
    for timeout in (1.0, 5.0, 20.0):  # a slow machine has overhead of its own
        started = time.monotonic()
        with pytest.raises(ServiceUnavailable) as caught:
            probe(endpoints(service, second, timeout=timeout))
        assert second.base_url in caught.value.found
        if time.monotonic() - started < 1.9 * timeout:
            return
    pytest.fail("one after the other")


def test_endpoints_with_different_models_are_refused(service: RunningService, second: RunningService) -> None:
    second.set_faults(other_model=True)
    with pytest.raises(ServiceUnusable) as caught:
        probe(endpoints(service, second))
    assert second.base_url in caught.value.object_name


def test_another_digest_with_the_same_vectors_is_a_finding(
    service: RunningService, second: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    second.set_faults(other_model=True)
    monkeypatch.setattr("lab.ollama_api._spoilt", lambda rows, *_: rows)
    outcome = probe(endpoints(service, second))
    assert [finding.code for finding in outcome.findings] == ["embedding_digests_differ"]
    assert second.base_url in outcome.findings[0].message


def test_a_missing_model_is_offered_foretold_and_pulled(service: RunningService) -> None:
    service.set_faults(model_missing=True, pull_cuts=1)
    with pytest.raises(ServiceUnusable) as caught:
        probe(endpoints(service))
    assert caught.value.code == "embedding_model_missing"
    assert "archon_embedding_pull: true" in caught.value.remedy
    foretold = probe(endpoints(service), pull=True, check=True)
    assert (foretold.status, foretold.changed) == ("drift", True)
    assert [finding.code for finding in foretold.findings] == ["embedding_model_to_pull"]
    assert not any(request["path"] == "/api/pull" for request in service.requests)
    pulled = probe(endpoints(service), pull=True)
    assert (pulled.status, pulled.changed) == ("changed", True)
    assert [finding.code for finding in pulled.findings] == ["embedding_model_pulled"]
    assert told(pulled)[0]["usable"]
    again = probe(endpoints(service), pull=True)
    assert (again.status, again.changed, list(again.findings)) == ("aligned", False, [])


def test_a_pull_that_fails_is_clear(service: RunningService) -> None:
    service.set_faults(model_missing=True, pull_error="pull model manifest: file does not exist")
    with pytest.raises(ServiceUnusable, match="file does not exist"):
        probe(endpoints(service), pull=True)


def test_a_chat_model_is_clear(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    service.set_faults(chat_model=True)
    with pytest.raises(ServiceUnusable) as caught:
        probe(endpoints(service))
    assert caught.value.code == "embedding_not_a_model"
    # Where /api/show cannot be asked, the refusal itself says so.
    with pytest.raises(ServiceUnusable) as caught, EmbeddingClient(endpoints(service)[0]) as client:
        client.embed(["a"])
    assert caught.value.code == "embedding_not_a_model"


def test_both_paths_of_ollama_give_the_same_vectors(service: RunningService) -> None:
    texts = ["Bees make honey.", "word " * 500, "ünïcödé 🐝"]
    with EmbeddingClient(endpoints(service)[0]) as client:
        client.introduce(["a"])
        assert client.unit
        assert np.abs(client.embed(texts) - OllamaApi(client).embed(texts)).max() < 1e-6


@pytest.mark.parametrize("refuses", [False, True])
def test_over_long_texts_are_embedded_from_their_beginning_or_left_out(service: RunningService, refuses: bool) -> None:
    service.set_faults(refuse_long=refuses)
    texts = ["Bees make honey.", "volcano " * 3000, "x" * 4000, "glacier " * 5000]
    with EmbeddingClient(endpoints(service)[0]) as client:
        client.introduce(["a"])
        found = TextLimit.of(client, "truncate").embed(texts)
        assert set(found.truncated) == {1, 3}
        assert len(found.positions) == 4
        alike = client.embed(["volcano " * 100, "glacier " * 100])
        assert min(cosines(found.vectors[[1, 3]], alike)) > 0.99
        left = TextLimit.of(client, "quarantine").embed(texts)
    assert list(left.positions) == [0, 2]
    assert set(left.refused) == {1, 3}


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/embeddings"])
def test_every_way_to_write_the_address_works(service: RunningService, path: str) -> None:
    outcome = probe(endpoints(service.url + path))
    assert outcome.status == "aligned"
    assert outcome.details["embedding_service"]["digest"]


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ({"dimension": 512}, "embedding_dimension"),
        ({"malformed": True}, "embedding_malformed"),
        ({"bad_vector": "nan"}, "embedding_not_finite"),
        ({"bad_vector": "zero"}, "embedding_zero"),
        ({"drop_last": True}, "embedding_count"),
        ({"status": 401}, "embedding_forbidden"),
        ({"status": 503}, "embedding_busy"),
    ],
)
def test_each_fault_has_its_code(service: RunningService, faults: dict[str, object], code: str) -> None:
    service.set_faults(**faults)
    with pytest.raises(AlignError) as caught:
        probe(endpoints(service))
    assert caught.value.code == code
