"""Whether a server has seen what is stored: clocks that differ, doubt, and never a second restart for the same change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from archon_align.services.deciding import (
    MARGIN_SECONDS,
    TEMPLATE_CACHE_SECONDS,
    Clocks,
    compare,
    decide,
    doubts,
    settling,
)
from archon_align.services.stored import Changed
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
SETTINGS = "public.archon_settings"
COMPONENTS = "public.archon_template_components"


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@given(
    skew=st.floats(-90_000, 90_000),
    uncertainty=st.floats(0, 5),
    started_after=st.floats(-10_000, 10_000),
    error=st.floats(-1, 1),
)
def test_in_doubt_a_server_is_restarted_and_never_again_for_the_same_change(
    skew: float, uncertainty: float, started_after: float, error: float
) -> None:
    """`error` is how wrong the comparison of the clocks is, within its uncertainty."""
    change = NOW - seconds(20_000)
    changed = [Changed(SETTINGS, "trigger", change)]
    clocks = Clocks(skew + error * uncertainty, uncertainty)
    found = decide(change + seconds(started_after + skew), changed, clocks, NOW, changed_here=())
    if started_after <= 0:
        assert found.reason, "a process that may be older than the change is left running"
    # A restart that waits as long as it is told gives a process that the next run leaves alone, however wrong its clocks.
    soon = change + seconds(max(0.0, started_after))
    wait = settling(found, clocks, soon)
    new = soon + seconds(wait + skew + 0.001)
    other = Clocks(skew - error * uncertainty, uncertainty)
    if found.reason:
        assert not decide(new, changed, other, NOW, changed_here=()).reason
        assert wait <= 2 * uncertainty + MARGIN_SECONDS + 0.001


def test_clocks_are_compared_at_the_same_moment() -> None:
    clocks = compare(NOW + seconds(63), NOW, elapsed=3, engine_uncertainty=0.6, database_uncertainty=0.1)
    assert clocks.ahead == 60
    assert clocks.by_database(NOW + seconds(60)) == NOW


def test_a_template_that_is_forgotten_by_now_needs_no_restart() -> None:
    clocks = Clocks(0, 0.5)

    def reason(age: float) -> str:
        changed = [Changed(COMPONENTS, "trigger", NOW - seconds(age))]
        return decide(NOW - seconds(86_400), changed, clocks, NOW, changed_here=()).reason

    assert COMPONENTS in reason(TEMPLATE_CACHE_SECONDS)
    assert reason(TEMPLATE_CACHE_SECONDS + 60) == ""


def test_a_table_that_does_not_tell_is_decided_by_what_this_run_did() -> None:
    for changed in (Changed(SETTINGS, "none"), Changed(SETTINGS, "writer", NOW - seconds(9000))):
        started = NOW - seconds(60)
        assert not decide(started, [changed], Clocks(0, 0.5), NOW, changed_here=()).reason
        assert decide(started, [changed], Clocks(0, 0.5), NOW, changed_here=[SETTINGS]).reason
        assert [finding.code for finding in doubts([changed], ())] == ["change_time_unknown"]
        assert list(doubts([changed], [SETTINGS])) == []


def test_a_change_in_the_future_is_told_and_does_not_restart_for_ever() -> None:
    changed = [Changed(SETTINGS, "trigger", NOW - seconds(500), ahead=2)]
    assert not decide(NOW - seconds(60), changed, Clocks(0, 0.5), NOW, changed_here=()).reason
    assert [finding.code for finding in doubts(changed, ())] == ["change_time_in_future"]


def test_a_start_that_nobody_knows() -> None:
    changed = [Changed(SETTINGS, "trigger", NOW)]
    assert not decide(None, changed, Clocks(0, 0.5), NOW, changed_here=()).reason
    assert decide(None, changed, Clocks(0, 0.5), NOW, changed_here=[SETTINGS]).reason
