"""Assignments: which template a project or a task has. They name one environment's rows by their ids, so each is carried over
only where PROD has exactly one project (and task) of the same title."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from ..database.session import Session
from ..database.target import Table
from ..findings import Finding
from ..plan import Statement
from ..preservation.fingerprint import columns_of
from .model import INJECTION
from .planner import Move

TABLE = "archon_template_assignments"
_NEEDED = frozenset(("id", "hierarchy_type", "hierarchy_id"))
# The row's own, the environment's, or what the server fills in.
_OWN = frozenset(
    ("id", "hierarchy_id", "entity_id", "template_id", "created_at", "updated_at", "assigned_at", "effective_from", "effective_until")
)  # fmt: skip
_FOLLOWED = ("project", "task")
_BREAKING = """
SELECT p.proname AS name FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_proc p ON p.oid = t.tgfoid WHERE n.nspname = %s AND c.relname = %s AND NOT t.tgisinternal
  AND p.prosrc ~ 'entity_id' AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'entity_id' AND NOT a.attisdropped)
"""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One row. `place` says what it is about by titles (None: that cannot be told), `owner` by an id, `template` by its name."""

    kind: str
    place: tuple[str, ...] | None
    owner: str
    template: str | None
    values: Mapping[str, str | None]

    def __str__(self) -> str:
        where = " / ".join(self.place) if self.place else self.owner
        return f"{self.kind} {where} -> {self.template or 'no template'}"


@dataclass(frozen=True, slots=True)
class Assignments:
    """The table of one database; without columns there is none. `places` has the ids of all that bear the same titles."""

    database: str
    table: Table
    columns: tuple[str, ...] = ()
    rows: tuple[Assignment, ...] = ()
    places: Mapping[tuple[str, ...], Sequence[str]] = field(default_factory=dict)
    breaking: str = ""


@dataclass(frozen=True, slots=True)
class Planned:
    """What is inserted, the injection templates that this needs, and what is told of the rest."""

    moves: tuple[Move, ...] = ()
    needs: frozenset[str] = frozenset()
    unchanged: int = 0
    findings: tuple[Finding, ...] = ()


def read(session: Session) -> Assignments:
    """All assignments, with what they are about by titles."""
    schema = session.context.schemas[0]
    table, injection = Table(schema, TABLE), Table(schema, INJECTION.table)
    columns = columns_of(session, table)
    places = _places(session, schema)
    if not _NEEDED.issubset(columns):
        return Assignments(session.target.name, table, (), (), places)
    by_id = {one: place for place, ids in places.items() for one in ids}
    linked = "template_id" in columns and {"id", "name"}.issubset(columns_of(session, injection))
    name: sql.Composable = sql.SQL("i.name::text") if linked else sql.SQL("NULL::text")
    if "template_name" in columns:
        name = sql.SQL("coalesce({}, t.template_name::text)").format(name)
    carried = [column for column in columns if column not in _OWN]
    query = sql.SQL(
        "SELECT t.hierarchy_type::text AS kind, t.hierarchy_id::text AS owner, {name} AS template, ARRAY[{values}]::text[] AS texts"
        " FROM {table} AS t {join} ORDER BY t.id"
    ).format(
        name=name,
        values=sql.SQL(", ").join(sql.SQL("t.{}::text").format(sql.Identifier(column)) for column in carried),
        table=table.identifier,
        join=sql.SQL("LEFT JOIN {} AS i ON i.id = t.template_id").format(injection.identifier)
        if linked
        else sql.SQL(""),
    )
    rows = tuple(_assignment(row, carried, by_id) for row in session.rows(query))
    broken = session.rows(_BREAKING, (schema, TABLE))
    return Assignments(session.target.name, table, columns, rows, places, broken[0]["name"] if broken else "")


def _assignment(row: Mapping[str, Any], carried: Sequence[str], by_id: Mapping[str, tuple[str, ...]]) -> Assignment:
    kind = row["kind"] or ""
    place = by_id.get(row["owner"] or "") if kind in _FOLLOWED else None
    values = dict(zip(carried, row["texts"], strict=True))
    return Assignment(kind, place, row["owner"] or "", row["template"], values)


def _places(session: Session, schema: str) -> dict[tuple[str, ...], list[str]]:
    """The ids of projects by title, of tasks by their project's title and their own."""
    found: dict[tuple[str, ...], list[str]] = {}
    projects, tasks = Table(schema, "archon_projects"), Table(schema, "archon_tasks")
    if not {"id", "title"}.issubset(columns_of(session, projects)):
        return found
    query = sql.SQL("SELECT id::text AS id, title FROM {} ORDER BY id").format(projects.identifier)
    for row in session.rows(query):
        found.setdefault((row["title"],), []).append(row["id"])
    if {"id", "title", "project_id"}.issubset(columns_of(session, tasks)):
        query = sql.SQL(
            "SELECT t.id::text AS id, t.title, p.title AS project FROM {} AS t JOIN {} AS p ON p.id = t.project_id ORDER BY t.id"
        ).format(tasks.identifier, projects.identifier)
        for row in session.rows(query):
            found.setdefault((row["project"], row["title"]), []).append(row["id"])
    return found


def plan(dev: Assignments, prod: Assignments, injection: Collection[str], definitions: Collection[str] = ()) -> Planned:
    """Insert what DEV has and PROD lacks, where both ends are found. `injection` and `definitions` are the names of DEV's
    templates: an assignment refers to one of the first by its id, to one of either by its name."""
    if not dev.rows:
        return Planned()
    if prod.breaking:
        return Planned(findings=(_broken(prod, len(dev.rows)),))
    there = Counter((row.kind, row.owner, row.template) for row in prod.rows)
    by_place = {(row.kind, row.place, row.template) for row in prod.rows if row.place}
    moves: list[Move] = []
    needs: set[str] = set()
    left: list[tuple[Assignment, str]] = []
    unchanged = 0
    seen: set[tuple[str, str, str]] = set()
    for row in dev.rows:
        targets = prod.places.get(row.place, ()) if row.place else ()
        reason = _why_not(row, dev, len(targets), {*injection, *definitions})
        if reason:
            left.append((row, reason))
            continue
        key = (row.kind, targets[0], row.template or "")
        if there[(row.kind, targets[0], row.template)] or (row.kind, row.place, row.template) in by_place:
            unchanged += 1
        elif key not in seen:
            moves.append(_move(dev, prod, row, targets[0]))
            seen.add(key)
            needs |= {row.template or ""} & set(injection)
    return Planned(tuple(moves), frozenset(needs), unchanged, tuple(_left(prod, left)))


def _why_not(row: Assignment, dev: Assignments, targets: int, templates: Collection[str]) -> str:
    if row.kind not in _FOLLOWED:
        return f"nothing tells which {row.kind or 'thing'} of PROD it would be about"
    if row.place is None:
        return "what it is about does not exist in DEV"
    if len(dev.places.get(row.place, ())) != 1:
        return "DEV has several of that title"
    if targets != 1:
        return "PROD has none of that title" if not targets else f"PROD has {targets} of that title"
    return "" if row.template in templates else "its template does not exist in DEV"


def _move(dev: Assignments, prod: Assignments, row: Assignment, owner: str) -> Move:
    columns = prod.columns or dev.columns
    values: dict[str, sql.Composable] = {
        name: sql.Literal(value) for name, value in row.values.items() if name in columns
    }
    values["hierarchy_id"] = sql.Literal(owner)
    if "entity_id" in columns:
        values["entity_id"] = sql.Literal(owner)
    if "template_id" in columns:
        values["template_id"] = sql.SQL("(SELECT id FROM {} WHERE name = {})").format(
            Table(prod.table.schema, INJECTION.table).identifier, sql.Literal(row.template)
        )
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        prod.table.identifier,
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(values.values()),
    )
    statement = Statement(query.as_string(None), str(prod.table), f"Create assignment {row}")
    return Move(str(row), statement, None, dict(row.values))


def _left(prod: Assignments, left: Sequence[tuple[Assignment, str]]) -> list[Finding]:
    if not left:
        return []
    words = "; ".join(f"{row}: {reason}" for row, reason in left)
    return [
        Finding(
            "assignments_not_moved",
            "info",
            str(prod.table),
            f"{len(left)} of DEV's assignments have no place in PROD. {words}.",
            "Make them anew in PROD where they are wanted.",
        )
    ]


def _broken(prod: Assignments, number: int) -> Finding:
    return Finding(
        "assignments_trigger_broken",
        "warning",
        f"{prod.database} {prod.table}",
        f"Trigger function {prod.breaking} reads a column entity_id that the table does not have, so every insert fails; "
        f"{number} assignments of DEV were not moved.",
        "Add the column (the schema phase does where DEV has it), or drop the trigger.",
    )
