"""Removing what validation has created, now or in a run that was killed: exactly the rows with the marker and what hangs on them,
in one transaction that proves every other row of the protected tables untouched."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from ...database.own_rows import MARKER, OwnRows
from ...database.session import Session
from ...database.target import Table
from ...database.transaction import LockMode, protected_transaction
from ...errors import AlignError, PreservationBroken
from ...findings import Finding
from ...preservation.fingerprint import existing
from ...preservation.proof import Proof
from ...report.wording import plural
from .marker import SOURCE, TITLE, Journal

_TRIES = 3
_SOURCES, _PAGES, _EXAMPLES = "archon_sources", "archon_crawled_pages", "archon_code_examples"
_PROJECTS, _TASKS = "archon_projects", "archon_tasks"
# What hangs on a throw-away project or task, by the column that says so.
_HANGING = (
    ("archon_document_versions", "task_id", _TASKS),
    ("archon_document_versions", "project_id", _PROJECTS),
    ("archon_project_sources", "project_id", _PROJECTS),
    ("archon_components", "project_id", _PROJECTS),
)
# Children before those they refer to.
_ORDER = (
    *("archon_document_versions", "archon_project_sources", _TASKS, "archon_components", _PROJECTS),
    *(_EXAMPLES, _PAGES, _SOURCES),
)
_WRITES = """
SELECT n.nspname AS schema, c.relname AS name, sum(s.n_tup_ins) AS inserted, sum(s.n_tup_upd) AS updated, sum(s.n_tup_del) AS deleted
FROM pg_stat_xact_user_tables s JOIN pg_class c ON c.oid = coalesce(pg_partition_root(s.relid), s.relid)
JOIN pg_namespace n ON n.oid = c.relnamespace GROUP BY 1, 2
"""
# Whose rows the server deletes or changes along with those they refer to.
_REFERRING = """
SELECT DISTINCT n.nspname AS schema, c.relname AS name FROM pg_constraint f
JOIN pg_class t ON t.oid = f.confrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
JOIN pg_class c ON c.oid = f.conrelid AND NOT c.relispartition JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE f.contype = 'f' AND f.confdeltype IN ('c', 'n', 'd') AND (tn.nspname, t.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""


@dataclass(frozen=True, slots=True)
class Created:
    """Rows that carry a marker, in the order in which they can go; and why some of them stay."""

    rows: tuple[OwnRows, ...] = ()
    kept: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Removed:
    """How many rows went, by table, with the proofs."""

    counts: Mapping[str, int] = field(default_factory=dict)
    proofs: Sequence[Proof] = ()
    findings: Sequence[Finding] = ()

    @property
    def total(self) -> int:
        return sum(self.counts.values())


class _Moved(AlignError):
    """Somebody has written between the look and the lock."""


def find(session: Session) -> Created:
    """Every row with a marker, of whichever run, with what hangs on it."""
    schema = session.context.schemas[0]
    there = existing(session, [Table(schema, name) for name in _ORDER])
    columns = {table.name: frozenset(names) for table, names in there.items()}
    found: dict[str, list[OwnRows]] = {name: [] for name in _ORDER}
    kept: list[Finding] = []

    def has(table: str, *names: str) -> bool:
        return columns.get(table, frozenset()).issuperset(names)

    if has(_SOURCES, "source_id"):
        found[_SOURCES] = _marked(session, Table(schema, _SOURCES), "source_id", "source_id", SOURCE)
        for name in (_PAGES, _EXAMPLES):
            if has(name, "id", "source_id"):
                for sources in found[_SOURCES]:
                    found[name] += _of_source(session, Table(schema, name), sources)
    for name in (_TASKS, _PROJECTS):
        if has(name, "id", "title"):
            found[name] = _marked(session, Table(schema, name), "id", "title", TITLE)
    if has(_TASKS, "id", "title", "parent_task_id"):
        below = sql.SQL("title !~ {}").format(sql.Literal(TITLE))
        found[_TASKS], used = _free(session, found[_TASKS], Table(schema, _TASKS), "parent_task_id", below)
        kept += used
    if has(_TASKS, "id", "title", "project_id"):
        going = sql.SQL(", ").join(sql.Literal(one) for rows in found[_TASKS] for one in rows.ids)
        inside = sql.SQL("NOT id::text = ANY (ARRAY[{}]::text[])").format(going)
        found[_PROJECTS], used = _free(session, found[_PROJECTS], Table(schema, _TASKS), "project_id", inside)
        kept += used
    for name, column, owners in _HANGING:
        if has(name, "id", column):
            known = {one for rows in found[name] for one in rows.ids}
            for owner in found[owners]:
                found[name] += _hanging(session, Table(schema, name), column, owner, known)
    return Created(tuple(rows for name in _ORDER for rows in found[name]), tuple(kept))


def remove(session: Session, journal: Journal | None = None) -> Removed:
    """Remove whatever carries a marker; nothing when there is nothing. Somebody who writes meanwhile is waited for.

    Raises AlignError when it cannot be done without touching other rows; nothing is removed then.
    """
    for attempt in range(_TRIES):
        created = find(session)
        if not created.rows:
            return Removed(findings=created.kept)
        try:
            proofs = _remove(session, created.rows)
        except (_Moved, PreservationBroken):
            if attempt + 1 == _TRIES:
                raise
            continue
        counts: dict[str, int] = {}
        for rows in created.rows:
            counts[str(rows.table)] = counts.get(str(rows.table), 0) + len(rows.ids)
        if journal is not None:
            journal.removed(counts)
        return Removed(counts, proofs, created.kept)
    raise AssertionError("unreachable: the last try either returned or raised")


def as_finding(error: AlignError) -> Finding:
    """What is told when a run's own rows had to stay."""
    return Finding(
        "canary_not_removed",
        "warning",
        error.object_name,
        f"What validation had created could not be removed: {error.what} {error.found}",
        f"{error.remedy} The next run with archon_validate_write removes it; by hand, delete the rows whose title or"
        " source_id has archon-align-canary- in it.",
    )


def told(removed: Removed, *, strays: bool) -> list[Finding]:
    """The findings of a removal; what a killed run had left is always told."""
    if not strays or not removed.counts:
        return list(removed.findings)
    words = ", ".join(f"{plural(number, 'row')} of {table}" for table, number in removed.counts.items())
    return [
        *removed.findings,
        Finding(
            "canary_leftovers_removed",
            "info",
            ", ".join(removed.counts),
            f"An earlier run had not come to remove what its validation created: {words}. They are removed now.",
            "Nothing to do: every other row of the protected tables is proved untouched.",
        ),
    ]


def _marked(session: Session, table: Table, key: str, column: str, form: str) -> list[OwnRows]:
    query = sql.SQL(
        "SELECT pg_catalog.substring({marked}, {marker}) AS marker, pg_catalog.array_agg({key}::text ORDER BY {key}) AS ids"
        " FROM {table} WHERE {marked} ~ {form} GROUP BY 1 ORDER BY 1"
    ).format(
        marked=sql.Identifier(column),
        # Without a group: the whole of what matches.
        marker=sql.Literal(re.sub(r"[()]", "", MARKER.pattern)),
        key=sql.Identifier(key),
        table=table.identifier,
        form=sql.Literal(form),
    )
    return [OwnRows(table, tuple(row["ids"]), column, row["marker"], key=key) for row in session.rows(query)]


def _of_source(session: Session, table: Table, sources: OwnRows) -> list[OwnRows]:
    query = sql.SQL("SELECT id::text AS id FROM {} WHERE source_id = ANY (%s::text[]) ORDER BY id").format(
        table.identifier
    )
    ids = tuple(row["id"] for row in session.rows(query, (list(sources.ids),)))
    return [OwnRows(table, ids, "source_id", sources.marker)] if ids else []


def _hanging(session: Session, table: Table, column: str, owner: OwnRows, known: set[str]) -> list[OwnRows]:
    query = sql.SQL("SELECT id::text AS id FROM {} WHERE {}::text = ANY (%s::text[]) ORDER BY id").format(
        table.identifier, sql.Identifier(column)
    )
    ids = tuple(row["id"] for row in session.rows(query, (list(owner.ids),)) if row["id"] not in known)
    return [OwnRows(table, ids, owner=owner, belongs=column)] if ids else []


def _free(
    session: Session, ours: list[OwnRows], tasks: Table, column: str, others: sql.Composable
) -> tuple[list[OwnRows], list[Finding]]:
    """Those of our rows to which no task refers by `column` that is one of the `others`, which stay; and what is told of the rest."""
    query = sql.SQL(
        "SELECT {column}::text AS id, pg_catalog.count(*) AS tasks FROM {tasks} WHERE {column}::text = ANY (%s::text[]) AND {others} GROUP BY 1"
    ).format(column=sql.Identifier(column), tasks=tasks.identifier, others=others)
    free, kept = [], []
    for rows in ours:
        used = {row["id"]: row["tasks"] for row in session.rows(query, (list(rows.ids),))}
        if ids := tuple(one for one in rows.ids if one not in used):
            free.append(OwnRows(rows.table, ids, rows.marked, rows.marker))
        kept += [_stays(rows.table, one, plural(number, "task")) for one, number in used.items()]
    return free, kept


def _stays(table: Table, key: str, tasks: str) -> Finding:
    return Finding(
        "canary_kept",
        "warning",
        f"{table} {key}",
        f"A throw-away row of validation stays, because somebody has put {tasks} of theirs there.",
        "Move what is somebody's elsewhere; the next run with archon_validate_write removes the row.",
    )


def _remove(session: Session, rows: Sequence[OwnRows]) -> list[Proof]:
    expected: dict[Table, int] = {}
    for one in rows:
        expected[one.table] = expected.get(one.table, 0) + len(one.ids)
    names = [table.schema for table in expected], [table.name for table in expected]
    referring = [Table(row["schema"], row["name"]) for row in session.rows(_REFERRING, names)]
    locks = dict.fromkeys([*expected, *referring], LockMode.WRITE)
    before: dict[Table, tuple[int, int, int]] = {}

    def act() -> None:
        before.update(_writes(session))
        for one in rows:
            if (number := session.remove(one)) != len(one.ids):
                raise _moved(one.table, f"{number} of {len(one.ids)} rows were still there")

    def verify() -> None:
        if session.value("SHOW track_counts") != "on":
            return
        for table, now in _writes(session).items():
            then = before.get(table, (0, 0, 0))
            done = tuple(new - old for new, old in zip(now, then, strict=True))
            if done != (0, 0, expected.get(table, 0)):
                inserted, updated, deleted = done
                raise _moved(
                    table,
                    f"{inserted} rows would be inserted, {updated} changed, {deleted} deleted instead of {expected.get(table, 0)}",
                )

    _, proofs = protected_transaction(session, act, locks=locks, verify=verify, removing=rows)
    return proofs


def _writes(session: Session) -> dict[Table, tuple[int, int, int]]:
    """Rows inserted, changed and deleted by this session that the server has counted so far, by table."""
    return {
        Table(row["schema"], row["name"]): (int(row["inserted"]), int(row["updated"]), int(row["deleted"]))
        for row in session.rows(_WRITES)
    }


def _moved(table: Table, found: str) -> _Moved:
    return _Moved(
        "The rows that validation created could not be removed alone; the transaction was rolled back.",
        object_name=str(table),
        expected="exactly the rows with the marker, and none besides",
        found=found,
        remedy="Nothing was removed. Look for a trigger, or for somebody who uses the throw-away rows.",
        code="canary_not_removed",
    )
