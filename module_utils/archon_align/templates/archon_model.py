"""What Archon's own Python model refuses although the database holds it, told by what expansion then does. Pure.

The database's types are wider than the model: a template of type `global` is stored and never found, a component without a
category is stored and its placeholder stays in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..findings import Finding
from .model import Column, Row
from .placeholders import content_of, names_in
from .planner import TablePlan

_JSON = ("json", "jsonb")


@dataclass(frozen=True, slots=True)
class _Model:
    """What the columns of one table must hold; a column that the table does not have is none of the model's business.

    `name`: what a name looks like once the model has put it into lower case, where it does (`lowered`). `choices`: a column's
    values; `texts` must not be NULL; `lists` hold strings alone; `objects` are JSON objects.
    """

    name: re.Pattern[str]
    lowered: bool
    choices: tuple[str, tuple[str, ...]]
    texts: tuple[str, ...]
    lists: tuple[str, ...]
    objects: tuple[str, ...] = ()


_TEMPLATE = _Model(
    re.compile(r"[a-z0-9_-]+"),
    lowered=False,
    choices=("template_type", ("project", "task", "component")),
    texts=("title", "description", "category"),
    lists=("tags",),
)
_COMPONENT = _Model(
    re.compile(r"(action|group|sequence)::[a-z0-9_]+"),
    lowered=True,
    choices=("priority", ("low", "medium", "high", "critical")),
    texts=("instruction_text", "description", "category"),
    lists=("required_tools", "tags", "validation_criteria"),
    objects=("input_requirements", "output_expectations"),
)


def findings(components: TablePlan, definitions: TablePlan) -> list[Finding]:
    """Active rows, as PROD will hold them, that the model refuses or reads otherwise than they are stored."""
    users = _users(definitions)
    found = [finding for row in _active(definitions) for finding in _of_template(definitions, row)]
    for row in _active(components):
        found.extend(_of_component(components, row, users.get(row.name, [])))
    return found


def _of_template(plan: TablePlan, row: Row) -> Iterator[Finding]:
    refused = _refused(_TEMPLATE, row, _columns(plan))
    if refused:
        yield Finding(
            "template_refused_by_archon",
            "warning",  # a live Archon may be newer or older; whether it expands is seen by validation
            f"{plan.prod}: {row.name}",
            f"Archon's model refuses this row ({'; '.join(refused)}), so it says that there is no such template, and a task made "
            "with it keeps its bare text.",
            _remedy(plan, row),
        )


def _of_component(plan: TablePlan, row: Row, users: list[str]) -> Iterator[Finding]:
    where = f"{plan.prod}: {row.name}"
    refused = _refused(_COMPONENT, row, _columns(plan))
    if refused:
        consequence = (
            f"so {{{{{row.name}}}}} stays in every text made from {', '.join(users)}, and Archon reports success"
            if users
            else "so a template that names it would keep its placeholder; no active one does"
        )
        yield Finding(
            "component_refused_by_archon",
            "warning" if users else "info",
            where,
            f"Archon's model refuses this row ({'; '.join(refused)}), {consequence}.",
            _remedy(plan, row),
        )
    elif row.name != row.name.lower():
        yield Finding(
            "component_name_lowered",
            "info",
            where,
            f"Archon's model reads this name as {row.name.lower()}, but looks components up exactly as a placeholder writes them.",
            f"Name it in lower case, in {_side(plan, row)} and in the templates that use it.",
        )


def _refused(model: _Model, row: Row, columns: Mapping[str, Column]) -> list[str]:
    """What is wrong with a row, each in words; empty when the model takes it."""
    found = []
    if not model.name.fullmatch(row.name.lower() if model.lowered else row.name):
        found.append(f"the name is not like {model.name.pattern}")
    column, values = model.choices
    if column in row.values and row.values[column] not in values:
        stored = "NULL" if row.values[column] is None else repr(row.values[column])
        found.append(f"{column} is {stored}, not one of {', '.join(values)}")
    found.extend(f"{name} is NULL" for name in model.texts if name in row.values and row.values[name] is None)
    found.extend(
        f"{name} is not a list of strings"
        for name in model.lists
        if name in row.values and not _is_list(row.values[name], columns.get(name))
    )
    found.extend(
        f"{name} is not an object"
        for name in model.objects
        if name in row.values and not isinstance(_value(row.values[name], columns.get(name)), dict)
    )
    return found


def _is_list(text: str | None, column: Column | None) -> bool:
    if text is not None and column is not None and column.type.endswith("[]"):
        return True
    value = _value(text, column)
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _value(text: str | None, column: Column | None) -> object:
    """What Archon gets of a column: JSON comes as what it says, anything else as a text."""
    if text is None or column is None or column.type not in _JSON:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _columns(plan: TablePlan) -> dict[str, Column]:
    return {**plan.prod.columns, **plan.dev.columns}


def _active(plan: TablePlan) -> list[Row]:
    return [row for _, row in sorted(plan.result.items()) if row.active]


def _users(definitions: TablePlan) -> dict[str, list[str]]:
    """The active templates that name each component."""
    found: dict[str, list[str]] = {}
    for row in _active(definitions):
        for name in names_in(content_of(row) or ""):
            found.setdefault(name, []).append(row.name)
    return found


def _side(plan: TablePlan, row: Row) -> str:
    return "DEV" if row.name in {one.name for one in plan.dev.rows} and row.name not in plan.kept else "PROD"


def _remedy(plan: TablePlan, row: Row) -> str:
    side = _side(plan, row)
    return f"Correct or deactivate the row in {side}" + (", and run again." if side == "DEV" else ".")
