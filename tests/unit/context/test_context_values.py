"""What a run is given is judged before anything is connected to."""

from __future__ import annotations

from pathlib import Path

import pytest
from archon_align.context import Context, Run
from archon_align.database.target import Target
from archon_align.errors import AlignError


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"schemas": ()}, "archon_schema_names"),
        ({"schemas": ("public", "")}, "archon_schema_names"),
        ({"connect_timeout": 0.0}, "archon_connect_timeout"),
        ({"connect_timeout": float("nan")}, "archon_connect_timeout"),
        ({"statement_timeout": -1.0}, "archon_statement_timeout"),
        ({"statement_timeout": 1e9}, "archon_statement_timeout"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(fields: dict[str, object], named: str, tmp_path: Path) -> None:
    run = Run("20260101-000000-abcdef", tmp_path)
    with pytest.raises(AlignError) as caught:
        Context(run, Target("PROD", "x"), Target("DEV", "y"), "test", **fields)  # type: ignore[arg-type]
    assert caught.value.object_name == named
