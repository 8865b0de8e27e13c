"""The evidence for an answer says what is left to do, or why nobody could look."""

from __future__ import annotations

from archon_align.errors import AlignError
from archon_align.outcome import PhaseOutcome
from archon_align.validate.criteria import Rehearsal


def test_what_could_not_be_examined_says_why() -> None:
    problem = AlignError(
        "The table cannot be read.", object_name="t", expected="SELECT", found="no privilege", remedy="Grant it."
    )
    rehearsal = Rehearsal(None, problem)
    assert rehearsal.left is None
    assert rehearsal.tell("Settings").startswith("Settings could not be examined: The table cannot be read.")


def test_what_is_left_is_counted() -> None:
    rehearsal = Rehearsal(PhaseOutcome("data", "aligned"))
    assert (rehearsal.left, rehearsal.tell("Settings")) == (0, "Settings: 0 statements left to do")
