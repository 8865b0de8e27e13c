"""What a person should know about the move beyond what was moved."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from ..database.target import Table
from ..findings import Finding
from .model import COMPONENTS, DEFINITIONS, TableState
from .planner import TablePlan, duplicates, moved_columns

# Tables that belong to the template system but are not moved, and why.
NOT_MOVED = {
    "archon_template_assignment_cache": "it is a cache",
    "archon_components": "its rows belong to one environment's projects",
    "archon_component_dependencies": "its rows belong to one environment's projects",
}
# What names DEV's own services; copied into PROD such a text sends work to DEV.
_DEV_WORDS = ("archon-dev", "dev-archon", ":9181", ":9051")


def findings(plans: Sequence[TablePlan], not_moved: Mapping[Table, int]) -> list[Finding]:
    """All findings of the move itself; those about placeholders come from their check."""
    found = [finding for plan in plans for finding in _of_table(plan)]
    if not_moved:
        listed = "; ".join(f"{table.name} ({rows} rows): {NOT_MOVED[table.name]}" for table, rows in not_moved.items())
        found.append(
            Finding(
                "not_moved",
                "info",
                "DEV",
                f"These belong to one environment alone and were not moved. {listed}.",
                "Nothing to do.",
            )
        )
    return found


def _of_table(plan: TablePlan) -> Iterator[Finding]:
    dev, prod = plan.dev, plan.prod
    if not dev.columns:
        if dev.kind not in (COMPONENTS, DEFINITIONS):
            return
        yield Finding(
            "no_table_in_dev",
            "warning",
            str(dev),
            "DEV has no such table, so there was nothing to move.",
            "See that the DEV DSN and archon_schema_names point at Archon's database.",
        )
        return
    for state in (dev, prod):
        if state.unnamed:
            yield Finding(
                "row_without_name",
                "warning",
                str(state),
                f"{state.unnamed} rows have no name, their key across databases; they were left alone.",
                f"Name them in {state.database}.",
            )
    for name in duplicates(prod.rows):
        yield Finding(
            "duplicate_name",
            "warning",
            f"{prod}: {name}",
            "PROD has this name more than once; DEV does not have it, so the rows were left alone.",
            "Archon looks templates and components up by name: keep one.",
        )
    for name in plan.doubled:
        yield Finding(
            "duplicate_name",
            "warning",
            f"{prod}: {name}",
            f"DEV or PROD has more than one {dev.kind.word} of this name, so all of them were left alone.",
            "Rename all but one where they differ, and run again.",
        )
    yield from _similar(plan)
    yield from _dev_words(plan)
    yield from _references(dev)
    if dev.kind is DEFINITIONS and "is_active" not in dev.columns and "is_active" not in prod.columns:
        yield Finding(
            "is_active_missing",
            "error",
            str(prod),
            "The table has no column is_active. Archon looks templates up by name and is_active, so every expansion fails.",
            "Add it in DEV (boolean NOT NULL DEFAULT true) and run again with --tags schema,templates.",
        )


def _similar(plan: TablePlan) -> Iterator[Finding]:
    groups: dict[str, set[str]] = {}
    for name in plan.result:
        groups.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), set()).add(name)
    for names in groups.values():
        if len(names) > 1:
            yield Finding(
                "similar_names",
                "warning",
                f"{plan.prod}: {', '.join(sorted(map(repr, names)))}",
                "These names differ only in case, blanks or Unicode form; PROD holds each as a row of its own.",
                "If they mean the same, rename one and see which templates use it.",
            )


def _dev_words(plan: TablePlan) -> Iterator[Finding]:
    for row in plan.dev.rows:
        texts = [row.values[column.name] or "" for column in moved_columns(plan.dev)]
        words = [word for word in _DEV_WORDS if any(word in text for text in texts)]
        if words:
            yield Finding(
                "environment_specific_text",
                "warning",
                f"{plan.prod}: {row.name}",
                f"The text names DEV's own services ({', '.join(words)}); it was moved as it is.",
                "Name the tools without their environment in DEV, and run again.",
            )


def _references(dev: TableState) -> Iterator[Finding]:
    for column in dev.columns.values():
        used = sum(row.values[column.name] is not None for row in dev.rows)
        if column.reference and column.name != dev.kind.parent and used:
            yield Finding(
                "reference_not_moved",
                "warning",
                f"{dev}.{column.name}",
                f"{used} rows refer to another table by an id of DEV's, which means nothing in PROD; PROD keeps its own values.",
                "Set these references in PROD by hand where they are wanted.",
            )
