"""Vectors that a run replaced come back as they were, row by row as far as nobody has written the row since."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.embedding.kinds import KINDS
from archon_align.embedding.recording import record
from archon_align.embedding.selection import Selection
from archon_align.embedding.tables import find_table, vector_type
from archon_align.errors import AlignError
from archon_align.rollback import vectors
from archon_align.rollback.ledger import Entry, Ledger
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql
from undoing_rows import copied, entries, execute, names, next_run, undone

PAGES = """
CREATE TABLE archon_crawled_pages (id bigserial PRIMARY KEY, content text NOT NULL, source_id text, embedding vector);
INSERT INTO archon_crawled_pages (id, content, source_id, embedding)
  SELECT g, 'page ' || g, CASE WHEN g % 2 = 0 THEN 'even' END, CASE WHEN g > 0 THEN ARRAY[g, 1.1, -g / 3e7]::real[]::vector END
  FROM generate_series(-5, 30) g;
"""
HERE = "public.archon_crawled_pages"
ALL = Selection(whole=True)


@pytest.fixture
def prod(new_database: Callable[[str], str]) -> str:
    return new_database(PAGES)


@pytest.fixture
def context(prod: str, make_context: Callable[..., Context], hold_run_lock: Callable) -> Context:
    hold_run_lock(prod)
    return make_context(prod, prod, phase="embeddings")


def write(
    context: Context,
    batches: Sequence[Mapping[int, Sequence[float]]],
    selection: Selection = ALL,
    *,
    commit: bool = True,
) -> list[Entry]:
    """Give the rows these vectors as the embeddings phase does, batch by batch."""
    ledger = Ledger(context)
    with open_session(context, context.prod) as session:
        ledger.begin(session)
        vector = vector_type(session)
        vector.register(session)
        found = find_table(session, KINDS[0], vector)
        assert found is not None
        query = sql.SQL("SELECT page.id, {} FROM {} AS page").format(found.text_hash, found.table.identifier)
        hashes = dict(session.tuples(query))
        update = sql.SQL(
            "UPDATE {} AS page SET embedding = fresh.embedding FROM ROWS FROM (unnest(%b::bigint[]), unnest(%b::bigint[]),"
            " unnest(%b::{})) AS fresh(id, text_hash, embedding)"
            " WHERE page.id = fresh.id AND {} AND {} = fresh.text_hash"
        ).format(found.table.identifier, vector.array, selection.replaces(found, vector), found.text_hash)
        for batch in batches:
            ids = [one for one in batch if one in hashes]
            arrays = ids, [hashes[one] for one in ids], [np.array(batch[one], np.float32) for one in ids]
            try:
                with session.transaction():
                    xid = record(session, ledger, found, vector, selection, arrays)
                    written = session.execute(update, arrays)
                    if not commit:
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                continue
            if selection.replaces_any:
                noted = entries(context)[-1].payload["ids"]
                assert written == sum(last - first + 1 for first, last in itertools.batched(noted, 2))
            ledger.committed(session, xid)
    return entries(context)


def other(*ids: int) -> dict[int, list[float]]:
    return {one: [-one, 7, 7] for one in ids}


def test_replaced_vectors_come_back_and_filled_ones_go(prod: str, context: Context) -> None:
    before = copied(prod, "archon_crawled_pages")
    done = write(context, [other(*range(-5, 12)), other(20, 25), {26: [26, 1.1, -26 / 3e7]}])
    assert [entry.payload["ids"] for entry in done] == [[-5, 11], [20, 20, 25, 25], []]
    assert ["former" in entry.payload for entry in done] == [True, True, False]
    assert copied(prod, "archon_crawled_pages") != before
    file = context.run.artifacts / "restore-points" / "embeddings.vectors"
    assert (file.stat().st_mode & 0o777, file.stat().st_size) == (0o600, 13 * (18 + 4 + 3 * 4))

    plan = undone(context, done)

    assert (copied(prod, "archon_crawled_pages"), plan.kept) == (before, [])
    assert not undone(context, done).statements
    texts = "\n".join(statement.sql for statement in plan.statements)
    assert len(texts) < 1000
    assert "FROM STDIN" in texts


def test_rows_that_users_wrote_since_keep_what_they_have(prod: str, context: Context) -> None:
    done = write(context, [other(*range(-2, 9))])
    execute(
        prod,
        "UPDATE archon_crawled_pages SET content = 'edited' WHERE id = 1",
        "UPDATE archon_crawled_pages SET embedding = '[7,7]' WHERE id = 2",
        "UPDATE archon_crawled_pages SET embedding = NULL WHERE id IN (3, 0)",
        "UPDATE archon_crawled_pages SET embedding = ARRAY[6, 1.1, -6 / 3e7]::real[]::vector WHERE id = 6",
        "DELETE FROM archon_crawled_pages WHERE id IN (4, 5)",
    )
    touched = "(SELECT * FROM archon_crawled_pages WHERE id IN (0, 1, 2, 3, 6))"
    left = copied(prod, touched)
    plan = undone(context, done)
    assert copied(prod, touched) == left
    assert names(plan) == [HERE, *(f"{HERE} id={one}" for one in (1, 2, 3))]
    told = {kept.name: (kept.found, kept.was) for kept in plan.kept}
    assert told[f"{HERE} id=1"] == ("a vector", "another vector")
    assert told[f"{HERE} id=3"] == ("no vector", "another vector")
    assert copied(prod, "(SELECT embedding FROM archon_crawled_pages WHERE id = 7)").startswith(b"[7,1.1,")

    asked = undone(context, done, wants=[f"{HERE} id=3"])
    assert names(asked) == [HERE, f"{HERE} id=1", f"{HERE} id=2"]
    assert copied(prod, "(SELECT embedding FROM archon_crawled_pages WHERE id = 3)").startswith(b"[3,1.1,")
    assert names(undone(context, done, everything=True)) == [HERE]
    assert copied(prod, "(SELECT content, embedding FROM archon_crawled_pages WHERE id = 1)").startswith(
        b"edited\t[1,1.1,"
    )


def rolled_back(dsn: str, one: int) -> Entry:
    """The entry of the rollback that wrote the row last."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT xmin::text::bigint FROM archon_crawled_pages WHERE id = %s", (one,)).fetchone()
    assert row is not None
    return Entry("undo", "PROD", row[0], True, {})


def test_later_runs_are_undone_one_by_one_or_together(prod: str, context: Context) -> None:
    start = copied(prod, "archon_crawled_pages")
    first = write(context, [other(*range(-5, 1))], Selection())  # fills
    filled = copied(prod, "archon_crawled_pages")
    second = write(next_run(context), [{one: [one, one, 9] for one in range(-5, 10)}])
    replaced = copied(prod, "archon_crawled_pages")
    third = write(next_run(context), [{one: [9, one, 9] for one in range(-3, 20)}])
    assert undone(context, third).kept == []
    assert copied(prod, "archon_crawled_pages") == replaced
    # An earlier rollback counts as if the run that it undid had never been, here and in what another run replaced then.
    undo = rolled_back(prod, 5)
    fourth = write(next_run(context), [{one: [8, one, 8] for one in range(-3, 20)}])
    assert undone(context, [*second, undo, *fourth]).kept == []
    assert copied(prod, "archon_crawled_pages") == filled
    assert undone(context, [*first, rolled_back(prod, 5)]).kept == []
    assert copied(prod, "archon_crawled_pages") == start


def test_a_rollback_that_is_looked_at_again_finds_nothing_to_do(prod: str, context: Context) -> None:
    done = write(context, [other(*range(1, 6))])
    execute(prod, "UPDATE archon_crawled_pages SET content = 'edited' WHERE id = 1")
    assert names(undone(context, done)) == [f"{HERE} id=1"]
    plan = undone(context, [*done, rolled_back(prod, 5)])
    assert (names(plan), plan.statements) == ([f"{HERE} id=1"], [])


def test_a_fill_and_a_replacement_undone_together_leave_no_vector(prod: str, context: Context) -> None:
    start = copied(prod, "archon_crawled_pages")
    first = write(context, [other(*range(-5, 1))], Selection())
    second = write(next_run(context), [{one: [one, one, 9] for one in range(-5, 10)}])
    plan = undone(context, [*first, *second])
    assert (copied(prod, "archon_crawled_pages"), plan.kept) == (start, [])


def test_what_was_not_committed_or_left_alone_is_not_touched(prod: str, context: Context) -> None:
    before = copied(prod, "archon_crawled_pages")
    done = write(context, [other(1, 2, 3)], commit=False)
    assert (done[0].committed, done[0].payload["ids"]) == (None, [1, 3])
    assert copied(prod, "archon_crawled_pages") == before
    assert undone(context, done).statements == []
    even = Selection(("even",))
    done = write(next_run(context), [other(*range(-5, 31))], even)
    assert done[0].payload["ids"][:4] == [-5, 0, 2, 2]
    assert copied(prod, "(SELECT embedding FROM archon_crawled_pages WHERE id = 3)").startswith(b"[3,1.1,")
    undone(context, done)
    assert copied(prod, "archon_crawled_pages") == before


def test_a_file_that_was_changed_or_is_gone_is_refused_before_anything_is(prod: str, context: Context) -> None:
    done = write(context, [other(1, 2, 3), other(4, 5)])
    after = copied(prod, "archon_crawled_pages")
    file = context.run.artifacts / "restore-points" / "embeddings.vectors"
    good = file.read_bytes()
    for bad in (good[:-1], good[:-1] + b"x"):
        file.write_bytes(bad)
        with pytest.raises(AlignError) as caught:
            undone(context, done)
        assert caught.value.code == "restore_point_unreadable"
    file.unlink()
    with pytest.raises(AlignError, match="restore-points"):
        undone(context, done)
    assert copied(prod, "archon_crawled_pages") == after
    file.write_bytes(good)
    assert undone(context, done).kept == []


def test_without_room_for_the_old_vectors_no_vector_is_replaced(prod: str, context: Context) -> None:
    before = copied(prod, "archon_crawled_pages")
    (context.run.artifacts / "restore-points" / "embeddings.vectors").mkdir(parents=True)
    with pytest.raises(AlignError, match="so they stay") as caught:
        write(context, [other(1, 2)])
    assert caught.value.code == "restore_point_not_written"
    assert copied(prod, "archon_crawled_pages") == before


def test_a_column_that_cannot_take_them_any_more(prod: str, context: Context) -> None:
    done = write(context, [{1: [1, 2], 2: [3, 4], -1: [5, 6]}])
    execute(prod, "DELETE FROM archon_crawled_pages WHERE id > 2")
    execute(prod, "ALTER TABLE archon_crawled_pages ALTER embedding TYPE vector(2)")
    plan = undone(context, done, everything=True)
    (lost,) = [kept for kept in plan.kept if kept.lost]
    assert (lost.name, "2 former vectors have other dimensions" in lost.why) == (f"{HERE}.embedding", True)
    assert (
        copied(prod, "(SELECT id, embedding FROM archon_crawled_pages WHERE id IN (-1, 1))") == b"-1\t\\N\n1\t[1,2]\n"
    )


def test_many_rows_are_small_statements(prod: str, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_IDS_PER_STATEMENT", 10)
    before = copied(prod, "archon_crawled_pages")
    done = write(context, [other(*range(1, 31, 2)), other(*range(2, 31, 2))])
    plan = undone(context, done)
    assert sum(statement.sql.startswith("UPDATE") for statement in plan.statements) == 3
    assert copied(prod, "archon_crawled_pages") == before


VECTOR = st.tuples(*[st.floats(-(2.0**99), 2.0**99, width=32)] * 3).filter(any)
BATCH = st.dictionaries(st.integers(-5, 30), VECTOR, min_size=1)


def test_whatever_runs_wrote_together_it_all_goes_back(prod: str, context: Context) -> None:
    @settings(max_examples=10)
    @given(st.lists(st.tuples(st.sampled_from([ALL, Selection(), Selection(("even",))]), BATCH), max_size=4))
    def check(runs: list[tuple[Selection, dict[int, Sequence[float]]]]) -> None:
        before = copied(prod, "archon_crawled_pages")
        done: list[Entry] = []
        for selection, batch in runs:
            done += write(next_run(context), [batch], selection)
        plan = undone(context, done)
        assert copied(prod, "archon_crawled_pages") == before
        assert not [kept for kept in plan.kept if kept.lost]

    check()


def test_a_point_of_another_run_finds_its_file(prod: str, context: Context) -> None:
    before = copied(prod, "archon_crawled_pages")
    done = write(context, [other(1, 2, 3)])
    later = dataclasses.replace(
        context, run=dataclasses.replace(context.run, artifacts=context.run.artifacts.parent / "20260102-000000-abcdef")
    )
    assert undone(later, done).kept == []
    assert copied(prod, "archon_crawled_pages") == before
