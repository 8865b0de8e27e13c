"""Words that belong to DEV's environment, put into PROD's words on the way. Pure but for the server's form of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from psycopg import sql

from ..database.session import Session
from ..errors import AlignError
from .model import Row, TableState
from .planner import moved_columns

_JSON = ("json", "jsonb")
_TEXT = ("text", "character", "citext")
_PLACEHOLDER = r"\{\{[^{}]+\}\}"
_STRING = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?')


@dataclass(frozen=True, slots=True)
class Words:
    """From DEV's words to PROD's. The longest that stands in a place is taken, and no text is gone over twice."""

    given: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(not word for word in self.given):
            raise AlignError(
                "A word to be replaced is empty.",
                object_name="archon_templates_words",
                expected="words as they stand in DEV's texts",
                found="''",
                remedy="Remove the empty one; no template was changed.",
                code="bad_variable",
            )

    def rewrite(self, text: str) -> str:
        """The text in PROD's words. Placeholders stay: they name components, whose names are the same on both sides."""
        pattern = "|".join([*map(re.escape, sorted(self.given, key=len, reverse=True)), _PLACEHOLDER])
        return re.sub(pattern, lambda found: self.given.get(found[0], found[0]), text)

    def rewrite_json(self, text: str) -> str:
        """The same inside the strings of a JSON text, but for its keys; its form may not be the server's."""

        def one(found: re.Match[str]) -> str:
            value = json.loads(found[1])
            new = self.rewrite(value)
            return found[0] if found[2] or new == value else json.dumps(new)

        return _STRING.sub(one, text)


def rewritten(dev: Session, state: TableState, words: Words) -> TableState:
    """DEV's rows in PROD's words, wherever a text or JSON is carried but in the natural key. `dev` gives jsonb its server's form."""
    if not words.given or not state.rows:
        return state
    columns = [
        column
        for column in moved_columns(state)
        if column.name != state.kind.key
        and (column.type in _JSON or (column.type.startswith(_TEXT) and not column.type.endswith("[]")))
    ]
    rows = []
    for row in state.rows:
        values = dict(row.values)
        for column in columns:
            text = values[column.name]
            if text is None:
                continue
            is_json = column.type in _JSON
            new = words.rewrite_json(text) if is_json else words.rewrite(text)
            if new != text:
                values[column.name] = _as_stored(dev, new, column.type) if is_json else new
        rows.append(Row(row.name, values, row.parent, row.dangling, row.xmin))
    return replace(state, rows=tuple(rows))


def _as_stored(dev: Session, text: str, kind: str) -> str:
    return str(dev.value(sql.SQL("SELECT {}::{}::text").format(sql.Literal(text), sql.SQL(kind))))
