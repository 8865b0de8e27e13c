"""A plan: the statements that would change a database, in order. One planner decides; check mode only skips execution."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statement:
    """One complete statement, literals composed in, the same text in check mode and in a real run.

    `object` is the qualified name of what it changes, `summary` says it in words, `hazards` names its risks.
    `proves_values` says that the planner attached a proof that stored values survive (see the execution gate).
    `seconds` is how long it is estimated to run, from the table's size; None for what takes no time to speak of.
    """

    sql: str
    object: str
    summary: str
    hazards: tuple[str, ...] = ()
    proves_values: bool = False
    transactional: bool = True
    seconds: float | None = None
