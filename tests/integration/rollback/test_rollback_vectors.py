"""Undoing vectors that a run filled in, on a real server; the tables are compared from outside, byte for byte."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.embedding.kinds import KINDS
from archon_align.embedding.selection import Selection
from archon_align.embedding.tables import find_table, vector_type
from archon_align.embedding.writer import Embedded, Writer
from archon_align.errors import AlignError
from archon_align.rollback import vectors
from archon_align.rollback.ledger import Entry, Ledger
from undoing_rows import copied, entries, execute, names, undone

PAGES = """
CREATE TABLE archon_crawled_pages (id bigserial PRIMARY KEY, url varchar NOT NULL DEFAULT 'u', chunk_number int, content text NOT NULL,
  embedding vector(3), created_at timestamptz DEFAULT now());
INSERT INTO archon_crawled_pages (id, content) SELECT g, 'page ' || g FROM generate_series(-3, 30) g;
INSERT INTO archon_crawled_pages (id, content, embedding) VALUES (100, 'of users', '[1,2,3]');
"""
HERE = "public.archon_crawled_pages"


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database(PAGES)


@pytest.fixture
def context(prod: str, make_context: Callable[..., Context], hold_run_lock: Callable) -> Context:
    hold_run_lock(prod)
    return make_context(prod, prod, phase="embeddings")


def fill(context: Context, *batches: range) -> list[Entry]:
    """Give the rows their vectors as the embeddings phase does, batch by batch."""
    ledger = Ledger(context)
    with open_session(context, context.prod) as session:
        ledger.begin(session)
        vector = vector_type(session)
        vector.register(session)
        found = find_table(session, KINDS[0], vector)
        assert found is not None
        with psycopg.connect(context.prod.dsn) as connection:
            query = f"SELECT page.id, {found.text_hash.as_string(None)} FROM archon_crawled_pages page"
            hashes = dict(connection.execute(query.encode()).fetchall())
        writer = Writer(session, found, vector, ledger, Selection())
        for ids in batches:
            writer.write([Embedded(0, one, hashes[one], np.full(3, one, np.float32)) for one in ids])
    return entries(context)


def test_filled_vectors_go_and_nothing_else(prod: str, context: Context) -> None:
    before = copied(prod, "archon_crawled_pages")
    done = fill(context, range(-3, 5), range(5, 9), range(12, 31))
    assert [entry.payload["ids"] for entry in done] == [[-3, 4], [5, 8], [12, 30]]
    assert [entry.committed for entry in done] == [True] * 3
    plan = undone(context, done)
    assert (copied(prod, "archon_crawled_pages"), plan.kept, len(plan.statements)) == (before, [], 1)
    assert not undone(context, done).statements


def test_rows_that_users_wrote_since_keep_their_vectors(prod: str, context: Context) -> None:
    done = fill(context, range(1, 11))
    execute(
        prod,
        "UPDATE archon_crawled_pages SET content = 'edited' WHERE id = 1",
        "UPDATE archon_crawled_pages SET embedding = '[7,7,7]' WHERE id = 2",
        "UPDATE archon_crawled_pages SET embedding = NULL WHERE id = 3",
        "DELETE FROM archon_crawled_pages WHERE id IN (4, 5)",
    )
    left = copied(prod, "(SELECT * FROM archon_crawled_pages WHERE id < 6 OR id > 10)")
    plan = undone(context, done)
    assert names(plan) == [HERE, f"{HERE} id=1", f"{HERE} id=2"]
    assert "users deleted 2 rows" in plan.kept[-1].why
    assert copied(prod, "(SELECT * FROM archon_crawled_pages WHERE id < 6 OR id > 10)") == left
    assert copied(prod, "(SELECT count(embedding) FROM archon_crawled_pages WHERE id BETWEEN 6 AND 10)") == b"0\n"
    assert names(undone(context, done, wants=[f"{HERE} id=2"])) == [HERE, f"{HERE} id=1"]
    assert copied(prod, "(SELECT id FROM archon_crawled_pages WHERE embedding IS NOT NULL)") == b"1\n100\n"
    assert names(undone(context, done, everything=True)) == [HERE]


def test_many_rows_are_several_statements_and_few_names(
    prod: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_IDS_PER_STATEMENT", 10)
    monkeypatch.setattr(vectors, "_NAMED", 3)
    before = copied(prod, "archon_crawled_pages")
    done = fill(context, range(1, 31))
    execute(prod, "UPDATE archon_crawled_pages SET url = url WHERE id <= 5")
    plan = undone(context, done)
    assert [statement.sql.count(",") for statement in plan.statements] == [9, 9, 4]
    assert names(plan) == [f"{HERE} id={one}" for one in ("*", 1, 2, 3)]
    assert undone(context, done, wants=[f"{HERE} id=*"]).kept == []
    assert copied(prod, "archon_crawled_pages") == before


def test_a_rewritten_table_and_one_whose_column_is_gone(prod: str, context: Context) -> None:
    before = copied(prod, "archon_crawled_pages")
    done = fill(context, range(1, 4))
    execute(prod, "VACUUM FULL archon_crawled_pages")
    assert undone(context, done).kept == []
    assert copied(prod, "archon_crawled_pages") == before
    done = fill(context, range(1, 4))
    execute(prod, "ALTER TABLE archon_crawled_pages ALTER url TYPE text USING url || ''")
    assert len(undone(context, done).kept) == 3
    for gone in ("ALTER TABLE archon_crawled_pages DROP embedding", "DROP TABLE archon_crawled_pages"):
        execute(prod, gone)
        plan = undone(context, done)
        assert (plan.statements, plan.kept, plan.locks) == ([], [], {})


def test_an_odd_column_in_an_odd_table(
    new_database: Callable[[str], str], make_context: Callable[..., Context]
) -> None:
    table, column = 't" %s', "v'%(x)s"
    there = '"o %"."t"" %s"'
    prod = new_database(f"""CREATE SCHEMA "o %"; CREATE TABLE {there} (id int PRIMARY KEY, "{column}" vector(1));
      INSERT INTO {there} VALUES (1, '[1]'), (2, '[2]')""")
    context = make_context(prod, prod, phase="embeddings")
    with psycopg.connect(prod) as connection:
        connection.execute(f"""UPDATE {there} SET "{column}" = '[3]' WHERE id = 2""".encode())
        row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    assert row is not None
    done = Entry("vectors", "PROD", row[0], True, {"schema": "o %", "table": table, "column": column, "ids": [1, 2]})
    assert names(undone(context, [done])) == [f"o %.{table} id=1"]
    assert copied(prod, there) == b"1\t[1]\n2\t\\N\n"


def test_a_batch_is_written_down_before_any_row_and_not_written_without(
    prod: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copied(prod, "archon_crawled_pages")
    record = Ledger.record

    def look(ledger: Ledger, session, kind, payload) -> int:
        record(ledger, session, kind, payload)
        locks = "(SELECT mode FROM pg_locks WHERE relation = 'archon_crawled_pages'::regclass AND mode LIKE 'Row%')"
        assert copied(prod, locks) == b""
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "record", look)
    with pytest.raises(KeyboardInterrupt):
        fill(context, range(1, 4))
    assert copied(prod, "archon_crawled_pages") == before
    (entry,) = entries(context)
    assert (entry.committed, undone(context, [entry]).statements) == (None, [])

    monkeypatch.setattr(Ledger, "record", record)
    full = dataclasses.replace(
        context, run=dataclasses.replace(context.run, artifacts=context.run.artifacts / "data.jsonl")
    )
    context.run.write("data.jsonl/restore-points", b"a file where a folder should be")
    with pytest.raises(AlignError, match="nothing may be changed"):
        fill(full, range(1, 4))
    assert copied(prod, "archon_crawled_pages") == before


def test_rows_filled_and_undone_and_filled_again(prod: str, context: Context) -> None:
    before = copied(prod, "archon_crawled_pages")
    done = fill(context, range(1, 6))
    undone(context, done)
    again = fill(context, range(3, 9))
    assert undone(context, again).kept == []
    assert copied(prod, "archon_crawled_pages") == before
