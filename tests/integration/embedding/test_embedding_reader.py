"""How tables are walked along: each row once, bounded, shared between workers by locks that die with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import Session, open_session
from archon_align.embedding.kinds import KINDS
from archon_align.embedding.reader import Limits, Reader, Row
from archon_align.embedding.selection import Selection
from archon_align.embedding.tables import EmbeddedTable, find_table, vector_type

LIMITS = Limits(8, 2000)


def query(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def sessions(prod: str, make_context: Callable[..., Context]) -> Iterator[Callable[[], Session]]:
    context = make_context(prod, phase="embeddings")
    with ExitStack() as stack:
        yield lambda: stack.enter_context(open_session(context, context.prod))


def table(session: Session) -> EmbeddedTable:
    found = find_table(session, KINDS[0], vector_type(session))
    assert found is not None
    return found


def reader_on(session: Session, limits: Limits = LIMITS) -> Reader:
    return Reader(session, [table(session)], [Selection()], limits)


def written(reader: Reader, dsn: str, batch: list[Row], *, unwanted: set[int] = frozenset()) -> list[int]:  # type: ignore[assignment]
    """Give the rows of a batch a vector, as the writer would, and tell the reader."""
    ids = [row.id for row in batch]
    vector = "[" + ",".join(["1"] * 768) + "]"
    done = [one for one in ids if one not in unwanted]
    if done:
        query(dsn, f"UPDATE archon_crawled_pages SET embedding = '{vector}' WHERE id IN ({', '.join(map(str, done))})")
    reader.written(0, ids, unwanted)
    return ids


def test_each_row_is_read_once_within_bounds(prod: str, sessions: Callable[[], Session]) -> None:
    query(prod, "UPDATE archon_crawled_pages SET content = repeat('x', 1500) WHERE id % 3 = 0")
    reader = reader_on(sessions())
    read = []
    for batch in reader.batches():
        assert len(batch) <= 8
        assert len(batch) <= 1 or sum(len(row.text) for row in batch) <= 2000
        read += written(reader, prod, batch)
    assert read == list(range(1, 94))
    assert query(prod, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")[0][0] == 0


def test_a_walk_ends_though_rows_come_in_faster_than_they_are_read(prod: str, sessions: Callable[[], Session]) -> None:
    reader, read = reader_on(sessions()), 0
    for batch in reader.batches():
        read += len(batch)
        query(prod, f"INSERT INTO archon_crawled_pages (url, chunk_number, content) VALUES ('new', {read}, 'x')")
        written(reader, prod, batch)
    assert read == 93


def test_blank_rows_come_alone_and_are_not_read_again(prod: str, sessions: Callable[[], Session]) -> None:
    query(prod, "UPDATE archon_crawled_pages SET content = E' \\t' WHERE id IN (1, 50, 93)")
    reader, blank = reader_on(sessions()), []
    for batch in reader.batches():
        if batch and batch[0].blank:
            assert len(batch) == 1
            blank.append(batch[0].id)
            reader.set_aside(0, batch[0].id)
        else:
            written(reader, prod, batch)
    assert blank == [1, 50, 93]


def test_a_row_that_changed_is_read_again_as_it_is_now_but_not_for_ever(
    prod: str, sessions: Callable[[], Session]
) -> None:
    reader = reader_on(sessions())
    seen: list[str] = []
    for batch in reader.batches():
        restless = {row.id for row in batch if row.id == 40}
        for row in batch:
            if row.id == 40:
                seen.append(row.text)
                query(prod, f"UPDATE archon_crawled_pages SET content = 'edit {len(seen)}' WHERE id = 40")
        written(reader, prod, batch, unwanted=restless)
    assert seen[1:] == ["edit 1", "edit 2"]


def test_a_row_that_was_deleted_meanwhile_is_no_longer_waited_for(prod: str, sessions: Callable[[], Session]) -> None:
    reader, read = reader_on(sessions()), 0
    for batch in reader.batches():
        read += len(batch)
        gone = {row.id for row in batch if row.id == 40}
        if gone:
            query(prod, "DELETE FROM archon_crawled_pages WHERE id = 40")
        written(reader, prod, batch, unwanted=gone)
    assert read == 93


def test_workers_share_a_table_and_a_dead_ones_range_is_taken_over(prod: str, sessions: Callable[[], Session]) -> None:
    """Ids 256 apart are in ranges of their own."""
    query(prod, "UPDATE archon_crawled_pages SET id = id * 256")
    limits = Limits(4, 10_000)
    dying_session = sessions()
    dying = reader_on(dying_session, limits).batches()
    first = [row.id for row in next(dying)]
    other = reader_on(sessions(), limits)
    batches = other.batches()
    read: list[int] = []
    for batch in batches:
        if not batch and len(read) > 60:
            break
        read += written(other, prod, batch)
    assert not set(first) & set(read)
    assert len(set(read)) == len(read) < 93
    dying_session.close()
    for batch in batches:
        read += written(other, prod, batch)
    assert sorted(read) == [number * 256 for number in range(1, 94)]
    assert query(prod, "SELECT count(*) FROM archon_crawled_pages WHERE embedding IS NULL")[0][0] == 0


def test_the_server_is_told_to_notice_a_dead_worker(prod: str, sessions: Callable[[], Session]) -> None:
    from archon_align.embedding.ranges import watch_connection

    session = sessions()
    watch_connection(session)  # on a local socket the server takes it and has no use for it
    assert session.value("SELECT 1") == 1


def test_a_statement_that_takes_long_is_cancelled_when_the_work_ends(
    prod: str, sessions: Callable[[], Session]
) -> None:
    """A user's lock holds the reader up; whoever ends the rebuild does not wait for it."""
    session = sessions()
    reader = reader_on(session)
    failed: list[BaseException] = []

    def read() -> None:
        try:
            list(reader.batches())
        except psycopg.Error as error:
            failed.append(error)

    session.rows("SELECT pg_catalog.set_config('lock_timeout', '60s', false)")
    with psycopg.connect(prod) as user:
        user.execute("LOCK TABLE archon_crawled_pages IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        while not query(prod, waiting):
            assert thread.is_alive(), failed
        reader.cancel()
        thread.join(120)
    assert isinstance(failed[0], psycopg.errors.QueryCanceled)
