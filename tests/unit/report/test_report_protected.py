"""What a run may say of the protected tables, from proofs and snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from archon_align.context import Run
from archon_align.report.assemble import build
from archon_align.report.protected import Observation, conjunction, protected_section

TASKS = "public.archon_tasks"
COLUMNS = ("id", "title")


def look(rows: int | None, fingerprint: str = "aa", columns: tuple[str, ...] = COLUMNS) -> dict[str, Observation]:
    return {TASKS: Observation(rows, fingerprint, columns)}


def proof(before: tuple[int, str], after: tuple[int, str] | None = None, *, preserved: bool = True) -> dict[str, Any]:
    after = after or before
    return {
        "table": TASKS,
        "rows_before": before[0],
        "fingerprint_before": before[1],
        "rows_after": after[0],
        "fingerprint_after": after[1],
        "method": "scan",
        "preserved": preserved,
    }


def entry(before: Any, proofs: list[dict[str, Any]], after: Any) -> dict[str, Any]:
    return protected_section(before, proofs, after)[TASKS]


def test_nothing_known_is_no_table() -> None:
    assert protected_section({}, [], {}) == {}
    assert conjunction({}) is None


def test_untouched_and_unchanged_is_preserved() -> None:
    found = entry(look(5), [], look(5))
    assert (found["preserved"], found["changed_by_users"], found["transactions"]) == (True, False, 0)


def test_a_change_without_any_transaction_is_the_users() -> None:
    found = entry(look(5), [], look(4, "bb"))
    assert (found["preserved"], found["changed_by_users"]) == (None, True)


def test_users_between_transactions_are_never_a_loss() -> None:
    found = entry(look(5), [proof((5, "aa")), proof((4, "bb"))], look(4, "bb"))
    assert (found["rows_before"], found["rows_after"]) == (5, 4)
    assert (found["preserved"], found["changed_by_users"]) == (True, True)


def test_one_broken_proof_breaks_the_conjunction() -> None:
    found = entry(look(5), [proof((5, "aa")), proof((5, "aa"), (4, "bb"), preserved=False)], look(5))
    assert found["preserved"] is False


def test_a_table_that_is_gone_is_a_loss_whatever_was_proved() -> None:
    assert entry(look(5), [proof((5, "aa"))], look(None, ""))["preserved"] is False


def test_columns_added_between_phases_are_not_taken_for_a_change_by_users() -> None:
    """The second proof covers more columns than the first: its fingerprint differs though no row changed."""
    found = entry({}, [proof((5, "aa")), proof((5, "bb"))], {})
    assert (found["preserved"], found["changed_by_users"]) == (True, None)


def test_proofs_alone_tell_of_other_row_counts() -> None:
    assert entry({}, [proof((5, "aa")), proof((6, "bb"))], {})["changed_by_users"] is True
    assert entry({}, [proof((5, "aa")), proof((5, "aa"))], {})["changed_by_users"] is False
    assert entry(look(5), [proof((6, "bb"))], {})["changed_by_users"] is True
    assert entry({}, [proof((5, "aa"))], {})["changed_by_users"] is None


def test_a_row_is_not_preserved_by_another_tables_proof() -> None:
    section = protected_section(
        {**look(5), "public.archon_projects": Observation(2, "cc", COLUMNS)}, [proof((5, "aa"))], {}
    )
    assert section["public.archon_projects"]["preserved"] is None
    assert conjunction(section) is None


@pytest.mark.parametrize(
    ("before", "proofs", "after", "told"),
    [
        # (changed by the run, changed by users, rows added by users, preserved)
        pytest.param(look(5), [proof((5, "aa"))], look(5), (False, False, 0, True), id="nobody"),
        pytest.param(look(5), [proof((5, "aa"))], look(8, "bb"), (False, True, 3, True), id="users added"),
        pytest.param(look(5), [proof((5, "aa"))], look(3, "bb"), (False, True, -2, True), id="users deleted"),
        pytest.param(look(5), [proof((5, "aa"))], look(5, "bb"), (False, True, 0, True), id="users edited"),
        pytest.param(look(5), [], look(6, "bb"), (None, True, None, None), id="no transaction came near"),
        pytest.param(look(5), [proof((5, "aa"), (4, "bb"), preserved=False)], look(5), (True, False, None, False), id="the run"),
        pytest.param(look(5), [proof((5, "aa"))], look(None, ""), (None, True, None, False), id="gone"),
        pytest.param(look(5), [proof((0, ""))], look(0, ""), (None, True, None, None), id="emptied before the proof"),
        pytest.param(look(5), [proof((5, "aa"))], look(0, ""), (False, True, -5, True), id="emptied after the proof"),
        pytest.param(look(0, ""), [proof((0, ""))], look(0, ""), (False, False, 0, True), id="known to be empty"),
        pytest.param({}, [proof((0, ""))], {}, (None, None, None, None), id="empty, and nobody knows since when"),
        pytest.param({}, [proof((0, ""))], look(0, ""), (None, False, None, None), id="made by the run, or renamed away"),
    ],
)  # fmt: skip
def test_what_the_run_changed_and_what_users_did_are_told_apart(
    before: Any, proofs: list[dict[str, Any]], after: Any, told: tuple[object, ...]
) -> None:
    found = entry(before, proofs, after)
    keys = ("changed_by_run", "changed_by_users", "rows_added_by_users", "preserved")
    assert tuple(found[key] for key in keys) == told


def test_a_run_that_changed_a_row_has_failed() -> None:
    run = Run("20260101-000000-abcdef", Path())
    broken = {"phase": "schema", "status": "changed", "proofs": [proof((5, "aa"), (4, "bb"), preserved=False)]}
    assert build(run, [broken], "", "", before={}, after={})["result"] == "failed"
