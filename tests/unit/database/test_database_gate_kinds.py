"""Each kind of statement that could lose protected rows is tried against the gate, in every dress a statement can wear.

What a parser cannot see (functions, triggers, views, children, cascades) is tried in tests/integration/preservation/test_preservation_behind_gate.py:
there the proof must catch it.
"""

from __future__ import annotations

import pytest
from archon_align.database import gate, harm
from archon_align.errors import GateRefused

PROTECTED = frozenset({("public", "archon_tasks"), ("public", "archon_projects")})
T = "public.archon_tasks"

HARMFUL = {
    "delete": f"DELETE FROM {T}",
    "delete in a CTE": f"WITH d AS (DELETE FROM {T} RETURNING 1) SELECT count(*) FROM d",
    "delete in a CTE of an insert": f"WITH d AS (DELETE FROM {T} RETURNING *) INSERT INTO public.o SELECT 1 FROM d",
    "delete that returns the old rows": f"DELETE FROM {T} RETURNING old.*",
    "delete through an alias": f"DELETE FROM {T} AS o USING public.o AS archon WHERE true",
    "delete at a cursor": f"DELETE FROM {T} WHERE CURRENT OF c",
    "delete copied out": f"COPY (DELETE FROM {T} RETURNING *) TO STDOUT",
    "delete explained": f"EXPLAIN (ANALYZE, COSTS off) DELETE FROM {T}",
    "delete prepared": f"PREPARE p AS DELETE FROM {T}",
    "delete in a cursor's query": f"DECLARE c CURSOR FOR WITH d AS (DELETE FROM {T} RETURNING 1) SELECT 1 FROM d",
    "delete in a view's query": f"CREATE VIEW public.v AS WITH d AS (DELETE FROM {T} RETURNING 1) SELECT 1 FROM d",
    "delete in a table's query": f"CREATE TABLE public.x AS WITH d AS (DELETE FROM {T} RETURNING 1) SELECT 1 FROM d",
    "delete in a rule": f"CREATE RULE r AS ON INSERT TO public.o DO ALSO DELETE FROM {T}",
    "update": f"UPDATE {T} SET title = title",
    "update of the children left out": f"UPDATE ONLY {T} SET title = 'x'",
    "update in a CTE": f"WITH u AS (UPDATE {T} SET title = 'x' RETURNING 1) SELECT 1 FROM u",
    "update at a cursor": f"UPDATE {T} SET title = 'x' WHERE CURRENT OF c",
    "merge that deletes": f"MERGE INTO {T} t USING public.o ON t.id = o.a WHEN MATCHED THEN DELETE",
    "merge that updates": f"MERGE INTO {T} t USING public.o ON t.id = o.a WHEN MATCHED THEN UPDATE SET title = 'x'",
    "merge by source": f"MERGE INTO {T} t USING public.o ON t.id = o.a WHEN NOT MATCHED BY SOURCE THEN DELETE",
    "upsert": f"INSERT INTO {T} (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET title = 'x'",
    "upsert in a CTE": f"WITH u AS (INSERT INTO {T} (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET title = 'x' RETURNING 1) SELECT 1 FROM u",
    "truncate": f"TRUNCATE {T}",
    "truncate in a list": f"TRUNCATE TABLE public.o, ONLY {T} RESTART IDENTITY",
    "truncate that cascades": "TRUNCATE public.o CASCADE",
    "drop": f"DROP TABLE {T}",
    "drop in a list": f"DROP TABLE IF EXISTS public.o, {T} RESTRICT",
    "drop with the catalogue's name": f"DROP TABLE db.{T}",
    "drop of a schema": "DROP SCHEMA IF EXISTS public",
    "drop of a database": "DROP DATABASE archon WITH (FORCE)",
    "drop of what a role owns": "DROP OWNED BY archon",
    **{
        f"drop of a {kind.lower()} that cascades": f"DROP {kind} {name} CASCADE"
        for kind, name in (
            ("TABLE", "public.o"),
            ("VIEW", "public.v"),
            ("TYPE", "public.task_status"),
            ("DOMAIN", "public.d"),
            ("EXTENSION", "vector"),
            ("FUNCTION", "public.f()"),
            ("SEQUENCE", "public.s"),
            ("COLLATION", "public.c"),
            ("OPERATOR CLASS", "public.k USING btree"),
            ("CAST", "(text AS public.d)"),
            ("SCHEMA", "attic"),
        )
    },
    "column dropped": f"ALTER TABLE {T} DROP COLUMN title",
    "column dropped beside another change": f"ALTER TABLE {T} ADD COLUMN a int, DROP IF EXISTS title",
    "column dropped of the table only": f"ALTER TABLE ONLY {T} DROP title",
    "column retyped": f"ALTER TABLE {T} ALTER title TYPE varchar(3)",
    "column retyped by an expression": f"ALTER TABLE {T} ALTER title SET DATA TYPE text USING ''",
    "column computed otherwise": f"ALTER TABLE {T} ALTER title SET EXPRESSION AS ('')",
    "constraint dropped that cascades": f"ALTER TABLE {T} DROP CONSTRAINT c CASCADE",
    "partition detached": f"ALTER TABLE {T} DETACH PARTITION public.p",
    "partition detached concurrently": f"ALTER TABLE {T} DETACH PARTITION public.p CONCURRENTLY",
    "partition's detaching finished": f"ALTER TABLE {T} DETACH PARTITION public.p FINALIZE",
    "partition attached": f"ALTER TABLE {T} ATTACH PARTITION public.p DEFAULT",
    "made a partition": f"ALTER TABLE public.o ATTACH PARTITION {T} DEFAULT",
    "made a child": f"ALTER TABLE {T} INHERIT public.o",
    "given a child": f"ALTER TABLE public.o INHERIT {T}",
    "a child taken": f"ALTER TABLE public.o NO INHERIT {T}",
    "taken from its parent": f"ALTER TABLE {T} NO INHERIT public.o",
    "typed": f"ALTER TABLE {T} OF public.y",
    "renamed": f"ALTER TABLE {T} RENAME TO archon_tasks_old",
    "renamed as a view": f"ALTER VIEW {T} RENAME TO archon_tasks_old",
    "column renamed": f"ALTER TABLE {T} RENAME title TO x",
    "schema renamed": "ALTER SCHEMA public RENAME TO attic",
    "moved to a schema": f"ALTER TABLE {T} SET SCHEMA attic",
    "moved to a tablespace": f"ALTER TABLE {T} SET TABLESPACE elsewhere",
    "moved with a tablespace": "ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE elsewhere",
    "stored otherwise": f"ALTER TABLE {T} SET ACCESS METHOD other",
    "left to a crash": f"ALTER TABLE {T} SET UNLOGGED",
    "all triggers disabled": f"ALTER TABLE {T} DISABLE TRIGGER ALL",
    "users' triggers disabled": f"ALTER TABLE {T} DISABLE TRIGGER USER",
    "given away": "REASSIGN OWNED BY archon TO anon",
    "made a view": f'CREATE RULE "_RETURN" AS ON SELECT TO {T} DO INSTEAD SELECT * FROM public.o',
    "loaded": f"COPY {T} FROM STDIN",
    "loaded from a file": f"COPY {T} FROM '/tmp/x'",
    "loaded from a program": "COPY public.o FROM PROGRAM 'x'",
    "written to a file": f"COPY {T} TO '/tmp/x'",
    "a label renamed": "ALTER TYPE public.task_status RENAME VALUE 'todo' TO 'done'",
    "made an extension's": f"ALTER EXTENSION vector ADD TABLE {T}",
    "the catalogue deleted from": "DELETE FROM pg_catalog.pg_attribute WHERE attname = 'title'",
    "the catalogue updated": "UPDATE pg_class SET relname = 'x'",
    "the catalogue inserted into": "INSERT INTO pg_catalog.pg_inherits VALUES (1, 2, 3)",
    "an anonymous block": "DO $$ BEGIN PERFORM 1; END $$",
    "a procedure": "CALL public.p()",
    "code loaded": "LOAD 'x'",
    "the server configured": "ALTER SYSTEM SET fsync = off",
    "triggers and foreign keys asleep": "SET session_replication_role = replica",
    "the same for one transaction": "SET LOCAL session_replication_role TO 'replica'",
    "the same in capitals": "SET \"SESSION_Replication_ROLE\" = 'replica'",
    "hidden rows a zero": "SET row_security = on",
    "hidden rows a zero by default": "RESET row_security",
    "hidden rows a zero by all defaults": "RESET ALL",
    "everything let go": "DISCARD ALL",
    "writes not counted": "SET LOCAL track_counts = off",
    "somebody's transaction thrown away": "ROLLBACK PREPARED 'x'",
    "somebody's transaction committed": "COMMIT PREPARED 'x'",
}
DRESSES = {
    "as it is": "{}",
    "after another": "SELECT 1; {}",
    "before another": "{}; SELECT 1",
    "behind a comment": "/* SELECT /* nested */ 1; */ {} -- nothing",
    "after an empty one": ";;\n\t{}",
}
NAMES = {
    "unqualified": "archon_tasks",
    "quoted": '"public"."archon_tasks"',
    "capitals": "PUBLIC.Archon_Tasks",
    "escaped": 'U&"\\0070ublic".U&"archon_t\\0061sks"',
    "escaped otherwise": "U&\"archon!005ftasks\" UESCAPE '!'",
    "broken": "public /* here */ . -- there\n archon_tasks",
    "of this database": "archon.public.archon_tasks",
}
NAMED = [
    "DELETE FROM {}",
    "TRUNCATE {}",
    "DROP TABLE {}",
    "ALTER TABLE {} DROP COLUMN title",
    "UPDATE {} SET title = ''",
]
READ_ONLY = {
    "writing allowed": "BEGIN READ WRITE",
    "writing allowed from the start": "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
    "writing allowed for the session": "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "writing allowed meanwhile": "SET TRANSACTION READ WRITE",
    "writing allowed by its setting": "SET transaction_read_only = off",
    "writing allowed by its default": "SET default_transaction_read_only TO DEFAULT",
    "writing allowed again": "RESET default_transaction_read_only",
    "reindexed": f"REINDEX TABLE {T}",
    "clustered": f"CLUSTER {T}",
    "vacuumed": f"VACUUM FULL {T}",
    "foreign tables": "IMPORT FOREIGN SCHEMA s FROM SERVER x INTO public",
    "labelled": f"SECURITY LABEL ON TABLE {T} IS 'x'",
    "told": "NOTIFY x",
    "locked": f"LOCK TABLE {T}",
    "inserted": f"INSERT INTO {T} DEFAULT VALUES",
    "prepared": "PREPARE p AS SELECT 1",
    "executed": "EXECUTE p",
    "fetched into": f"CREATE TEMP TABLE x AS TABLE {T}",
    "prepared for another": "PREPARE TRANSACTION 'x'",
}
FINE = [
    f"INSERT INTO {T} (id) SELECT id FROM archon_quarantine.archon_tasks",
    "INSERT INTO public.o (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2",
    f"INSERT INTO {T} (id) VALUES (1) ON CONFLICT DO NOTHING",
    f"MERGE INTO public.o USING {T} t ON t.id = o.a WHEN MATCHED THEN DELETE",
    f"ALTER TABLE {T} ENABLE TRIGGER update_updated_at, REPLICA IDENTITY FULL, FORCE ROW LEVEL SECURITY, OWNER TO x",
    f"ALTER TABLE {T} ADD COLUMN a int, ALTER a SET DEFAULT 1, ALTER a SET NOT NULL, ADD CHECK (a > 0) NOT VALID, SET (fillfactor = 90)",
    f"ALTER TABLE {T} RENAME CONSTRAINT a TO b",
    "ALTER TYPE public.task_status ADD VALUE IF NOT EXISTS 'review'",
    "COPY public.o FROM STDIN",
    f"COPY {T} TO STDOUT",
    "SET LOCAL row_security = on",
    "SET row_security = off",
    "SET LOCAL search_path TO DEFAULT",
    "SET CONSTRAINTS ALL IMMEDIATE",
    "BEGIN ISOLATION LEVEL READ COMMITTED",
    "COMMIT",
    "ROLLBACK TO SAVEPOINT look",
    "LISTEN x",
    "NOTIFY x",
    f"CREATE TRIGGER t BEFORE UPDATE ON {T} FOR EACH ROW EXECUTE FUNCTION public.f()",
    f"CREATE RULE r AS ON DELETE TO {T} DO INSTEAD NOTHING",
    f"SECURITY LABEL ON TABLE {T} IS 'x'",
    "DROP EXTENSION vector",
]  # fmt: skip


def refused(statement: str, *, read_only: bool = False) -> None:
    with pytest.raises(GateRefused):
        gate.inspect(statement, read_only=read_only, protected=PROTECTED)


@pytest.mark.parametrize("kind", HARMFUL)
def test_each_kind_is_refused_in_every_dress(kind: str) -> None:
    for dress in DRESSES.values():
        refused(dress.format(HARMFUL[kind]))
    refused(HARMFUL[kind], read_only=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_protected_name_is_known_however_it_is_written(name: str) -> None:
    for statement in NAMED:
        refused(statement.format(NAMES[name]))


@pytest.mark.parametrize("kind", READ_ONLY)
def test_a_read_only_session_stays_read_only(kind: str) -> None:
    refused(READ_ONLY[kind], read_only=True)


@pytest.mark.parametrize("statement", FINE)
def test_what_loses_nothing_passes(statement: str) -> None:
    gate.inspect(statement, read_only=False, protected=PROTECTED)


@pytest.mark.parametrize(
    "statement",
    [
        f"ALTER TABLE {T} ALTER title TYPE text",
        f"ALTER TABLE {T} DROP COLUMN length",
        f"ALTER TABLE {T} RENAME title TO name",
        f"ALTER TABLE {T} SET SCHEMA archon_quarantine",
        "ALTER TYPE public.task_status RENAME VALUE 'todo' TO 'open'",
    ],
)
def test_what_a_planner_proves_passes_with_its_proof_alone(statement: str) -> None:
    refused(statement)
    gate.inspect(statement, read_only=False, protected=PROTECTED, proves_values=True)


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in HARMFUL
        if kind not in {"column dropped", "column dropped beside another change", "column dropped of the table only"}
        and not kind.startswith(("column retyped", "renamed", "column renamed", "moved to a schema", "a label"))
    ],
)
def test_no_proof_excuses_what_cannot_be_proved(kind: str) -> None:
    with pytest.raises(GateRefused):
        gate.inspect(HARMFUL[kind], read_only=False, protected=PROTECTED, proves_values=True)


def test_every_kind_that_is_judged_was_tried() -> None:
    tried = {
        type(node)
        for statement in HARMFUL.values()
        for parsed in gate._parse(statement)
        for node in gate._nodes(parsed, bodies=False)
    }
    assert set(harm.JUDGES) <= tried
