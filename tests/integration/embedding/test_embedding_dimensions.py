"""Vectors of another dimension: rebuilt beside the old ones, indexed, and put in their place, with the old ones kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.embedding import kept, phase, search_phase, swap
from archon_align.embedding.phase import Options
from archon_align.errors import AlignError
from archon_align.outcome import PhaseOutcome
from archon_align.rollback.ledger import Ledger
from archon_align.schema import phase as schema_phase
from archon_align.schema.apply import apply
from embedding_rows import FUNCTION, GRANTS, TABLES

from lab.embedding_service import RunningService

PAGES = "archon_crawled_pages"
FUNCTIONS = FUNCTION.format(table=PAGES) + FUNCTION.format(table="archon_code_examples") + GRANTS
COPY = "archon_quarantine.archon_crawled_pages__embedding_4"
OLD_VECTORS = f"UPDATE {PAGES} SET embedding = ARRAY[id::int, 1, 0, 2]::vector WHERE id % 3 > 0;"
INDEX = (
    f"CREATE INDEX prods_index ON {PAGES} USING hnsw (embedding vector_cosine_ops) WITH (m = 24, ef_construction = 99);"
)


@dataclass
class World:
    """DEV with 768 dimensions, PROD with four, 93 pages (62 with vector) and 12 code examples without."""

    dev: str
    prod: str
    context: Callable[..., Context]
    options: Callable[..., Options]

    def schema(self, *, check: bool = False) -> PhaseOutcome:
        return schema_phase.run(self.context(check=check, phase="schema"), schema_phase.Options(credentials=False))

    def rebuild(self, *, check: bool = False, **fields: Any) -> PhaseOutcome:
        return phase.run(self.context(check=check, phase="embeddings"), self.options(**fields))

    def search(self, *, check: bool = False, **fields: Any) -> PhaseOutcome:
        options = search_phase.Options(self.options().endpoints[0], **{"min_recall": 0.0, "pauses": (0.02,), **fields})
        return search_phase.run(self.context(check=check, phase="embeddings"), options)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.prod, autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str) -> Any:
        return self.rows(query)[0][0]

    def columns(self) -> dict[str, str]:
        return dict(
            self.rows(
                f"SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{PAGES}'::regclass"
                " AND attnum > 0 AND NOT attisdropped"
            )
        )

    def others(self) -> list[tuple[Any, ...]]:
        """Everything but the vectors."""
        return self.rows(
            f"SELECT id, url, chunk_number, content, metadata, source_id, created_at FROM {PAGES} ORDER BY id"
        )

    def indexes(self) -> list[tuple[Any, ...]]:
        return self.rows(
            "SELECT indexname, substring(indexdef FROM 'USING.*') FROM pg_indexes"
            f" WHERE tablename = '{PAGES}' AND indexdef LIKE '%hnsw%'"
        )

    def comment(self, column: str) -> Any:
        return self.value(
            f"SELECT col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = '{PAGES}'::regclass AND attname = '{column}'"
        )

    def old(self, table: str = PAGES) -> list[tuple[Any, ...]]:
        return self.rows(f"SELECT id, embedding::text FROM {table} WHERE embedding IS NOT NULL ORDER BY id")


@pytest.fixture
def world(
    new_database: Callable[[str], str],
    fill: Callable[[str], None],
    make_context: Callable[..., Context],
    hold_run_lock: Callable[..., object],
    options: Callable[..., Options],
) -> World:
    dev = new_database(TABLES.format(schema="public", dimensions=768) + FUNCTIONS)
    prod = new_database(TABLES.format(schema="public", dimensions=4) + FUNCTIONS + INDEX)
    fill(prod)
    hold_run_lock(prod)
    made = World(dev, prod, lambda **fields: make_context(prod, dev, **fields), options)
    made.rows(OLD_VECTORS)
    return made


def codes(outcome: PhaseOutcome) -> set[str]:
    return {finding.code for finding in outcome.findings}


def test_new_vectors_take_the_place_of_the_old_which_are_kept(world: World) -> None:
    old, others = world.old(), world.others()
    assert world.schema().status == "changed"
    assert world.old() == old
    rebuilt = world.rebuild()
    assert (rebuilt.status, rebuilt.details["embeddings"]["rebuilt"]) == ("changed", 105)
    assert world.old() == old  # search goes on as before

    done = world.search()
    assert (done.status, done.error) == ("changed", None)
    assert done.details["search"]["recall_at_5"] > 0.5
    assert_changed_places(world, old, others)
    assert world.indexes() == [
        ("prods_index", "USING hnsw (embedding vector_cosine_ops) WITH (m='24', ef_construction='99')")
    ]
    assert world.comment("embedding") is None
    assert "vectors_kept" in codes(done)
    assert done.details["search"]["kept"] == [{"of": f"public.{PAGES}", "table": COPY, "rows": 62}]

    schema, again, search = world.schema(), world.rebuild(), world.search()
    assert [outcome.status for outcome in (schema, again, search)] == ["aligned"] * 3
    assert (schema.details["schema"]["differences_after"], schema.details["schema"]["only_in_prod"]) == (0, [])
    assert not any(outcome.changed for outcome in (schema, again, search))

    with open_session(world.context(), world.context().prod) as session:
        assert [(str(copy.table), str(copy.of), copy.lacking) for copy in kept.find(session)] == [
            (COPY, f"public.{PAGES}", 0)
        ]
        kept.remove(session, kept.find(session), Ledger(session.context))
        assert kept.find(session) == []


def assert_changed_places(world: World, old: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> None:
    assert world.columns()["embedding"] == "vector(768)"
    assert "embedding_rebuilt" not in world.columns()
    assert (world.old(COPY), world.others()) == (old, others)
    assert world.value(f"SELECT count(*) FROM {PAGES} WHERE embedding IS NULL") == 0


def test_check_mode_foresees_all_of_it(world: World) -> None:
    predicted = [world.schema(check=True), world.rebuild(check=True), world.search(check=True)]
    assert [outcome.status for outcome in predicted] == ["drift"] * 3
    assert predicted[1].details["embeddings"]["missing_before"] == 105
    assert [statement.summary.split(" (")[0] for statement in predicted[1].statements] == [
        "embed 93 rows beside their old vectors",
        "embed 12 rows in place",
    ]
    assert world.columns()["embedding"] == "vector(4)"
    done = [world.schema(), world.rebuild(), world.search(check=True), world.search()]
    expected = [*predicted, predicted[-1]]
    for before, after in zip(expected, done, strict=True):
        assert [statement.sql for statement in after.statements] == [statement.sql for statement in before.statements]


DYING = """
import os, signal, sys
from pathlib import Path
from archon_align.context import Context, Run
from archon_align.database.target import Target
from archon_align.embedding import phase, search_phase, swap, writer
from archon_align.embedding.endpoint import Endpoint

run_id, artifacts, prod, dev, url, where = sys.argv[1:]
context = Context(Run(run_id, Path(artifacts)), Target("PROD", prod), Target("DEV", dev), "embeddings")
endpoint = Endpoint(url, "nomic-embed-text", 768)

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

write = writer.Writer.write
def write_and_die(*args):
    write(*args)
    die()

if where == "half-way":
    writer.Writer.write = write_and_die
else:
    setattr(swap, where, die)
phase.run(context, phase.Options((endpoint,), batch_texts=8, rows_per_commit=8))
search_phase.run(context, search_phase.Options(endpoint, min_recall=0.0))
"""


def test_killed_anywhere_the_next_run_goes_on(world: World, service: RunningService) -> None:
    """With kill -9: while the new column is filled, between that and the change of places, and inside of that."""
    old, others = world.old(), world.others()
    world.schema()
    context = world.context(phase="embeddings")
    for where, missing in (("half-way", 85), ("apply", 0), ("_require_in_place", 0)):
        arguments = (context.run.id, str(context.run.artifacts), world.prod, world.dev, service.base_url, where)
        died = subprocess.run(
            [sys.executable, "-c", DYING, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
        assert died.returncode == -signal.SIGKILL, where
        assert (world.old(), world.others(), world.columns()["embedding"]) == (old, others, "vector(4)"), where
        assert world.value(f"SELECT count(*) FROM {PAGES} WHERE embedding_rebuilt IS NULL") == missing, where
    again = world.schema()
    assert (again.status, again.details["schema"]["only_in_prod"]) == ("aligned", [])
    assert world.rebuild().status == "aligned"
    done = world.search()
    assert (done.status, done.error) == ("changed", None)
    assert_changed_places(world, old, others)
    assert world.indexes()[0][0] == "prods_index"
    assert len(world.indexes()) == 1


def test_what_archon_writes_meanwhile_is_not_lost(world: World) -> None:
    """Rows with the old dimension come in until the new column refuses them."""
    written: list[int] = []
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(world.prod, autocommit=True) as archon:
            while not stop.wait(0.02):
                try:
                    row = archon.execute(
                        f"INSERT INTO {PAGES} (url, chunk_number, content, embedding) VALUES ('late', %s, %s, '[9, 8, 7, 6]') RETURNING id",
                        (len(written), f"A late page about number {len(written)}."),
                    ).fetchone()
                except psycopg.errors.DataException:
                    return  # expected 768 dimensions, not 4
                assert row is not None
                written.append(row[0])

    world.schema()
    archon = threading.Thread(target=write)
    archon.start()
    try:
        assert world.rebuild(rows_per_commit=16).error is None
        done = world.search()
    finally:
        stop.set()
        archon.join()
    assert done.error is None
    assert written
    assert world.value(f"SELECT count(*) FROM {PAGES} WHERE url = 'late'") == len(written)
    assert world.rows(f"SELECT id FROM {COPY} WHERE embedding = '[9, 8, 7, 6]' ORDER BY id") == [
        (one,) for one in written
    ]
    assert world.value(f"SELECT count(*) FROM {PAGES} WHERE embedding IS NULL") == 0


@pytest.mark.parametrize("times", [1, 99])
def test_a_row_that_comes_in_at_the_last_moment_is_embedded_too(
    world: World, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Before the vectors change places where that can be had, else right afterwards; its old vector is kept in any case."""
    written: list[None] = []

    def late(*args: Any, **fields: Any) -> Any:
        if len(written) < times:
            world.rows(
                f"INSERT INTO {PAGES} (url, chunk_number, content, embedding) VALUES ('late', {len(written)}, 'Late.', '[9, 8, 7, 6]')"
            )
            written.append(None)
        return apply(*args, **fields)

    monkeypatch.setattr(swap, "apply", late)
    world.schema()
    world.rebuild()
    done = world.search()
    assert done.error is None
    assert len(written) == min(times, swap._TRIES)
    assert world.value(f"SELECT count(*) FROM {COPY} WHERE embedding = '[9, 8, 7, 6]'") == len(written)
    assert world.value(f"SELECT count(*) FROM {PAGES} WHERE embedding IS NULL") == 0
    assert world.columns()["embedding"] == "vector(768)"


def test_rows_that_get_no_new_vector_keep_their_old_one_in_quarantine(world: World, service: RunningService) -> None:
    world.rows(f"UPDATE {PAGES} SET content = ' ' WHERE id = 1")
    world.rows(f"UPDATE {PAGES} SET content = 'POISON ' || content WHERE id IN (2, 3)")
    service.set_faults(fail_marked=True, marker="POISON")
    old = world.old()
    world.schema()
    world.rebuild()
    done = world.search()
    assert done.error is None
    assert world.old(COPY) == old
    assert world.rows(f"SELECT id FROM {PAGES} WHERE embedding IS NULL ORDER BY id") == [(1,), (2,), (3,)]
    with open_session(world.context(), world.context().prod) as session:
        assert [copy.lacking for copy in kept.find(session)] == [2]


def test_what_hangs_on_the_column_is_there_afterwards_as_dev_has_it(world: World) -> None:
    besides = f"""
    ALTER TABLE {PAGES} ADD CONSTRAINT c CHECK (vector_dims(embedding) = %d), ADD norm float GENERATED ALWAYS AS (vector_norm(embedding)) STORED;
    CREATE VIEW v WITH (security_barrier) AS SELECT id, embedding FROM {PAGES}; CREATE VIEW w AS SELECT embedding FROM v; GRANT SELECT ON v TO anon;
    COMMENT ON COLUMN {PAGES}.embedding IS 'it''s'; GRANT SELECT (embedding) ON {PAGES} TO anon; CREATE INDEX todo ON {PAGES} (id) WHERE embedding IS NULL;
    ALTER TABLE {PAGES} ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON {PAGES} USING (embedding IS NOT NULL); CREATE POLICY q ON {PAGES} TO service_role USING (true);"""
    with psycopg.connect(world.dev, autocommit=True) as dev:
        dev.execute((besides % 768).encode())
    world.rows(besides % 4)
    old, others = world.old(), world.others()
    left = world.schema()
    assert (left.error, codes(left) >= {"vectors_to_rebuild", "waits_for_rebuild"}) == (None, True)
    world.rebuild()
    done = world.search()
    assert done.error is None
    assert_changed_places(world, old, others)
    assert world.comment("embedding") == "it's"
    assert world.value(f"SELECT has_column_privilege('anon', '{PAGES}', 'embedding', 'SELECT')")
    assert world.value(f"SELECT min(norm) > 0.9 FROM {PAGES}")
    after = world.schema()
    assert (after.status, after.details["schema"]["differences_after"], after.details["schema"]["only_in_prod"]) == (
        "aligned",
        0,
        [],
    )


def test_no_new_vector_at_all_leaves_the_old_ones(world: World) -> None:
    world.rows(f"UPDATE {PAGES} SET content = ''")
    world.schema()
    assert world.rebuild().error is None
    with pytest.raises(AlignError, match="No row got a new vector"):
        world.search()
    assert world.columns()["embedding"] == "vector(4)"
