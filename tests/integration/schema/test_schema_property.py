"""Any pair of schemas, with rows: aligned until nothing differs and no value is lost, or refused with nothing changed.

16 pairs that are always the same are tried. To look for more: ARCHON_SCHEMA_PAIRS=5000 pytest --hypothesis-seed=1 (any number)
tests/integration/schema/test_schema_property.py; a failing pair is shrunk and its statements are shown.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from random import Random

import psycopg
import pytest
from archon_align.errors import AlignError
from generated_pairs import VALUES, Generator, lit, q
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from psycopg import sql
from schema_worlds import Side, World
from witness import TABLES, values

SCHEMA = 'any "ü" %s pair'
PAIRS = int(os.environ.get("ARCHON_SCHEMA_PAIRS", "0"))
# What would be a defect of the planner, not a reason for which a person must decide something.
OUR_FAULT = {"schema_not_aligned", "preservation_broken", "gate_refused", "cyclic_need"}
_COLUMNS = """
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type, t.typtype::text AS kind, a.atttypid::bigint AS type_oid,
       coalesce(nullif(t.typbasetype, 0)::regtype::text, '') AS base
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity <> 'a' ORDER BY a.attnum
"""
_SEQUENCES = "SELECT sequencename::text, coalesce(last_value, 0) FROM pg_sequences WHERE schemaname = %s"
# Structure as the server writes it, by queries that owe nothing to our own inspection: what DEV says, PROD must say too.
_WITNESS = """
WITH own AS (SELECT * FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s))::oid)
SELECT 'column', c.relname::text, a.attname::text, concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated, a.attidentity, a.attcollation::regcollation, a.attstorage,
       coalesce(a.attstattarget, -1), pg_get_expr(d.adbin, d.adrelid), c.relpersistence)
FROM own c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
UNION ALL SELECT 'table', relname, relkind::text, concat_ws(' ', relpersistence, relreplident, ARRAY(SELECT unnest(reloptions) ORDER BY 1)) FROM own WHERE relkind IN ('r', 'p')
UNION ALL SELECT 'constraint', c.relname, o.conname, pg_get_constraintdef(o.oid) FROM own c JOIN pg_constraint o ON o.conrelid = c.oid WHERE o.conparentid = 0 AND o.coninhcount = 0 AND o.contype <> 'n'
UNION ALL SELECT 'index', c.relname, '', pg_get_indexdef(c.oid) FROM own c WHERE c.relkind IN ('i', 'I') AND NOT c.relispartition
UNION ALL SELECT 'view', relname, relkind::text, concat_ws(' ', pg_get_viewdef(oid), reloptions, relispopulated) FROM own WHERE relkind IN ('v', 'm')
UNION ALL SELECT 'trigger', c.relname, t.tgname, concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled) FROM own c JOIN pg_trigger t ON t.tgrelid = c.oid WHERE NOT t.tgisinternal
UNION ALL SELECT 'policy', tablename, policyname, concat_ws(' ', permissive, roles, cmd, qual, with_check) FROM pg_policies WHERE schemaname = %(schema)s
UNION ALL SELECT 'function', proname, oidvectortypes(proargtypes), pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = to_regnamespace(quote_ident(%(schema)s))::oid
UNION ALL SELECT 'comment', c.relname, d.objsubid::text, d.description FROM own c JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass
  WHERE d.objsubid = 0
UNION ALL SELECT 'label', t.typname, e.enumlabel, '' FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid WHERE t.typnamespace = to_regnamespace(quote_ident(%(schema)s))::oid
"""


def _build(side: Side, statements: list[str], random: Random | None) -> None:
    with psycopg.connect(side.dsn, autocommit=True) as owner:
        owner.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(SCHEMA)))
        owner.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
        owner.execute(sql.SQL("SET search_path = {}, public").format(sql.Identifier(SCHEMA)))
        for statement in statements:
            _try(owner, statement)
        if random is not None:
            for (table,) in owner.execute(TABLES, (SCHEMA,)).fetchall():
                _fill(owner, table, random)
            for (name,) in owner.execute(TABLES.replace("'r'", "'m'").encode(), (SCHEMA,)).fetchall():
                _try(owner, f"REFRESH MATERIALIZED VIEW {q(name)}")


def _try(owner: psycopg.Connection, statement: str) -> None:
    with contextlib.suppress(psycopg.Error):
        owner.execute(statement.encode())


def _fill(owner: psycopg.Connection, table: str, random: Random) -> None:
    columns = owner.execute(_COLUMNS, (q(table),)).fetchall()
    for number in range(random.choice((0, 1, 3))):
        given = [
            (name, _value(owner, random, number, name, *rest)) for name, *rest in columns if random.random() > 0.12
        ]
        names, values = ", ".join(q(name) for name, _ in given), ", ".join(value for _, value in given)
        _try(
            owner,
            f"INSERT INTO {q(table)} ({names}) VALUES ({values})"
            if given
            else f"INSERT INTO {q(table)} DEFAULT VALUES",
        )


def _value(
    owner: psycopg.Connection, random: Random, number: int, name: str, type_name: str, kind: str, oid: int, base: str
) -> str:
    if name == "id" and type_name in ("integer", "bigint"):
        return str(number + 1)
    if name == "id" and type_name == "uuid":
        return "gen_random_uuid()"
    if kind == "e":
        labels = owner.execute("SELECT enumlabel FROM pg_enum WHERE enumtypid = %s ORDER BY 1", (oid,)).fetchall()
        return lit(random.choice(labels)[0])
    if kind == "c":
        return "ROW(1, 'x')"
    usual = {
        "integer": "int",
        "character varying": "varchar(5)",
        "numeric": "numeric(8,2)",
        "timestamp with time zone": "timestamptz",
    }
    wanted = base or type_name.replace("character varying", "varchar").replace("public.", "")
    wanted = usual.get(wanted, wanted).replace("timestamp without time zone", "timestamp").replace("integer", "int")
    return random.choice(VALUES.get(wanted, ("NULL",)))


def _witness(side: Side) -> set[tuple[str, ...]]:
    with psycopg.connect(side.server.dsn(side.database), autocommit=True) as admin:
        return set(admin.execute(_WITNESS, {"schema": SCHEMA}).fetchall())


def _sequences(side: Side) -> dict[str, int]:
    with psycopg.connect(side.server.dsn(side.database), autocommit=True) as admin:
        return dict(admin.execute(_SEQUENCES, (SCHEMA,)).fetchall())


@settings(
    max_examples=PAIRS or 16,
    derandomize=not PAIRS,
    database=None,
    deadline=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
@given(random=st.randoms(use_true_random=False), all_protected=st.booleans())
def test_any_pair(
    sides: tuple[Side, Side], tmp_path_factory: pytest.TempPathFactory, random: Random, all_protected: bool
) -> None:
    dev, prod = sides
    pair = Generator(random).draw()
    note("\n".join(["-- DEV", *pair.dev, "-- PROD", *pair.prod]))
    _build(dev, pair.dev, None)
    _build(prod, pair.prod, random)
    world = World(dev, prod, (SCHEMA,), tmp_path_factory.getbasetemp() / "pairs")
    picture, before, sequences = prod.picture(SCHEMA), values(prod, SCHEMA), _sequences(prod)
    protected = tuple(f"{SCHEMA}.{table}" for table, _ in before) if all_protected else ()
    predicted = world.align(check=True, protected=protected)
    assert prod.picture(SCHEMA) == picture
    try:
        outcome = world.align(protected=protected)
        refused = (
            {finding.code for finding in outcome.findings if finding.severity == "error"} if outcome.error else set()
        )
    except AlignError as error:
        refused = {error.code}
        note(str(error))
    if refused:
        assert prod.picture(SCHEMA) == picture
        assert not refused & OUR_FAULT
        return
    assert [one.sql for one in outcome.statements] == [one.sql for one in predicted.statements]
    assert world.align(check=True, protected=protected).statements == ()
    left = outcome.details["schema"]["differences_after"]
    assert left or _witness(dev) - _witness(prod) == set()
    after = values(prod, SCHEMA)
    for place, (computed, held) in before.items():
        if not computed:
            assert Counter(after[place][1]) == Counter(held), place
        elif place in after and not after[place][0]:
            assert after[place][1] == held, place
    after_sequences = _sequences(prod)
    assert all(after_sequences.get(name, value) >= value for name, value in sequences.items())
