"""What a running Archon was seen to do decides the three criteria that only it can show."""

from __future__ import annotations

from typing import Any

import pytest
from archon_align.outcome import PhaseOutcome
from archon_align.validate.criteria import EMBEDDING, SEARCH, TEMPLATES, Criterion, Facts, Rehearsal, Schemas, judge
from archon_align.validate.state import Probe

NAMES = {SEARCH: "search", TEMPLATES: "template_expansion", EMBEDDING: "upload"}


def judged(
    criterion: str, checks: list[dict[str, Any]], *, handled: bool = False, recall: float | None = 1.0
) -> Criterion:
    aligned = Rehearsal(PhaseOutcome("x", "aligned"))
    facts = Facts(
        counts={},
        protected={},
        embedded=(),
        quarantined=0,
        probes=(Probe("match", 5, ""),),
        search={"recall_at_5": recall, "queries": 3},
        told=frozenset(),
        schema=Schemas(),
        settings=aligned,
        templates=aligned,
        functional={check["name"]: check for check in checks},
        handled=handled,
    )
    return next(one for one in judge(facts) if one.name == criterion)


def check(name: str, verdict: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "verdict": verdict, "evidence": "what was seen", "defect": "", "mendable": False, **more}


@pytest.mark.parametrize("criterion", NAMES)
def test_seen_to_work_is_met(criterion: str) -> None:
    found = judged(criterion, [check(NAMES[criterion], "works")], recall=None)
    assert found.met is True
    assert "Seen in the running Archon: what was seen" in found.evidence
    assert "once it has been restarted" not in found.evidence


@pytest.mark.parametrize("criterion", NAMES)
def test_broken_by_data_fails_a_run_that_could_have_mended_it(criterion: str) -> None:
    name = NAMES[criterion]
    found = judged(criterion, [check(name, "broken_by_data", mendable=True)])
    assert (found.met, found.mended, found.evidence) == (False, True, "what was seen")
    found = judged(criterion, [check(name, "broken_by_data")])
    assert (found.met, found.mended) == (False, False)
    # Whoever restarts the services has done all that was needed, and it still does not work.
    found = judged(criterion, [check(name, "broken_by_data")], handled=True)
    assert (found.met, found.mended) == (False, True)


@pytest.mark.parametrize("criterion", NAMES)
def test_a_defect_of_archons_own_fails_no_run(criterion: str) -> None:
    found = judged(criterion, [check(NAMES[criterion], "broken_in_archon", defect="template_logger")], handled=True)
    assert (found.met, found.mended) == (False, False)
    assert "template_logger" in found.evidence


@pytest.mark.parametrize(("criterion", "met"), [(SEARCH, True), (TEMPLATES, None), (EMBEDDING, None)])
def test_nobody_there_leaves_it_as_the_database_tells(criterion: str, met: bool | None) -> None:
    found = judged(criterion, [check(NAMES[criterion], "not_reachable")])
    assert found.met is met
    assert "what was seen" in found.evidence
    assert judged(criterion, []).met is met


def test_code_examples_that_are_switched_off_do_not_break_search() -> None:
    switched_off = check("code_examples", "broken_in_archon", defect="code_examples_500")
    assert judged(SEARCH, [check("search", "works"), switched_off]).met is True
    assert judged(SEARCH, [check("search", "works"), check("code_examples", "broken_by_data")]).met is False
