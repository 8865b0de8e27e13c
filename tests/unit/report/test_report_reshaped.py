"""What the report says of a protected table that a transaction of the run reshaped, as decided or as DEV has it."""

from __future__ import annotations

from typing import Any

import pytest
from archon_align.database.target import Table
from archon_align.preservation.carried import Carried
from archon_align.preservation.proof import Proof
from archon_align.report.protected import Observation, protected_section, reshaped

PLACE = Table("public", "t")
RETYPED = Carried(PLACE, after={"n": "n::integer"})
DECIDED = Carried(PLACE, before={"n": "left(n, 1)"})
SHAPED = Carried(PLACE, kept=Table("archon_quarantine", "t"), columns=("id", "n"))


def proof(way: Carried | None) -> dict[str, Any]:
    """`aa` is what the rows were, `cc` what was declared of them and found."""
    return Proof("public.t", 2, 2, "cc", "cc", "carried" if way else "scan", way, "aa").as_dict()


@pytest.mark.parametrize("way", [RETYPED, DECIDED, SHAPED])
@pytest.mark.parametrize(("digest_after", "changed_by_users"), [("cc", False), ("bb", True)])
def test_what_was_before_and_what_is_now_each_meet_their_side_of_the_proof(
    way: Carried, digest_after: str, changed_by_users: bool
) -> None:
    before, after = (Observation(2, digest, ("id", "n")) for digest in ("aa", digest_after))
    entry = protected_section({"public.t": before}, [proof(way)], {"public.t": after})["public.t"]
    assert (entry["preserved"], entry["changed_by_users"]) == (True, changed_by_users)


def test_rows_that_users_wrote_are_seen_across_a_change_of_shape() -> None:
    before, after = Observation(2, "aa", ("id", "n")), Observation(3, "bb", ("id", "n"))
    entry = protected_section({"public.t": before}, [proof(SHAPED)], {"public.t": after})["public.t"]
    assert (entry["preserved"], entry["changed_by_users"]) == (True, True)


def test_the_way_back_is_found_in_what_phases_returned() -> None:
    results = [{"proofs": [proof(None), proof(SHAPED)]}, {"proofs": [proof(None)]}, {}]
    assert reshaped(results) == {"public.t": SHAPED.as_dict()}
