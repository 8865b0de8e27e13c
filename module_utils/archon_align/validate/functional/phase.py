"""All functional checks of one PROD in one call, and the removal of whatever they, or those of a killed run, have created."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg

from ...application.server import Archon, ArchonRefused
from ...context import Context
from ...database.failures import server_error
from ...database.session import Session, open_session
from ...errors import AlignError
from ...findings import Finding
from ...outcome import PhaseOutcome
from ...plan import Statement
from ...preservation.proof import Proof
from ...web.wire import BadAnswer, Unreachable
from .expansion import check_expansion
from .marker import Journal
from .model import (
    EXAMPLES,
    EXPANSION,
    READING,
    SEARCH,
    TOOLS,
    UPLOAD,
    Check,
    Options,
    Verdict,
    in_archon,
    not_reachable,
)
from .reading import check_reading
from .removal import Removed, as_finding, find, remove, told
from .search import check_examples, check_search
from .tools import check_tools
from .upload import check_upload
from .world import World

_NAMES = (UPLOAD, SEARCH, READING, TOOLS, EXPANSION)
_CONSENT = "Not tried, because it writes to PROD for a moment: set archon_validate_write to true."


def run(context: Context, options: Options, provider: str) -> PhaseOutcome:
    """Ask PROD's Archon what it does. `provider` is Archon's name of the embedding provider.

    Rows with a marker that a killed run has left are removed first, those of this run at the end, whatever happened between.
    Raises AlignError when PROD's database cannot be used at all; that something does not work is a verdict, not an error.
    """
    started = time.monotonic()
    journal = Journal(context.run)
    statements, strays = _strays(context)
    findings = told(strays, strays=True)
    proofs: list[Proof] = list(strays.proofs)
    removed = Removed()
    checks: list[Check] = []
    # Filled by the removal, which comes also when the checks are cut short.
    ours: dict[str, Any] = {"removed": Removed(), "failed": None}
    with _removing(context, options, journal, ours):
        checks = _checks(context, options, provider, journal)
    removed = ours["removed"]
    if ours["failed"] is not None:
        findings.append(as_finding(ours["failed"]))
    findings += [*removed.findings, *_findings(checks)]
    proofs += removed.proofs
    return PhaseOutcome(
        context.phase,
        "drift" if context.check and statements else "changed" if statements else "aligned",
        seconds=time.monotonic() - started,
        changed=bool(statements),
        statements=statements,
        findings=findings,
        proofs=proofs,
        details={
            "functional": {
                "checks": [check.as_dict() for check in checks],
                "created": journal.created,
                "removed": removed.total,
            }
        },
    )


def _strays(context: Context) -> tuple[list[Statement], Removed]:
    """Remove what a killed run has left; in check mode say what would be."""
    with open_session(context, context.prod) as session, _server(session):
        created = find(session)
        statements = [Statement(rows.text, str(rows.table), "remove what a killed run left") for rows in created.rows]
        if context.check or not statements:
            return statements, Removed(findings=created.kept)
        try:
            return statements, remove(session)
        except AlignError as error:
            return [], Removed(findings=[*created.kept, as_finding(error)])


@contextmanager
def _removing(context: Context, options: Options, journal: Journal, ours: dict[str, Any]) -> Iterator[None]:
    """Whatever the block creates is removed when it ends, however it ends."""
    try:
        yield
    finally:
        if options.write and not context.check:
            try:
                with open_session(context, context.prod) as session, _server(session):
                    ours["removed"] = remove(session, journal)
            except AlignError as error:
                ours["failed"] = error


def _checks(context: Context, options: Options, provider: str, journal: Journal) -> list[Check]:
    if not options.url:
        return [not_reachable(name, "No address is known: set archon_prod_url.") for name in _NAMES]
    with (
        open_session(context, context.prod, read_only=True) as session,
        Archon(options.url, options.trust, check=context.check) as archon,
    ):
        health = archon.wait_ready(options.ready_timeout)
        if not health.ready:
            words = f"archon-server is not ready after {options.ready_timeout:g} s ({health.condition.replace('_', ' ')}): {health.text}"
            return [not_reachable(name, words) for name in _NAMES]
        world = World(session, archon, options, provider)
        write = options.write and not context.check
        known: dict[str, Check] = {}

        def judge(name: str, work: Callable[[], Check | None]) -> None:
            check = _timed(name, session, work)
            if check is not None:
                known[name] = check

        if write:
            judge(UPLOAD, lambda: check_upload(world, journal))
        else:
            known[UPLOAD] = not_reachable(UPLOAD, _why_not(options, context))
        judge(SEARCH, lambda: check_search(world, canary=known[UPLOAD].verdict is Verdict.WORKS))
        judge(EXAMPLES, lambda: check_examples(world))
        judge(READING, lambda: check_reading(world))
        judge(TOOLS, lambda: check_tools(world, known[SEARCH].verdict))
        if write:
            judge(EXPANSION, lambda: check_expansion(world, journal))
        else:
            known[EXPANSION] = not_reachable(EXPANSION, _why_not(options, context))
        return list(known.values())


def _why_not(options: Options, context: Context) -> str:
    return "Not tried in check mode: it writes." if options.write and context.check else _CONSENT


def _timed(name: str, session: Session, work: Callable[[], Check | None]) -> Check | None:
    """The check with its seconds; what fails on the way becomes its verdict."""
    started = time.monotonic()
    try:
        with _server(session):
            check = work()
    except Unreachable as error:
        check = not_reachable(name, f"{error.what} {error.object_name}: {error.found}")
    except ArchonRefused as error:
        check = in_archon(name, f"http_{error.http_status}", f"{error.object_name}: {error.found}")
    except BadAnswer as error:
        check = in_archon(name, "bad_answer", f"{error.object_name}: {error.expected} expected, {error.found} found")
    except AlignError as error:
        check = Check(name, Verdict.BROKEN_BY_DATA, f"{error.what} {error.object_name}: {error.found}", mendable=True)
    return None if check is None else replace(check, seconds=time.monotonic() - started)


@contextmanager
def _server(session: Session) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise server_error(session.target, error, doing="asking what a running Archon should answer") from error


def _findings(checks: list[Check]) -> list[Finding]:
    """What is broken; and, once, that Archon was not asked at all."""
    findings = [
        Finding(f"functional_{check.verdict.value}", "warning", check.name, check.evidence, _REMEDIES[check.verdict])
        for check in checks
        if check.verdict in _REMEDIES
    ]
    silent = [check for check in checks if check.verdict is Verdict.NOT_REACHABLE]
    for words in dict.fromkeys(check.evidence for check in silent):
        names = ", ".join(check.name for check in silent if check.evidence == words)
        findings.append(Finding("functional_not_reachable", "info", names, words, "See docs/phases/6-validate.md."))
    return findings


_REMEDIES: Mapping[Verdict, str] = {
    Verdict.BROKEN_BY_DATA: "What to run or restart is in the message; then validate again (--tags validate).",
    Verdict.BROKEN_IN_ARCHON: "No run of archon-align mends it: it is Archon's own. It fails no run.",
}
