"""The kinds of rows that Archon embeds: their tables, their columns, and the function that searches them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COLUMN = "embedding"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of embedded row: its table and the columns its text is made of."""

    table: str
    columns: tuple[str, ...]
    function: str

    def text(self, values: Sequence[str | None]) -> str:
        """The text that Archon itself embeds for a row with these column values."""
        content, *rest = values
        return "\n\nSummary: ".join([content or "", *(value or "" for value in rest)])


KINDS = (
    Kind("archon_crawled_pages", ("content",), "match_archon_crawled_pages"),
    Kind("archon_code_examples", ("content", "summary"), "match_archon_code_examples"),
)
