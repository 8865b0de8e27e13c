"""Reading the catalogue while somebody holds a table in ACCESS EXCLUSIVE mode: definitions need a lock on their table."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.errors import AlignError
from archon_align.schema.inspect import inspect

TABLE = "CREATE TABLE held (id integer PRIMARY KEY, half integer, CHECK (half > 0)); CREATE INDEX ON held ((half / 2))"


def test_the_catalogue_is_read_when_the_table_is_let_go(
    new_database: Callable[[str], str], make_context: Callable[..., Context]
) -> None:
    dsn = new_database(TABLE)
    with psycopg.connect(dsn) as holder, open_session(make_context(dsn), make_context(dsn).prod) as session:
        before = inspect(session, ["public"])
        holder.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
        letting_go = threading.Timer(1.5, holder.rollback)
        letting_go.start()
        assert inspect(session, ["public"]).objects.keys() == before.objects.keys()
        letting_go.join()


def test_who_never_lets_go_is_spoken_of(
    new_database: Callable[[str], str], make_context: Callable[..., Context]
) -> None:
    dsn = new_database(TABLE)
    context = replace(make_context(dsn), lock_attempts=2, lock_timeout=0.1)
    with psycopg.connect(dsn) as holder, open_session(context, context.prod) as session:
        holder.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(AlignError) as caught:
            inspect(session, ["public"])
    assert caught.value.code == "lock_timeout"
    assert "holds the table" in caught.value.remedy
