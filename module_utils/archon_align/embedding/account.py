"""What becomes of each table's rows in a rebuild, and what a person should know of it."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import orjson

from ..context import Context
from ..errors import AlignError
from ..findings import Finding
from .horizon import Horizon
from .quarantine import Quarantined
from .selection import Selection
from .stale import StaleSource
from .work import BLANK, Work
from .writer import Embedded

QUARANTINE_FILE = "quarantine.jsonl"
# Nobody reads more findings of one kind than this; the file has all.
_NAMED = 100


@dataclass(slots=True)
class TableAccount:
    """One table: its work, which of its rows are wanted, and what has become of them so far."""

    work: Work
    selection: Selection = field(default_factory=Selection)
    stale: Sequence[StaleSource] = ()
    rebuilt: int = 0
    quarantined: list[Quarantined] = field(default_factory=list)
    truncated: dict[int, str] = field(default_factory=dict)  # the first texts that were cut, by id
    cuts: int = 0
    samples: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))  # ids by endpoint
    theirs: Sequence[int] = ()  # ids of rows that other workers have written
    written_by: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    missing_after: int | None = None
    horizon: Horizon | None = None
    foreseen: int = 0  # what a run would quarantine, in check mode

    @property
    def name(self) -> str:
        return str(self.work.found.table)

    @property
    def stale_rows(self) -> int:
        """Rows with a vector in stale sources."""
        return sum(one.rows for one in self.stale)

    @property
    def to_do(self) -> int:
        """Rows to look at, blank ones included."""
        return self.work.missing + self.stale_rows

    def as_dict(self) -> dict[str, int]:
        after = self.work.missing - self.rebuilt if self.missing_after is None else self.missing_after
        stale = {"stale": self.stale_rows} if self.stale else {}
        return {
            "missing_before": self.work.missing,
            "missing_after": max(0, after),
            "rebuilt": self.rebuilt,
            "quarantined": len(self.quarantined) or self.foreseen,
            "truncated": self.cuts,
            **stale,
        }

    def cut(self, one: int, note: str) -> None:
        """Of this row only the text's beginning is embedded."""
        self.cuts += 1
        if len(self.truncated) < _NAMED:
            self.truncated[one] = note

    def wrote(self, count: int, rows: Sequence[Embedded], size: int) -> None:
        """`count` rows have their vector now; of `rows` up to `size` ids of each endpoint are kept, spread over all."""
        self.rebuilt += count
        for row in rows:
            self.written_by[row.endpoint] += 1
            kept, place = self.samples[row.endpoint], random.randrange(self.written_by[row.endpoint])  # noqa: S311
            if len(kept) < size:
                kept.append(row.id)
            elif place < size:
                kept[place] = row.id


class Quarantine:
    """Rows that are set aside: in the artifact quarantine.jsonl one by one, and among the findings."""

    def __init__(self, context: Context, most: int) -> None:
        self._context = context
        self._most = most
        self.count = 0

    def set_aside(self, table: TableAccount, row: Quarantined) -> None:
        """Note a row that stays without embedding; raises AlignError above the threshold, or when it cannot be noted."""
        table.quarantined.append(row)
        self.count += 1
        self._write(table, row)
        if self.count > self._most:
            raise AlignError(
                "Too many rows cannot be embedded.",
                object_name=table.name,
                expected=f"at most {self._most} quarantined rows (archon_embeddings_max_quarantined)",
                found=f"{self.count}, the last because of: {row.reason}",
                remedy=f"See {QUARANTINE_FILE} and the findings for the rows; correct the cause or raise the threshold. What was written stays.",
                code="embedding_too_many_quarantined",
            )

    def _write(self, table: TableAccount, row: Quarantined) -> None:
        line = {
            "table": table.name,
            "id": row.id,
            "reason": row.reason,
            "attempts": row.attempts,
            "column": table.work.found.column,
        }
        path = self._context.run.artifacts / QUARANTINE_FILE
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, orjson.dumps(line) + b"\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise AlignError(
                "A quarantined row could not be noted.",
                object_name=str(path),
                expected="a writable artifacts folder with room",
                found=error.strerror or str(error),
                remedy="Free space there or set archon_artifacts_root to another folder, and run again.",
                code="artifacts_not_writable",
            ) from error


def row_findings(tables: Sequence[TableAccount]) -> Iterator[Finding]:
    """Rows that were set aside and texts that were cut, one by one as far as anybody would read it."""
    for table in tables:
        for row in table.quarantined[:_NAMED]:
            blank = row.reason == BLANK
            tried = f" ({row.attempts} attempts)" if row.attempts else ""
            yield Finding(
                "embedding_quarantined",
                "warning",
                f"{table.name} id {row.id}",
                f"The row stays without embedding: {row.reason}{tried}.",
                "Delete the row or re-upload its document."
                if blank
                else "Look at the row's text and the service's log; the next run tries it again.",
            )
        yield from _more(table, "embedding_quarantined", len(table.quarantined), f"rows are in {QUARANTINE_FILE}")
        for one, note in table.truncated.items():
            yield Finding(
                "embedding_truncated",
                "info",
                f"{table.name} id {one}",
                f"The text is longer than the model can read: {note}.",
                "Nothing to do, or split the page; archon_embeddings_overlong: quarantine leaves such rows without embedding.",
            )
        yield from _more(table, "embedding_truncated", table.cuts, "texts were longer than the model can read")


def _more(table: TableAccount, code: str, count: int, what: str) -> Iterator[Finding]:
    if count > _NAMED:
        remedy = "See the first of them above for what to do."
        yield Finding(code, "warning", table.name, f"{count - _NAMED} more {what}.", remedy)
