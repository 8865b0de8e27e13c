"""The vector index and the proof of search against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from archon_align.context import Context, Run
from archon_align.embedded.server import EmbeddedServer
from archon_align.embedding import phase, search_phase
from archon_align.embedding.phase import Options
from archon_align.errors import AlignError
from embedding_rows import FUNCTION, GRANTS

IVFFLAT = (
    "CREATE INDEX idx_archon_crawled_pages_embedding ON archon_crawled_pages"
    " USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100)"
)
PAGES, EXAMPLES = "public.archon_crawled_pages", "public.archon_code_examples"


def owner(dsn: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def index_of(dsn: str) -> list[str]:
    rows = owner(
        dsn,
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'archon_crawled_pages' AND indexdef ~ 'vector_cosine_ops'",
    )
    return [str(row[0]) for row in rows]


@pytest.fixture
def functions(prod: str) -> None:
    for table in ("archon_crawled_pages", "archon_code_examples"):
        owner(prod, FUNCTION.format(table=table))
    owner(prod, GRANTS)


@pytest.fixture
def search(options: Callable[..., Options]) -> Callable[..., search_phase.Options]:
    def make(**fields: object) -> search_phase.Options:
        return search_phase.Options(options().endpoints[0], **{"pauses": (), **fields})  # type: ignore[arg-type]

    return make


@pytest.fixture
def filled(ready: Context, options: Callable[..., Options], functions: None, prod: str) -> Context:
    owner(prod, IVFFLAT)
    assert phase.run(ready, options()).status == "changed"
    return ready


def test_a_crowded_ivfflat_gives_way_to_hnsw_once(
    filled: Context, search: Callable[..., search_phase.Options], prod: str
) -> None:
    predicted = search_phase.run(replace(filled, run=Run(f"{filled.run.id}-check", filled.run.artifacts)), search())
    assert (predicted.status, len(index_of(prod))) == ("drift", 1)
    assert "ivfflat" in index_of(prod)[0]

    first = search_phase.run(filled, search())
    assert (first.status, first.changed, first.error, first.findings) == ("changed", True, None, [])
    assert [statement.sql for statement in first.statements] == [statement.sql for statement in predicted.statements]
    assert len(index_of(prod)) == 1
    assert "hnsw" in index_of(prod)[0]
    found = first.details["search"]
    assert (found["source"], found["null_similarities"], found["role"]) == ("sampled", 0, "service_role")
    assert found["recall_at_5"] >= 0.9
    assert (found["index"][PAGES]["method"], found["index"][PAGES]["action"]) == ("hnsw", "replaced")
    assert found["index"][PAGES]["recall_at_10"] >= 0.95
    assert found["index"][EXAMPLES]["action"] == "built"
    json.dumps(first.as_result())

    again = search_phase.run(filled, search())
    assert (again.status, again.changed, again.statements) == ("aligned", False, [])
    assert again.details["search"]["index"][PAGES]["action"] == "kept"


def test_check_mode_on_the_broken_state(
    prod: str, functions: None, make_context: Callable[..., Context], search: Callable[..., search_phase.Options]
) -> None:
    owner(prod, IVFFLAT)
    outcome = search_phase.run(make_context(prod, check=True), search())
    assert (outcome.status, outcome.details["search"]["source"]) == ("drift", "none")
    assert [statement.sql.split()[0] for statement in outcome.statements] == ["DROP", "CREATE", "CREATE"]
    assert [finding.code for finding in outcome.findings] == ["search_after_rebuild"]
    assert "ivfflat" in index_of(prod)[0]


def test_an_index_with_poor_recall_is_replaced_and_a_good_one_kept(
    filled: Context, search: Callable[..., search_phase.Options], prod: str
) -> None:
    """Enough lists to miss, but not more than rows: only measuring tells."""
    owner(prod, "DROP INDEX idx_archon_crawled_pages_embedding")
    owner(prod, IVFFLAT.replace("100", "40"))
    check = replace(filled, run=Run(f"{filled.run.id}-check", filled.run.artifacts))
    poor = search_phase.run(check, search()).details["search"]["index"][PAGES]
    assert poor["recall_at_10"] < 0.9
    assert "below 0.95" in poor["reason"]
    owner(prod, "DROP INDEX idx_archon_crawled_pages_embedding")
    owner(prod, IVFFLAT.replace("100", "1"))
    good = search_phase.run(check, search()).details["search"]["index"][PAGES]
    assert (good["recall_at_10"], good["action"], good["method"]) == (1.0, "kept", "ivfflat")


def test_an_index_for_another_distance_does_not_count(
    filled: Context, search: Callable[..., search_phase.Options], prod: str
) -> None:
    owner(prod, "DROP INDEX idx_archon_crawled_pages_embedding")
    owner(
        prod,
        "CREATE INDEX idx_archon_crawled_pages_embedding ON archon_crawled_pages USING hnsw (embedding vector_l2_ops)",
    )
    outcome = search_phase.run(filled, search())
    assert outcome.details["search"]["index"][PAGES]["action"] == "built"
    assert [definition.split()[2] for definition in index_of(prod)] == ["idx_archon_crawled_pages_embedding_hnsw"]
    assert search_phase.run(filled, search()).status == "aligned"


def test_a_large_table_is_indexed_concurrently_and_leftovers_go(
    filled: Context, search: Callable[..., search_phase.Options], prod: str, server: EmbeddedServer
) -> None:
    database = psycopg.conninfo.conninfo_to_dict(prod)["dbname"]
    owner(
        prod,
        "CREATE INDEX idx_archon_crawled_pages_embedding_hnsw ON archon_crawled_pages USING hnsw (embedding vector_cosine_ops)",
    )
    owner(
        server.dsn(str(database)),
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_archon_crawled_pages_embedding_hnsw'::regclass",
    )
    outcome = search_phase.run(filled, search(concurrently_rows=20))
    assert [statement.sql.rsplit(" ON ", 1)[0].strip() for statement in outcome.statements[:3]] == [
        'DROP INDEX CONCURRENTLY "public"."idx_archon_crawled_pages_embedding_hnsw"',
        'CREATE INDEX CONCURRENTLY "idx_archon_crawled_pages_embedding_hnsw"',
        'DROP INDEX CONCURRENTLY "public"."idx_archon_crawled_pages_embedding"',
    ]
    assert (outcome.status, outcome.error) == ("changed", None)
    assert [definition.split()[2] for definition in index_of(prod)] == ["idx_archon_crawled_pages_embedding_hnsw"]
    assert search_phase.run(filled, search(concurrently_rows=20)).status == "aligned"


def test_a_concurrent_build_that_fails_is_cleaned_up(
    filled: Context, search: Callable[..., search_phase.Options], prod: str
) -> None:
    with psycopg.connect(prod) as user:
        user.execute("UPDATE archon_crawled_pages SET metadata = '{}' WHERE id = 1")
        with pytest.raises(AlignError, match="concurrently") as caught:
            search_phase.run(filled, search(concurrently_rows=20, index_timeout=0.3))
    assert caught.value.code == "statement_timeout"
    assert "the next run drops it" in caught.value.remedy
    outcome = search_phase.run(filled, search(concurrently_rows=20))
    assert (outcome.status, ["hnsw" in definition for definition in index_of(prod)]) == ("changed", [True])


def test_without_privilege_on_the_table_search_fails_as_archon_would(
    filled: Context, search: Callable[..., search_phase.Options], prod: str
) -> None:
    owner(prod, "REVOKE ALL ON archon_crawled_pages FROM service_role")
    outcome = search_phase.run(filled, search())
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code, outcome.changed) == ("failed", "missing_privilege", True)
    assert outcome.error.remedy == 'GRANT SELECT ON "public"."archon_crawled_pages" TO "service_role".'


def test_rows_hidden_by_a_policy_are_misses(
    filled: Context, search: Callable[..., search_phase.Options], prod: str
) -> None:
    owner(
        prod,
        "ALTER TABLE archon_crawled_pages ENABLE ROW LEVEL SECURITY;"
        "ALTER TABLE archon_code_examples ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY p ON archon_crawled_pages TO PUBLIC USING (auth.role() = 'service_role');"
        "CREATE POLICY p ON archon_code_examples TO PUBLIC USING (auth.role() = 'service_role')",
    )
    assert search_phase.run(filled, search()).details["search"]["recall_at_5"] >= 0.9
    owner(prod, "DROP POLICY p ON archon_crawled_pages; DROP POLICY p ON archon_code_examples")
    outcome = search_phase.run(filled, search())
    assert (outcome.status, outcome.error and outcome.error.code) == ("failed", "search_broken")


def test_missing_functions_are_told(filled: Context, search: Callable[..., search_phase.Options], prod: str) -> None:
    owner(prod, "DROP FUNCTION match_archon_code_examples")
    outcome = search_phase.run(filled, search())
    assert outcome.status == "failed"
    assert "match_archon_code_examples" in str(outcome.error)
    assert outcome.changed


def test_null_similarities_are_told(filled: Context, search: Callable[..., search_phase.Options], prod: str) -> None:
    owner(
        prod,
        "DELETE FROM archon_code_examples WHERE id > 4; UPDATE archon_code_examples SET embedding = NULL WHERE id = 2",
    )
    outcome = search_phase.run(filled, search())
    assert (outcome.status, outcome.details["search"]["null_similarities"]) == ("failed", 3)
    assert "drop the whole answer" in str(outcome.error)


def test_rows_without_any_vector_are_told(
    ready: Context, functions: None, search: Callable[..., search_phase.Options]
) -> None:
    outcome = search_phase.run(ready, search())
    assert (outcome.status, outcome.changed) == ("failed", False)
    assert "Run the embeddings phase" in str(outcome.error)


def test_empty_tables_have_nothing_to_search(
    ready: Context, functions: None, search: Callable[..., search_phase.Options], prod: str
) -> None:
    owner(prod, "DELETE FROM archon_crawled_pages; DELETE FROM archon_code_examples")
    outcome = search_phase.run(ready, search())
    assert (outcome.status, outcome.statements, outcome.details["search"]["queries"]) == ("aligned", [], 0)


def write(file: Path, content: object) -> str:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def test_a_query_file_decides(
    filled: Context, search: Callable[..., search_phase.Options], prod: str, tmp_path: Path
) -> None:
    pages = owner(prod, "SELECT content, url, chunk_number FROM archon_crawled_pages WHERE id IN (3, 41, 77)")
    right = [{"query": content, "url": url, "chunk_number": chunk} for content, url, chunk in pages]
    code = [{"query": "Returns 7 for sailing", "url": "https://example.org/code"}]
    file = write(tmp_path / "queries.json", {"pages": right, "code_examples": code})
    outcome = search_phase.run(filled, search(queries_file=file))
    found = outcome.details["search"]
    assert (outcome.error, found["queries"], found["recall_at_5"], found["source"]) == (None, 4, 1.0, "file")

    wrong = [{**query, "url": "https://example.org/elsewhere"} for query in right]
    file = write(tmp_path / "queries.json", {"pages": wrong})
    outcome = search_phase.run(filled, search(queries_file=file))
    assert (outcome.status, outcome.details["search"]["recall_at_5"]) == ("failed", 0.0)
    assert "at least 0.90" in str(outcome.error)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", {"pages": {}}, {"pages": []}, {"other": []}, {"pages": [1]}, {"pages": [{"query": " ", "url": "u"}]},
     {"pages": [{"query": "q", "url": "u", "chunk_number": "1"}]}, None],
)  # fmt: skip
def test_a_query_file_that_cannot_be_used_is_told_first(
    ready: Context, search: Callable[..., search_phase.Options], tmp_path: Path, content: object
) -> None:
    file = str(tmp_path / "none.json") if content is None else write(tmp_path / "queries.json", content)
    with pytest.raises(AlignError, match="archon_search_queries_file"):
        search_phase.run(ready, search(queries_file=file))
