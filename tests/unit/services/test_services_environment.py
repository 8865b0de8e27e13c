"""Which variables of a stack give a service the environment that is wanted, and which cannot."""

from __future__ import annotations

import pytest
from archon_align.errors import AlignError
from archon_align.services.environment import EnvironmentPlan, checked, plan

FILE = """
services:
  archon-server:
    image: x
    {more}
    environment:
      {environment}
  archon-mcp:
    environment: ["LOG_LEVEL=${{LOG_LEVEL}}"]
"""


def made(
    environment: str, wanted: dict[str, str], *, more: str = "", variables: dict[str, str] | None = None
) -> EnvironmentPlan:
    file = FILE.format(environment=environment, more=more)
    return plan(file, variables or {}, service="archon-server", name="prod_server", environment={}, wanted=wanted)


@pytest.mark.parametrize(
    "written",
    ["- A=${B}", "- A=${B:-x}", "- A=${B-}", "- A=${B:?needed}", "- A=$B", "A: ${B}", 'A: "${B:-http://x:1/v1}"'],
)
def test_a_value_that_is_one_variable_is_changed_through_it(written: str) -> None:
    (change,) = made(written, {"A": "new"}, variables={"B": "old"}).changes
    assert (change.variable, change.key, change.before, change.after) == ("B", "A", "old", "new")


def test_a_bare_key_takes_the_variable_of_its_name() -> None:
    for written in ("- A", "A:"):
        (change,) = made(written, {"A": "new"}).changes
        assert (change.variable, change.before) == ("A", None)


def test_a_file_of_all_variables_passes_everything_on() -> None:
    (change,) = made("- B=1", {"A": "new"}, more="env_file: stack.env").changes
    assert change.variable == "A"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("- B=1", "does not reference ${A}"),
        ("- A=fixed", "does not reference a variable for it"),
        ("- A=http://${HOST}:${PORT}/v1", "several parts"),
        ("- A=${LOG_LEVEL}", "uses ${LOG_LEVEL} elsewhere"),
    ],
)
def test_what_cannot_be_set_for_this_service_alone_is_told(written: str, why: str) -> None:
    found = made(written, {"A": "new"})
    assert found.changes == ()
    assert why in found.findings[0].message


def test_what_is_as_wanted_is_left_alone() -> None:
    file = FILE.format(environment="- A=fixed", more="")
    found = plan(file, {}, service="archon-server", name="s", environment={"A": "new"}, wanted={"A": "new"})
    assert (found.changes, found.findings) == ((), ())


@pytest.mark.parametrize("file", ["", "[", "services: {other: {}}", "services: [archon-server]"])
def test_a_file_that_cannot_be_read_is_told(file: str) -> None:
    found = plan(file, {}, service="archon-server", name="s", environment={}, wanted={"A": "new"})
    assert [finding.code for finding in found.findings] == ["stack_file_unreadable"]


def test_secrets_are_hidden_in_diff_and_findings() -> None:
    found = made(
        "- MY_TOKEN=${MY_TOKEN}\n      - MY_KEY=1",
        {"MY_TOKEN": "hunter2", "MY_KEY": "hunter3"},
        variables={"MY_TOKEN": "hunter1"},
    )
    text = f"{found!r} {found.diff()}"
    assert "hunter" not in text
    assert "MY_TOKEN=(secret, not shown)" in text


def test_extra_variables_are_checked_without_quoting_them() -> None:
    assert checked({"A": True, "B": 1, "C": "x"}) == {"A": "true", "B": "1", "C": "x"}
    for bad in ({"a b": "x"}, {"A": "two\nlines"}, {"A": None}, {"A": ["hunter2"]}, {"A": "nul\0hunter2"}):
        with pytest.raises(AlignError) as caught:
            checked(bad)
        assert "hunter2" not in str(caught.value)
