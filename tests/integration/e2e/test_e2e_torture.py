"""Four rounds of `make torture`: a run with a fault in it, a plain one, a check, and the oracle's judgement of every row."""

from __future__ import annotations

import pytest

from tests.torture.__main__ import main

# Neighbouring seeds go through the kinds of faults in the order of their list.
FIRST_SEED = 60


@pytest.mark.timeout(1500)  # four rounds of three runs each, on whatever the other tests leave of the machine
def test_four_rounds_are_survived(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--runs", "4", "--seed", str(FIRST_SEED)])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert printed.count(": survived") == 4
