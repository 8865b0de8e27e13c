"""PROD through a member of the owner that no row-level security applies to: what it makes belongs to the owner all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
from archon_align.errors import AlignError
from archon_align.schema import phase
from archon_align.schema.decisions import QUARANTINE, Decisions
from psycopg import sql
from psycopg.conninfo import make_conninfo
from schema_worlds import OWNER, Side, World

MEMBER = 'Admin "ö" %s'
EVERY_KIND = """
CREATE TYPE mood AS ENUM ('meh', 'ok');
CREATE DOMAIN short AS text CHECK (length(VALUE) < 9);
CREATE TYPE pair AS (a int, b short);
CREATE SEQUENCE lonely;
CREATE TABLE made (id serial PRIMARY KEY, other bigint GENERATED ALWAYS AS IDENTITY, m mood DEFAULT 'ok', at bigint DEFAULT nextval('lonely'), p pair);
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE VIEW seen AS SELECT id, m FROM made;
CREATE MATERIALIZED VIEW kept AS SELECT id FROM made;
GRANT SELECT ON made TO anon;
"""
FORCED = """
CREATE TABLE t (id int PRIMARY KEY, v {type}, w text);
INSERT INTO t SELECT n, n, 'row ' || n FROM generate_series(1, 20) n;
ALTER TABLE t ENABLE ROW LEVEL SECURITY{force};
"""
OWNERS = """
SELECT DISTINCT pg_get_userbyid(owner)::text FROM (
  SELECT relowner FROM pg_class WHERE relnamespace = %(schema)s::regnamespace
  UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace
  UNION ALL SELECT typowner FROM pg_type WHERE typnamespace = %(schema)s::regnamespace
  UNION ALL SELECT nspowner FROM pg_namespace WHERE oid = %(schema)s::regnamespace
) AS all_kinds (owner)
"""


@pytest.fixture
def through_member(sides: tuple[Side, Side]) -> Iterator[Callable[[World], World]]:
    prod = sides[1]
    with psycopg.connect(prod.server.dsn(prod.database), autocommit=True) as admin:
        role = sql.Identifier(MEMBER)
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN BYPASSRLS IN ROLE {}").format(role, sql.Identifier(OWNER)))
        yield lambda world: replace(world, prod=replace(prod, dsn=make_conninfo(prod.dsn, user=MEMBER)))
        admin.execute(sql.SQL("DROP OWNED BY {}").format(role))
        admin.execute(sql.SQL("DROP ROLE {}").format(role))


def owners(side: Side, schema: str) -> list[tuple[str]]:
    with psycopg.connect(side.server.dsn(side.database)) as admin:
        return admin.execute(OWNERS, {"schema": '"' + schema.replace('"', '""') + '"'}).fetchall()


def test_every_kind_of_new_object_belongs_to_the_owner(
    make_world: Callable[..., World], through_member: Callable[[World], World]
) -> None:
    world = make_world(EVERY_KIND + "CREATE TABLE t (a int);", "CREATE TABLE t (a int);")
    member = through_member(world)

    assert member.align().status == "changed"

    assert owners(world.prod, world.schema) == [(OWNER,)]
    for again in (member.align(), world.align()):
        assert again.status == "aligned"
        assert not [finding for finding in again.findings if finding.code == "owner"]


def test_a_new_schema_belongs_to_the_owner_too(
    make_world: Callable[..., World], through_member: Callable[[World], World], sides: tuple[Side, Side]
) -> None:
    world = make_world("CREATE TABLE t (a int);", "CREATE TABLE t (a int);")
    sides[0].run("only in DEV", "CREATE TABLE made (id serial);")
    both = replace(world, schemas=(world.schema, "only in DEV"))

    assert through_member(both).align().status == "changed"

    assert owners(world.prod, "only in DEV") == [(OWNER,)]


def test_what_is_set_aside_belongs_to_the_owner_too(
    make_world: Callable[..., World], through_member: Callable[[World], World], sides: tuple[Side, Side]
) -> None:
    with psycopg.connect(sides[1].server.dsn(sides[1].database), autocommit=True) as admin:
        admin.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(QUARANTINE)))
    dev, prod = "CREATE TABLE t (id int PRIMARY KEY, v varchar(1));", FORCED.format(type="text", force="")
    for name in ("set_aside_1", "set_aside_2"):  # the second finds the schema in place
        member = through_member(make_world(dev, prod, name))
        decisions = Decisions.parse({"conversions": {f"{name}.t.v": "left(v, 1)"}})

        outcome = phase.run(member.context(protected=("t",)), phase.Options(credentials=False, decisions=decisions))

        assert outcome.status == "changed", outcome.error
        assert owners(sides[1], QUARANTINE) == [(OWNER,)]
    assert (
        sides[1].value(
            QUARANTINE,
            "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema::regnamespace",
        )
        == 2
    )


def test_forced_row_level_security_is_aligned_through_the_member(
    make_world: Callable[..., World], through_member: Callable[[World], World]
) -> None:
    world = make_world(
        FORCED.format(type="bigint", force=""), FORCED.format(type="int", force=", FORCE ROW LEVEL SECURITY")
    )
    before = world.prod.picture(world.schema)
    with pytest.raises(AlignError, match="BYPASSRLS"):
        world.align(protected=("t",))
    assert world.prod.picture(world.schema) == before
    member = through_member(world)

    outcome = member.align(protected=("t",))

    assert outcome.status == "changed"
    assert all(proof.preserved for proof in outcome.proofs)
    assert world.prod.value(world.schema, "SELECT sum(v)::text || count(w) FROM t") == "21020"
    forced = "SELECT relforcerowsecurity FROM pg_class WHERE oid = 't'::regclass"
    assert world.prod.value(world.schema, forced) is True
    assert member.align(protected=("t",)).status == "aligned"
