"""The pure parts of the schema phase: what widens, what means the same, what comes first, what is never lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from archon_align.schema import enums, evidence
from archon_align.schema.compare import MISSING, compare
from archon_align.schema.credentials import with_credentials
from archon_align.schema.ddl import Writer, ident, literal
from archon_align.schema.decided import Decided
from archon_align.schema.evidence import Answer, Evidence
from archon_align.schema.model import (
    Catalog,
    Column,
    Constraint,
    Enum,
    Function,
    Grant,
    Key,
    Kind,
    Policy,
    Table,
    Unmodelled,
)
from archon_align.schema.plan import plan
from archon_align.schema.portable import Portable, extensions_in, rendered, same_meaning
from archon_align.schema.steps import CyclicNeed, Guard, Node, ordered
from archon_align.schema.widening import assumes_time_zone, keeps_values, rewrites, split
from hypothesis import given
from hypothesis import strategies as st

VECTOR = "\ue000vector\ue001.vector"


def catalog(*objects: object, version: int = 180004, **fields: object) -> Catalog:
    values = {value.key: value for value in objects}  # type: ignore[attr-defined]
    return Catalog(version, "db", "me", ("public",), values, roles=frozenset({"anon", "me"}), **fields)  # type: ignore[arg-type]


def table(name: str, **types: str) -> Table:
    columns = {
        column: Column(
            Key(Kind.COLUMN, "public", name, column),
            text.removesuffix("!"),
            split(text.removesuffix("!"))[0],
            text.endswith("!"),
        )
        for column, text in types.items()
    }
    return Table(Key(Kind.TABLE, "public", name), columns)


@pytest.mark.parametrize(
    ("old", "new", "keeps"),
    [
        ("integer", "bigint", True),
        ("bigint", "integer", False),
        ("smallint", "numeric", True),
        ("integer", "numeric(10,0)", True),
        ("integer", "numeric(10,2)", False),
        ("integer", "real", False),
        ("integer", "double precision", True),
        ("bigint", "double precision", False),
        ("character varying(10)", "character varying(11)", True),
        ("character varying(10)", "character varying", True),
        ("character varying(10)", "text", True),
        ("text", "character varying(10)", False),
        ("character varying", "character varying(10)", False),
        ("character(3)", "text", False),
        ("numeric(5,2)", "numeric(6,2)", True),
        ("numeric(5,2)", "numeric(6,3)", True),
        ("numeric(5,2)", "numeric(5,3)", False),
        ("numeric", "numeric(9,2)", False),
        ("numeric(5,2)", "numeric", True),
        ("timestamp(3) without time zone", "timestamp without time zone", True),
        ("timestamp without time zone", "timestamp(3) without time zone", False),
        ("timestamp without time zone", "timestamp with time zone", False),
        ("integer[]", "bigint[]", True),
        ("integer[]", "bigint", False),
        ("json", "jsonb", False),
        (f"{VECTOR}(1536)", f"{VECTOR}(768)", False),
        (VECTOR, f"{VECTOR}(768)", False),
        ('public."a(b"', "text", False),
    ],
)
def test_widenings(old: str, new: str, keeps: bool) -> None:
    assert keeps_values(old, new) is keeps
    assert not (keeps and assumes_time_zone(old, new))


def test_a_widening_may_still_change_the_text_or_the_file() -> None:
    assert rewrites("integer", "bigint")
    assert not rewrites("character varying(5)", "text")


def test_portable_text_knows_extensions_wherever_they_live() -> None:
    here = Portable([("public", "vector", "vector"), ("public", "<=>", "vector")])
    there = Portable([('Ext "x', "vector", "vector"), ('Ext "x', "<=>", "vector")])
    text = "('a public.vector'::public.vector OPERATOR(public.<=>) t.v) -- public.vector"
    other = text.replace("::public.", '::"Ext ""x".').replace("OPERATOR(public.", 'OPERATOR("Ext ""x".')
    assert here(text) == there(other)
    assert extensions_in(here(text)) == {"vector"}
    assert rendered(here(text), {"vector": 'Ext "x'}, ident) == other
    assert (
        Portable([("public", "similarity", "pg_trgm")], own=[("public", "similarity")])("public.similarity(a)")
        == "public.similarity(a)"
    )


def test_meaning_across_versions() -> None:
    old, new = (
        " SELECT t.id,\n    t.v AS w\n   FROM public.t\n  WHERE (t.id > 1)",
        "SELECT id, v AS w FROM public.t WHERE (id > 1)",
    )
    assert same_meaning(old, new, same_version=False)
    assert not same_meaning(old, new, same_version=True)
    assert not same_meaning(old, new.replace("> 1", "> 2"), same_version=False)
    assert not same_meaning("SELECT a.id FROM a, b", "SELECT b.id FROM a, b", same_version=False)


@given(st.permutations(range(12)), st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30))
def test_whatever_is_needed_comes_first(order: list[int], pairs: set[tuple[int, int]]) -> None:
    keys = [Key(Kind.VIEW, "s", f"v{number}") for number in range(12)]
    place = {number: position for position, number in enumerate(order)}
    needs = {
        keys[one]: {keys[other] for a, other in pairs if a == one and place[other] < place[one]} for one in range(12)
    }
    result = [node.key for node in ordered({key: Node(key) for key in keys}, lambda key: needs[key])]
    assert sorted(result) == sorted(keys)
    assert all(result.index(other) < result.index(key) for key, wanted in needs.items() for other in wanted)


def test_a_circle_is_named() -> None:
    one, other = Key(Kind.VIEW, "s", "a"), Key(Kind.VIEW, "s", "b")
    with pytest.raises(CyclicNeed, match=r"s\.a, view s\.b"):
        ordered({one: Node(one), other: Node(other)}, lambda key: {other if key == one else one})


LABELS = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1)


@given(LABELS, LABELS)
def test_merged_labels_lose_none_and_keep_devs_order(wanted: list[str], found: list[str]) -> None:
    key = Key(Kind.ENUM, "public", "e")
    result = enums.merged(Enum(key, tuple(wanted)), Enum(key, tuple(found)))
    assert sorted(result) == sorted({*wanted, *found})
    assert [label for label in result if label in wanted] == wanted


@given(st.text(min_size=1).filter(lambda text: "\0" not in text), st.text().filter(lambda text: "\0" not in text))
def test_any_name_and_text_is_quoted(name: str, text: str) -> None:
    assert ident(name) == '"' + name.replace('"', '""') + '"'
    assert literal(text).endswith("'")


def test_column_order_is_no_difference_and_only_in_prod_is_named_once() -> None:
    desired = catalog(table("t", a="integer", b="text"))
    extra = Constraint(Key(Kind.CONSTRAINT, "public", "z", "k"), "c", "CHECK (true)")
    current = catalog(table("t", b="text", a="integer", own="text"), table("z", q="integer"), extra)
    found = compare(desired, current)
    assert found.differences == ()
    assert found.only_in_prod == ("column public.t.own", "table public.z")


def test_a_plan_for_nothing_is_empty() -> None:
    same = catalog(table("t", a="integer"))
    result = plan(compare(same, same), Evidence())
    assert (result.statements, result.refused, result.left) == ((), (), frozenset())


def test_a_narrowing_is_guarded_and_refused_on_evidence() -> None:
    desired, current = catalog(table("t", a="character varying(3)")), catalog(table("t", a="text"))
    comparison = compare(desired, current)
    guard, change = plan(comparison, Evidence()).statements
    assert isinstance(guard, Guard)
    assert "narrows_type" in change.hazards
    key = Key(Kind.COLUMN, "public", "t", "a")
    lost = plan(comparison, Evidence({(key, "type"): Answer(2, ("id=1", "id=2"), "too long")}))
    assert [finding.code for finding in lost.refused] == ["type_change_loses"]
    assert "2 rows (id=1; id=2)" in lost.refused[0].message


def test_questions_are_asked_of_rows_only_where_they_matter() -> None:
    desired = catalog(table("t", a="integer!", b="text", c="bigint"), table("new", x="integer!"))
    current = catalog(table("t", a="integer", b="text", c="integer"))
    asked = [
        (question.key.part, question.aspect)
        for question in evidence.questions(compare(desired, current), Decided(current, current))
    ]
    assert asked == [("a", "not null")]


def test_what_only_prod_has_is_never_in_a_statement() -> None:
    desired = catalog(table("t", a="bigint"))
    current = catalog(table("t", a="integer", own="text"), table("z", q="integer"))
    texts = " ".join(statement.sql for statement in plan(compare(desired, current), Evidence()).statements)
    assert '"own"' not in texts
    assert '"z"' not in texts


def test_a_missing_role_is_refused_by_name() -> None:
    key = Key(Kind.TABLE, "public", "t")
    desired = catalog(table("t", a="integer"), grants={key: frozenset({Grant("nobody_here", "SELECT")})})
    result = plan(compare(desired, catalog(table("t", a="integer"))), Evidence())
    assert [(finding.code, "nobody_here" in finding.remedy) for finding in result.refused] == [("role_missing", True)]


def test_kinds_that_are_not_compared_are_told() -> None:
    desired = catalog(unmodelled=(Unmodelled("aggregate", "public.a(integer)"),))
    findings = plan(compare(desired, catalog()), Evidence()).findings
    assert [(finding.code, finding.severity, finding.object) for finding in findings] == [
        ("unmodelled", "warning", "aggregate public.a(integer)")
    ]


def test_kinds_that_are_not_compared_are_one_finding_where_both_have_the_same() -> None:
    shared = (
        Unmodelled("default privileges", "a", ""),
        Unmodelled("default privileges", "b", ""),
        Unmodelled("language", "l"),
    )
    desired = catalog(unmodelled=(*shared, Unmodelled("rule", "r", "one")))
    current = catalog(unmodelled=(*shared, Unmodelled("rule", "r", "other"), Unmodelled("cast", "c")))
    findings = plan(compare(desired, current), Evidence()).findings
    assert [(finding.severity, finding.object, finding.message.partition(";")[0]) for finding in findings] == [
        ("info", "cast c", "exists on PROD only"),
        ("warning", "rule r", "is defined otherwise on DEV"),
        ("info", "default privileges (2)", "the same in both databases: a"),
        ("info", "language (1)", "in both databases under the same name, definitions not compared: l"),
    ]


def test_credentials_are_like_settings_but_closed() -> None:
    settings = Key(Kind.TABLE, "public", "archon_settings")
    policy = Policy(
        Key(Kind.POLICY, "public", "archon_settings", "archon_settings for all"), "ALL", True, ("anon",), "true"
    )
    found = catalog(
        table("archon_settings", key="text"),
        policy,
        grants={settings: frozenset({Grant("anon", "SELECT"), Grant("me", "INSERT"), Grant("PUBLIC", "SELECT")})},
    )
    wanted = with_credentials(found, "public")
    key = Key(Kind.TABLE, "public", "archon_credentials")
    made = wanted.table(key)
    assert made is not None
    assert made.row_security
    assert list(made.columns) == ["id", "category", "key", "value", "created_at", "updated_at"]
    assert wanted.grants[key] == frozenset({Grant("me", "INSERT")})
    assert Key(Kind.POLICY, "public", "archon_credentials", "archon_credentials for all") in wanted.objects
    assert compare(wanted, wanted).differences == ()
    assert with_credentials(wanted, "public").objects == wanted.objects
    opened = replace(wanted, grants={**wanted.grants, key: frozenset({Grant("anon", "SELECT")})})
    differences = compare(with_credentials(opened, "public"), opened).differences
    assert [difference.aspect for difference in differences] == ["grant SELECT to anon"]


def test_functions_are_replaced_in_place_only_when_the_server_can() -> None:
    def function(result: str, body: str) -> Function:
        key = Key(Kind.FUNCTION, "public", "f", "integer")
        return Function(
            key,
            "f",
            f"CREATE OR REPLACE FUNCTION public.f(a integer) RETURNS {result} LANGUAGE sql AS $$ {body} $$",
            ("f", result),
        )

    body = plan(compare(catalog(function("integer", "SELECT 1")), catalog(function("integer", "SELECT 2"))), Evidence())
    assert [statement.sql.split()[0] for statement in body.statements] == ["CREATE"]
    result = plan(
        compare(catalog(function("bigint", "SELECT 1")), catalog(function("integer", "SELECT 1"))), Evidence()
    )
    # This catalogue grants nothing, PostgreSQL grants PUBLIC by itself.
    assert [statement.sql.split()[0] for statement in result.statements] == ["DROP", "CREATE", "REVOKE"]


def test_a_missing_table_is_one_difference() -> None:
    found = compare(catalog(table("t", a="integer", b="text")), catalog())
    assert [(str(one.key), one.aspect) for one in found.differences] == [("table public.t", MISSING)]


def test_names_are_rendered_for_where_the_extension_lives() -> None:
    column = Column(Key(Kind.COLUMN, "public", "t", "v"), f"{VECTOR}(3)", VECTOR)
    assert Writer({"vector": "Ext x"}).column(column) == '"v" "Ext x".vector(3)'
