"""What was done outside transactions, in several runs, and by a run that was killed in between, is led back as well."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import Session, open_session
from archon_align.database.target import Table
from archon_align.embedding.building import build
from archon_align.embedding.kinds import KINDS
from archon_align.embedding.tables import EmbeddedTable
from archon_align.plan import Statement
from archon_align.rollback import structure_recording
from archon_align.rollback.ledger import Ledger
from archon_align.schema import phase
from structure_worlds import dump, undone

from tests.integration.schema.schema_worlds import World

TABLES = "CREATE TABLE t (id int, body text, n int); CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1);"
ROWS = "INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 1);"
STAGED = (
    "CREATE INDEX body ON t (body); COMMENT ON INDEX body IS 'i'; ALTER TABLE t ADD PRIMARY KEY (id), ADD CHECK (id > 0), ADD FOREIGN KEY (n) REFERENCES u,"
    " ALTER body SET NOT NULL, ADD fresh text; CREATE UNIQUE INDEX many ON t (n, id);"
)


def test_stages_are_led_back(make_world: Callable[..., World]) -> None:
    world = make_world(TABLES + STAGED, TABLES + ROWS)
    before, context = dump(world), world.context()
    outcome = phase.run(context, phase.Options(credentials=False, large_table_bytes=0))
    assert outcome.details["schema"]["stages"]

    done = undone(context)

    assert not done.kept
    assert dump(world) == before


def test_a_stage_after_which_a_run_was_killed_is_led_back(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(TABLES + "CREATE INDEX body ON t (body);", TABLES + ROWS)
    before, context = dump(world), world.context()
    real = Session.apply

    def killed(session: Session, statement: Statement) -> int:
        real(session, statement)
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "apply", killed)
    with pytest.raises(KeyboardInterrupt):
        phase.run(context, phase.Options(credentials=False, large_table_bytes=0))
    monkeypatch.setattr(Session, "apply", real)
    assert dump(world) != before

    assert len(undone(context).statements) == 1
    assert dump(world) == before


def test_several_runs_are_led_back_newest_first(make_world: Callable[..., World]) -> None:
    world = make_world(TABLES + "ALTER TABLE t ADD one text; CREATE VIEW v AS SELECT id, one FROM t;", TABLES + ROWS)
    before = dump(world)
    assert world.align().status == "changed"
    world.prod.run(world.schema, "CREATE INDEX theirs ON t (n)")
    world.dev.run(
        world.schema,
        "DROP VIEW v; ALTER TABLE t ALTER one TYPE varchar(9), ADD two int; CREATE VIEW v AS SELECT id, one, two FROM t;",
    )
    assert world.align().status == "changed"

    done = undone(world.context())

    assert not done.kept
    world.prod.run(world.schema, "DROP INDEX theirs")
    assert dump(world) == before


def test_what_a_later_run_changed_keeps_what_an_earlier_one_did(make_world: Callable[..., World]) -> None:
    """Only the newer run's point is undone: what the older one made stays."""
    world = make_world(TABLES + "ALTER TABLE t ADD one text;", TABLES + ROWS)
    world.align()
    between = dump(world)
    world.dev.run(world.schema, "ALTER TABLE t ALTER one SET DEFAULT 'x', ALTER one TYPE varchar(9);")
    second = replace(world, artifacts=world.artifacts.with_name("second"))
    assert second.align().status == "changed"

    assert not undone(second.context()).kept
    assert dump(world) == between


def _built(context: Context, table: EmbeddedTable, *statements: Statement) -> None:
    with open_session(context, context.prod) as session:
        build(session, table, statements, Ledger(context), drops=True, timeout=60)


@pytest.mark.parametrize("concurrently", ["", "CONCURRENTLY "])
def test_indexes_for_search_are_led_back(make_world: Callable[..., World], concurrently: str) -> None:
    world = make_world("", "CREATE TABLE p (id int PRIMARY KEY, v vector(3)); CREATE INDEX old ON p USING ivfflat (v);")
    before, context = dump(world), replace(world.context(), phase="search")
    place = psycopg.sql.Identifier(world.schema).as_string()
    alone = not concurrently
    make = Statement(
        f'CREATE INDEX {concurrently}"n e%w" ON {place}.p USING hnsw (v public.vector_cosine_ops)',
        f"{world.schema}.n e%w",
        "make",
        transactional=alone,
    )
    drop = Statement(f"DROP INDEX {concurrently}{place}.old", f"{world.schema}.old", "drop", transactional=alone)
    _built(context, EmbeddedTable(KINDS[0], Table(world.schema, "p"), ()), make, drop)
    assert dump(world) != before

    done = undone(context)

    assert not done.kept
    assert dump(world) == before
    assert undone(context).statements == ()


def test_an_index_of_a_build_whose_end_nobody_wrote_down_goes(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world("", "CREATE TABLE p (id int PRIMARY KEY, v vector(3));")
    before, context = dump(world), replace(world.context(), phase="search")
    place = psycopg.sql.Identifier(world.schema).as_string()
    make = Statement(
        f"CREATE INDEX CONCURRENTLY made ON {place}.p USING hnsw (v public.vector_cosine_ops)",
        f"{world.schema}.made",
        "make",
        transactional=False,
    )
    real, calls = structure_recording.record_alone, itertools.count()

    def killed(*arguments: object) -> None:
        if next(calls):
            raise KeyboardInterrupt
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("archon_align.embedding.building.record_alone", killed)
    with pytest.raises(KeyboardInterrupt):
        _built(context, EmbeddedTable(KINDS[0], Table(world.schema, "p"), ()), make)
    assert dump(world) != before

    assert len(undone(context).statements) == 1
    assert dump(world) == before
