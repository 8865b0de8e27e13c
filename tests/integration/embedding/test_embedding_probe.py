"""The service's check: the plan's real call, and what it says of the columns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from archon_align.context import Context
from archon_align.embedding.endpoint import Endpoint
from archon_align.embedding.phase import Options
from archon_align.embedding.service import probe
from archon_align.errors import AlignError

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
    endpoints = options().endpoints
    outcome = probe(endpoints, make_context(old, prod))
    assert [finding.code for finding in outcome.findings] == ["embedding_column_dimension"]
    with pytest.raises(AlignError, match="1536"):
        probe(endpoints, make_context(old, old))


def test_the_probe_of_nothing_is_clear() -> None:
    with pytest.raises(AlignError, match="refused") as caught:
        probe([Endpoint("http://127.0.0.1:9", "m", 3)])
    assert caught.value.code == "embedding_unreachable"
