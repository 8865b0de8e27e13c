"""The plan's five critical success criteria, in its own words, each with the evidence for its answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import AlignError
from ..findings import Finding
from ..outcome import PhaseOutcome
from ..report.protected import conjunction
from ..report.wording import amount, plural
from .functional.model import EXAMPLES, EXPANSION, UPLOAD, Verdict
from .functional.model import SEARCH as QUERY
from .state import Embedded, Probe

PRESERVED = "All project data preserved (archon_projects, archon_tasks)"
SEARCH = "Search functionality restored in production"
TEMPLATES = "Template management system working"
EMBEDDING = "Embedding generation functional for new uploads"
CONSISTENT = "Schema consistency between DEV and PROD"
# The embeddings phase's word for a recall that proves nothing: low, and of queries sampled from the pages.
UNPROVED = "search_recall_sampled"
_CRITICAL = ("archon_projects", "archon_tasks")
_NAMED = 3
# Archon keeps its settings for the life of its process.
_RESTARTED = "archon-server works by it once it has been restarted."
_ONLY_RUNNING = "Whether Archon works by it only a running one can show."


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a phase would still do now: its outcome in check mode, or why it could not say."""

    outcome: PhaseOutcome | None
    problem: AlignError | None = None

    @property
    def left(self) -> int | None:
        """Statements that would still be executed; None when that is not known."""
        return None if self.outcome is None else len(self.outcome.statements)

    def tell(self, what: str) -> str:
        if self.problem is not None:
            return f"{what} could not be examined: {_told(self.problem)}"
        return f"{what}: {plural(self.left or 0, 'statement')} left to do"


@dataclass(frozen=True, slots=True)
class Schemas:
    """The two catalogues compared now, in words; or why they could not be."""

    differences: tuple[str, ...] = ()
    only_in_prod: tuple[str, ...] = ()
    problem: AlignError | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the criteria are judged by.

    `quarantined` rows, besides those that came late, are excused from having an embedding; `search` is the report's section of this run or empty, and
    `told` are the codes of this run's findings; `unseen` tell of protected tables that do not exist. `functional` are the checks of
    a running Archon by name, as the report has them; `handled` says that the run itself restarts what has to be.
    """

    counts: Mapping[str, int | None]
    protected: Mapping[str, Mapping[str, Any]]
    embedded: Sequence[Embedded]
    quarantined: int
    probes: Sequence[Probe]
    search: Mapping[str, Any]
    told: frozenset[str]
    schema: Schemas
    settings: Rehearsal
    templates: Rehearsal
    unseen: Sequence[Finding] = ()
    functional: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    handled: bool = False

    @property
    def missing(self) -> int:
        return sum(table.work.missing for table in self.embedded)

    @property
    def late(self) -> int:
        """Rows without an embedding that came after the embeddings phase had looked."""
        return sum(table.late.rows for table in self.embedded)

    @property
    def misfits(self) -> int:
        return sum(table.misfits for table in self.embedded)


@dataclass(frozen=True, slots=True)
class Criterion:
    """`met` is None when only a running Archon can tell, and none did. An unmet one fails the run if a run could have `mended` it."""

    name: str
    met: bool | None
    evidence: str
    mended: bool = True

    def as_dict(self) -> dict[str, Any]:
        """As the report has it."""
        return {"name": self.name, "met": self.met, "evidence": self.evidence}


def judge(facts: Facts) -> list[Criterion]:
    """The five criteria in the plan's order."""
    return [
        Criterion(PRESERVED, *_preserved(facts)),
        _functional(facts, Criterion(SEARCH, *_search(facts)), QUERY, EXAMPLES),
        _functional(facts, _templates(facts), EXPANSION),
        _functional(facts, Criterion(EMBEDDING, *_embedding(facts)), UPLOAD),
        Criterion(CONSISTENT, *_consistent(facts)),
    ]


def _functional(facts: Facts, stored: Criterion, decisive: str, *besides: str) -> Criterion:
    """What is `stored`, and whether a running Archon was seen to work by it: by the `decisive` check, unless another one finds the
    data broken. A fault of Archon's own leaves the criterion unmet and fails no run."""
    if stored.met is False or decisive not in facts.functional:
        return stored
    for name in (decisive, *besides):
        check = facts.functional.get(name, {})
        if check.get("verdict") == Verdict.BROKEN_BY_DATA:
            return Criterion(stored.name, False, check["evidence"], mended=bool(check["mendable"]) or facts.handled)
    check = facts.functional[decisive]
    words = stored.evidence.removesuffix(_RESTARTED).removesuffix(_ONLY_RUNNING).rstrip()
    if check["verdict"] == Verdict.WORKS:
        return Criterion(stored.name, True, f"{words} Seen in the running Archon: {check['evidence']}")
    if check["verdict"] == Verdict.BROKEN_IN_ARCHON:
        return Criterion(
            stored.name, False, f"Archon's own defect {check['defect']}: {check['evidence']}", mended=False
        )
    return replace(stored, evidence=f"{stored.evidence} {check['evidence']}")


def _preserved(facts: Facts) -> tuple[bool | None, str]:
    if not facts.protected:
        return None, "None of the protected tables exists in PROD."
    told = []
    for table, entry in facts.protected.items():
        before, after = entry["rows_before"], entry["rows_after"]
        words = f"{table}: {'gone' if after is None else plural(after, 'row')}"
        if before is not None and before != after:
            words += f" (before {before})"
        if entry["transactions"]:
            words += f", proved by {entry['transactions']} of this run's transactions"
            words += ", which saw no rows, so that nothing is proved" if entry["preserved"] is None else ""
        elif entry["preserved"]:
            words += ", same fingerprint as before"
        elif entry["preserved"] is None:
            words += ", nothing recorded to compare with"
        told.append(words + (", changed by users meanwhile" if entry["changed_by_users"] else ""))
    told += [f"{finding.object}: does not exist, nothing of it is proved" for finding in facts.unseen]
    met = conjunction({table: entry for table, entry in facts.protected.items() if not _vacant(table, entry)})
    return None if met and any(_is_named(finding.object) for finding in facts.unseen) else met, "; ".join(told)


def _vacant(table: str, entry: Mapping[str, Any]) -> bool:
    """Is it a table besides those that the criterion names, as far as is known never with a row in it: one that a run has made?"""
    return entry["preserved"] is None and not entry["rows_before"] and entry["rows_after"] == 0 and not _is_named(table)


def _is_named(table: str) -> bool:
    return table.rpartition(".")[2] in _CRITICAL


def _search(facts: Facts) -> tuple[bool | None, str]:
    problems = [f"{probe.function}: {probe.problem}" for probe in facts.probes if probe.problem]
    unexcused = facts.missing - facts.late - facts.quarantined
    if unexcused > 0:
        problems.insert(0, f"{plural(unexcused, 'row')} without an embedding")
    if facts.misfits:
        problems.append(f"{plural(facts.misfits, 'vector')} of another dimension")
    if not facts.probes:
        problems.append("no table with embeddings to search")
    if problems:
        return False, "; ".join(problems)
    answered = ", ".join(f"{probe.function} {probe.answers}" for probe in facts.probes if probe.answers)
    besides = f", {plural(facts.late, 'row')} arrived since" if facts.late else ""
    words = f"Every embedding is there ({facts.quarantined} quarantined{besides}); a stored vector finds: {answered or 'nothing'}"
    recall = facts.search.get("recall_at_5")
    if recall is None:
        return None, f"{words}; no query was asked through the embedding service in this run (--tags embeddings)."
    words += f"; recall@5 {recall:.2f} over {plural(amount(facts.search.get('queries')), 'query', 'queries')} embedded by the service"
    if UNPROVED in facts.told:
        return None, f"{words}, sampled from the pages and too low to prove anything."
    return True, f"{words}. {_RESTARTED}"


def _templates(facts: Facts) -> Criterion:
    if facts.templates.outcome is None or facts.templates.left:
        return Criterion(TEMPLATES, False, facts.templates.tell("Templates"))
    broken = [finding for finding in facts.templates.outcome.findings if finding.severity == "error"]
    if broken:
        # Templates that only PROD has are kept as they are: only a person can mend them.
        return Criterion(TEMPLATES, False, " ".join(f"{it.object}: {it.message}" for it in broken), mended=False)
    evidence = (
        f"{facts.counts.get('template_components')} template components, as DEV has them; every placeholder of the active "
        f"templates resolves. {_ONLY_RUNNING}"
    )
    return Criterion(TEMPLATES, None, evidence)


def _embedding(facts: Facts) -> tuple[bool | None, str]:
    if facts.settings.problem is not None or facts.settings.left:
        return False, facts.settings.tell("Settings")
    columns = ", ".join(f"{table.work.found.table}.embedding {table.work.found.declared}" for table in facts.embedded)
    return (
        None,
        f"The settings are as wanted ({columns}). {_RESTARTED}",
    )


def _consistent(facts: Facts) -> tuple[bool | None, str]:
    schema = facts.schema
    if schema.problem is not None:
        return False, f"The schemas could not be compared: {_told(schema.problem)}"
    if schema.differences:
        named = "; ".join(schema.differences[:_NAMED])
        more = len(schema.differences) - _NAMED
        return (
            False,
            f"{plural(len(schema.differences), 'difference')}: {named}{f' and {more} more' if more > 0 else ''}",
        )
    return True, f"The catalogues are the same; only PROD has {plural(len(schema.only_in_prod), 'object')} besides."


def _told(problem: AlignError) -> str:
    return f"{problem.what} ({problem.object_name}: {problem.found})"
