"""A missing model: offered, foretold, or pulled through everything that can go wrong on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import repeat

import httpx
import pytest
from archon_align.embedding import pull
from archon_align.embedding.client import EmbeddingClient
from archon_align.embedding.endpoint import Endpoint
from archon_align.embedding.failures import ServiceUnavailable, ServiceUnusable
from archon_align.embedding.pull import ensure_model
from archon_align.findings import Finding

Line = dict[str, object]
MANIFEST: Line = {"status": "pulling manifest"}
SUCCESS: Line = {"status": "success"}


def layer(completed: int, *, digest: str = "sha256:aa", total: int = 100) -> Line:
    return {"status": f"pulling {digest[7:]}", "digest": digest, "total": total, "completed": completed}


class Registry:
    """An Ollama without the model, whose pulls say what they are given to say; an exception cuts the stream."""

    def __init__(self, *pulls: object) -> None:
        self.pulls: Iterator[object] = iter(pulls)
        self.asked = 0
        self.present = False
        self.body: dict[str, object] = {}

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/show":
            if self.present:
                return httpx.Response(200, json={"model_info": {"x.context_length": 8}, "capabilities": ["embedding"]})
            return httpx.Response(404, json={"error": "model 'm' not found"})
        if request.url.path != "/api/pull":
            return httpx.Response(404, text="404 page not found")
        self.asked += 1
        self.body = json.loads(request.content)
        said = next(self.pulls)
        return said if isinstance(said, httpx.Response) else httpx.Response(200, content=self._lines(said))

    def _lines(self, said: object) -> Iterator[bytes]:
        for line in said:  # type: ignore[attr-defined]
            if isinstance(line, Exception):
                raise line
            if line == SUCCESS:
                self.present = True
            yield json.dumps(line).encode() + b"\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "_PAUSES", (0.0, 0.0, 0.0))


def ensured(
    answer: Callable[[httpx.Request], httpx.Response],
    *,
    allowed: bool = True,
    check: bool = False,
    timeout: float = 5.0,
) -> tuple[Finding | None, list[str]]:
    shown: list[str] = []
    endpoint = Endpoint("http://127.0.0.1:1", "m", 3, timeout=5)
    with EmbeddingClient(endpoint, transport=httpx.MockTransport(answer)) as client:
        found = ensure_model(client, allowed=allowed, check=check, progress=shown.append, timeout=timeout)
    return found, shown


def test_a_model_that_is_there_is_left_alone() -> None:
    service = Registry()
    service.present = True
    assert ensured(service.answer) == (None, [])
    assert service.asked == 0


def test_a_service_without_ollamas_api_is_left_alone() -> None:
    assert ensured(lambda _: httpx.Response(404, text="404 page not found")) == (None, [])


def test_without_permission_it_is_offered() -> None:
    service = Registry()
    with pytest.raises(ServiceUnusable) as caught:
        ensured(service.answer, allowed=False)
    assert caught.value.code == "embedding_model_missing"
    assert "ollama pull m" in caught.value.remedy
    assert "archon_embedding_pull: true" in caught.value.remedy
    assert service.asked == 0


def test_in_check_mode_it_is_only_told() -> None:
    service = Registry()
    found, _ = ensured(service.answer, check=True)
    assert found is not None
    assert found.code == "embedding_model_to_pull"
    assert service.asked == 0
    with pytest.raises(ServiceUnusable):
        ensured(service.answer, check=True, allowed=False)


def test_a_pull_shows_how_far_it_is_and_never_goes_back() -> None:
    service = Registry(
        [MANIFEST, layer(0), layer(45), layer(45), layer(100), layer(0, digest="sha256:bb", total=100), SUCCESS]
    )
    found, shown = ensured(service.answer)
    assert shown == ["pull 0 %", "pull 45 %", "pull 100 %"]
    assert service.body == {"model": "m", "stream": True}
    assert found is not None
    assert found.code == "embedding_model_pulled"


@pytest.mark.parametrize(
    "words", ["pull model manifest: file does not exist", "write /models: no space left on device", "unauthorized"]
)
def test_an_error_inside_the_stream_that_will_not_change_is_told_at_once(words: str) -> None:
    service = Registry([MANIFEST, {"error": words}])
    with pytest.raises(ServiceUnusable, match=words) as caught:
        ensured(service.answer)
    assert caught.value.code == "embedding_pull_failed"
    assert service.asked == 1


def test_an_error_inside_the_stream_that_may_pass_is_tried_again() -> None:
    broken: list[Line] = [MANIFEST, {"error": "max retries exceeded: EOF"}]
    service = Registry(broken, broken, [MANIFEST, SUCCESS])
    ensured(service.answer)
    assert service.asked == 3
    with pytest.raises(ServiceUnavailable, match="max retries exceeded"):
        ensured(Registry(*repeat(broken, 4)).answer)


@pytest.mark.parametrize("end", [[], [httpx.RemoteProtocolError("peer closed connection")]])
def test_a_stream_that_is_cut_is_taken_up_again(end: list[Exception]) -> None:
    # Seven cuts are more than the tries there are, but each time some of it had come.
    cuts = [[MANIFEST, layer(10 * turn), *end] for turn in range(1, 8)]
    service = Registry(*cuts, [MANIFEST, layer(100), SUCCESS])
    _, shown = ensured(service.answer)
    assert service.asked == 8
    assert shown[0] == "pull 10 %"
    stuck = Registry(*repeat([MANIFEST, layer(10), *end], 10))
    with pytest.raises(ServiceUnavailable):
        ensured(stuck.answer)
    # The first brought something; the three after it did not.
    assert stuck.asked == 4


def test_a_pull_that_repeats_itself_has_stalled() -> None:
    still = Registry(*([MANIFEST, *repeat(layer(10), 2_000_000)] for _ in range(9)))
    with pytest.raises(ServiceUnavailable) as caught:
        ensured(still.answer, timeout=0.02)
    assert caught.value.code == "embedding_pull_stalled"
    assert "pulling aa" in caught.value.found


def test_success_without_the_model_is_no_success() -> None:
    service = Registry([MANIFEST, {"status": "success "}, {"status": "success"}])
    service._lines = lambda said: (json.dumps(line).encode() + b"\n" for line in said)  # type: ignore[method-assign,attr-defined]
    with pytest.raises(ServiceUnusable) as caught:
        ensured(service.answer)
    assert caught.value.code == "embedding_model_missing"


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (httpx.Response(400, json={"error": "invalid model name"}), ServiceUnusable, "invalid model name"),
        (httpx.Response(403, text="forbidden"), ServiceUnusable, "token"),
        (httpx.Response(404, text="404 page not found"), ServiceUnusable, "HTTP 404"),
        (httpx.Response(503, text="busy"), ServiceUnavailable, "busy"),
    ],
)
def test_a_pull_that_is_refused(reply: httpx.Response, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        ensured(Registry(*repeat(reply, 9)).answer)
