"""Scopes: what is inside, what stays as it is and is told, and what is refused because it would need something outside."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from archon_align.errors import AlignError
from archon_align.schema.compare import compare
from archon_align.schema.decisions import Decisions
from archon_align.schema.model import (
    PUBLIC,
    Catalog,
    Column,
    Constraint,
    Enum,
    Extension,
    Grant,
    Index,
    Key,
    Kind,
    Schema,
    Sequence,
    Table,
)
from archon_align.schema.scope import KINDS, Scope, narrow, within


def catalog(*objects: object, **fields: object) -> Catalog:
    values = {value.key: value for value in objects}  # type: ignore[attr-defined]
    return Catalog(180004, "db", "me", ("public",), values, **fields)  # type: ignore[arg-type]


def key(kind: Kind, name: str, part: str = "", schema: str = "public") -> Key:
    return Key(kind, schema, name, part)


def table(name: str, schema: str = "public", **types: str) -> Table:
    columns = {column: Column(Key(Kind.COLUMN, schema, name, column), text, text) for column, text in types.items()}
    return Table(Key(Kind.TABLE, schema, name), columns)


def index(name: str, on: str, definition: str) -> Index:
    return Index(key(Kind.INDEX, name), key(Kind.TABLE, on), definition, "btree")


@pytest.mark.parametrize(
    ("include", "exclude", "inside", "outside"),
    [
        (["table:a*"], [], ["table ab", "column ab.x", "constraint ab.c", "index ab_i", "sequence ab_s"], ["table b", "enum ab"]),
        (["table:public.a*"], [], ["table ab"], ["table b"]),
        ([], ["table:ab"], ["table b", "enum ab"], ["table ab", "column ab.x", "index ab_i", "sequence ab_s"]),
        (["table:ab"], ["column:ab.x", "column:public.ab.x"], ["table ab"], ["column ab.x"]),
        (["table:ab"], ["column:x"], ["table ab"], ["column ab.x"]),
        (["index:public.ab_*"], [], ["index ab_i"], ["table ab"]),
        (["*:ab"], [], ["table ab", "enum ab", "column ab.x"], ["table b"]),
        (["Materialized View:m", "materialised_view:m2", "matview:m3"], [], ["materialised view m", "materialised view m2", "materialised view m3"], ["table ab"]),
        (["function:f"], [], ["function f"], ["function g"]),
        (["function:public.f(integer)"], [], ["function f"], []),
        ([], ["comment:*"], ["table ab"], []),
    ],
)  # fmt: skip
def test_what_is_inside(include: list[str], exclude: list[str], inside: list[str], outside: list[str]) -> None:
    scope = Scope.parse(include, exclude)
    home = key(Kind.TABLE, "ab")
    named = {
        "table ab": (home, None),
        "table b": (key(Kind.TABLE, "b"), None),
        "enum ab": (key(Kind.ENUM, "ab"), None),
        "column ab.x": (key(Kind.COLUMN, "ab", "x"), home),
        "constraint ab.c": (key(Kind.CONSTRAINT, "ab", "c"), home),
        "index ab_i": (key(Kind.INDEX, "ab_i"), home),
        "sequence ab_s": (key(Kind.SEQUENCE, "ab_s"), home),
        "function f": (key(Kind.FUNCTION, "f", "integer"), None),
        "function g": (key(Kind.FUNCTION, "g", "integer"), None),
        **{f"materialised view {name}": (key(Kind.MATVIEW, name), None) for name in ("m", "m2", "m3")},
    }
    for name in inside:
        assert scope.covers(*named[name]), name
    for name in outside:
        assert not scope.covers(*named[name]), name


@pytest.mark.parametrize("text", ["archon_*", "tabel:x", "table:", ":x", "", "default:x", "domain constraint:x"])
def test_a_pattern_that_is_none(text: str) -> None:
    with pytest.raises(AlignError) as raised:
        Scope.parse(exclude=[text])
    assert raised.value.code == "bad_scope"
    assert repr(text) in raised.value.found
    assert "materialised view" in raised.value.expected
    assert raised.value.object_name == "archon_schema_exclude"


def test_no_scope_is_no_work() -> None:
    whole = compare(catalog(table("a", x="integer")), catalog())
    assert narrow(whole, Scope()).comparison is whole
    assert narrow(whole, Scope()).findings == ()


def test_what_is_outside_stays_as_prod_has_it() -> None:
    mood = key(Kind.ENUM, "mood")
    dev = catalog(
        table("a", x="bigint", y="text", z="text"),
        table("b", x="bigint"),
        table("c", x="text"),
        Enum(mood, ("x", "y")),
        index("a_i", "a", "USING btree (x)"),
        index("b_i", "b", "USING btree (x)"),
        comments={key(Kind.TABLE, "a"): "new", key(Kind.TABLE, "b"): "new"},
        grants={key(Kind.TABLE, "a"): frozenset({Grant("anon", "SELECT")}), mood: frozenset()},
    )
    prod = catalog(
        table("a", x="integer", y="text", only="text"),
        table("b", x="integer"),
        Enum(mood, ("x",)),
        index("b_i", "b", "USING btree (x DESC)"),
        comments={key(Kind.TABLE, "b"): "old"},
        grants={mood: frozenset({Grant(PUBLIC, "USAGE"), Grant("anon", "USAGE")})},
    )
    whole = compare(dev, prod)
    scoped = narrow(whole, Scope.parse(["table:a"], ["column:y", "column:z"]))
    assert [str(one) for one in scoped.comparison.differences] == [
        "column public.a.x: type: integer → bigint",
        "index public.a_i: missing",
        "table public.a: comment: none → new",
        "table public.a: grant SELECT to anon: none → SELECT",
    ]
    assert {*map(str, scoped.outside)} == {
        "column public.a.z: missing",
        "column public.b.x: type: integer → bigint",
        "enum public.mood: labels: x → x, y",
        "enum public.mood: grant USAGE to PUBLIC: USAGE → none",
        "index public.b_i: definition: USING btree (x DESC) → USING btree (x)",
        "table public.b: comment: old → new",
        "table public.c: missing",
    }
    assert {*scoped.outside} | {*scoped.comparison.differences} == {*whole.differences}
    assert scoped.comparison.only_in_prod == whole.only_in_prod
    assert scoped.refused == ()
    (told,) = scoped.findings
    assert (told.code, told.object) == ("out_of_scope", "7 differences")
    assert all(str(one) in told.message for one in scoped.outside)


def test_grants_and_comments_alone() -> None:
    a = key(Kind.TABLE, "a")
    both = {a: frozenset({Grant("anon", "SELECT")})}
    dev = catalog(table("a", x="bigint"), comments={a: "new"}, grants={a: both[a] | {Grant("anon", "INSERT")}})
    prod = catalog(table("a", x="integer"), grants={a: both[a] | {Grant("web", "SELECT")}})
    whole = compare(dev, prod)
    assert len(whole.differences) == 3
    without = narrow(whole, Scope.parse(exclude=["grant:*", "comment:a"])).comparison
    assert [one.aspect for one in without.differences] == ["type"]
    assert without.only_in_prod == whole.only_in_prod == ("grant SELECT to web on table public.a",)
    alone = narrow(whole, Scope.parse(include=["grant:*"])).comparison
    assert [one.aspect for one in alone.differences] == ["grant INSERT to anon"]


def test_what_needs_something_outside_is_refused_naming_both() -> None:
    parent, child, mood = key(Kind.TABLE, "parent"), key(Kind.TABLE, "child"), key(Kind.ENUM, "mood")
    primary = Constraint(key(Kind.CONSTRAINT, "parent", "pk"), "p", "PRIMARY KEY (id)", ("id",))
    foreign = Constraint(key(Kind.CONSTRAINT, "child", "fk"), "f", "FOREIGN KEY …", ("parent",), references=parent)
    sequence = Sequence(key(Kind.SEQUENCE, "numbers"), "bigint", "")
    dev = catalog(
        table("parent", id="integer"),
        table("child", parent="integer", feeling="public.mood", at="\ue000postgis\ue001.geometry", n="bigint"),
        primary,
        foreign,
        sequence,
        Enum(mood, ("x",)),
        Extension(Key(Kind.EXTENSION, "", "postgis"), "public", "3"),
        depends={
            foreign.key: frozenset({parent, primary.key, key(Kind.COLUMN, "child", "parent")}),
            key(Kind.COLUMN, "child", "feeling"): frozenset({mood}),
            key(Kind.DEFAULT, "child", "n"): frozenset({sequence.key}),
        },
    )
    scoped = narrow(compare(dev, catalog()), Scope.parse(["table:child"]))
    refused = {(found.object, found.code) for found in scoped.refused}
    assert refused == {
        ("constraint public.child.fk", "needs_out_of_scope"),
        ("table public.child", "needs_out_of_scope"),
    }
    told = "; ".join(found.message for found in scoped.refused)
    for needed in (
        "table public.parent",
        "constraint public.parent.pk",
        "enum public.mood",
        "extension postgis",
        "sequence public.numbers",
    ):
        assert needed in told
    # What PROD has already is no obstacle, whatever it looks like there.
    there = catalog(
        table("parent", id="bigint"),
        primary,
        sequence,
        Enum(mood, ("y",)),
        Extension(Key(Kind.EXTENSION, "", "postgis"), "x", "2"),
    )
    assert narrow(compare(dev, there), Scope.parse(["table:child"])).refused == ()
    assert child in narrow(compare(dev, there), Scope.parse(["table:child"])).comparison.desired.objects


def test_a_schema_that_is_left_out() -> None:
    dev = catalog(Schema(Key(Kind.SCHEMA, "", "s")), table("t", schema="s", x="integer"))
    scoped = narrow(compare(dev, catalog()), Scope.parse(["table:s.*"]))
    assert [found.message for found in scoped.refused] == [
        "it needs schema s, which PROD lacks and the scope leaves out"
    ]


def test_the_proof_sees_the_same_scope() -> None:
    """What the scope made of PROD before the plan is what the proof expects afterwards."""
    scope = Scope.parse(["table:a"])
    dev = catalog(table("a", x="bigint"), table("b", x="bigint"))
    before = catalog(table("a", x="integer"), table("b", x="integer"))
    after = catalog(table("a", x="bigint"), table("b", x="integer"))
    assert compare(within(dev, before, scope), after).differences == ()
    assert compare(within(dev, before, scope), catalog(table("a", x="bigint"), table("b", x="text"))).differences


def test_the_documented_choices_can_be_used() -> None:
    root = Path(__file__).parents[3]
    text = (root / "docs" / "phases" / "2-schema.md").read_text()
    options = " ".join((root / "plugins" / "doc_fragments" / "archon_schema.py").read_text().split())
    assert [kind for kind in KINDS if f"`{kind}`" not in text or kind not in options] == []
    found: dict[str, object] = {}
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        found |= yaml.safe_load(block)
    assert found.keys() == {"archon_schema_decisions", "archon_schema_include", "archon_schema_exclude"}
    assert all(asdict(Decisions.parse(found["archon_schema_decisions"])).values())
    assert Scope.parse(found["archon_schema_include"], found["archon_schema_exclude"])  # type: ignore[arg-type]
