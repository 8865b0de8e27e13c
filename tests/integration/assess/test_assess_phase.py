"""The state of two databases, whole ones and broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable

import psycopg
import pytest
from archon_align.assess import phase
from archon_align.context import Context
from archon_align.errors import AlignError
from archon_align.outcome import PhaseOutcome

MakeContext = Callable[..., Context]

KNOWLEDGE = """
CREATE TABLE archon_sources (source_id text PRIMARY KEY);
CREATE TABLE archon_crawled_pages (id bigserial PRIMARY KEY, source_id text REFERENCES archon_sources, content text, embedding vector({n}));
CREATE TABLE archon_code_examples (id bigserial PRIMARY KEY, content text, summary text, embedding vector({n}));
CREATE TABLE archon_settings (key text UNIQUE, value text, encrypted_value text, is_encrypted boolean DEFAULT false, category text);
CREATE TABLE archon_tasks (id int PRIMARY KEY);
INSERT INTO archon_sources VALUES ('docs'), ('failed');
"""
PROD = (
    KNOWLEDGE.format(n=3)
    + """
CREATE INDEX pages_vectors ON archon_crawled_pages USING ivfflat (embedding vector_cosine_ops) WITH (lists = 7);
INSERT INTO archon_crawled_pages (source_id, content) SELECT 'docs', 'page ' || n FROM generate_series(1, 93) n;
INSERT INTO archon_settings (key, value, encrypted_value, is_encrypted, category) VALUES
  ('EMBEDDING_MODEL', 'text-embedding-3-small', NULL, false, 'rag_strategy'),
  ('EMBEDDING_API_KEY', 'plain-secret', NULL, false, 'api_keys'),
  ('LLM_TOKEN_SETTING', NULL, 'gAAAAencrypted', true, 'api_keys'),
  ('LLM_BASE_URL', 'http://user:url-secret@host/v1', NULL, false, 'rag_strategy'),
  ('OPENAI_API_KEY', 'other-secret', NULL, false, 'api_keys');
INSERT INTO archon_tasks SELECT generate_series(1, 120);
"""
)
DEV = (
    KNOWLEDGE.format(n=2)
    + """
CREATE TABLE archon_components (id int PRIMARY KEY);
CREATE FUNCTION match_archon_crawled_pages(query_embedding vector, match_count int) RETURNS SETOF archon_crawled_pages
  LANGUAGE sql STABLE AS $$ SELECT * FROM public.archon_crawled_pages LIMIT match_count $$;
INSERT INTO archon_crawled_pages (source_id, content, embedding) VALUES ('docs', 'a page', '[1,2]');
INSERT INTO archon_settings (key, value, category) VALUES ('EMBEDDING_MODEL', 'nomic-embed-text', 'rag_strategy');
"""
)


def messages(outcome: PhaseOutcome) -> dict[str, str]:
    return {finding.code: finding.message for finding in outcome.findings}


def test_a_broken_prod_is_described(new_database: Callable[[str], str], make_context: MakeContext) -> None:
    context = make_context(new_database(PROD), new_database(DEV), phase="assess")
    outcome = phase.run(context, phase.Options())
    assert (outcome.status, outcome.changed) == ("aligned", False)
    prod, dev = outcome.details["state"]["prod"], outcome.details["state"]["dev"]
    assert (prod["counts"]["tasks"], prod["counts"]["pages"], prod["counts"]["projects"]) == (120, 93, None)
    assert prod["sources_without_pages"] == 1
    assert prod["embeddings"]["archon_crawled_pages"] == {
        "column": "vector(3)",
        "dimensions": 3,
        "rows": 93,
        "with_embedding": 0,
        "missing": 93,
        "indexes": [{"name": "pages_vectors", "method": "ivfflat", "lists": 7, "valid": True}],
    }
    assert dev["embeddings"]["archon_crawled_pages"]["with_embedding"] == 1
    assert prod["search_functions"] == {"match_archon_crawled_pages": False, "match_archon_code_examples": False}
    assert dev["search_functions"]["match_archon_crawled_pages"] is True
    words = messages(outcome)
    assert words["embeddings_missing"].startswith("93 of 93 pages have no embedding")
    assert words["embedding_type"] == "The embedding column is vector(3) in PROD and vector(2) in DEV."
    assert words["tables_missing"] == "PROD has no tables for: components. DEV has."
    assert words["credentials_missing"] == "The table archon_credentials is missing in PROD and DEV."
    assert words["sources_without_pages"].startswith("1 of 2 sources")
    assert "EMBEDDING_MODEL is text-embedding-3-small, in DEV nomic-embed-text" in words["settings_differ"]
    schema = outcome.details["schema"]
    assert schema["differences_before"] > 0
    assert "differences_after" not in schema
    assert "archon_components" in (context.run.artifacts / "plan.sql").read_text()
    json.loads((context.run.artifacts / "plan.json").read_text())
    json.dumps(outcome.as_result())


def test_no_secret_is_shown(new_database: Callable[[str], str], make_context: MakeContext) -> None:
    context = make_context(new_database(PROD), new_database(DEV), phase="assess")
    outcome = phase.run(context, phase.Options())
    settings = outcome.details["state"]["prod"]["settings"]
    assert set(settings) == {"EMBEDDING_MODEL", "EMBEDDING_API_KEY", "LLM_TOKEN_SETTING", "LLM_BASE_URL"}
    assert settings["LLM_TOKEN_SETTING"] == "(encrypted)"
    everything = json.dumps(outcome.as_result()) + "".join(path.read_text() for path in context.run.artifacts.iterdir())
    for secret in ("plain-secret", "url-secret", "other-secret", "gAAAA"):
        assert secret not in everything


def test_nothing_is_there_at_all(new_database: Callable[[str], str], make_context: MakeContext) -> None:
    outcome = phase.run(make_context(new_database(), new_database(), phase="assess"), phase.Options())
    prod = outcome.details["state"]["prod"]
    assert set(prod["counts"].values()) == {None}
    assert prod["embeddings"] == {"archon_crawled_pages": None, "archon_code_examples": None}
    assert prod["settings"] is None


def test_odd_shapes_are_problems_and_no_errors(new_database: Callable[[str], str], make_context: MakeContext) -> None:
    odd = """
    CREATE TABLE archon_crawled_pages (id uuid, content text, embedding vector(2));
    CREATE TABLE archon_code_examples (id int, content text, summary text);
    CREATE TABLE archon_sources (name text);
    CREATE TABLE archon_settings (key text, value text, category text);
    INSERT INTO archon_settings VALUES ('LLM_PROVIDER', 'a', 'x'), ('LLM_PROVIDER', 'b', 'y');
    CREATE TABLE archon_credentials (key text);
    INSERT INTO archon_code_examples VALUES (1, 'a', 'b');
    """
    outcome = phase.run(make_context(new_database(odd), new_database(), phase="assess"), phase.Options())
    assert {"embedding_id_type", "duplicate_key", "missing_column"} <= set(messages(outcome))
    state = outcome.details["state"]["prod"]
    assert state["sources_without_pages"] is None
    assert state["embeddings"]["archon_code_examples"]["column"] is None
    assert state["embeddings"]["archon_code_examples"]["missing"] == 1


def test_check_mode_is_the_same_and_writes_nothing(
    new_database: Callable[[str], str], make_context: MakeContext
) -> None:
    prod, dev = new_database(PROD), new_database(DEV)
    run = phase.run(make_context(prod, dev, phase="assess"), phase.Options())
    check = phase.run(make_context(prod, dev, phase="assess", check=True), phase.Options())
    volatile = {"size_bytes", "wal_bytes"}
    for name in ("prod", "dev"):
        one, other = run.details["state"][name], check.details["state"][name]
        assert {key: one[key] for key in one if key not in volatile} == {
            key: other[key] for key in other if key not in volatile
        }
    assert run.details["schema"] == check.details["schema"]
    with psycopg.connect(prod) as owner:
        assert owner.execute("SELECT to_regclass('public.archon_credentials')").fetchone() == (None,)


def test_what_the_templates_phase_would_refuse_is_refused_when_it_follows(
    new_database: Callable[[str], str], make_context: MakeContext
) -> None:
    templates = """
    CREATE TABLE archon_template_components (name text UNIQUE, instruction_text text, is_active boolean);
    CREATE TABLE archon_template_definitions (name text UNIQUE, template_data jsonb, is_active boolean);
    INSERT INTO archon_template_definitions VALUES ('hotfix', '{"template_content": "{{USER_TASK}} {{group::gone}}"}', true);
    """
    context = make_context(new_database(PROD), new_database(DEV + templates), phase="assess")
    with pytest.raises(AlignError, match="nobody has"):
        phase.run(context, phase.Options(templates_follow=True))
    assert phase.run(context, phase.Options()).status == "aligned"
