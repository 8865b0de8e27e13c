"""What a phase hands back: the part of the report it answers for, in one shape for every phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import AlignError
from .findings import Finding
from .plan import Statement
from .preservation.proof import Proof

Status = Literal["aligned", "changed", "drift", "decision_needed", "resumable", "rolled_back", "failed"]


@dataclass(slots=True)
class PhaseOutcome:
    """The result of one phase.

    `status` is `aligned` (nothing to do), `changed` (done), `drift` (check mode: would change) or one of the failures.
    `details` holds the phase's sections of report.json by their top-level key, e.g. {"schema": {...}}; string keys only.
    `diff` maps a header to the before and after texts shown by --diff. `error` is set by a phase that failed with something
    to tell: the module then fails, and everything else in here still reaches the report.
    """

    phase: str
    status: Status
    seconds: float = 0.0
    changed: bool = False
    statements: Sequence[Statement] = ()
    findings: Sequence[Finding] = ()
    proofs: Sequence[Proof] = ()
    diff: Sequence[dict[str, str]] = ()
    details: dict[str, Any] = field(default_factory=dict)
    error: AlignError | None = None

    def as_result(self) -> dict[str, Any]:
        """The module result: plain JSON types only."""
        failure = {"msg": str(self.error), "error": self.error.as_dict()} if self.error else {}
        return {
            "changed": self.changed,
            "phase": self.phase,
            "status": self.status,
            "seconds": round(self.seconds, 3),
            "statements": [statement.sql for statement in self.statements],
            "findings": [finding.as_dict() for finding in self.findings],
            "proofs": [proof.as_dict() for proof in self.proofs],
            "diff": list(self.diff),
            "details": self.details,
            **failure,
        }
