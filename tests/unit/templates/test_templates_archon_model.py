"""What Archon's Python model refuses: its rules, what is told of them, and agreement with the lab's Archon."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from archon_align.database.target import Table
from archon_align.findings import Finding
from archon_align.templates import archon_model
from archon_align.templates.model import COMPONENTS, DEFINITIONS, Column, Kind, Row, TableState
from archon_align.templates.planner import TablePlan, plan_table
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.archon.expansion import problems_of_component, problems_of_template

_LISTS = ("required_tools", "tags", "validation_criteria")
_OBJECTS = ("input_requirements", "output_expectations")
_JSON = (*_LISTS, *_OBJECTS, "template_data")
_CONTENT = "{{group::one}} {{USER_TASK}}"
_TEMPLATE: dict[str, object] = {
    "title": "Title",
    "description": "",
    "template_type": "project",
    "category": "workflow",
    "tags": ["x"],
    "template_data": {"template_content": _CONTENT},
    "is_active": "true",
}
_COMPONENT: dict[str, object] = {
    "description": "",
    "instruction_text": "Do it.",
    "required_tools": [],
    "tags": [],
    "validation_criteria": ["done"],
    "input_requirements": {},
    "output_expectations": {},
    "category": "general",
    "priority": "medium",
    "is_active": "true",
}


def row(name: str, values: Mapping[str, object]) -> Row:
    """As the database tells it: every value as text, SQL's NULL as None."""
    texts = {
        column: json.dumps(value) if column in _JSON and value is not None else None if value is None else str(value)
        for column, value in values.items()
    }
    return Row(name, {"name": name, **texts})


def plan(kind: Kind, dev: list[Row], prod: list[Row] | None = None, keep: tuple[str, ...] = ()) -> TablePlan:
    names = dict.fromkeys(column for one in (*dev, *(prod or ())) for column in one.values)
    columns = {
        name: Column(name, "jsonb" if name in _JSON else "text", None, fixed=False, reference=False) for name in names
    }
    table = Table("public", kind.table)
    states = [
        TableState(side, kind, table, columns, tuple(rows)) for side, rows in (("DEV", dev), ("PROD", prod or []))
    ]
    return plan_table(states[0], states[1], {}, keep)


def judged(component: Mapping[str, object], template: Mapping[str, object], name: str = "group::one") -> list[Finding]:
    return archon_model.findings(
        plan(COMPONENTS, [row(name, {**_COMPONENT, **component})]),
        plan(DEFINITIONS, [row("workflow", {**_TEMPLATE, **template})]),
    )


def test_rows_that_the_model_takes_are_not_told_of() -> None:
    assert judged({}, {}) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"template_type": "global"}, "template_type is 'global', not one of project, task, component"),
        ({"template_type": None}, "template_type is NULL"),
        ({"category": None}, "category is NULL"),
        ({"description": None}, "description is NULL"),
        ({"tags": None}, "tags is not a list of strings"),
        ({"tags": ["a", 1]}, "tags is not a list of strings"),
    ],
)
def test_a_refused_template_is_not_found_by_archon(values: dict[str, object], words: str) -> None:
    (finding,) = judged({}, values)
    assert (finding.code, finding.severity) == ("template_refused_by_archon", "warning")
    assert finding.object == "PROD public.archon_template_definitions: workflow"
    assert words in finding.message
    assert "no such template" in finding.message
    assert "DEV" in finding.remedy


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"priority": "urgent"}, "priority is 'urgent', not one of low, medium, high, critical"),
        ({"priority": ""}, "priority is ''"),
        ({"category": None}, "category is NULL"),
        ({"required_tools": "git"}, "required_tools is not a list of strings"),
        ({"validation_criteria": [None]}, "validation_criteria is not a list of strings"),
        ({"input_requirements": []}, "input_requirements is not an object"),
        ({"output_expectations": None}, "output_expectations is not an object"),
    ],
)
def test_the_placeholder_of_a_refused_component_stays(values: dict[str, object], words: str) -> None:
    (finding,) = judged(values, {})
    assert (finding.code, finding.severity) == ("component_refused_by_archon", "warning")
    assert words in finding.message
    assert "{{group::one}} stays in every text made from workflow, and Archon reports success" in finding.message


def test_a_refused_component_that_no_active_template_names_is_only_mentioned() -> None:
    (finding,) = judged({"category": None}, {"is_active": "false"})
    assert (finding.severity, "no active one does" in finding.message) == ("info", True)


def test_inactive_rows_are_nobodys_concern() -> None:
    assert judged({"category": None, "is_active": "false"}, {"category": None, "is_active": "false"}) == []


def test_names_that_the_model_refuses_or_lowers() -> None:
    (finding,) = judged({}, {}, "group:one")
    assert (finding.code, finding.severity) == ("component_refused_by_archon", "info")
    (finding,) = judged({}, {}, "group::One")
    assert (finding.code, finding.severity) == ("component_name_lowered", "info")
    template = plan(DEFINITIONS, [row("Workflow", _TEMPLATE)])
    (finding,) = archon_model.findings(plan(COMPONENTS, []), template)
    assert "the name is not like [a-z0-9_-]+" in finding.message


def test_columns_that_a_table_does_not_have_are_not_asked_for() -> None:
    components = plan(COMPONENTS, [row("group::one", {"instruction_text": "x"})])
    assert archon_model.findings(components, plan(DEFINITIONS, [row("workflow", {"title": "x"})])) == []


def test_a_list_may_be_an_array_of_the_database_but_not_a_text() -> None:
    def with_tags(kind: str, stored: str) -> list[Finding]:
        table = Table("public", COMPONENTS.table)
        columns = {"name": Column("name", "text", None, False, False), "tags": Column("tags", kind, None, False, False)}
        dev = TableState(
            "DEV", COMPONENTS, table, columns, (Row("group::one", {"name": "group::one", "tags": stored}),)
        )
        return archon_model.findings(
            plan_table(dev, TableState("PROD", COMPONENTS, table, columns), {}), plan(DEFINITIONS, [])
        )

    assert with_tags("text[]", "{a}") == []
    assert [finding.code for finding in with_tags("text", '["a"]')] == ["component_refused_by_archon"]


def test_the_remedy_names_the_database_that_has_the_last_word() -> None:
    bad, odd = row("workflow", {**_TEMPLATE, "category": None}), row("workflow", {**_TEMPLATE, "tags": 1})
    nothing = plan(COMPONENTS, [])
    (only_in_prod,) = archon_model.findings(nothing, plan(DEFINITIONS, [], [bad]))
    (kept,) = archon_model.findings(nothing, plan(DEFINITIONS, [bad], [odd], keep=("workflow",)))
    assert [finding.remedy for finding in (only_in_prod, kept)] == ["Correct or deactivate the row in PROD."] * 2
    assert "tags" in kept.message
    assert "category" not in kept.message


_TEXTS = st.none() | st.sampled_from(["", "text", "medium", "project", "global"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "a"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=3,
)
_TEMPLATES = st.fixed_dictionaries(
    {"title": st.just("t"), "template_data": st.just({"template_content": _CONTENT}), "is_active": st.just("true")},
    optional={"template_type": _TEXTS, "description": _TEXTS, "category": _TEXTS, "tags": _VALUES},
)
_COMPONENTS = st.fixed_dictionaries(
    {"instruction_text": st.just("x"), "is_active": st.just("true"), "priority": _TEXTS},
    optional={"description": _TEXTS, "category": _TEXTS, **dict.fromkeys((*_LISTS, *_OBJECTS), _VALUES)},
)


@settings(deadline=None)
@given(st.sampled_from(["workflow", "Workflow", "a b", "", "a-b_1"]), _TEMPLATES)
def test_the_labs_archon_refuses_the_same_templates(name: str, values: dict[str, object]) -> None:
    given_type = {"template_type": "project", **values}
    found = archon_model.findings(plan(COMPONENTS, []), plan(DEFINITIONS, [row(name, given_type)]))
    assert bool(found) == bool(problems_of_template({"name": name, **given_type}))


@settings(deadline=None)
@given(st.sampled_from(["group::one", "Group::One", "thing::one", "group::", "group::a-b"]), _COMPONENTS)
def test_the_labs_archon_refuses_the_same_components(name: str, values: dict[str, object]) -> None:
    found = archon_model.findings(plan(COMPONENTS, [row(name, values)]), plan(DEFINITIONS, []))
    refused = [finding for finding in found if finding.code == "component_refused_by_archon"]
    assert bool(refused) == bool(problems_of_component({"name": name, **values}))
