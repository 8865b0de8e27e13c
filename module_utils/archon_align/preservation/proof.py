"""What is proved of one protected table by one transaction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Proof:
    """Rows and fingerprint (32 hex digits = 128 bits) before and after one transaction.

    `method` says how the second value was had: by a second scan, or because the table's file is the same and the
    transaction's own write counters did not move (`counters`).
    """

    table: str
    rows_before: int
    rows_after: int
    fingerprint_before: str
    fingerprint_after: str
    method: Literal["scan", "counters"]

    @property
    def preserved(self) -> bool:
        return (self.rows_before, self.fingerprint_before) == (self.rows_after, self.fingerprint_after)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "preserved": self.preserved}
