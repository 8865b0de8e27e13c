"""Validation against real databases: an aligned pair, and each way of not being aligned."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.database.target import Table
from archon_align.outcome import PhaseOutcome
from archon_align.preservation.fingerprint import columns_of, fingerprint
from archon_align.settings.phase import Options as Settings
from archon_align.validate import phase
from archon_align.validate.criteria import CONSISTENT, EMBEDDING, PRESERVED, SEARCH, TEMPLATES

SETTINGS = Settings("ollama", "http://127.0.0.1:11434/v1", "nomic-embed-text", 4)
ALIGNED = """
CREATE TABLE archon_settings (id serial PRIMARY KEY, key text UNIQUE NOT NULL, value text, encrypted_value text,
  is_encrypted boolean DEFAULT false, category text, description text);
CREATE TABLE archon_credentials (id serial PRIMARY KEY, category varchar(100) NOT NULL, key varchar(200) NOT NULL, value text,
  UNIQUE (category, key));
CREATE TABLE archon_projects (id int PRIMARY KEY, title text);
CREATE TABLE archon_tasks (id int PRIMARY KEY, project_id int REFERENCES archon_projects, title text);
CREATE TABLE archon_document_versions (id int PRIMARY KEY);
CREATE TABLE archon_project_sources (id int PRIMARY KEY);
CREATE TABLE archon_sources (source_id text PRIMARY KEY);
CREATE TABLE archon_crawled_pages (id bigserial PRIMARY KEY, url text, chunk_number int, content text, embedding vector(4));
CREATE TABLE archon_code_examples (id bigserial PRIMARY KEY, url text, chunk_number int, content text, summary text, embedding vector(4));
CREATE FUNCTION match_archon_crawled_pages(query_embedding vector, match_count int DEFAULT 10)
  RETURNS TABLE (id bigint, similarity float) LANGUAGE sql STABLE AS
  $$ SELECT id, 1 - (embedding <=> query_embedding) FROM archon_crawled_pages ORDER BY embedding <=> query_embedding LIMIT match_count $$;
CREATE FUNCTION match_archon_code_examples(query_embedding vector, match_count int DEFAULT 10)
  RETURNS TABLE (id bigint, similarity float) LANGUAGE sql STABLE AS
  $$ SELECT id, 1 - (embedding <=> query_embedding) FROM archon_code_examples ORDER BY embedding <=> query_embedding LIMIT match_count $$;
CREATE TABLE archon_template_components (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text UNIQUE NOT NULL,
  instruction_text text, is_active boolean DEFAULT true);
CREATE TABLE archon_template_definitions (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text UNIQUE NOT NULL,
  parent_template_id uuid REFERENCES archon_template_definitions, template_data jsonb NOT NULL DEFAULT '{}', is_active boolean DEFAULT true);
INSERT INTO archon_template_components (name) VALUES ('group::one');
INSERT INTO archon_template_definitions (name, template_data) VALUES ('t', '{"template_content": "{{group::one}} {{USER_TASK}}"}');
INSERT INTO archon_credentials (category, key, value) VALUES ('embedding', 'EMBEDDING_PROVIDER', 'ollama'),
  ('embedding', 'EMBEDDING_MODEL', 'nomic-embed-text'), ('embedding', 'EMBEDDING_DIMENSIONS', '4'),
  ('embedding', 'EMBEDDING_BASE_URL', 'http://127.0.0.1:11434/v1');
INSERT INTO archon_settings (category, key, value) SELECT 'rag_strategy', key, value FROM archon_credentials;
INSERT INTO archon_settings (category, key, value) VALUES ('rag_strategy', 'LLM_BASE_URL', 'http://127.0.0.1:11434/v1');
GRANT SELECT ON ALL TABLES IN SCHEMA public TO service_role;
"""
ROWS = """
INSERT INTO archon_projects SELECT n, 'project ' || n FROM generate_series(1, 3) n;
INSERT INTO archon_tasks SELECT n, 1 + n % 3, 'täsk ' || n FROM generate_series(1, 20) n;
INSERT INTO archon_sources VALUES ('one');
INSERT INTO archon_crawled_pages (url, chunk_number, content, embedding)
  SELECT 'u', n, 'text ' || n, ARRAY[n, 1, 2, 3]::vector FROM generate_series(1, 8) n;
"""
Make = Callable[..., Context]
Validate = Callable[..., PhaseOutcome]


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database(ALIGNED + ROWS)


@pytest.fixture
def validate(prod: str, new_database: Callable[[str], str], make_context: Make) -> Validate:
    """Call with SQL that puts PROD out of line first (and results, check=True, enforce=False) to validate it."""
    dev = new_database(ALIGNED)

    def run(
        change: str = "", results: Any = (), *, check: bool = False, enforce: bool = True, settings: Settings = SETTINGS
    ) -> PhaseOutcome:
        if change:
            with psycopg.connect(prod, autocommit=True) as owner:
                owner.execute(change.encode())
        context = make_context(prod, dev, check=check, phase="validate")
        outcome = phase.run(context, phase.Options(settings, results, enforce))
        assert not outcome.changed
        json.dumps(outcome.as_result())
        return outcome

    return run


@pytest.fixture
def record(prod: str, make_context: Make) -> Callable[[], None]:
    """Call to write snapshot-before.json as the backup phase does."""

    def write() -> None:
        context = make_context(prod)
        with open_session(context, context.prod) as session:
            seen = {
                str(table): fingerprint(session, table, columns_of(session, table))
                for table in (Table("public", "archon_projects"), Table("public", "archon_tasks"))
            }
        tables = {
            name: {"rows": look.rows, "fingerprint": look.digest, "columns": list(look.columns)}
            for name, look in seen.items()
        }
        context.run.write("snapshot-before.json", json.dumps({"protected": tables, "tables": {}}).encode())

    return write


def met(outcome: PhaseOutcome) -> dict[str, bool | None]:
    return {criterion["name"]: criterion["met"] for criterion in outcome.details["criteria"]}


def evidence(outcome: PhaseOutcome, name: str) -> str:
    return next(str(criterion["evidence"]) for criterion in outcome.details["criteria"] if criterion["name"] == name)


def searched(recall: float = 0.96, **fields: Any) -> dict[str, Any]:
    return {"phase": "embeddings", "details": {"search": {"queries": 25, "recall_at_5": recall}}, **fields}


def proof(rows: int, preserved: bool = True) -> dict[str, Any]:
    return {
        "table": "public.archon_tasks",
        "rows_before": rows,
        "rows_after": rows,
        "fingerprint_before": "a",
        "fingerprint_after": "a" if preserved else "b",
        "method": "scan",
        "preserved": preserved,
    }


def test_an_aligned_pair_meets_what_can_be_told(
    prod: str, validate: Validate, record: Callable[[], None], make_context: Make
) -> None:
    record()
    outcome = validate(results=[searched(), {"skipped": True}, {}])
    assert met(outcome) == {PRESERVED: True, SEARCH: True, TEMPLATES: None, EMBEDDING: None, CONSISTENT: True}
    assert (outcome.status, outcome.error) == ("aligned", None)
    assert outcome.details["counts"] == {
        "projects": 3,
        "tasks": 20,
        "sources": 1,
        "pages": 8,
        "pages_with_embeddings": 8,
        "code_examples": 0,
        "code_examples_with_embeddings": 0,
        "template_components": 1,
    }
    assert outcome.details["left_to_do"] == {"settings": 0, "templates": 0}
    assert (outcome.details["embeddings"], outcome.details["schema"]) == (
        {"missing_after": 0, "arrived_since": 0},
        {"differences_after": 0},
    )
    written = json.loads((make_context(prod).run.artifacts / "snapshot-after.json").read_text())
    assert written["tables"]["public.archon_tasks"] == 20
    before = json.loads((make_context(prod).run.artifacts / "snapshot-before.json").read_text())
    assert {name: written["protected"][name] for name in before["protected"]} == before["protected"]


def test_it_writes_nothing_in_apply_mode(prod: str, validate: Validate) -> None:
    def written() -> dict[str, tuple[int, ...]]:
        with psycopg.connect(prod, autocommit=True) as owner:
            # A session flushes its counters as it ends, which may be a moment after its client has gone.
            others = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            deadline = time.monotonic() + 30
            while (found := owner.execute(others).fetchone()) and found[0]:
                assert time.monotonic() < deadline, found
                time.sleep(0.05)
            # Of the catalogues, what the server's own autovacuum gathers is no writing of the phase's.
            rows = owner.execute(
                "SELECT relid::regclass::text, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_all_tables"
                " WHERE schemaname <> 'pg_toast' AND relname NOT IN ('pg_statistic', 'pg_class') ORDER BY 1"
            ).fetchall()
        return {row[0]: tuple(row[1:]) for row in rows}

    before = written()
    assert validate("", enforce=False).status == "aligned"
    assert written() == before


def test_without_a_query_through_the_service_search_stays_open(validate: Validate) -> None:
    assert met(validate())[SEARCH] is None
    low = searched(0.4, findings=[{"code": "search_recall_sampled"}])
    assert met(validate(results=[low]))[SEARCH] is None


def test_without_a_snapshot_the_proofs_alone_speak(validate: Validate) -> None:
    assert met(validate())[PRESERVED] is None
    outcome = validate(results=[{"phase": "schema", "changed": True, "proofs": [proof(20)]}])
    assert "20 rows, proved by 1" in evidence(outcome, PRESERVED)
    broken = validate(results=[{"phase": "schema", "proofs": [proof(20, preserved=False)]}], enforce=False)
    assert met(broken)[PRESERVED] is False


def test_what_users_do_is_never_a_loss(validate: Validate, record: Callable[[], None]) -> None:
    record()
    outcome = validate("DELETE FROM archon_tasks WHERE id = 3", [{"phase": "schema", "proofs": [proof(20)]}])
    assert outcome.status == "aligned"
    assert "19 rows (before 20)" in evidence(outcome, PRESERVED)
    assert "changed by users" in evidence(outcome, PRESERVED)


def test_a_new_column_is_not_a_change_and_a_lost_one_is_a_loss(validate: Validate, record: Callable[[], None]) -> None:
    record()
    added = validate("ALTER TABLE archon_tasks ADD COLUMN extra int DEFAULT 5")
    assert met(added)[PRESERVED] is True
    assert "changed by users" not in evidence(added, PRESERVED)
    lost = validate("ALTER TABLE archon_tasks DROP COLUMN title", enforce=False)
    assert met(lost)[PRESERVED] is False
    gone = validate("DROP TABLE archon_tasks", enforce=False)
    assert "public.archon_tasks: gone" in evidence(gone, PRESERVED)


# Each is done on top of those before it.
NULL_SIMILARITY = (
    "CREATE OR REPLACE FUNCTION match_archon_crawled_pages(query_embedding vector, match_count int DEFAULT 10)"
    " RETURNS TABLE (id bigint, similarity float) LANGUAGE sql STABLE AS $$ SELECT 1::bigint, NULL::float $$"
)
MISFITS = (
    "ALTER TABLE archon_crawled_pages ALTER embedding TYPE vector; UPDATE archon_crawled_pages SET embedding = '[1,2]'"
)
UNMET = (
    ("ALTER TABLE archon_tasks ALTER title SET NOT NULL", CONSISTENT, "1 difference"),
    ("DROP TABLE archon_sources", CONSISTENT, "archon_sources: missing"),
    ("UPDATE archon_settings SET value = '9' WHERE key = 'EMBEDDING_DIMENSIONS'", EMBEDDING, "1 statement left to do"),
    ("DROP TABLE archon_settings", EMBEDDING, "5 statements left to do"),
    ("DELETE FROM archon_template_components", TEMPLATES, "1 statement left to do"),
    ("UPDATE archon_crawled_pages SET embedding = NULL WHERE id = 2", SEARCH, "1 row without an embedding"),
    (NULL_SIMILARITY, SEARCH, "1 of 1 answers without a similarity"),
    (MISFITS, SEARCH, "8 vectors of another dimension"),
    ("DROP FUNCTION match_archon_crawled_pages", SEARCH, "does not exist"),
    ("UPDATE archon_crawled_pages SET embedding = NULL", SEARCH, "no stored vector to ask with"),
    ("DROP TABLE archon_crawled_pages; DROP TABLE archon_code_examples", SEARCH, "no table with embeddings"),
)


def test_what_a_run_could_have_met_fails_it_and_the_result_is_whole(validate: Validate) -> None:
    for change, criterion, words in UNMET:
        outcome = validate(change)
        assert met(outcome)[criterion] is False
        assert words in evidence(outcome, criterion)
        assert outcome.status == "failed"
        result = outcome.as_result()
        assert result["error"]["code"] == "criteria_unmet"
        assert criterion in result["error"]["object"]
        assert len(result["details"]["criteria"]) == 5


def test_check_mode_tells_and_never_fails(validate: Validate) -> None:
    outcome = validate("UPDATE archon_crawled_pages SET embedding = NULL; DROP TABLE archon_credentials", check=True)
    assert (outcome.status, outcome.error) == ("drift", None)
    assert met(outcome)[SEARCH] is False
    assert "schema" not in outcome.details, "a prediction of what will be left is not for this phase to make"


def test_told_without_being_enforced(validate: Validate) -> None:
    outcome = validate("UPDATE archon_crawled_pages SET embedding = NULL", enforce=False)
    assert (outcome.status, outcome.error) == ("drift", None)


def test_blank_and_quarantined_rows_are_excused(validate: Validate) -> None:
    blank = "INSERT INTO archon_crawled_pages (url, chunk_number, content) VALUES ('b', 1, E' \\n\\t'), ('b', 2, NULL)"
    assert "2 quarantined" in evidence(validate(blank), SEARCH)
    refused = "INSERT INTO archon_crawled_pages (url, chunk_number, content) VALUES ('b', 3, 'refused')"
    assert validate(refused).status == "failed"
    assert (
        validate(results=[{"phase": "embeddings", "details": {"embeddings": {"quarantined": 3}}}]).status == "aligned"
    )


def test_a_broken_template_that_only_prod_has_is_told_but_no_run_can_mend_it(validate: Validate) -> None:
    outcome = validate(
        """INSERT INTO archon_template_definitions (name, template_data) VALUES ('own', '{"template_content": "{{group::nobody}} {{USER_TASK}}"}')"""
    )
    assert met(outcome)[TEMPLATES] is False
    assert "group::nobody" in evidence(outcome, TEMPLATES)
    assert (outcome.status, outcome.error) == ("drift", None)
    assert [finding.code for finding in outcome.findings] == ["criterion_unmet"]


def test_a_restart_is_asked_for_once_and_only_after_a_change(validate: Validate) -> None:
    def codes(*results: dict[str, Any]) -> list[str]:
        return [finding.code for finding in validate(results=results).findings]

    assert codes() == []
    assert codes({"phase": "templates", "changed": True}) == ["restart_archon_server"]
    assert codes({"phase": "data", "changed": True, "findings": [{"code": "restart_archon_server"}]}) == []
    assert codes({"phase": "data", "changed": True}, {"phase": "services", "changed": True}) == []


def test_an_empty_prod_is_told_without_a_crash(new_database: Callable[[str], str], make_context: Make) -> None:
    outcome = phase.run(make_context(new_database(""), new_database(ALIGNED), check=True), phase.Options(SETTINGS))
    assert met(outcome) == {PRESERVED: None, SEARCH: False, TEMPLATES: False, EMBEDDING: False, CONSISTENT: False}
    assert set(outcome.details["counts"].values()) == {None}
