"""What is proved of one protected table by one transaction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from .carried import Carried


@dataclass(frozen=True, slots=True)
class Proof:
    """Rows and fingerprint (32 hex digits = 128 bits) before and after one transaction.

    `method` says how the second value was had: by a second scan, because the table's file is the same and the
    transaction's own write counters did not move (`counters`), or by a scan through the declared way back of a table
    that the transaction reshaped (`carried`, see carried.py). Where such a way changes values or leaves some out, both
    fingerprints are of what it declares, and `fingerprint_found` is that of the rows as they were. A transaction that removed
    rows of archon-align's own is proved by all others; `strays_removed` of them had been left by an earlier run, and
    `fingerprint_found` is then that of the rows with those. One that inserted `rows_added` is proved by the rows that were there,
    and `fingerprint_left` is that of all rows afterwards.
    """

    table: str
    rows_before: int
    rows_after: int
    fingerprint_before: str
    fingerprint_after: str
    method: Literal["scan", "counters", "carried"]
    carried: Carried | None = None
    fingerprint_found: str = ""
    strays_removed: int = 0
    rows_added: int = 0
    fingerprint_left: str = ""

    @property
    def preserved(self) -> bool:
        return (self.rows_before, self.fingerprint_before) == (self.rows_after, self.fingerprint_after)

    def as_dict(self) -> dict[str, Any]:
        shown = {**asdict(self), "preserved": self.preserved}
        if self.carried is None:
            del shown["carried"]
        else:
            shown["carried"] = self.carried.as_dict()
        if not self.strays_removed:
            del shown["strays_removed"]
            if self.carried is None:
                del shown["fingerprint_found"]
        if not self.rows_added:
            del shown["rows_added"], shown["fingerprint_left"]
        return shown
