"""The planner's decisions, without a database."""

from __future__ import annotations

import json

import pytest
from archon_align.database.target import Table
from archon_align.errors import AlignError
from archon_align.templates import placeholders
from archon_align.templates.model import DEFINITIONS, Column, Row, TableState
from archon_align.templates.planner import parents_first, plan_table
from hypothesis import given, settings
from hypothesis import strategies as st

_TABLE = Table("public", DEFINITIONS.table)
_COLUMNS = ("id", "name", "title", "parent_template_id", "template_data", "updated_at")
_TEXTS = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
_NAMES = st.sampled_from("abcdefgh")


def state(database: str, *rows: Row) -> TableState:
    columns = {name: Column(name, "text", None, fixed=False, reference=name.endswith("_id")) for name in _COLUMNS}
    return TableState(database, DEFINITIONS, _TABLE, columns, rows)


def row(name: str, title: str | None = "t", parent: str | None = None, **values: str | None) -> Row:
    return Row(name, {"id": f"id of {name}", "name": name, "title": title, "template_data": "{}", **values}, parent)


@st.composite
def forests(draw: st.DrawFn) -> list[Row]:
    """Rows in any order, each with a parent from those drawn before it."""
    names = draw(st.lists(_NAMES, unique=True, max_size=8))
    rows = [
        row(name, draw(_TEXTS), draw(st.none() | st.sampled_from(names[:position])) if position else None)
        for position, name in enumerate(names)
    ]
    return draw(st.permutations(rows))


@settings(deadline=None)
@given(forests())
def test_parents_come_before_children_and_nobody_is_left_out(rows: list[Row]) -> None:
    order = [found.name for found in parents_first(state("DEV", *rows))]
    assert sorted(order) == sorted(found.name for found in rows)
    for found in rows:
        assert found.parent is None or order.index(found.parent) < order.index(found.name)


@settings(deadline=None)
@given(forests(), forests())
def test_afterwards_prod_equals_dev_and_there_is_nothing_left_to_plan(theirs: list[Row], ours: list[Row]) -> None:
    dev, prod = state("DEV", *theirs), state("PROD", *ours)
    plan = plan_table(dev, prod, {})
    for wanted in theirs:
        found = plan.result[wanted.name]
        assert (found.values["title"], found.parent) == (wanted.values["title"], wanted.parent)
    assert plan.result.keys() == {found.name for found in (*theirs, *ours)}
    again = plan_table(dev, state("PROD", *plan.result.values()), {})
    assert (again.moves, again.unchanged) == ((), len(theirs))
    assert plan.only_in_prod == sorted({found.name for found in ours} - {found.name for found in theirs})
    assert not any("id of" in move.statement.sql for move in plan.moves)


def test_a_cycle_is_shown() -> None:
    with pytest.raises(AlignError) as caught:
        list(parents_first(state("DEV", row("a", parent="b"), row("b", parent="c"), row("c", parent="b"))))
    assert caught.value.found == "b → c → b"


def test_a_parent_that_prod_lost_is_corrected() -> None:
    prod = Row("a", row("a").values, None, dangling=True)
    (move,) = plan_table(state("DEV", row("a")), state("PROD", prod), {}).moves
    assert move.statement.sql.endswith('SET "parent_template_id" = NULL, "updated_at" = now() WHERE "name" = \'a\'')


def _looked_up(
    content: str, components: dict[str, str], *, from_dev: bool = True, before: tuple[str, ...] = ()
) -> placeholders.Checked:
    template = row("t", template_data=json.dumps({"template_content": content}))
    return placeholders.check(
        {"t": template},
        {name: row(name, is_active=active) for name, active in components.items()},
        table="x",
        from_dev={"t"} if from_dev else set(),
        broken_before=before,
    )


@pytest.mark.parametrize("content", ["{{ a }}", "{{A}}", "{{a}} {{b}}", "{{{b}}}", "{{a\n}}"])
def test_a_placeholder_resolves_by_its_exact_name_only(content: str) -> None:
    with pytest.raises(AlignError) as caught:
        _looked_up(content, {"a": "true"})
    assert caught.value.code == "placeholder_unresolved"


def test_each_placeholder_counts_once_and_the_task_not_at_all() -> None:
    assert _looked_up("{{a}}{{USER_TASK}}{{b}}{{a}}", {"a": "true", "b": "true"}).count == 2


@pytest.mark.parametrize(("before", "words"), [(("t",), "already"), ((), "now that")])
def test_who_broke_a_template_of_prods_own_is_told(before: tuple[str, ...], words: str) -> None:
    checked = _looked_up("{{a}}{{USER_TASK}}", {"a": "false"}, from_dev=False, before=before)
    (finding,) = checked.findings
    assert (finding.severity, words in finding.message, "(inactive)" in finding.message) == ("error", True, True)


@pytest.mark.parametrize("data", [None, "", "[]", "null", '{"template_content": 5}', '{"template_content": ""}', "{"])
def test_a_template_without_content_is_told(data: str | None) -> None:
    checked = placeholders.check({"t": row("t", template_data=data)}, {}, table="x", from_dev={"t"}, broken_before=())
    assert [finding.code for finding in checked.findings] == ["template_without_content"]
