"""What no parser can see happens behind the gate's back: the proof finds it, and the transaction is rolled back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from archon_align.context import Context
from archon_align.database.session import open_session
from archon_align.database.target import Table
from archon_align.database.transaction import LockMode, protected_transaction
from archon_align.errors import AlignError, PreservationBroken

SCHEMA = """
CREATE TYPE mood AS ENUM ('sad', 'fine');
CREATE TYPE pair AS (a int, b int);
CREATE DOMAIN feeling AS mood;
CREATE TABLE ancestor (title text);
CREATE TABLE archon_tasks (id int PRIMARY KEY, body text DEFAULT 'b', n int DEFAULT 1, m mood, ms mood[], f feeling, p pair, updated_at timestamptz DEFAULT now()) INHERITS (ancestor);
CREATE TABLE heir () INHERITS (archon_tasks);
INSERT INTO archon_tasks (id, title, m, ms, f, p) SELECT n, 'täsk ' || n, 'fine', '{sad}', 'sad', (n, n)::pair FROM generate_series(1, 9) n;
INSERT INTO heir (id, title) VALUES (10, 'inherited');
CREATE TABLE archon_projects (id int, part text) PARTITION BY LIST (part);
CREATE TABLE part_a PARTITION OF archon_projects FOR VALUES IN ('a');
CREATE TABLE part_b PARTITION OF archon_projects DEFAULT;
INSERT INTO archon_projects VALUES (1, 'a'), (2, 'b');
CREATE VIEW seen AS SELECT id, updated_at AS at FROM archon_tasks;
CREATE TABLE source (id int PRIMARY KEY);
INSERT INTO source VALUES (1);
CREATE TABLE archon_project_sources (id int PRIMARY KEY, source int REFERENCES source ON DELETE CASCADE ON UPDATE CASCADE);
INSERT INTO archon_project_sources VALUES (1, 1);
CREATE TABLE other (a int);
INSERT INTO other VALUES (7);
CREATE FUNCTION run(text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; END $$;
CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM public.archon_tasks WHERE id = 3; RETURN NEW; END $$;
CREATE TRIGGER t AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION fired();
CREATE RULE r AS ON UPDATE TO other DO ALSO UPDATE public.archon_tasks SET updated_at = NULL WHERE id = 4;
"""
T = "public.archon_tasks"
DEEDS = {
    "a function that deletes": f"DELETE FROM {T} WHERE id = 1",
    "a function that updates": f"UPDATE {T} SET updated_at = updated_at + '1 us'",
    "a function that updates to the same": f"UPDATE {T} SET title = title; DELETE FROM {T} WHERE id = 2",
    "a function that swaps two rows' values": f"UPDATE {T} SET title = 'täsk ' || (3 - id) WHERE id IN (1, 2)",
    "a function that inserts": f"INSERT INTO {T} (id) VALUES (100)",
    "a function that deletes one and inserts another": f"DELETE FROM {T} WHERE id = 1; INSERT INTO {T} (id, title) VALUES (1, 'täsk 1')",
    "a function that truncates": f"TRUNCATE {T} CASCADE",
    "a function that drops": f"DROP TABLE {T} CASCADE",
    "a function that renames": f"ALTER TABLE {T} RENAME TO archon_tasks_old",
    "a function that puts an empty one in its place": f"ALTER TABLE {T} RENAME TO old; CREATE TABLE {T} (LIKE public.old)",
    "a function that makes a view of it": f"ALTER TABLE {T} RENAME TO old; CREATE VIEW {T} AS TABLE public.old",
    "a function that drops a column": f"ALTER TABLE {T} DROP COLUMN body",
    "a function that renames a column": f"ALTER TABLE {T} RENAME COLUMN m TO was",
    "a function that swaps two columns' names": f"ALTER TABLE {T} RENAME m TO x; ALTER TABLE {T} RENAME body TO m; ALTER TABLE {T} RENAME x TO body",
    "a function that retypes a column": f"ALTER TABLE {T} ALTER n TYPE text USING n || '0'",
    "a function that renames a label": "ALTER TYPE public.mood RENAME VALUE 'fine' TO 'ok'",
    "a function that renames a label in an array": "ALTER TYPE public.mood RENAME VALUE 'sad' TO 'blue'",
    "a function that drops an attribute": "ALTER TYPE public.pair DROP ATTRIBUTE b",
    "a function that drops the ancestor's column": "ALTER TABLE public.ancestor DROP COLUMN title CASCADE",
    "a function that deletes from an heir": "DELETE FROM public.heir",
    "a function that takes an heir": f"ALTER TABLE public.heir NO INHERIT {T}",
    "a function that drops an heir": "DROP TABLE public.heir",
    "a function that truncates a partition": "TRUNCATE public.part_a",
    "a function that detaches a partition": "ALTER TABLE public.archon_projects DETACH PARTITION public.part_b",
    "a function that drops a partition": "DROP TABLE public.part_b",
    "a function that hides rows": f"UPDATE {T} SET id = -id; ALTER TABLE {T} ENABLE ROW LEVEL SECURITY; ALTER TABLE {T} FORCE ROW LEVEL SECURITY",
    "a function that lets rows hide": f"SET row_security = on; ALTER TABLE {T} ENABLE ROW LEVEL SECURITY; ALTER TABLE {T} FORCE ROW LEVEL SECURITY;"
    f" CREATE POLICY p ON {T} USING (true); UPDATE {T} SET title = 'x' WHERE id = 1",
    "a function that hides the catalogue": f"CREATE TEMP TABLE pg_class (LIKE pg_catalog.pg_class); UPDATE {T} SET title = 'x' WHERE id = 1",
}  # fmt: skip
PLAIN = {
    "a view that deletes": "DELETE FROM public.seen WHERE id = 1",
    "a view that updates": "UPDATE public.seen SET at = at + '1 us' WHERE id = 1",
    "an heir's row": "DELETE FROM public.heir",
    "a partition's row": "UPDATE public.part_a SET id = 5",
    "a partition truncated": "TRUNCATE public.part_a",
    "a partition dropped": "DROP TABLE public.part_b",
    "an ancestor's rows": "DELETE FROM public.ancestor",
    "an ancestor truncated": "TRUNCATE public.ancestor",
    "an ancestor's column": "ALTER TABLE public.ancestor DROP COLUMN title",
    "a foreign key that deletes": "DELETE FROM public.source",
    "a foreign key that updates": "UPDATE public.source SET id = 2",
    "a trigger": "INSERT INTO public.other VALUES (1)",
    "a rule": "UPDATE public.other SET a = 1",
    "an attribute": "ALTER TYPE public.pair DROP ATTRIBUTE b",
}
LOSSES = {**PLAIN, **{name: f"SELECT public.run($run${deed}$run$)" for name, deed in DEEDS.items()}}
# Whole rows and values as text, by a session that shares nothing with the core.
STATE = """SELECT string_agg(t::text, '|' ORDER BY t::text) FROM (
  SELECT a::text FROM public.archon_tasks a UNION ALL SELECT b::text FROM public.archon_projects b
  UNION ALL SELECT c::text FROM public.archon_project_sources c UNION ALL SELECT d::text FROM public.heir d) t"""


@pytest.fixture(scope="module")
def prod(server: object) -> Iterator[str]:
    """One database for all: nothing that is tried here may change it."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:  # type: ignore[attr-defined]
        admin.execute("CREATE DATABASE behind_gate OWNER archon_owner")
    dsn = server.dsn("behind_gate", "archon_owner")  # type: ignore[attr-defined]
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(SCHEMA.encode())
    yield dsn
    with psycopg.connect(server.dsn(), autocommit=True) as admin:  # type: ignore[attr-defined]
        admin.execute("DROP DATABASE behind_gate WITH (FORCE)")


def state(dsn: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as user:
        return user.execute(STATE).fetchone()


@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_rolled_back(
    loss: str, prod: str, make_context: Callable[..., Context], hold_run_lock: Callable[[str], object]
) -> None:
    before = state(prod)
    context = make_context(prod)
    with open_session(context, context.prod) as session, pytest.raises(AlignError) as raised:
        protected_transaction(
            session,
            lambda: session.execute(LOSSES[loss]),  # type: ignore[arg-type]
            locks={Table("public", "other"): LockMode.WRITE},
            require_lock=False,
        )
    assert isinstance(raised.value, PreservationBroken) or raised.value.code in ("row_security", "missing_privilege")
    assert state(prod) == before


def test_what_loses_nothing_is_committed(prod: str, make_context: Callable[..., Context]) -> None:
    """The same tables and ways, doing no harm: the proof does not cry wolf."""
    harmless = [
        "SELECT public.run('ALTER TYPE public.mood ADD VALUE ''great''')",
        "SELECT public.run('ALTER TABLE public.archon_tasks ADD COLUMN made int DEFAULT 5')",
        "SELECT public.run('CREATE TABLE public.heir_2 () INHERITS (public.archon_tasks)')",
        "SELECT public.run('ALTER TABLE public.archon_tasks ALTER n TYPE bigint')",
    ]
    before = state(prod)
    context = make_context(prod)
    with open_session(context, context.prod) as session:
        for statement in harmless:
            with pytest.raises(psycopg.errors.RaiseException, match="enough"):
                protected_transaction(
                    session,
                    lambda text=statement: session.execute(text),  # type: ignore[misc]
                    locks={},
                    verify=None,
                    require_lock=False,
                    recorder=_Enough(),
                )
    assert state(prod) == before


class _Enough:
    """Ends the transaction when all is proved: what came so far is not to stay."""

    def before_commit(self, session: object) -> None:
        session.execute("SELECT public.run('DO $d$ BEGIN RAISE EXCEPTION ''enough''; END $d$')")  # type: ignore[attr-defined]

    def after_commit(self, session: object) -> None:  # noqa: ARG002
        raise AssertionError("it was committed")
