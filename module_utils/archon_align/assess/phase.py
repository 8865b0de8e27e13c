"""Assess: document the state of both databases and what the schema phase would do. Changes nothing, ever."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

from ..context import Context
from ..database.failures import server_error
from ..database.session import open_session
from ..database.target import Target
from ..findings import Finding
from ..outcome import PhaseOutcome
from ..schema import phase as schema_phase
from ..templates import phase as templates_phase
from . import words
from .state import State, state_of


@dataclass(frozen=True, slots=True)
class Options:
    """`schema` are the schema phase's own options, so that its plan is the one it would execute.

    `templates_follow` says that the run goes on to the templates phase: what that would refuse is refused here, before
    the phases between have changed anything.
    """

    schema: schema_phase.Options = field(default_factory=schema_phase.Options)
    templates_follow: bool = False


def run(context: Context, options: Options) -> PhaseOutcome:
    """Describe PROD and DEV, and plan the schema's alignment (plan.sql and plan.json). Raises AlignError."""
    started = time.monotonic()
    prod, dev = (_state(context, target) for target in (context.prod, context.dev))
    try:
        planned = schema_phase.plan_only(context, options.schema)
    except psycopg.Error as error:
        raise server_error(context.prod, error, doing="the schemas were compared") from error
    if options.templates_follow:
        templates_phase.foresee(context)
    # How many differences are left is for the schema phase to say, which may not have run yet.
    schema = {key: value for key, value in planned.details["schema"].items() if not key.endswith("_after")}
    return PhaseOutcome(
        phase=context.phase,
        status="aligned",
        seconds=time.monotonic() - started,
        findings=[*words.findings(prod, dev), *_differences(context, schema), *planned.findings],
        diff=planned.diff,
        details={"state": {"prod": prod.as_dict(), "dev": dev.as_dict()}, "schema": schema},
    )


def _state(context: Context, target: Target) -> State:
    try:
        with open_session(context, target, read_only=True) as session:
            return state_of(session)
    except psycopg.Error as error:
        raise server_error(target, error, doing="its state was read") from error


def _differences(context: Context, schema: Mapping[str, Any]) -> list[Finding]:
    number = int(schema["differences_before"])
    if not number:
        return []
    message = (
        f"{number} differences between the schemas of DEV and PROD; {len(schema['statements'])} statements would align PROD"
        f" (plan.sql). {len(schema['only_in_prod'])} objects exist only in PROD and are kept."
    )
    remedy = "The schema phase aligns them (--tags schema); --diff shows each."
    return [Finding("schema_differences", "warning", f"PROD schema {', '.join(context.schemas)}", message, remedy)]
