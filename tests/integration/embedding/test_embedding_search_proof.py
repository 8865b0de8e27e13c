"""The proof of search on databases of all kinds: whom Archon is, what its functions are, and what may be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from archon_align.context import Context, Run
from archon_align.database.target import Target
from archon_align.embedded.server import EmbeddedServer
from archon_align.embedding import search_phase
from archon_align.embedding.client import EmbeddingClient
from archon_align.embedding.options import Options
from archon_align.errors import AlignError
from archon_align.outcome import PhaseOutcome
from embedding_rows import FUNCTION, GRANTS

from lab.embedding_service import RunningService

TABLE = "archon_crawled_pages"
PAGES = FUNCTION.format(table=TABLE)
NAMED = f"public.match_{TABLE}"
SIGNATURE = f"match_{TABLE}(vector, int, jsonb, text)"


def sql(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def embed(dsn: str, options: Callable[..., Options]) -> None:
    """Give every page its vector, as the rebuild does."""
    pages = sql(dsn, f"SELECT id, content FROM {TABLE} ORDER BY id")
    with EmbeddingClient(options().endpoints[0]) as client, psycopg.connect(dsn) as owner:
        vectors = client.embed([content for _, content in pages])
        owner.cursor().executemany(
            f"UPDATE {TABLE} SET embedding = %s WHERE id = %s".encode(),
            [(str(vector.tolist()), number) for (number, _), vector in zip(pages, vectors, strict=True)],
        )


@pytest.fixture
def search(options: Callable[..., Options]) -> Callable[..., search_phase.Options]:
    def make(**fields: Any) -> search_phase.Options:
        return search_phase.Options(options().endpoints[0], **{"pauses": (), **fields})

    return make


@pytest.fixture
def filled(ready: Context, options: Callable[..., Options], prod: str) -> Context:
    """93 pages and no code example, with vectors and indexes; everything is as it must be."""
    sql(prod, f"DELETE FROM archon_code_examples; {PAGES} {GRANTS}")
    embed(prod, options)
    sql(prod, f"CREATE INDEX ON {TABLE} USING hnsw (embedding vector_cosine_ops)")
    return ready


@pytest.fixture
def prove(filled: Context, search: Callable[..., search_phase.Options]) -> Callable[..., PhaseOutcome]:
    def run(*, check: bool = True, **fields: Any) -> PhaseOutcome:
        context = replace(filled, run=Run(f"{filled.run.id}-check", filled.run.artifacts)) if check else filled
        return search_phase.run(context, search(**fields))

    return run


def codes(outcome: PhaseOutcome) -> list[str]:
    return [finding.code for finding in outcome.findings]


def through(outcome: PhaseOutcome) -> Any:
    return outcome.details["search"]["index"][f"public.{TABLE}"]["recall_at_10_through_function"]


def test_what_the_function_returns_is_measured(prove: Callable[..., PhaseOutcome]) -> None:
    outcome = prove()
    assert (outcome.error, outcome.status, codes(outcome), through(outcome)) == (None, "aligned", [], 1.0)
    assert outcome.details["search"]["index"][f"public.{TABLE}"]["samples"] == 50


def test_a_function_that_leaves_rows_out_is_told_though_the_index_is_good(
    prove: Callable[..., PhaseOutcome], prod: str
) -> None:
    sql(
        prod, PAGES.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION").replace("metadata @> filter", "id % 2 = 0")
    )
    outcome = prove(min_recall=0.3)
    assert through(outcome) < 0.7
    assert "search_function_recall" in codes(outcome)
    assert outcome.details["search"]["index"][f"public.{TABLE}"]["recall_at_10"] == 1.0


def test_what_the_function_sets_for_itself_is_named(prove: Callable[..., PhaseOutcome], prod: str) -> None:
    sql(
        prod,
        f"SELECT '[1]'::vector; ALTER FUNCTION {SIGNATURE} SET hnsw.ef_search = 2;"
        f"ALTER FUNCTION {SIGNATURE} SET enable_seqscan = off; ALTER FUNCTION {SIGNATURE} SET enable_sort = off",
    )
    outcome = prove(min_recall=0.1)
    told = next(finding for finding in outcome.findings if finding.code == "search_function_recall")
    assert "hnsw.ef_search=2" in told.message


def test_row_level_security_that_hides_is_named(prove: Callable[..., PhaseOutcome], prod: str) -> None:
    sql(prod, f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY")
    outcome = prove()
    assert outcome.error is not None
    assert (outcome.status, through(outcome)) == ("failed", 0.0)
    assert "Row-level security hides rows from service_role" in outcome.error.remedy


def test_a_security_definer_function_reads_as_its_owner(prove: Callable[..., PhaseOutcome], prod: str) -> None:
    sql(
        prod,
        f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY; REVOKE ALL ON {TABLE} FROM service_role;"
        f"ALTER FUNCTION {SIGNATURE} SECURITY DEFINER",
    )
    assert (prove().error, through(prove())) == (None, 1.0)


def test_a_function_that_service_role_may_not_call_is_told(prove: Callable[..., PhaseOutcome], prod: str) -> None:
    sql(prod, f"REVOKE EXECUTE ON FUNCTION {SIGNATURE} FROM PUBLIC")
    outcome = prove()
    assert outcome.error is not None
    assert outcome.error.code == "missing_privilege"
    grant = outcome.error.remedy.removesuffix(".")
    assert grant.startswith('GRANT EXECUTE ON FUNCTION "public"."match_archon_crawled_pages"(')
    sql(prod, grant)
    assert prove().error is None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("DROP FUNCTION {f}", "no such function"),
        ("DROP FUNCTION {f}; CREATE FUNCTION match_archon_crawled_pages(v vector, n int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
         "has no argument query_embedding, argument match_count, argument filter"),
        ("CREATE FUNCTION match_archon_crawled_pages(query_embedding vector, match_count int, filter jsonb) RETURNS SETOF archon_crawled_pages LANGUAGE sql AS 'SELECT * FROM archon_crawled_pages'",
         "2 functions that a call by names fits"),
    ],
)  # fmt: skip
def test_a_function_of_another_signature_is_told(
    prove: Callable[..., PhaseOutcome], prod: str, change: str, found: str
) -> None:
    sql(prod, change.format(f=SIGNATURE))
    outcome = prove(check=False)
    assert outcome.error is not None
    assert (outcome.error.code, found in outcome.error.found) == ("search_broken", True)
    assert prove().status == "aligned"
    assert codes(prove()) == ["search_after_rebuild"]


@pytest.mark.parametrize(
    ("body", "found", "remedy"),
    [
        ("RAISE EXCEPTION 'broken on purpose'", "broken on purpose", "Correct the function"),
        ("PERFORM query_embedding <=> '[1,2]'::vector", "different vector dimensions 768 and 2", "another dimension"),
        ("PERFORM query_embedding::vector(1536)", "expected 1536 dimensions, not 768", "Correct the function"),
        ("PERFORM no_such_function()", "no_such_function() does not exist", "search_path of Archon's requests"),
        ("PERFORM pg_sleep(60)", "statement timeout", "too long"),
        ("DELETE FROM archon_crawled_pages", "read-only transaction", "Correct the function"),
    ],
)  # fmt: skip
def test_a_function_that_fails_is_told(
    filled: Context, search: Callable[..., search_phase.Options], prod: str, body: str, found: str, remedy: str
) -> None:
    sql(prod, PAGES.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION").replace("BEGIN", f"BEGIN {body};"))
    context = replace(filled, statement_timeout=2.0) if "pg_sleep" in body else filled
    outcome = search_phase.run(context, search())
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code) == ("failed", "search_broken")
    assert outcome.error.object_name.startswith(NAMED)
    assert (found in outcome.error.found, remedy in outcome.error.remedy) == (True, True)
    assert sql(prod, f"SELECT count(*) FROM {TABLE}") == [(93,)]


def test_archons_own_timeout_ends_a_search(
    prove: Callable[..., PhaseOutcome], prod: str, server: EmbeddedServer
) -> None:
    database = sql(prod, "SELECT current_database()")[0][0]
    sql(server.dsn(), f"ALTER DATABASE {database} SET statement_timeout = '1s'")
    sql(
        prod,
        PAGES.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION").replace("BEGIN", "BEGIN PERFORM pg_sleep(60);"),
    )
    outcome = prove()
    assert outcome.error is not None
    assert "(1s)" in outcome.error.remedy


@pytest.fixture
def stranger(server: EmbeddedServer, prod: str) -> Iterator[str]:
    """A DSN of one who owns all and may not become service_role."""
    sql(
        server.dsn(),
        "CREATE ROLE stranger LOGIN; GRANT archon_owner TO stranger; REVOKE service_role FROM archon_owner",
    )
    yield prod.replace("user=archon_owner", "user=stranger")
    sql(server.dsn(), "DROP ROLE stranger; GRANT service_role TO archon_owner")


def test_where_the_role_is_not_to_be_had_the_catalogue_speaks(
    filled: Context, search: Callable[..., search_phase.Options], prod: str, stranger: str
) -> None:
    context = replace(filled, prod=Target("PROD", stranger), run=Run(f"{filled.run.id}-check", filled.run.artifacts))
    outcome = search_phase.run(context, search())
    found = outcome.details["search"]
    assert (outcome.error, found["role"], found["role_reason"]) == (None, "", "stranger may not become service_role")
    assert codes(outcome) == ["search_not_as_archon"]
    sql(prod, f"REVOKE ALL ON {TABLE} FROM service_role; REVOKE USAGE ON SCHEMA public FROM PUBLIC, service_role")
    outcome = search_phase.run(context, search())
    assert outcome.error is not None
    assert outcome.error.code == "missing_privilege"
    assert outcome.error.remedy == (
        'GRANT USAGE ON SCHEMA "public" TO "service_role"; GRANT SELECT ON "public"."archon_crawled_pages" TO "service_role".'
    )


def test_vectors_of_zeros_are_told(prove: Callable[..., PhaseOutcome], prod: str) -> None:
    sql(prod, f"UPDATE {TABLE} SET embedding = array_fill(0, ARRAY[768])::vector WHERE id IN (5, 6)")
    outcome = prove(min_recall=0.5)
    told = next(finding for finding in outcome.findings if finding.code == "search_zero_vectors")
    assert told.message.startswith("2 rows")
    sql(prod, told.remedy.split("; and run")[0])
    assert sql(prod, f"SELECT count(*) FROM {TABLE} WHERE embedding IS NULL") == [(2,)]


def test_vectors_of_other_pages_are_broken_search(prove: Callable[..., PhaseOutcome], prod: str) -> None:
    """Shuffled, as by replies in another order."""
    sql(prod, f"UPDATE {TABLE} p SET embedding = o.embedding FROM {TABLE} o WHERE o.id = (p.id + 40) % 93 + 1")
    outcome = prove()
    assert outcome.error is not None
    assert (outcome.status, outcome.error.code, through(outcome)) == ("failed", "search_broken", 1.0)


def test_a_model_that_is_weak_on_sentences_only_warns(
    prove: Callable[..., PhaseOutcome], service: RunningService
) -> None:
    outcome = prove(min_recall=1.01)
    assert (outcome.error, outcome.status, codes(outcome)) == (None, "aligned", ["search_recall_sampled"])
    assert "Asked for by their own text 1.00 of the pages are found" in outcome.findings[0].message


def test_a_service_that_is_down_after_the_index_was_built_loses_nothing(
    filled: Context, search: Callable[..., search_phase.Options], prod: str
) -> None:
    sql(prod, "DROP INDEX archon_crawled_pages_embedding_idx")
    options = search()
    down = replace(options, endpoint=replace(options.endpoint, base_url="http://127.0.0.1:9/v1"))
    outcome = search_phase.run(filled, down)
    assert (outcome.status, outcome.changed, len(outcome.statements)) == ("failed", True, 1)
    assert search_phase.run(filled, options).status == "aligned"


FURNITURE = "We use cookies and similar technologies to make our site work for you."


def test_what_many_pages_say_is_not_asked(
    ready: Context, options: Callable[..., Options], search: Callable[..., search_phase.Options], prod: str
) -> None:
    sql(prod, f"DELETE FROM archon_code_examples; {PAGES} {GRANTS} DELETE FROM {TABLE} WHERE id > 40")
    sql(
        prod,
        f"UPDATE {TABLE} SET content = content || ' {FURNITURE} That is all that it says about it, page ' || id || ' of many.'",
    )
    sql(prod, f"UPDATE {TABLE} SET content = '{FURNITURE}' WHERE id > 30")
    sql(prod, f"UPDATE {TABLE} SET content = repeat('x = [{{1}}];' || E'\\n', 20) || id WHERE id < 3")
    # The same page under several addresses, and two that say nearly the same.
    sql(prod, f"UPDATE {TABLE} p SET content = o.content FROM {TABLE} o WHERE o.id = 20 AND p.id BETWEEN 21 AND 28")
    embed(prod, options)
    outcome = search_phase.run(ready, search())
    found = outcome.details["search"]
    assert (outcome.error, found["source"]) == (None, "sampled")
    assert 15 <= found["queries"] <= 25
    assert found["passages"] >= 1
    assert found["recall_at_5"] >= 0.9


def test_pages_that_are_all_alike_cannot_be_asked_for(
    ready: Context, options: Callable[..., Options], search: Callable[..., search_phase.Options], prod: str
) -> None:
    sql(prod, f"DELETE FROM archon_code_examples; {PAGES} {GRANTS} UPDATE {TABLE} SET content = '{FURNITURE} ' || id")
    embed(prod, options)
    outcome = search_phase.run(ready, search())
    assert (outcome.error, outcome.details["search"]["source"]) == (None, "sampled")
    assert outcome.details["search"]["passages"] == outcome.details["search"]["queries"]


def test_a_size_that_is_none_is_told_before_anything_else(prove: Callable[..., PhaseOutcome]) -> None:
    for check in (True, False):
        with pytest.raises(AlignError, match="archon_index_maintenance_work_mem"):
            prove(check=check, maintenance_work_mem="plenty")
