"""What a catalogue is once tables, columns and enum labels have other names, and the statements that give them. Pure.

Texts are rewritten as the server would deparse them, as far as tokens tell. Where they do not tell (queries of views,
policies on other tables), the text is marked as stale: then it is made anew from DEV's. A text rewritten wrongly is a
difference that need not be, or is found by the proof; it can lose nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pglast.keywords import COL_NAME_KEYWORDS, RESERVED_KEYWORDS, TYPE_FUNC_NAME_KEYWORDS

from ..plan import Statement
from .ddl import ident, literal
from .model import (
    Catalog,
    Column,
    Constraint,
    Enum,
    Function,
    Index,
    Key,
    Kind,
    Object,
    Other,
    Policy,
    Sequence,
    Table,
    View,
)

STALE = "\ue000stale\ue001"
_ON_TABLE = frozenset({Kind.TABLE, Kind.COLUMN, Kind.DEFAULT, Kind.CONSTRAINT, Kind.TRIGGER, Kind.RULE, Kind.POLICY})
_WORD = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_TOKENS = re.compile(rf"(?P<skip>'(?:[^']|'')*'|::\s*{_WORD})|(?P<chain>{_WORD}(?:\.{_WORD})*)(?P<call>\s*\()?")
_KEYWORDS = frozenset({*COL_NAME_KEYWORDS, *RESERVED_KEYWORDS, *TYPE_FUNC_NAME_KEYWORDS})
_TEXTS = frozenset({"definition", "expression", "predicate", "using", "check", "bound", "partition_key"})
_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")


@dataclass(frozen=True, slots=True)
class Renames:
    """Keys as read, and the bare new names; enums to their labels, old to new."""

    tables: Mapping[Key, str] = field(default_factory=dict)
    columns: Mapping[Key, str] = field(default_factory=dict)
    labels: Mapping[Key, Mapping[str, str]] = field(default_factory=dict)


def renamed(
    desired: Catalog, found: Catalog, renames: Renames
) -> tuple[Catalog, tuple[Statement, ...], dict[Key, Key]]:
    """`found` under its new names, the statements that give them, and new keys of tables and columns to those as read."""
    if not (renames.tables or renames.columns or renames.labels):
        return found, (), {}
    renaming = _Renaming(desired, found, renames)
    return renaming.catalog(), tuple(renaming.statements()), renaming.origin()


class _Renaming:
    def __init__(self, desired: Catalog, found: Catalog, renames: Renames) -> None:
        self.found = found
        self.tables = dict(renames.tables)
        self.labels = renames.labels
        self.given = dict(renames.columns)
        self.sequences: dict[Key, str] = {}
        self.columns = {child: to for key, to in self.given.items() for child in found.with_heirs(key)}
        self.sequences = self._sequences(desired)
        # Whose texts may speak of what is renamed.
        self.touched = {key.table for key in self.columns} | set(self.tables)
        self.relabelled = {
            column
            for enum in self.labels
            for column in found.dependents.get(enum, ())
            if column.kind is Kind.COLUMN
        }  # fmt: skip

    def _sequences(self, desired: Catalog) -> dict[Key, str]:
        """A serial's sequence goes by DEV's name too, so that it keeps its position."""
        result = {}
        wanted = {
            one.owned_by: key for key, one in desired.objects.items() if isinstance(one, Sequence) and one.owned_by
        }
        for key, one in self.found.objects.items():
            if isinstance(one, Sequence) and one.owned_by is not None:
                there = wanted.get(self.key(one.owned_by))
                moved = one.owned_by in self.columns or one.owned_by.table in self.tables
                if moved and there is not None and there.schema == key.schema and there not in self.found.objects:
                    result[key] = there.name
        return result

    # -- keys --------------------------------------------------------------------------------------------------------

    def key(self, key: Key) -> Key:
        if key.kind is Kind.SEQUENCE:
            return Key(key.kind, key.schema, self.sequences.get(key, key.name))
        if key.kind not in _ON_TABLE:
            return key
        part = key.part
        if key.kind in (Kind.COLUMN, Kind.DEFAULT):
            part = self.columns.get(Key(Kind.COLUMN, key.schema, key.name, key.part), part)
        return Key(key.kind, key.schema, self.tables.get(key.table, key.name), part)

    def origin(self) -> dict[Key, Key]:
        found = {}
        for key in self.found.objects:
            if (table := self.found.table(key)) is not None:
                for old in (key, *(column.key for column in table.columns.values())):
                    if (new := self.key(old)) != old:
                        found[new] = old
        return found

    # -- the statements ----------------------------------------------------------------------------------------------

    def statements(self) -> list[Statement]:
        def statement(text: str, key: Key, to: str) -> Statement:
            hazards = ("takes_exclusive_lock", "needs_decision")
            return Statement(text, key.qualified, f"{key} becomes {to}, as decided", hazards, proves_values=True)

        made = []
        for enum, labels in sorted(self.labels.items()):
            alter = f"ALTER TYPE {ident(enum.schema, enum.name)} RENAME VALUE"
            made += [
                statement(f"{alter} {literal(old)} TO {literal(new)}", enum, repr(new)) for old, new in labels.items()
            ]
        for key, to in sorted(self.given.items()):
            text = f"ALTER TABLE {ident(key.schema, key.name)} RENAME COLUMN {ident(key.part)} TO {ident(to)}"
            made.append(statement(text, key, to))
        for key, to in sorted(self.tables.items()):
            made.append(statement(f"ALTER TABLE {ident(key.schema, key.name)} RENAME TO {ident(to)}", key, to))
        for key, to in sorted(self.sequences.items()):
            made.append(statement(f"ALTER SEQUENCE {ident(key.schema, key.name)} RENAME TO {ident(to)}", key, to))
        return made

    # -- the catalogue -----------------------------------------------------------------------------------------------

    def catalog(self) -> Catalog:
        moved = {
            one.name: self._moved(getattr(self.found, one.name))
            for one in fields(self.found)
            if one.name not in ("objects", "unmodelled", "available")
        }
        objects = (self._object(value) for value in self.found.objects.values())
        return replace(self.found, **{**moved, "objects": {value.key: value for value in objects}})

    def _moved(self, value: Any) -> Any:
        """`value` with every key in it as it will be."""
        if isinstance(value, Key):
            return self.key(value)
        if isinstance(value, Mapping):
            return {self._moved(key): self._moved(one) for key, one in value.items()}
        if type(value) in (tuple, frozenset):
            return type(value)(map(self._moved, value))
        return value

    def _object(self, value: Object) -> Object:
        own = value.table if isinstance(value, Index) else value.key.table
        text = self._text_of(value, own)
        changes: dict[str, Any] = {}
        for one in fields(value):
            found = getattr(value, one.name)
            if isinstance(found, Key):
                changes[one.name] = self.key(found)
            elif text is not None and one.name in _TEXTS and isinstance(found, str):
                changes[one.name] = text(found)
        match value:
            case Table():
                columns = (self._column(column) for column in value.columns.values())
                changes["columns"] = {column.key.part: column for column in columns}
                changes["parents"] = tuple(self._rewritten(parent, {}) for parent in value.parents)
            case Constraint():
                changes["columns"] = self._names(own, value.columns)
                if value.references is not None:
                    changes["referenced_columns"] = self._names(value.references, value.referenced_columns)
            case Index() if text is not None:
                changes["keys"] = tuple(map(text, value.keys))
            case Enum() if value.key in self.labels:
                labels = self.labels[value.key]
                changes["labels"] = tuple(labels.get(label, label) for label in value.labels)
        return replace(value, **changes)

    def _column(self, column: Column) -> Column:
        default = column.default
        if default is not None:
            text = self._text_of(column, column.key.table)
            default = text(default) if text is not None else default
        return replace(
            column, key=self.key(column.key), type=self._rewritten(column.type, {}), base=self._rewritten(column.base, {}), default=default
        )  # fmt: skip

    def _names(self, table: Key, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self.key(Key(Kind.COLUMN, table.schema, table.name, name)).part for name in names)

    # -- texts -------------------------------------------------------------------------------------------------------

    def _text_of(self, value: Object, own: Key) -> Callable[[str], str] | None:
        """How an object's texts change; None when they speak of nothing that is renamed."""
        needed = {*self.found.depends.get(value.key, ())}
        if isinstance(value, Column):
            needed |= self.found.depends.get(
                Key(Kind.DEFAULT, value.key.schema, value.key.name, value.key.part), frozenset()
            )
            needed.add(value.key)
        touched = {key.table if key.kind in _ON_TABLE else key for key in needed} & self.touched
        local = {key.part: to for key, to in self.columns.items() if key.table == own}
        if isinstance(value, (View, Function, Other)):
            return (lambda text: STALE + text) if touched or needed & set(self.labels) else None
        if isinstance(value, Policy) and touched - {own}:
            return lambda text: STALE + text
        labels = {
            pair
            for enum, pairs in self.labels.items()
            if enum in needed or any(key in self.relabelled for key in needed)
            for pair in pairs.items()
        }  # fmt: skip
        foreign = value.references if isinstance(value, Constraint) else None
        if not (touched or own in self.touched or labels or needed & set(self.sequences)):
            return None

        def rewrite(text: str) -> str:
            for old, new in labels:
                text = text.replace(f"{literal(old)}::", f"{literal(new)}::")
            here, keyword, there = text.partition(" REFERENCES ")
            if foreign is None or not keyword:
                return self._rewritten(text, local)
            theirs = {key.part: to for key, to in self.columns.items() if key.table == foreign}
            return f"{self._rewritten(here, local)}{keyword}{self._rewritten(there, theirs)}"

        return rewrite

    def _rewritten(self, text: str, columns: Mapping[str, str]) -> str:
        relations = {(key.schema, key.name): to for key, to in self.tables.items()}
        relations |= {(key.schema, key.name): to for key, to in self.sequences.items()}

        def one(match: re.Match[str]) -> str:
            if match["skip"] is not None:
                quoted = match["skip"]
                # A sequence's name stands in a literal: nextval('public.a_id_seq'::regclass).
                if quoted.startswith("'"):
                    for (schema, name), to in relations.items():
                        for old in (f"{_quoted(schema)}.{_quoted(name)}", _quoted(name)):
                            if quoted == f"'{old}'":
                                return f"'{old.removesuffix(_quoted(name))}{_quoted(to)}'"
                return quoted
            parts = [_bare(part) for part in re.findall(_WORD, match["chain"])]
            if tuple(parts[:2]) in relations and len(parts) > 1:
                parts[1] = relations[parts[0], parts[1]]
            elif parts[-1] in columns and not match["call"] and (len(parts) == 1 or parts[0] in ("new", "old")):
                parts[-1] = columns[parts[-1]]
            else:
                return match[0]
            return ".".join(map(_quoted, parts)) + (match["call"] or "")

        return _TOKENS.sub(one, text)


def _bare(word: str) -> str:
    return word[1:-1].replace('""', '"') if word.startswith('"') else word


def _quoted(name: str) -> str:
    """A name as the server deparses it."""
    return name if _PLAIN.fullmatch(name) and name not in _KEYWORDS else ident(name)
