"""What compared cosines say of the prefix, whatever the rows."""

from __future__ import annotations

from archon_align.embedding.prefix import NOMIC, NONE, decide
from archon_align.embedding.same_model import SAME_COSINE
from hypothesis import given
from hypothesis import strategies as st

CANDIDATES = (NONE, NOMIC, "passage: ")
COSINES = st.floats(-1, 1)
ROWS = st.lists(st.fixed_dictionaries(dict.fromkeys(CANDIDATES, COSINES)), max_size=8)
RIGHT = st.floats(1 - 1e-4, 1)
WRONG = st.floats(-1, 0.999)


@given(ROWS, st.randoms(), st.permutations(CANDIDATES))
def test_neither_the_order_of_rows_nor_of_candidates_counts(rows, random, candidates) -> None:
    moved = [{one: row[one] for one in candidates} for row in random.sample(rows, len(rows))]
    verdict, other = decide(rows), decide(moved)
    assert (verdict.prefix, verdict.same, verdict.votes) == (other.prefix, other.same, other.votes)


@given(ROWS)
def test_a_prefix_has_more_than_half_of_the_rows_for_it(rows) -> None:
    verdict = decide(rows)
    assert sum(verdict.votes.values()) <= len(rows)
    if verdict.prefix is not None:
        assert verdict.votes[verdict.prefix] * 2 > len(rows)
        clear = [row for row in rows if row[verdict.prefix] >= SAME_COSINE and max(row, key=row.get) == verdict.prefix]
        assert len(clear) * 2 > len(rows)


@given(st.sampled_from(CANDIDATES), st.data())
def test_the_prefix_that_made_most_rows_is_found(right, data) -> None:
    made = st.fixed_dictionaries({one: RIGHT if one == right else WRONG for one in CANDIDATES})
    other = st.fixed_dictionaries(dict.fromkeys(CANDIDATES, st.floats(-1, SAME_COSINE, exclude_max=True)))
    good = data.draw(st.lists(made, min_size=1, max_size=8))
    bad = data.draw(st.lists(other, max_size=len(good) - 1))
    assert decide([*bad, *good]).prefix == right


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8))
def test_prefixes_that_make_no_difference_decide_nothing(cosines) -> None:
    verdict = decide([dict.fromkeys(CANDIDATES, one) for one in cosines])
    assert verdict.prefix is None
    assert verdict.same == (sum(one >= SAME_COSINE for one in cosines) * 2 > len(cosines))


def test_halves_of_both_kinds_and_no_rows_tell_nothing() -> None:
    one, other = {NONE: 1.0, NOMIC: 0.8}, {NONE: 0.8, NOMIC: 1.0}
    assert decide([one, other]).prefix is None
    assert decide([one, other]).same is False
    assert decide([one, one, other]).prefix == NONE
    assert decide([]).prefix is None


def test_a_wrong_prefix_before_a_long_text_is_told_from_rounding() -> None:
    assert decide([{NONE: 0.9993, NOMIC: 0.99999}]).prefix == NOMIC
    assert decide([{NONE: 0.9999999, NOMIC: 0.9999998}]).same is True
