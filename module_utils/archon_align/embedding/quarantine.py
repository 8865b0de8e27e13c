"""Rows that stay without embedding in this run."""

from __future__ import annotations

from dataclasses import dataclass

# A text that every embedding service takes: one that refuses it refuses everything.
CANARY = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that stays without embedding, and why: its table (by number), its id, and the requests that it was in."""

    table: int
    id: int
    reason: str
    attempts: int = 0
