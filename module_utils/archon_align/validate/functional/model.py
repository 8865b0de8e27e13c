"""What is asked of a running Archon, and what each answer is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ...embedding.endpoint import Endpoint
from ...web.trust import Trust

UPLOAD, SEARCH, EXAMPLES, READING, TOOLS, EXPANSION = (
    *("upload", "search", "code_examples", "projects_and_tasks", "mcp", "template_expansion"),
)


class Verdict(StrEnum):
    """Where a fault lies, if there is one."""

    WORKS = "works"
    BROKEN_BY_DATA = "broken_by_data"
    BROKEN_IN_ARCHON = "broken_in_archon"
    NOT_REACHABLE = "not_reachable"


@dataclass(frozen=True, slots=True)
class Check:
    """One check with its evidence in words. `defect` names what is broken in Archon itself; `mendable` says that a run of
    archon-align could have mended what is broken by data, rather than a restart or a person. Seconds."""

    name: str
    verdict: Verdict
    evidence: str
    defect: str = ""
    mendable: bool = False
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "name": self.name,
            "verdict": self.verdict.value,
            "evidence": self.evidence,
            "defect": self.defect,
            "mendable": self.mendable,
            "seconds": round(self.seconds, 3),
        }


def works(name: str, evidence: str) -> Check:
    return Check(name, Verdict.WORKS, evidence)


def by_data(name: str, evidence: str, *, mendable: bool) -> Check:
    return Check(name, Verdict.BROKEN_BY_DATA, evidence, mendable=mendable)


def in_archon(name: str, defect: str, evidence: str) -> Check:
    return Check(name, Verdict.BROKEN_IN_ARCHON, evidence, defect)


def not_reachable(name: str, evidence: str) -> Check:
    return Check(name, Verdict.NOT_REACHABLE, evidence)


@dataclass(frozen=True, slots=True)
class Options:
    """Where PROD's Archon is ('' for unknown) and what may be done there. `write` is the consent to upload a document and to
    create a throw-away project. `endpoint` embeds what is compared; `queries_file` has paraphrases, '' for none. Seconds."""

    url: str
    mcp_url: str
    endpoint: Endpoint
    write: bool
    trust: Trust = field(default_factory=Trust)
    queries_file: str = ""
    ready_timeout: float = 20.0
    upload_timeout: float = 90.0
    mcp_timeout: float = 20.0
