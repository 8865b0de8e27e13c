"""A task created through Archon's API in a throw-away project: is its description the whole expanded template?"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from ...application.server import ArchonRefused
from ...database.target import Table
from ...preservation.fingerprint import columns_of
from .marker import Journal, new_marker
from .model import EXPANSION, Check, by_data, in_archon, works
from .texts import PROJECT, TASK
from .world import World

DEFAULT = "workflow_default"
_USER_TASK = "{{USER_TASK}}"
_PLACEHOLDER = re.compile(r"\{\{([^}]+)\}\}")
_SENDS = 3
_PROJECT_SECONDS = 30.0
_POLL_SECONDS = 0.3
# What Archon's own model takes; a row outside of it reads as "not found".
_TYPES = ("project", "task", "component")
_PRIORITIES = ("low", "medium", "high", "critical")


@dataclass(frozen=True, slots=True)
class Wanted:
    """An active template, what it should make of the task's text, and what is wrong with its rows ('' for nothing)."""

    name: str
    text: str
    problem: str = ""


def check_expansion(world: World, journal: Journal) -> Check | None:
    """Create, read back, judge the last of up to three tasks; None where there is no template to expand. Raises AlignError."""
    wanted = _wanted(world)
    if wanted is None:
        return None
    if wanted.problem:
        return by_data(
            EXPANSION, f"Template {wanted.name}: {wanted.problem}. Run the schema and templates phases.", mendable=True
        )
    marker = new_marker(world.session.context.run)
    journal.announce(marker, "project")
    world.archon.create_project(marker, PROJECT)
    project = _awaited(world, marker)
    if project is None:
        return in_archon(
            EXPANSION,
            "project_not_created",
            f"POST /api/projects said success, and in {_PROJECT_SECONDS:g} s no project was there.",
        )
    journal.made(marker, "archon_projects", project)
    journal.announce(marker, "task")
    found: Mapping[str, Any] = {}
    sends = 0
    while sends < _SENDS:
        sends += 1
        try:
            task = world.archon.create_task(project, marker, TASK, template_name=wanted.name)
        except ArchonRefused as error:
            return _refused(world, error)
        journal.made(marker, "archon_tasks", task.id)
        found = _stored(world, task.id)
        if found["description"] == wanted.text:
            break
    return _judged(wanted, found, sends)


def _judged(wanted: Wanted, found: Mapping[str, Any], sends: int) -> Check:
    text, metadata = str(found["description"] or ""), found.get("metadata") or {}
    if text == wanted.text and not metadata.get("expansion_failed"):
        again = "" if sends == 1 else (
            f" It took {sends} sends: Archon's own logging call fails the first ones at LOG_LEVEL INFO (known defect"
            " template_logger; at WARNING the first succeeds)."
        )  # fmt: skip
        return works(
            EXPANSION,
            f"A task expanded by {wanted.name} to all of its {len(text)} characters, nothing left to fill in.{again}",
        )
    left = _PLACEHOLDER.findall(text)
    if left:
        return by_data(
            EXPANSION,
            f"{wanted.name} leaves {', '.join(left)} unfilled: Archon finds no such active component.",
            mendable=True,
        )
    told = str(metadata.get("expansion_error") or "")
    if text.strip() == TASK.strip():
        return in_archon(
            EXPANSION,
            "template_logger",
            f"Sent {sends} times, the text stayed as it was{f' ({told})' if told else ''}, though {wanted.name} and all of its components are right in"
            " the database: Archon's own logging call fails while LOG_LEVEL is DEBUG, and the first times at INFO. Set LOG_LEVEL=WARNING.",
        )
    return by_data(
        EXPANSION,
        f"{wanted.name} expands to {len(text)} characters, which are not the {len(wanted.text)} that its rows make: archon-server keeps older"
        " templates in memory (30 minutes). Restart it.",
        mendable=False,
    )


def _refused(world: World, error: ArchonRefused) -> Check:
    if "template_metadata" not in columns_of(world.session, Table(world.session.context.schemas[0], "archon_tasks")):
        return by_data(
            EXPANSION,
            "archon_tasks has no column template_metadata: no task can be created at all. Run the schema phase.",
            mendable=True,
        )
    return in_archon(
        EXPANSION, "task_refused", f"POST /api/tasks was refused, though the table is right: {error.found}"
    )


def _wanted(world: World) -> Wanted | None:
    session = world.session
    schema = session.context.schemas[0]
    definitions, components = Table(schema, "archon_template_definitions"), Table(schema, "archon_template_components")
    columns = columns_of(session, definitions)
    if not columns or not columns_of(session, components):
        return None
    if "is_active" not in columns:
        return Wanted(DEFAULT, "", "the column is_active is missing, by which Archon looks for every template")
    row = session.row(
        sql.SQL(
            "SELECT pg_catalog.to_jsonb(t) AS template FROM {} t WHERE is_active ORDER BY name <> %s, name LIMIT 1"
        ).format(definitions.identifier),
        (DEFAULT,),
    )
    if row is None:
        return None
    template = row["template"]
    name, content = template["name"], (template["template_data"] or {}).get("template_content") or ""
    if problem := _template_problem(template, content):
        return Wanted(name, "", problem)
    names = [one for one in dict.fromkeys(_PLACEHOLDER.findall(content)) if one != "USER_TASK"]
    found = {
        one["component"]["name"]: one["component"]
        for one in session.rows(
            sql.SQL(
                "SELECT pg_catalog.to_jsonb(t) AS component FROM {} t WHERE name = ANY (%s::text[]) AND is_active"
            ).format(components.identifier),
            (names,),
        )
    }
    if missing := [one for one in names if one not in found]:
        return Wanted(name, "", f"no active component {', '.join(missing)}")
    for one in names:
        if problem := _component_problem(found[one]):
            return Wanted(name, "", f"component {one}: {problem}")
        content = content.replace("{{" + one + "}}", found[one]["instruction_text"])
    return Wanted(name, content.replace(_USER_TASK, TASK))


def _template_problem(template: Mapping[str, Any], content: str) -> str:
    if not content:
        return "no template_content"
    if template.get("template_type") not in _TYPES:
        return f"template_type {template.get('template_type')} is none that Archon's model takes ({', '.join(_TYPES)})"
    return _text_problem(template)


def _component_problem(component: Mapping[str, Any]) -> str:
    if component.get("priority", "medium") not in _PRIORITIES:
        return f"priority {component.get('priority')} is none that Archon's model takes ({', '.join(_PRIORITIES)})"
    return _text_problem(component) or ("" if component.get("instruction_text") else "no instruction_text")


def _text_problem(row: Mapping[str, Any]) -> str:
    empty = [name for name in ("category", "description") if name in row and not isinstance(row[name], str)]
    return f"{' and '.join(empty)} is NULL, which Archon's model does not take" if empty else ""


def _awaited(world: World, marker: str) -> str | None:
    """The project's id; some versions create it in the background."""
    deadline = time.monotonic() + _PROJECT_SECONDS
    query = sql.SQL("SELECT id::text FROM {} WHERE title = %s").format(
        Table(world.session.context.schemas[0], "archon_projects").identifier
    )
    while (found := world.session.value(query, (marker,))) is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return None if found is None else str(found)


def _stored(world: World, task: str) -> Mapping[str, Any]:
    query = sql.SQL(
        "SELECT description, pg_catalog.to_jsonb(t) -> 'template_metadata' AS metadata FROM {} t WHERE id::text = %s"
    )
    row = world.session.row(query.format(Table(world.session.context.schemas[0], "archon_tasks").identifier), (task,))
    return row or {"description": "", "metadata": {}}
