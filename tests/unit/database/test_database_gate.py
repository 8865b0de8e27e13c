"""The execution gate: what must never reach a server does not, and what a run needs does."""

from __future__ import annotations

import pytest
from archon_align.database import gate
from archon_align.errors import GateRefused

PROTECTED = frozenset({("public", "archon_tasks"), ("public", 'odd "name"')})

HARMFUL = [
    "DELETE FROM archon_tasks",
    "DELETE FROM public.archon_tasks WHERE id = 1",
    "UPDATE public.archon_tasks SET title = 'x'",
    "MERGE INTO public.archon_tasks t USING b ON t.id = b.id WHEN MATCHED THEN DELETE",
    "WITH gone AS (DELETE FROM public.archon_tasks RETURNING *) SELECT * FROM gone",
    "EXPLAIN ANALYZE DELETE FROM public.archon_tasks",
    "TRUNCATE public.archon_tasks",
    "TRUNCATE public.other, public.archon_tasks",
    "TRUNCATE public.other CASCADE",
    "DROP TABLE public.archon_tasks",
    "DROP TABLE IF EXISTS public.other, archon_tasks",
    "DROP TYPE public.task_status CASCADE",
    "DROP SCHEMA public CASCADE",
    "DROP OWNED BY archon CASCADE",
    "DROP OWNED BY archon",
    "DROP SCHEMA public",
    "ALTER TABLE public.archon_tasks DROP COLUMN title",
    "ALTER TABLE public.archon_tasks ADD COLUMN a int, DROP COLUMN title",
    "ALTER TABLE public.archon_tasks ALTER COLUMN title TYPE varchar(3)",
    "ALTER TABLE public.archon_tasks RENAME TO elsewhere",
    "ALTER TABLE public.archon_tasks RENAME COLUMN title TO t",
    "ALTER TABLE public.archon_tasks SET SCHEMA attic",
    "ALTER TABLE public.archon_tasks DISABLE TRIGGER ALL",
    'DELETE FROM public."odd ""name"""',
    "CREATE RULE r AS ON INSERT TO public.other DO ALSO DELETE FROM public.archon_tasks",
    "PREPARE p AS DELETE FROM public.archon_tasks",
    "DO $$ BEGIN DELETE FROM public.archon_tasks; END $$",
    "SELECT 1; DELETE FROM public.archon_tasks",
    "COPY public.archon_tasks FROM PROGRAM 'x'",
    "NOT SQL AT ALL",
]

NEEDED = [
    "ALTER TABLE public.archon_tasks ADD COLUMN component_id uuid",
    "ALTER TABLE public.archon_tasks ADD CONSTRAINT f FOREIGN KEY (component_id) REFERENCES public.archon_components (id)",
    "CREATE INDEX i ON public.archon_tasks (component_id)",
    "CREATE TRIGGER t BEFORE UPDATE ON public.archon_tasks FOR EACH ROW EXECUTE FUNCTION public.f()",
    "COMMENT ON TABLE public.archon_tasks IS 'it''s'",
    "INSERT INTO public.archon_settings (key, value) VALUES ('a', '100 %')",
    "UPDATE public.archon_crawled_pages p SET embedding = n.e FROM unnest(%s::bigint[], %s) AS n(id, e) WHERE p.id = n.id",
    "DROP INDEX public.bad_index",
    "LOCK TABLE public.archon_tasks IN SHARE MODE",
    "NOTIFY pgrst, 'reload schema'",
]

CHANGING = [
    "INSERT INTO public.other VALUES (1)",
    "SELECT * INTO public.copy FROM public.other",
    "SELECT * FROM public.other FOR UPDATE",
    "CREATE TEMP TABLE t (a int)",
    "REINDEX TABLE public.other",
    "ANALYZE public.other",
    "VACUUM public.other",
    "EXPLAIN ANALYZE SELECT 1",
    "COPY public.other FROM STDIN",
    "LOCK TABLE public.other IN SHARE MODE",
    "NOTIFY pgrst",
    "WITH new AS (INSERT INTO public.other VALUES (1) RETURNING *) SELECT * FROM new",
]

READING = [
    "SELECT count(*) FROM public.archon_tasks WHERE title LIKE %s",
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "EXPLAIN SELECT * FROM public.archon_tasks",
    "SHOW default_transaction_read_only",
    "SET LOCAL enable_seqscan = off",
    "BEGIN READ ONLY",
    "ROLLBACK",
]


@pytest.mark.parametrize("statement", HARMFUL)
def test_harm_to_protected_tables_is_refused(statement: str) -> None:
    with pytest.raises(GateRefused):
        gate.inspect(statement, read_only=False, protected=PROTECTED)


@pytest.mark.parametrize("statement", NEEDED)
def test_what_a_run_needs_passes(statement: str) -> None:
    gate.inspect(statement, read_only=False, protected=PROTECTED, placeholders="%s" in statement)


@pytest.mark.parametrize("statement", HARMFUL + CHANGING)
def test_a_read_only_session_changes_nothing(statement: str) -> None:
    with pytest.raises(GateRefused):
        gate.inspect(statement, read_only=True, protected=PROTECTED)


@pytest.mark.parametrize("statement", READING)
def test_a_read_only_session_reads(statement: str) -> None:
    gate.inspect(statement, read_only=True, protected=PROTECTED, placeholders="%s" in statement)


@pytest.mark.parametrize("placeholders", [False, True])
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT '%('; DELETE FROM public.archon_tasks; SELECT ')s'",
        "SELECT '%%('; DELETE FROM public.archon_tasks; SELECT ')s'",
        "SELECT '%s'; DELETE FROM public.archon_tasks",
    ],
)
def test_nothing_hides_in_what_looks_like_a_placeholder(statement: str, placeholders: bool) -> None:
    with pytest.raises(GateRefused):
        gate.inspect(statement, read_only=False, protected=PROTECTED, placeholders=placeholders)


def test_a_type_change_needs_its_proof() -> None:
    change = "ALTER TABLE public.archon_tasks ALTER COLUMN title TYPE text"
    with pytest.raises(GateRefused, match="every value survives"):
        gate.inspect(change, read_only=False, protected=PROTECTED)
    gate.inspect(change, read_only=False, protected=PROTECTED, proves_values=True)


def test_what_a_function_would_do_is_judged_when_it_is_run() -> None:
    body = "BEGIN ATOMIC DELETE FROM public.archon_tasks; UPDATE public.archon_tasks SET title = 'x'; END"
    gate.inspect(f"CREATE FUNCTION public.f() RETURNS void LANGUAGE sql {body}", read_only=False, protected=PROTECTED)
    with pytest.raises(GateRefused):
        gate.inspect(
            f"CREATE FUNCTION public.f() RETURNS void LANGUAGE sql {body}; TRUNCATE public.archon_tasks",
            read_only=False,
            protected=PROTECTED,
        )
