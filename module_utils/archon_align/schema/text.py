"""Plans and comparisons as people read them: plan.sql, plan.json and the grouped diff."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from ..plan import Statement
from .compare import MISSING, Comparison, Difference
from .model import readable
from .plan import SchemaPlan


def render_sql(plan: SchemaPlan, target: str = "PROD") -> str:
    """The plan as a script with a comment per statement, the refusals first."""
    lines = [f"-- {target}: {len(plan.statements)} statements, in one transaction"]
    for finding in plan.refused:
        lines.append(_comment(f"REFUSED {finding.object}: {finding.message}"))
        lines.append(_comment(f"        {finding.remedy}"))
    if plan.statements:
        opening = ("BEGIN", "SET LOCAL search_path = pg_catalog", "SET LOCAL check_function_bodies = off")
        lines += ["", *(f"{words};" for words in opening), ""]
        for statement in plan.statements:
            lines += _statement(statement)
        lines.append("COMMIT;")
    return "\n".join(lines) + "\n"


def _statement(statement: Statement) -> list[str]:
    hazards = f" [{', '.join(statement.hazards)}]" if statement.hazards else ""
    return [_comment(f"{statement.summary}{hazards}"), f"{statement.sql};", ""]


def _comment(text: str) -> str:
    return "\n".join(f"-- {line}" for line in readable(text).splitlines())


def as_json(plan: SchemaPlan) -> dict[str, Any]:
    """The plan with string keys and JSON types only."""
    return {
        "statements": [
            {"sql": one.sql, "object": one.object, "summary": one.summary, "hazards": list(one.hazards)}
            for one in plan.statements
        ],
        "refused": [finding.as_dict() for finding in plan.refused],
        "findings": [finding.as_dict() for finding in plan.findings],
        "differences": [str(difference) for difference in plan.comparison.differences],
        "only_in_prod": list(plan.comparison.only_in_prod),
        "locks": {str(table): mode.value for table, mode in sorted(plan.locks.items())},
    }


def diff(comparison: Comparison, target: str = "PROD") -> list[dict[str, str]]:
    """Before and after, grouped by kind, for --diff; empty when there is no difference."""
    if not comparison.differences:
        return []
    return [
        {
            "before_header": f"{target} schema",
            "after_header": f"{target} schema as on DEV",
            "before": _side(comparison.differences, desired=False),
            "after": _side(comparison.differences, desired=True),
        }
    ]


def _side(differences: Sequence[Difference], *, desired: bool) -> str:
    lines: list[str] = []
    for kind, of_kind in groupby(sorted(differences), key=lambda found: found.key.kind):
        shown = list(_lines(of_kind, desired=desired))
        lines += [f"[{kind}]", *shown] if shown else []
    return "\n".join(lines) + "\n" if lines else ""


def _lines(differences: Iterable[Difference], *, desired: bool) -> Iterable[str]:
    for found in differences:
        if found.aspect == MISSING:
            if desired:
                yield f"  {found.key.qualified}"
            continue
        value = readable(found.desired if desired else found.current)
        yield from (f"  {found.key.qualified}: {found.aspect}: {line}" for line in value.splitlines() or ["none"])
