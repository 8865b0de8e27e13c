from __future__ import annotations

import socket
from collections.abc import Callable

import httpx
import pytest
from archon_user import PATIENCE, STACK, ask, rows, run, set_to

from lab.archon import serve

NO_VECTORS = "UPDATE archon_crawled_pages SET embedding = NULL"


def _ollama_is_here() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 11434)) == 0


def test_search_asks_where_only_llm_base_url_says(copy_of: Callable[..., str]) -> None:
    if _ollama_is_here():
        pytest.skip("an Ollama of this machine would answer")
    dev = copy_of("dev", "UPDATE archon_settings SET value = NULL WHERE key = 'LLM_BASE_URL'")
    with serve.server(dev, **STACK, LLM_BASE_URL="http://127.0.0.1:9/v1") as archon:
        answer = ask(archon.url, "pathlib")
        log = archon.log()
    assert (answer["success"], answer["results"], answer["total_found"]) == (True, [], 0)
    assert "http://localhost:11434/v1/embeddings" in log
    assert "127.0.0.1:9" not in log


def test_without_any_vector_hybrid_search_answers_and_vector_search_does_not(copy_of: Callable[..., str]) -> None:
    dev = copy_of("dev")
    word = "dictionary"
    count = rows(dev, f"SELECT count(*) FROM archon_crawled_pages WHERE content ILIKE '%{word}%'")[0][0]
    assert count
    with serve.server(dev, **STACK) as archon:
        whole = ask(archon.url, word)
        assert whole["results"][0]["similarity_score"] > 0
        run(dev, NO_VECTORS)
        invented = ask(archon.url, word, source="no such source")
        assert invented["search_mode"] == "hybrid"
        assert len(invented["results"]) == count, "the filter does not hold for keyword hits"
        assert all(0.3 <= one["similarity_score"] <= 0.7 for one in invented["results"])
        run(dev, set_to("USE_HYBRID_SEARCH", "false"))
        assert ask(archon.url, word)["search_mode"] == "hybrid", "that is cached"
        archon.restart()
        empty = ask(archon.url, word)
    assert (empty["search_mode"], empty["results"], empty["reranking_applied"]) == ("vector", [], True)


def test_one_row_without_a_vector_empties_the_answer_that_reaches_it(copy_of: Callable[..., str]) -> None:
    dev = copy_of(
        "dev",
        set_to("USE_HYBRID_SEARCH", "false"),
        "DROP INDEX archon_crawled_pages_embedding_idx",
        "UPDATE archon_crawled_pages SET embedding = NULL WHERE id = (SELECT min(id) FROM archon_crawled_pages)",
    )
    pages = rows(dev, "SELECT count(*) FROM archon_crawled_pages")[0][0]
    with serve.server(dev, **STACK) as archon:
        assert ask(archon.url, "python dictionaries and lists", match_count=pages - 1)["results"]
        assert ask(archon.url, "python dictionaries and lists", match_count=pages)["results"] == []


def test_a_missing_function_is_an_empty_answer(copy_of: Callable[..., str]) -> None:
    prod = copy_of("prod", set_to("USE_AGENTIC_RAG", "false"), set_to("USE_HYBRID_SEARCH", "false"))
    with serve.server(prod, **STACK | {"EMBEDDING_PROVIDER": "openai"}) as archon:
        body = {"query": "python"}
        assert httpx.post(f"{archon.url}/api/rag/code-examples", json=body, timeout=PATIENCE).status_code == 500
        run(prod, set_to("USE_AGENTIC_RAG", "true"))
        archon.restart()
        answer = httpx.post(f"{archon.url}/api/rag/code-examples", json=body, timeout=PATIENCE)
        log = archon.log()
    assert answer.json()["results"] == []
    assert "OPENAI_API_KEY not found" in log
