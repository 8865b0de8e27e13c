"""A protected table is not left to a crash, also where DEV's is, and also while it is empty."""

from __future__ import annotations

from collections.abc import Callable

from archon_align.context import Context
from archon_align.schema.phase import Options, run


def test_an_unlogged_table_of_dev_leaves_a_protected_one_as_it_is(
    new_database: Callable[[str], str],
    make_context: Callable[..., Context],
    hold_run_lock: Callable[[str], object],
) -> None:
    dev, prod = (
        new_database("CREATE UNLOGGED TABLE archon_tasks (id int)"),
        new_database("CREATE TABLE archon_tasks (id int)"),
    )
    hold_run_lock(prod)
    outcome = run(make_context(prod, dev, phase="schema"), Options(credentials=False))
    assert outcome.status == "decision_needed"
    assert {finding.code for finding in outcome.findings if finding.severity == "error"} == {"protected_unlogged"}
    assert outcome.statements == () or not any("UNLOGGED" in one.sql for one in outcome.statements)
