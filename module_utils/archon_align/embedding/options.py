"""What a rebuild is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import AlignError
from .endpoint import Endpoint
from .overlong import Policy

Scope = Literal["missing", "stale"]


@dataclass(frozen=True, slots=True)
class Options:
    """The rebuild's options; times are in seconds. Raises AlignError for what cannot be used.

    `prefix` stands before each text where no stored vector tells which one does. With scope `stale` rows whose vectors come
    from another model are rebuilt too. `overlong` says what becomes of texts that the model cannot read whole. `pull` lets a
    service fetch a model that it lacks. An endpoint is given at most `max_in_flight` requests at a time. The rebuild stops,
    resumable, when nothing has been embedded for `stall_timeout`, or when less than `min_free_mb` MiB are free for the
    artifacts, where its restore point is written. Of each table and endpoint, `sample` rows are embedded once more in the
    end. `worker` is the name of one of several that share the tables, '' for the only or the last one.
    """

    endpoints: tuple[Endpoint, ...]
    prefix: str = ""
    scope: Scope = "missing"
    overlong: Policy = "truncate"
    pull: bool = False
    batch_texts: int = 64
    batch_characters: int = 100_000
    rows_per_commit: int = 512
    max_in_flight: int = 16
    max_quarantined: int = 100
    stall_timeout: float = 120.0
    sample: int = 5
    min_free_mb: int = 0
    worker: str = ""

    def __post_init__(self) -> None:
        least = {
            "endpoints": (len(self.endpoints), 1),
            "batch_texts": (self.batch_texts, 1),
            "batch_characters": (self.batch_characters, 1),
            "rows_per_commit": (self.rows_per_commit, 1),
            "max_in_flight": (self.max_in_flight, 1),
            "max_quarantined": (self.max_quarantined, 0),
            "min_free_mb": (self.min_free_mb, 0),
        }
        wrong = [f"{name} at least {low}" for name, (value, low) in least.items() if value < low]
        if not self.stall_timeout > 0:
            wrong.append("stall_timeout above 0")
        if wrong:
            raise AlignError(
                "An option of the rebuild cannot be used.",
                object_name=", ".join(one.split()[0] for one in wrong),
                expected=", ".join(wrong),
                found="less",
                remedy="Correct it in the inventory (docs/configuration.md) or in the task.",
                code="bad_variable",
            )
