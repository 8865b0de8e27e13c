"""Vectors of another dimension: converted in place when there are none, left to a column beside theirs when there are."""

from __future__ import annotations

from collections.abc import Callable

from archon_align.database.session import open_session
from archon_align.schema.inspect import inspect
from archon_align.schema.model import Key, Kind
from archon_align.schema.planning import Choices, Made, make_plan
from archon_align.schema.vectors import free_name, marker
from schema_worlds import World

PAGES = """CREATE TABLE archon_crawled_pages (id bigserial PRIMARY KEY, url text, content text, embedding vector({n}));
CREATE INDEX "pages idx" ON archon_crawled_pages USING {index};"""
HNSW = "hnsw (embedding vector_l2_ops) WITH (m = 7, ef_construction = 33)"
IVFFLAT = "ivfflat (embedding vector_cosine_ops) WITH (lists = 5)"
ROWS = "INSERT INTO archon_crawled_pages (content, embedding) SELECT 'text ' || n, CASE WHEN n % 3 > 0 THEN ARRAY[n, 1, 0, 2]::vector END FROM generate_series(1, 9) n;"
DEV = PAGES.format(n=3, index=IVFFLAT)
VECTORS = "SELECT string_agg(embedding::text, ';' ORDER BY id) FROM archon_crawled_pages"


def codes(outcome: object) -> set[str]:
    return {finding.code for finding in outcome.findings}  # type: ignore[attr-defined]


def test_without_vectors_the_column_is_converted_in_place_and_indexes_keep_method_and_parameters(
    make_world: Callable[..., World],
) -> None:
    rows = "INSERT INTO archon_crawled_pages (content) VALUES ('a'), ('b');"
    world = make_world(DEV, PAGES.format(n=4, index=HNSW) + rows)
    predicted = world.align(check=True)
    outcome = world.align()
    assert (outcome.status, outcome.details["schema"]["differences_after"]) == ("changed", 0)
    assert outcome.statements == predicted.statements
    assert not any("rebuilt" in statement.sql for statement in outcome.statements)
    definition = world.prod.value(world.schema, "SELECT pg_get_indexdef(to_regclass('\"pages idx\"'))")
    assert "hnsw (embedding vector_l2_ops) WITH (m='7', ef_construction='33')" in str(definition)
    assert world.prod.value(world.schema, "SELECT count(*) FROM archon_crawled_pages") == 2
    assert world.align().status == "aligned"


def test_dimensions_that_cannot_be_indexed_are_refused_before_anything_runs(make_world: Callable[..., World]) -> None:
    dev = PAGES.format(n=2001, index=HNSW).split("CREATE INDEX")[0]
    world = make_world(dev, PAGES.format(n=4, index=HNSW))
    refused = world.align(check=True)
    assert [(finding.code, "DROP INDEX" in finding.remedy) for finding in refused.findings][:1] == [
        ("vector_index_limit", True)
    ]
    world.prod.run(world.schema, 'DROP INDEX "pages idx"')
    assert world.align().details["schema"]["differences_after"] == 0


def test_with_vectors_a_column_beside_is_made_and_the_old_one_stays_in_use(make_world: Callable[..., World]) -> None:
    world = make_world(DEV, PAGES.format(n=4, index=HNSW) + ROWS)
    before = world.prod.value(
        world.schema, "SELECT string_agg(embedding::text, ';' ORDER BY id) FROM archon_crawled_pages"
    )
    predicted = world.align(check=True)
    outcome = world.align()
    assert outcome.statements == predicted.statements
    assert (outcome.status, outcome.error) == ("changed", None)
    assert any(
        "ADD COLUMN embedding_rebuilt " in statement.sql or 'ADD COLUMN "embedding_rebuilt"' in statement.sql
        for statement in outcome.statements
    )
    told = [finding for finding in outcome.findings if finding.code == "vectors_to_rebuild"]
    assert [finding.message[:9] for finding in told] == ["6 vectors"]
    assert outcome.details["schema"]["differences_after"] == 1
    assert outcome.details["schema"]["only_in_prod"] == []
    assert (
        world.prod.value(world.schema, "SELECT string_agg(embedding::text, ';' ORDER BY id) FROM archon_crawled_pages")
        == before
    )

    again = world.align()
    assert (again.status, again.changed, list(again.statements)) == ("aligned", False, [])
    assert codes(again) >= {"vectors_to_rebuild"}
    assert again.details["schema"]["only_in_prod"] == []


def test_a_column_of_the_users_is_never_taken_for_ours(make_world: Callable[..., World]) -> None:
    """One of the name that we would take, and one that has our comment as well, but another type."""
    theirs = "ALTER TABLE archon_crawled_pages ADD embedding_rebuilt text, ADD embedding_rebuilt2 vector(5);"
    said = f"COMMENT ON COLUMN archon_crawled_pages.embedding_rebuilt2 IS $c${marker('embedding')}$c$;"
    values = "UPDATE archon_crawled_pages SET embedding_rebuilt = 'mine', embedding_rebuilt2 = '[1,2,3,4,5]';"
    world = make_world(DEV, PAGES.format(n=4, index=HNSW) + ROWS + theirs + said + values)
    outcome = world.align()
    assert (outcome.status, outcome.error) == ("changed", None)
    assert any('"embedding_rebuilt3"' in statement.sql for statement in outcome.statements)
    named = [
        f"column {world.schema}.archon_crawled_pages.{name}" for name in ("embedding_rebuilt", "embedding_rebuilt2")
    ]
    assert outcome.details["schema"]["only_in_prod"] == named
    assert (
        world.prod.value(
            world.schema, "SELECT count(embedding_rebuilt || embedding_rebuilt2::text) FROM archon_crawled_pages"
        )
        == 9
    )


def test_what_a_rebuild_left_behind_is_named_once_nothing_is_rebuilt_any_more(make_world: Callable[..., World]) -> None:
    world = make_world(DEV, PAGES.format(n=4, index=HNSW) + ROWS)
    world.align()
    world.dev.run(world.schema, "ALTER TABLE archon_crawled_pages ALTER embedding TYPE vector(4)")
    outcome = world.align()
    assert (outcome.status, outcome.details["schema"]["differences_after"]) == ("aligned", 0)
    assert outcome.details["schema"]["only_in_prod"] == [
        f"column {world.schema}.archon_crawled_pages.embedding_rebuilt"
    ]


def test_vectors_of_a_column_without_dimensions_are_converted_when_all_fit(make_world: Callable[..., World]) -> None:
    bare = PAGES.replace("vector({n})", "vector").split("CREATE INDEX")[0]
    world = make_world(DEV.split("CREATE INDEX")[0], bare + ROWS.replace("ARRAY[n, 1, 0, 2]", "ARRAY[n, 1, 0]"))
    before = world.prod.value(world.schema, VECTORS)
    outcome = world.align()
    assert (outcome.status, outcome.details["schema"]["differences_after"]) == ("changed", 0)
    assert world.prod.value(world.schema, VECTORS) == before
    world = make_world(DEV.split("CREATE INDEX")[0], bare + ROWS)
    assert codes(world.align()) >= {"vectors_to_rebuild"}


def test_a_protected_table_is_not_rebuilt(make_world: Callable[..., World]) -> None:
    world = make_world(DEV, PAGES.format(n=4, index=HNSW) + ROWS)
    before = world.prod.picture(world.schema)
    outcome = world.align(protected=("archon_crawled_pages",))
    assert (outcome.status, codes(outcome) & {"type_change_loses"}) == ("decision_needed", {"type_change_loses"})
    assert world.prod.picture(world.schema) == before


def plan(world: World, choices: Choices) -> Made:
    context = world.context(check=True)
    with open_session(context, context.dev) as dev, open_session(context, context.prod) as prod:
        desired, current = inspect(dev, world.schemas), inspect(prod, world.schemas)
        return make_plan(prod, desired, current, protected=frozenset(), choices=choices)


def test_where_nobody_rebuilds_the_plan_refuses_and_says_who_does(make_world: Callable[..., World]) -> None:
    world = make_world(DEV, PAGES.format(n=4, index=HNSW) + ROWS)
    refused = plan(world, Choices()).plan.refused
    assert [finding.code for finding in refused] == ["type_change_loses"]
    assert "6 rows" in refused[0].message
    assert "--tags schema,embeddings" in refused[0].remedy


def test_the_api_compares_vector_indexes_like_any_other(make_world: Callable[..., World]) -> None:
    world = make_world(DEV, PAGES.format(n=3, index=HNSW))
    assert world.align().status == "aligned"
    made = plan(world, Choices())
    assert [str(one.key) for one in made.plan.comparison.differences] == [f"index {world.schema}.pages idx"]
    assert [one.sql.split()[0] for one in made.plan.statements] == ["DROP", "CREATE"]
    assert "ivfflat" in made.plan.statements[1].sql


def test_a_rebuild_that_is_under_way_is_no_noise_to_the_api(make_world: Callable[..., World]) -> None:
    world = make_world(DEV, PAGES.format(n=4, index=HNSW) + ROWS)
    world.align()
    world.prod.run(
        world.schema, "CREATE INDEX half ON archon_crawled_pages USING hnsw (embedding_rebuilt vector_cosine_ops)"
    )
    comparison = plan(world, Choices()).plan.comparison
    assert comparison.only_in_prod == ()
    key = Key(Kind.COLUMN, world.schema, "archon_crawled_pages", "embedding")
    assert (key, "type") in {(one.key, one.aspect) for one in comparison.differences}


def test_the_name_beside_is_free_and_fits() -> None:
    assert free_name("embedding", ()) == "embedding_rebuilt"
    assert free_name("embedding", {"embedding_rebuilt", "embedding_rebuilt2"}) == "embedding_rebuilt3"
    long = "ü" * 31
    names = {free_name(long, ()), free_name(long, {free_name(long, ())})}
    assert len(names) == 2
    assert all(len(name.encode()) <= 63 and name.startswith("ü" * 26) for name in names)
