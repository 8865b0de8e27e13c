"""Lists of endpoints: each service once, and every mistake named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from archon_align.embedding.endpoint import endpoints_of
from archon_align.errors import AlignError


def urls(*given: object, base: str = "http://base:11434/v1") -> tuple[list[str], list[str]]:
    endpoints, findings = endpoints_of(base, given, "m", 3, timeout=7)
    assert all((endpoint.model, endpoint.dimensions, endpoint.timeout) == ("m", 3, 7) for endpoint in endpoints)
    assert {finding.code for finding in findings} <= {"embedding_endpoint_twice"}
    return [endpoint.base_url for endpoint in endpoints], [finding.object for finding in findings]


def test_an_empty_list_is_the_base_url_alone() -> None:
    assert urls() == (["http://base:11434/v1"], [])


def test_a_list_stands_for_itself_and_keeps_its_order() -> None:
    assert urls("http://b:11434", "http://a:11434/v1") == (["http://b:11434/v1", "http://a:11434/v1"], [])


@pytest.mark.parametrize(
    "again",
    [
        "http://host/v1",
        "http://HOST/v1",
        "http://host:80/v1",
        "http://host",
        "http://host/",
        " http://host/v1/ ",
        "HTTP://host/v1/embeddings",
        "http://host:/v1",
    ],
)
def test_the_same_service_written_otherwise_is_used_once(again: str) -> None:
    assert urls("http://host/v1", "http://other", again) == (
        ["http://host/v1", "http://other/v1"],
        ["archon_embedding_endpoints[2]"],
    )


def test_what_differs_is_not_the_same() -> None:
    different = ["http://host/v1", "https://host/v1", "http://host:81/v1", "http://host/api/v1", "http://host/V1"]
    assert urls(*different) == (different, [])
    assert urls("https://host:443", "http://host:443") == (["https://host/v1", "http://host:443/v1"], [])
    assert urls("http://[::1]:80/v1", "http://[::1]") == (["http://[::1]/v1"], ["archon_embedding_endpoints[1]"])


@pytest.mark.parametrize(
    "bad",
    ["", "  ", None, 11434, ["http://host"], {"url": "http://host"}, "host:11434", "ftp://host", "http://a b", "http://ho\tst"],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(bad: object) -> None:
    with pytest.raises(AlignError) as caught:
        urls("http://host", bad)
    assert caught.value.object_name == "archon_embedding_endpoints[1]"
    assert "archon_embedding_endpoints[1]" in caught.value.remedy
    assert caught.value.code == "embedding_url"


def test_a_mistake_in_the_base_url_is_named_as_such() -> None:
    with pytest.raises(AlignError) as caught:
        urls(base="ftp://host")
    assert caught.value.object_name == "archon_embedding_base_url"


def test_no_password_is_shown() -> None:
    with pytest.raises(AlignError) as caught:
        urls("http://host", "http://user:hidden@host")
    assert "hidden" not in str(caught.value)


def test_every_endpoint_gets_the_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("word\n")
    file.chmod(0o600)
    endpoints, _ = endpoints_of("http://a", ["http://b", "http://c"], "m", 3, timeout=1, token_file=str(file))
    assert [endpoint.token for endpoint in endpoints] == ["word", "word"]
