"""Plans and comparisons as people read them: plan.sql, plan.json and the grouped diff."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..plan import Statement
from .compare import Comparison
from .costs import shown
from .grouped import grouped, side
from .model import readable
from .plan import SchemaPlan
from .stages import Stage


def render_sql(plan: SchemaPlan, target: str = "PROD") -> str:
    """The plan as a script with a comment per statement, the refusals first."""
    stages = f", then {_counted(len(plan.stages), 'stage')} outside it" if plan.stages else ""
    lines = [f"-- {target}: {len(plan.statements)} statements, in one transaction{stages}", *_locks(plan)]
    for finding in plan.refused:
        lines.append(_comment(f"REFUSED {finding.object}: {finding.message}"))
        lines.append(_comment(f"        {finding.remedy}"))
    if plan.statements:
        opening = ("BEGIN", "SET LOCAL search_path = pg_catalog", "SET LOCAL check_function_bodies = off")
        lines += ["", *(f"{words};" for words in opening), ""]
        for statement in plan.statements:
            lines += _statement(statement)
        lines.append("COMMIT;")
    for stage in plan.stages:
        lines += ["", _comment(f"STAGE after COMMIT: {stage.name}, {shown(stage.seconds)}"), *_stage_locks(stage)]
        for statement in stage.statements:
            lines += _statement(statement)
    return "\n".join(lines) + "\n"


def _statement(statement: Statement) -> list[str]:
    hazards = f" [{', '.join(statement.hazards)}]" if statement.hazards else ""
    seconds = f" ({shown(statement.seconds)})" if statement.seconds is not None else ""
    return [_comment(f"{statement.summary}{hazards}{seconds}"), f"{statement.sql};", ""]


def _locks(plan: SchemaPlan) -> Iterable[str]:
    """What the transaction locks first, all at once, and for how long: until its COMMIT."""
    if plan.locks:
        yield f"-- Locks, held until COMMIT, {shown(plan.seconds)}:"
    for table, mode in sorted(plan.locks.items()):
        yield _comment(f"  {mode.value} on {table}")


def _stage_locks(stage: Stage) -> Iterable[str]:
    yield _comment(
        f"  SHARE UPDATE EXCLUSIVE on {stage.table.qualified}, {shown(stage.seconds)}: rows are read and written all the while"
    )
    if any(one.transactional for one in stage.statements):
        for table, mode in sorted(stage.locks.items()):
            yield _comment(f"  {mode.value} on {table}, {shown(None)}")


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _comment(text: str) -> str:
    return "\n".join(f"-- {line}" for line in readable(text).splitlines())


def statement_json(one: Statement) -> dict[str, Any]:
    """A statement as plan.json and the command show it; `seconds` is None for what takes no time to speak of."""
    return {
        "sql": one.sql,
        "object": one.object,
        "summary": one.summary,
        "hazards": list(one.hazards),
        "seconds": one.seconds,
    }


def locks(plan: SchemaPlan) -> dict[str, dict[str, Any]]:
    """What the transaction locks, by table: the mode, and about how many seconds it is held."""
    return {str(table): {"mode": mode.value, "seconds": plan.seconds} for table, mode in sorted(plan.locks.items())}


def as_json(plan: SchemaPlan) -> dict[str, Any]:
    """The plan with string keys and JSON types only."""
    return {
        "statements": [statement_json(one) for one in plan.statements],
        "stages": [
            {
                "name": stage.name,
                "object": str(stage.key),
                "seconds": stage.seconds,
                "locks": {str(table): mode.value for table, mode in sorted(stage.locks.items())},
                "statements": [statement_json(one) for one in stage.statements],
            }
            for stage in plan.stages
        ],
        "seconds": plan.seconds,
        "refused": [finding.as_dict() for finding in plan.refused],
        "findings": [finding.as_dict() for finding in plan.findings],
        "differences": [str(difference) for difference in plan.comparison.differences],
        "only_in_prod": list(plan.comparison.only_in_prod),
        "locks": locks(plan),
    }


def diff(comparison: Comparison, target: str = "PROD") -> list[dict[str, str]]:
    """Before and after, grouped by table and kind, for --diff; empty when there is no difference."""
    if not comparison.differences:
        return []
    groups = grouped(comparison)
    return [
        {
            "before_header": f"{target} schema",
            "after_header": f"{target} schema as on DEV",
            "before": side(groups, desired=False),
            "after": side(groups, desired=True),
        }
    ]
