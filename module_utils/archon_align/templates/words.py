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
        """The text in PROD's words."""
        return self._replaced(text, self.given)

    def rewrite_json(self, text: str) -> str:
        """The same inside the strings of a JSON text; its form may not be the server's."""
        return self._replaced(text, {_escaped(word): _escaped(other) for word, other in self.given.items()})

    @staticmethod
    def _replaced(text: str, words: Mapping[str, str]) -> str:
        if not words:
            return text
        pattern = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
        return re.sub(pattern, lambda found: words[found[0]], text)


def _escaped(word: str) -> str:
    return json.dumps(word, ensure_ascii=False)[1:-1]


def rewritten(dev: Session, state: TableState, words: Words) -> TableState:
    """DEV's rows in PROD's words, wherever a value is carried but in the natural key. `dev` gives jsonb its server's form."""
    if not words.given or not state.rows:
        return state
    columns = [column for column in moved_columns(state) if column.name != state.kind.key]
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
