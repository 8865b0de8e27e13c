"""Any text, any JSON: what arrives in PROD is what DEV has."""

from __future__ import annotations

import json
from collections.abc import Callable

import psycopg
import template_shapes as shapes
from archon_align.context import Context
from archon_align.templates import phase
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ("''", "\\", "E'\\'", "%s %(a", ")s %%", "$1 $$", "\r\n", "{{USER_TASK}}", "\u202e", "NULL", "--", "/*", "😀")
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=5,
)
_ROWS = st.dictionaries(
    _TEXT.filter(bool),
    st.tuples(_TEXT, st.none() | _TEXT, _JSON, st.none() | st.lists(st.none() | _TEXT, max_size=3)),
    min_size=1,
    max_size=4,
)
_QUERY = "SELECT name, instruction_text, description, required_tools::text, labels FROM archon_template_components ORDER BY name"


def test_any_text_arrives_as_it_is(
    new_database: Callable[[str], str], make_context: Callable[..., Context], hold_run_lock: Callable
) -> None:
    prod, dev = new_database(shapes.MODERN), new_database(shapes.MODERN)
    hold_run_lock(prod)
    context = make_context(prod, dev)

    with psycopg.connect(dev, autocommit=True) as source, psycopg.connect(prod, autocommit=True) as target:

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(_ROWS)
        @example({"a": ("100%(x", ")s ''", "%s", ["\\", None])})
        def work(rows: dict[str, tuple[str, str | None, object, list[str | None] | None]]) -> None:
            # PROD keeps the rows of the examples before, so that creating and updating both occur.
            source.execute("TRUNCATE archon_template_components")
            for name, (text, description, value, labels) in rows.items():
                source.execute(
                    "INSERT INTO archon_template_components (name, instruction_text, description, required_tools, labels)"
                    " VALUES (%s, %s, %s, %s, %s)",
                    (name, text, description, json.dumps(value).replace("\\u0000", ""), labels),
                )
            phase.run(context, phase.Options())
            wanted = source.execute(_QUERY).fetchall()
            assert [row for row in target.execute(_QUERY) if row[0] in rows] == wanted
            assert phase.run(context, phase.Options()).statements == []

        work()
