"""Findings: things a person should know, each with a code, a severity and a remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a person should know. `object` is the qualified name of what it is about."""

    code: str
    severity: Severity
    object: str
    message: str
    remedy: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)
