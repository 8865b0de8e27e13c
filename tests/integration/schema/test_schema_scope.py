"""Scopes on real databases: only what is inside changes, what is outside is told and counted, and the proof knows both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archon_align.outcome import PhaseOutcome
from archon_align.schema import phase
from archon_align.schema.scope import Scope
from schema_worlds import World

MakeWorld = Callable[..., World]
T = "CREATE TABLE t (id int PRIMARY KEY, a text);"
ROWS = "INSERT INTO t SELECT n, 'x' || n FROM generate_series(1, 9) n;"


def align(
    world: World, include: tuple[str, ...] = (), exclude: tuple[str, ...] = (), *, check: bool = False
) -> PhaseOutcome:
    options = phase.Options(credentials=False, scope=Scope.parse(include, exclude))
    return phase.run(world.context(check=check), options)


def section(outcome: PhaseOutcome) -> dict[str, Any]:
    return outcome.details["schema"]


def test_one_table_of_many(make_world: MakeWorld) -> None:
    dev = """CREATE TYPE mood AS ENUM ('x', 'y');
        CREATE TABLE archon_a (id serial PRIMARY KEY, b bigint NOT NULL DEFAULT 3, c text); CREATE INDEX ai ON archon_a (c); COMMENT ON COLUMN archon_a.c IS 'c';
        ALTER TABLE archon_a ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON archon_a USING (b > 0); GRANT SELECT ON archon_a TO anon;
        CREATE TABLE other (id bigint PRIMARY KEY, m mood); CREATE VIEW v AS SELECT id, b FROM archon_a; GRANT SELECT ON v TO anon; COMMENT ON VIEW v IS 'dev';
        CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2';"""
    prod = """CREATE TYPE mood AS ENUM ('x');
        CREATE TABLE archon_a (id serial PRIMARY KEY, b int, c text); INSERT INTO archon_a (b) SELECT n FROM generate_series(1, 5) n;
        CREATE TABLE other (id int PRIMARY KEY, m mood); CREATE VIEW v AS SELECT id, b FROM archon_a WHERE b > 1; GRANT SELECT ON v TO authenticated; COMMENT ON VIEW v IS 'prod';
        CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';"""
    world = make_world(dev, prod)
    everything = section(align(world, check=True))["differences_before"]
    predicted = align(world, ("table:archon_*",), check=True)
    outcome = align(world, ("table:archon_*",))
    assert outcome.status == "changed", str(outcome.error)
    assert [one.sql for one in predicted.statements] == [one.sql for one in outcome.statements]
    (told,) = [found for found in outcome.findings if found.code == "out_of_scope"]
    schema = world.schema
    for name in (
        f"enum {schema}.mood",
        f"column {schema}.other.id",
        f"function {schema}.f()",
        f"view {schema}.v: definition",
    ):
        assert name in told.message
    assert section(outcome)["differences_before"] == everything
    assert section(outcome)["differences_after"] == int(told.object.split()[0])
    assert section(outcome)["only_in_prod"] == section(predicted)["only_in_prod"]
    # The view stood in the way of the column's type: it is put back as PROD had it, not as DEV has it.
    assert world.prod.value(schema, "SELECT count(*) FROM v") == 4
    assert world.prod.value(schema, "SELECT obj_description('v'::regclass)") == "prod"
    assert world.prod.value(schema, "SELECT has_table_privilege('authenticated', 'v', 'SELECT')")
    assert not world.prod.value(schema, "SELECT has_table_privilege('anon', 'v', 'SELECT')")
    assert world.prod.value(schema, "SELECT f()") == 1
    assert world.prod.value(schema, "SELECT relrowsecurity FROM pg_class WHERE oid = 'archon_a'::regclass")
    again = align(world, ("table:archon_*",))
    assert (again.status, again.changed) == ("aligned", False)
    assert align(world).status == "changed"
    assert world.prod.value(schema, "SELECT f()") == 2


def test_an_excluded_index_and_column(make_world: MakeWorld) -> None:
    world = make_world(
        T + "ALTER TABLE t ADD keep int, ADD leave int; CREATE INDEX big ON t (a); CREATE INDEX small ON t (id, a);",
        T + ROWS,
    )
    outcome = align(world, exclude=("index:big", "column:*.t.leave"))
    assert outcome.status == "changed", str(outcome.error)
    assert (
        world.prod.value(
            world.schema,
            "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0",
        )
        == "id,a,keep"
    )
    assert world.prod.value(world.schema, "SELECT to_regclass('small') IS NOT NULL AND to_regclass('big') IS NULL")
    assert section(outcome)["differences_after"] == 2


def test_what_is_needed_but_left_out_changes_nothing(make_world: MakeWorld) -> None:
    dev = (
        "CREATE TYPE mood AS ENUM ('x'); CREATE TABLE p (id int PRIMARY KEY);"
        + T
        + "ALTER TABLE t ADD m mood, ADD p int REFERENCES p;"
    )
    world = make_world(dev, T + ROWS)
    before = world.prod.picture(world.schema)
    for check in (True, False):
        outcome = align(world, ("table:t",), check=check)
        assert outcome.status == "decision_needed"
        said = {found.object: found.message for found in outcome.findings if found.code == "needs_out_of_scope"}
        assert f"needs enum {world.schema}.mood" in said[f"column {world.schema}.t.m"]
        assert f"needs table {world.schema}.p" in said[f"constraint {world.schema}.t.t_p_fkey"]
    assert world.prod.picture(world.schema) == before
    assert align(world, ("table:t", "enum:mood", "table:p")).status == "changed"


def test_grants_left_alone(make_world: MakeWorld) -> None:
    world = make_world(
        T
        + "GRANT SELECT ON t TO anon; REVOKE ALL ON FUNCTION f() FROM PUBLIC;".replace(
            "REVOKE", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE"
        ),
        T + "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';",
    )
    outcome = align(world, exclude=("grant:*",))
    assert (outcome.status, section(outcome)["differences_after"]) == ("aligned", 2)
    assert align(world, include=("grant:f",)).changed
    assert not world.prod.value(world.schema, "SELECT has_table_privilege('anon', 't', 'SELECT')")
    assert not world.prod.value(world.schema, "SELECT has_function_privilege('anon', 'f()', 'EXECUTE')")


def test_a_renamed_index_left_out(make_world: MakeWorld) -> None:
    world = make_world(T + "CREATE INDEX dev_name ON t (a);", T + ROWS + "CREATE INDEX prod_name ON t (a);")
    outcome = align(world, exclude=("index:dev_name",))
    assert (outcome.status, section(outcome)["differences_after"]) == ("aligned", 1)
    assert world.prod.value(
        world.schema, "SELECT to_regclass('prod_name') IS NOT NULL AND to_regclass('dev_name') IS NULL"
    )
