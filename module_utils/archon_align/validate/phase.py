"""Phase 6: look at everything once more and judge the plan's criteria. All that it changes: once they are met, vectors that new
ones have replaced are kept no longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from ..context import CHECK_SUFFIX, Context, Run
from ..database.failures import server_error
from ..database.session import Session, open_session
from ..errors import AlignError
from ..findings import Finding
from ..outcome import PhaseOutcome, Status
from ..preservation.sight import absent
from ..report.assemble import is_phase
from ..report.files import snapshot, write_snapshot
from ..report.protected import Observation, proofs_of, protected_section, reshaped
from ..report.wording import plural
from ..rollback.ledger import Ledger
from ..schema.compare import compare
from ..schema.inspect import inspect_both
from ..settings import phase as settings_phase
from ..templates import phase as templates_phase
from .criteria import Criterion, Facts, Rehearsal, Schemas, judge
from .old_vectors import Released, release
from .state import Embedded, counts, embedded, probes, protected, row_counts

# The settings phase says the same when it changed something.
RESTART = "restart_archon_server"
# Who restarts services where nobody does.
_NOBODY = "none"
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


@dataclass(frozen=True, slots=True)
class Options:
    """`settings` is what phase 3 was given, `templates` what phase 5 was. `results` are earlier phases' results, as registered; others are ignored.

    With `enforce`, an unmet criterion that a run could have met fails the phase (never in check mode); without, nothing is
    removed either.
    """

    settings: settings_phase.Options
    results: Sequence[Mapping[str, Any]] = field(default=())
    enforce: bool = True
    templates: templates_phase.Options = field(default_factory=templates_phase.Options)


def run(context: Context, options: Options) -> PhaseOutcome:
    """Judge the five criteria by what is found now; writes snapshot-after.json. Vectors that a change of dimensions set aside are
    removed when all are met; nothing else is written to any database.

    An unmet criterion comes as the outcome's `error`, so that everything that was found still reaches the report.
    Raises AlignError when PROD cannot be examined at all.
    """
    started = time.monotonic()
    results = [result for result in options.results if is_phase(result)]
    look = _looking(context)
    before = snapshot(context.run, "before")
    facts = _facts(look, options, results, before)
    criteria = judge(facts)
    unmet = [criterion for criterion in criteria if criterion.met is False]
    error = None
    if options.enforce and not context.check and any(criterion.mended for criterion in unmet):
        error = _unmet(unmet)
    ledger = Ledger(context)
    released = release(context, facts.search, ledger, passed=not unmet) if options.enforce else Released()
    error = error or released.error
    changed = bool(released.statements)
    done: Status = "drift" if unmet or (changed and context.check) else "changed" if changed else "aligned"
    ledger.end("failed" if error else done)
    return PhaseOutcome(
        context.phase,
        "failed" if error else done,
        seconds=time.monotonic() - started,
        changed=changed,
        statements=released.statements,
        findings=[*_findings(context, results, unmet), *_seen(facts), *released.findings],
        proofs=released.proofs,
        details={**_details(context, facts, criteria), "restore_points": ledger.as_points()},
        error=error,
    )


def _looking(context: Context) -> Context:
    """The same context in check mode, in which no session can write, whatever the run's own mode is."""
    return replace(context, run=Run(context.run.id.removesuffix(CHECK_SUFFIX) + CHECK_SUFFIX, context.run.artifacts))


def _facts(
    look: Context,
    options: Options,
    results: Sequence[Mapping[str, Any]],
    before: Mapping[str, Observation],
) -> Facts:
    with open_session(look, look.prod) as session:
        try:
            with session.transaction(_SNAPSHOT):
                taken_at = session.value("SELECT transaction_timestamp()").isoformat(timespec="milliseconds")
                found, rows = counts(session), row_counts(session)
                after = protected(session, before, reshaped(results))
                unseen = absent(session, known=after.keys())
                tables, _ = embedded(session, options.settings.embedding_dimensions, results)
            asked = probes(session)
            schemas = _schemas(look, session)
        except psycopg.Error as error:
            raise server_error(look.prod, error, doing="validating") from error
    looks = {table: seen.as_dict() for table, seen in after.items()}
    write_snapshot(look.run, "after", {"taken_at": taken_at, "protected": looks, "tables": rows})
    return Facts(
        counts=found,
        protected=protected_section(before, proofs_of(results), after),
        embedded=tables,
        quarantined=_quarantined(tables, results),
        probes=asked,
        search=_section(results, "search"),
        told=_told(results),
        schema=schemas,
        settings=rehearse(lambda: settings_phase.run(replace(look, phase="data"), options.settings)),
        templates=rehearse(lambda: templates_phase.run(replace(look, phase="templates"), options.templates)),
        unseen=unseen,
        functional={check["name"]: check for check in _section(results, "functional").get("checks") or ()},
        handled=_section(results, "services").get("backend", _NOBODY) != _NOBODY and RESTART not in _told(results),
    )


def _schemas(look: Context, prod: Session) -> Schemas:
    """The catalogues of both, each in one snapshot. The vector index is not compared: it is the embeddings phase's."""
    try:
        with open_session(look, look.dev) as dev, dev.transaction(_SNAPSHOT), prod.transaction(_SNAPSHOT):
            found = compare(*inspect_both(dev, prod, look.schemas), vector_indexes=False)
    except AlignError as error:
        return Schemas(problem=error)
    return Schemas(tuple(map(str, found.differences)), found.only_in_prod)


def rehearse(work: Callable[[], PhaseOutcome]) -> Rehearsal:
    """A phase in check mode: what it would still do is what is not aligned."""
    try:
        return Rehearsal(work())
    except AlignError as error:
        return Rehearsal(None, error)


def _section(results: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    sections = [(result.get("details") or {}).get(name) for result in results]
    return next((section for section in reversed(sections) if section), {})


def _told(results: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(finding["code"] for result in results for finding in result.get("findings") or ())


def _quarantined(tables: Sequence[Embedded], results: Sequence[Mapping[str, Any]]) -> int:
    """Rows excused from having an embedding: those without any text, and those this run's rebuild could not embed."""
    told = _section(results, "embeddings").get("quarantined") or 0
    return max(int(told), sum(table.work.blank - table.late.blank for table in tables))


def _details(context: Context, facts: Facts, criteria: Sequence[Criterion]) -> dict[str, Any]:
    details: dict[str, Any] = {
        "criteria": [criterion.as_dict() for criterion in criteria],
        "counts": dict(facts.counts),
        "probes": [{"function": it.function, "answers": it.answers, "problem": it.problem} for it in facts.probes],
        "left_to_do": {
            "settings": facts.settings.left,
            "templates": facts.templates.left,
        },
    }
    if not context.check:
        details["embeddings"] = {"missing_after": facts.missing, "arrived_since": facts.late}
        if facts.schema.problem is None:
            details["schema"] = {"differences_after": len(facts.schema.differences)}
    return details


def _findings(context: Context, results: Sequence[Mapping[str, Any]], unmet: Sequence[Criterion]) -> list[Finding]:
    findings = [
        Finding("criterion_unmet", "warning", criterion.name, criterion.evidence, "See the findings of its phase.")
        for criterion in unmet
        if not criterion.mended
    ]
    changed = any(result.get("changed") for result in results)
    # The services phase restarts it, or says itself what nobody restarts.
    seen_to = any(result.get("phase") == "services" for result in results)
    if changed and not context.check and not seen_to and RESTART not in _told(results):
        findings.append(
            Finding(
                RESTART,
                "warning",
                "archon-server",
                "archon-server must be restarted: it keeps its settings and templates in memory since it started.",
                "Restart the service archon-server in production and wait until GET /health says ready.",
            )
        )
    return findings


def _seen(facts: Facts) -> list[Finding]:
    """What users did to the tables while the run went on, and what could not be looked at."""
    emptied = [
        Finding(
            "protected_table_emptied",
            "warning",
            table,
            f"It held {plural(entry['rows_before'], 'row')} before the run and holds none now; "
            + (
                "nothing proves by whom."
                if entry["changed_by_run"] is None
                else "the run is proved not to have touched them."
            ),
            "Ask who emptied it; the backup of this run holds its rows (restore_points).",
        )
        for table, entry in facts.protected.items()
        if entry["rows_before"] and entry["rows_after"] == 0
    ]
    arrived = [
        Finding(
            "rows_arrived_since",
            "info",
            str(table.work.found.table),
            f"{plural(table.late.rows, 'row')} came or changed since the embeddings phase looked, and had no embedding yet.",
            "Run again (--tags embeddings): it embeds what is missing by then.",
        )
        for table in facts.embedded
        if table.late.rows
    ]
    return [*facts.unseen, *emptied, *arrived]


def _unmet(unmet: Sequence[Criterion]) -> AlignError:
    return AlignError(
        "PROD does not meet the plan's success criteria.",
        object_name=", ".join(criterion.name for criterion in unmet),
        expected="every criterion met that a run can meet",
        found="; ".join(criterion.evidence for criterion in unmet),
        remedy="Run all phases again (without --tags); if it stays, look at the report's findings.",
        code="criteria_unmet",
    )
