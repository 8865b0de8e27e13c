"""Preflight as a phase: look at everything, then fail once with all that is wrong, or hand on what was found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg

from ..context import PROTECTED_TABLES, Context
from ..database.failures import server_error
from ..database.same import same_database
from ..database.session import Session, open_session
from ..database.target import Target
from ..errors import AlignError
from ..findings import Finding
from ..outcome import PhaseOutcome
from ..preservation.fingerprint import columns_of
from ..preservation.sight import absent, no_tables
from ..rollback import dead
from . import checks
from .facts import DatabaseFacts, read_facts, read_only_source
from .pooler import require_own_backend
from .problems import PreflightFailed
from .surroundings import disk_for, embedding_service, pg_dump_for

_STATEMENT_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """What preflight demands. `min_version` is a PostgreSQL major version; `min_free_mb` MiB to spare on the disk.

    An empty `pg_dump` means the bundled one; an empty `embedding_base_url` leaves the embedding service out.
    `run_findings` are those of the run's start (see Finding.as_dict), told with preflight's own. `dead_run` says what becomes
    of what a dead run had committed: the run goes on from there (`continue`), or undoes it first (`rollback`).
    """

    min_version: int = 14
    min_free_mb: int = 200
    pg_dump: str = ""
    embedding_base_url: str = ""
    embedding_model: str = ""
    embedding_dimensions: int = 768
    run_findings: Sequence[dict[str, Any]] = ()
    dead_run: str = "continue"


def run(context: Context, options: Options) -> PhaseOutcome:
    """Look at everything a run needs; nothing is changed. The outcome's error tells every problem found."""
    started = time.monotonic()
    problems: list[AlignError] = []
    findings = [Finding(**finding) for finding in options.run_findings]
    details: dict[str, Any] = {}
    needed = frozenset(table.name for table in context.protected)
    with ExitStack() as stack:
        sessions = [
            session
            for target in (context.prod, context.dev)
            if (session := _connected(context, target, stack, problems)) is not None
        ]
        if len(sessions) == 2 and same_database(*sessions):
            problems.append(_same_database(context))
            sessions.pop()  # whatever is wrong with it is told once
        for session in sessions:
            facts = _facts(context, session, problems)
            if facts is None:
                continue
            details[session.target.name.lower()] = facts.as_dict()
            problems += checks.problems(facts, min_version=options.min_version, needed=needed)
            findings += checks.findings(facts, needed=needed)
            if session.target is context.prod:
                problems += [*_unknown_protected(session), *no_tables(session, context.protected)]
                findings += absent(session, only_alike=True)
                _surroundings(context, options, facts, problems, details)
        found = _dead_runs(context, sessions, problems)
        findings += dead.findings(found, options.dead_run)
        details["dead_runs"] = [run.as_dict() for run in found]
    if options.embedding_base_url:
        details["embedding_service"], told = embedding_service(
            options.embedding_base_url, options.embedding_model, options.embedding_dimensions
        )
        findings += told
    details["problems"] = [problem.as_dict() for problem in problems]
    return PhaseOutcome(
        "preflight",
        "failed" if problems else "aligned",
        seconds=time.monotonic() - started,
        findings=findings,
        details={"preflight": details},
        error=PreflightFailed(problems) if problems else None,
    )


def _unknown_protected(session: Session) -> list[AlignError]:
    """A table that somebody wants protected and that does not exist is a typing error, not a table without rows."""
    always = {table for table in session.context.protected if table.name in PROTECTED_TABLES}
    return [
        AlignError(
            "A table to be protected does not exist.",
            object_name=f"{session.target.name} {table}",
            expected="a table of this name in PROD",
            found="no such table",
            remedy="Correct archon_protected_tables (`name` in the first schema, or `schema.name`).",
            code="protected_table_unknown",
        )
        for table in session.context.protected
        if table not in always and not columns_of(session, table)
    ]


def _connected(context: Context, target: Target, stack: ExitStack, problems: list[AlignError]) -> Session | None:
    """A session on `target` that is really its own, or None and a problem more."""
    try:
        require_own_backend(context, target)
        return stack.enter_context(open_session(context, target, read_only=True, statement_timeout=_STATEMENT_TIMEOUT))
    except AlignError as error:
        problems.append(error)
        return None


def _facts(context: Context, session: Session, problems: list[AlignError]) -> DatabaseFacts | None:
    try:
        return read_facts(session, read_only_source(context, session.target))
    except AlignError as error:
        problems.append(error)
    except psycopg.Error as error:
        problems.append(server_error(session.target, error, doing="reading its catalogue"))
    return None


def _surroundings(
    context: Context, options: Options, facts: DatabaseFacts, problems: list[AlignError], details: dict[str, Any]
) -> None:
    try:
        tool = pg_dump_for(facts.version, facts.major, options.pg_dump)
        details["pg_dump"] = {"path": str(tool.path), "version": tool.version}
    except AlignError as error:
        problems.append(error)
    try:
        disk = disk_for(context.run.artifacts, facts.size_bytes, options.min_free_mb)
        details["disk"] = {"free_bytes": disk.free_bytes, "needed_bytes": disk.needed_bytes}
    except AlignError as error:
        problems.append(error)


def _dead_runs(context: Context, sessions: Sequence[Session], problems: list[AlignError]) -> list[dead.DeadRun]:
    by_name = {session.target.name: session for session in sessions}
    prod = by_name.get(context.prod.name)
    if prod is None:
        return []
    try:
        return dead.dead_runs(context.run.artifacts.parent, context.run.id, prod, by_name.get(context.dev.name))
    except psycopg.Error as error:
        problems.append(server_error(context.prod, error, doing="looking after what dead runs left"))
        return []


def _same_database(context: Context) -> AlignError:
    return AlignError(
        "DEV and PROD are the same database.",
        object_name="archon_dsn of DEV and of PROD",
        expected="two different databases",
        found="the same DSN" if context.prod.dsn == context.dev.dsn else "two DSNs that lead to one database",
        remedy="Correct archon_dsn of one of them in the inventory.",
        code="same_database",
    )
