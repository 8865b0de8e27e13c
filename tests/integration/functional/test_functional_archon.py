"""The functional checks against the lab's Archon, with its quirks: what works is seen to, and each fault is put where it lies."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from archon_align.validate.functional.texts import CANARY, PARAPHRASE, TASK, shared_words

from lab.archon import serve
from tests.support.ports import reserved

Checks = dict[str, dict[str, Any]]
WRITTEN = [("a task", "archon_tasks"), ("a page", "archon_crawled_pages")]


def verdicts(checks: Checks) -> dict[str, str]:
    return {name: check["verdict"] for name, check in checks.items()}


def test_a_whole_archon_works_and_nothing_stays(prod, archon: serve.Running, ask: Callable) -> None:
    before = prod.contents()
    with serve.mcp(archon.url) as mcp:
        outcome, checks = ask(archon.url, mcp_url=mcp.url)
    assert set(verdicts(checks).values()) == {"works"}, checks["mcp"]
    assert list(checks) == ["upload", "search", "code_examples", "projects_and_tasks", "mcp", "template_expansion"]
    assert prod.contents() == before
    section = outcome.details["functional"]
    assert section["created"] == section["removed"] == 4
    assert not outcome.changed
    assert {proof.table for proof in outcome.proofs if proof.preserved} == {
        "public.archon_document_versions", "public.archon_project_sources", "public.archon_projects", "public.archon_tasks",
    }  # fmt: skip


def test_check_mode_reads_and_sends_nothing_that_writes(prod, archon: serve.Running, ask: Callable) -> None:
    before = prod.contents()
    outcome, checks = ask(archon.url, check=True, write=True)
    assert verdicts(checks) == {
        "upload": "not_reachable", "search": "works", "code_examples": "works", "projects_and_tasks": "works", "mcp": "not_reachable",
        "template_expansion": "not_reachable",
    }, checks  # fmt: skip
    assert "check mode" in checks["upload"]["evidence"]
    assert prod.contents() == before
    assert outcome.status == "aligned"


def test_without_consent_nothing_is_written(prod, archon: serve.Running, ask: Callable) -> None:
    _, checks = ask(archon.url, write=False)
    assert checks["search"]["verdict"] == "works"
    assert "archon_validate_write" in checks["upload"]["evidence"]


def test_no_address_and_nobody_there_are_told_with_what_to_set(prod, ask: Callable) -> None:
    _, checks = ask("")
    assert set(verdicts(checks).values()) == {"not_reachable"}
    assert "archon_prod_url" in checks["search"]["evidence"]
    with reserved() as nobody:
        _, checks = ask(f"http://127.0.0.1:{nobody}")
    assert set(verdicts(checks).values()) == {"not_reachable"}


BAD_SETTINGS = [
    # As PROD starts: search asks localhost, and the model is one that the service does not have.
    ("UPDATE archon_settings SET value = '' WHERE key = 'LLM_BASE_URL'", "search", "LLM_BASE_URL is empty"),
    (
        "UPDATE archon_settings SET value = 'text-embedding-3-small' WHERE key = 'EMBEDDING_MODEL'",
        "upload",
        "text-embedding-3-small",
    ),
]


@pytest.mark.parametrize(("change", "broken", "words"), BAD_SETTINGS)
def test_bad_settings_are_named(prod, ask: Callable, change: str, broken: str, words: str) -> None:
    prod.execute(change)
    before = prod.contents()
    with serve.server(prod.dsn, **prod.environment) as archon:
        _, checks = ask(archon.url, upload_timeout=10.0)
    assert checks[broken]["verdict"] == "broken_by_data", checks
    assert words in checks[broken]["evidence"]
    assert checks[broken]["mendable"]
    assert prod.contents() == before


def test_settings_that_are_right_but_not_heard_ask_for_a_restart(prod, ask: Callable) -> None:
    prod.execute("UPDATE archon_settings SET value = '' WHERE key = 'LLM_BASE_URL'")
    with serve.server(prod.dsn, **prod.environment) as archon:
        ask(archon.url, write=False)  # what Archon has read once it keeps
        prod.execute("UPDATE archon_settings SET value = %s WHERE key = 'LLM_BASE_URL'", prod.embedding_base_url)
        _, checks = ask(archon.url, write=False)
        assert checks["search"]["verdict"] == "broken_by_data"
        assert "Restart it" in checks["search"]["evidence"]
        assert not checks["search"]["mendable"]
        archon.restart()
        _, checks = ask(archon.url, write=False)
        assert checks["search"]["verdict"] == "works"


def test_keyword_hits_without_a_vector_prove_nothing(prod, archon: serve.Running, ask: Callable) -> None:
    prod.execute(
        "UPDATE archon_crawled_pages SET embedding = NULL WHERE id = (SELECT max(id) FROM archon_crawled_pages)"
    )
    prod.execute("DROP INDEX archon_crawled_pages_embedding_idx")
    _, checks = ask(archon.url, write=False)
    assert checks["search"]["verdict"] == "broken_by_data", checks
    assert "without an embedding" in checks["search"]["evidence"]
    assert checks["search"]["mendable"]


@pytest.mark.parametrize(("level", "verdict"), [("DEBUG", "broken_in_archon"), ("INFO", "works")])
def test_the_defect_of_expansion_is_archons_own(prod, ask: Callable, level: str, verdict: str) -> None:
    before = prod.contents()
    with serve.server(prod.dsn, **{**prod.environment, "LOG_LEVEL": level}) as archon:
        _, checks = ask(archon.url)
    expansion = checks["template_expansion"]
    assert expansion["verdict"] == verdict, expansion
    assert "template_logger" in expansion["evidence"] + expansion["defect"]
    assert prod.contents() == before


def test_a_component_that_is_missing_is_data(prod, archon: serve.Running, ask: Callable) -> None:
    prod.execute("UPDATE archon_template_components SET is_active = false WHERE name = 'group::test_locally'")
    _, checks = ask(archon.url)
    assert checks["template_expansion"]["verdict"] == "broken_by_data"
    assert "group::test_locally" in checks["template_expansion"]["evidence"]


def test_an_mcp_server_that_is_down_or_hangs_costs_nothing_but_time(prod, archon: serve.Running, ask: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/mcp"
        _, checks = ask(archon.url, mcp_url=url, mcp_timeout=1.0, write=False)
        assert checks["mcp"]["verdict"] == "not_reachable"
        assert "hangs" in checks["mcp"]["evidence"]
    _, checks = ask(archon.url, mcp_url=url, write=False)
    assert checks["mcp"]["verdict"] == "not_reachable"
    assert checks["search"]["verdict"] == "works"


def test_users_who_write_meanwhile_lose_nothing(prod, archon: serve.Running, ask: Callable) -> None:
    stop, written = threading.Event(), []

    def user() -> None:
        with psycopg.connect(prod.dsn, autocommit=True) as mine:
            (project,) = mine.execute("SELECT id FROM archon_projects ORDER BY id LIMIT 1").fetchone()
            while not stop.wait(0.01):
                mine.execute(
                    "INSERT INTO archon_tasks (project_id, title) VALUES (%s, %s)", (project, f"user {len(written)}")
                )
                written.append(1)

    writer = threading.Thread(target=user)
    writer.start()
    try:
        outcome, checks = ask(archon.url)
    finally:
        stop.set()
        writer.join()
    assert checks["template_expansion"]["verdict"] == "works"
    assert outcome.details["functional"]["removed"] == 4
    assert prod.execute("SELECT count(*) FROM archon_tasks WHERE title LIKE 'user %%'") == [(len(written),)]


@pytest.fixture
def odd_titles(prod) -> None:
    prod.execute(
        "UPDATE archon_projects SET title = %s WHERE id = (SELECT min(id::text)::uuid FROM archon_projects)",
        "a \"quoted\" 100%% 'títle' \\ {{USER_TASK}} archon-align-canary-",
    )


@pytest.mark.usefixtures("odd_titles")
def test_odd_titles_are_compared_as_they_are(prod, archon: serve.Running, ask: Callable) -> None:
    _, checks = ask(archon.url)
    assert checks["projects_and_tasks"]["verdict"] == "works"
    assert checks["template_expansion"]["verdict"] == "works"


def test_a_path_prefix_and_another_server(prod, archon: serve.Running, ask: Callable) -> None:
    _, checks = ask(f"{archon.url}/nothing/here", write=False)
    assert set(verdicts(checks).values()) == {"not_reachable"}


def test_the_paraphrase_shares_no_word_with_the_document() -> None:
    assert shared_words(PARAPHRASE, CANARY) == []
    assert len(CANARY) < 700
    assert "{{" not in TASK
