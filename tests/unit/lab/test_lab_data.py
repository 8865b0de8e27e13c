"""The lab's texts and queries: as many as the plan says, and found by meaning."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lab
from lab import vectors

DATA = Path(lab.__file__).parent / "data"


def read(name: str) -> Any:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def embedded_text(kind: str, item: dict[str, str]) -> str:
    return item["content"] if kind == "pages" else f"{item['content']}\n\nSummary: {item['summary']}"


def test_prod_has_the_plans_numbers_of_texts() -> None:
    sources = read("prod.json")
    assert len(sources) == 8
    pages = [page for source in sources for page in source["pages"]]
    assert len(pages) == 93
    assert len({(page["url"], page["chunk_number"]) for page in pages}) == 93
    assert all(480 <= len(page["content"]) <= 800 for page in pages)
    assert sum(len(source["code_examples"]) for source in sources) >= 12


@pytest.mark.parametrize(("kind", "fewest"), [("pages", 25), ("code_examples", 8)])
def test_queries_find_their_texts_by_meaning(kind: str, fewest: int) -> None:
    items = [item for source in read("prod.json") for item in source[kind]]
    queries = read("queries.json")[kind]
    assert len(queries) >= fewest
    model = vectors.load()
    texts, _ = model.embed([embedded_text(kind, item) for item in items])
    asked, _ = model.embed([query["query"] for query in queries])
    found = 0
    for query, vector in zip(queries, asked, strict=True):
        nearest = (texts @ vector).argsort()[::-1][:5]
        wanted = (query["url"], query["chunk_number"])
        found += wanted in {(items[index]["url"], items[index]["chunk_number"]) for index in nearest}
    assert found / len(queries) >= 0.9


def test_no_query_copies_its_text() -> None:
    """No query shares five words in a row with the page that it must find."""
    pages = {
        (page["url"], page["chunk_number"]): page["content"] for source in read("prod.json") for page in source["pages"]
    }
    for query in read("queries.json")["pages"]:
        words = query["query"].lower().split()
        text = " ".join(pages[(query["url"], query["chunk_number"])].lower().split())
        copied = [words[at : at + 5] for at in range(len(words) - 4) if " ".join(words[at : at + 5]) in text]
        assert not copied, query


def test_devs_bundled_vectors_are_those_of_the_service() -> None:
    bundled = read("dev_vectors.json")
    for source in read("dev.json"):
        for kind in ("pages", "code_examples"):
            for item in source[kind]:
                computed = vectors.load().embed([embedded_text(kind, item)])[0][0]
                kept = np.frombuffer(base64.b64decode(bundled[f"{kind} {item['url']} {item['chunk_number']}"]), "<f4")
                assert np.allclose(kept, computed, atol=1e-5)
