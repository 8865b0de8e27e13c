"""Decisions that a machine must not take: given by name in the inventory, checked here, carried out by the planner.

Objects are named as findings print them (`column public.t.c`; the kind may be left out where the section implies it), or
with SQL quoting where a name holds a dot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pglast import ast, parse_sql
from pglast.parser import ParseError

from ..errors import AlignError
from .corrections import KNOWN as CORRECTIONS
from .model import Key, Kind

VARIABLE = "archon_schema_decisions"
QUARANTINE = "archon_quarantine"
_RENAMED = {"table": Kind.TABLE, "column": Kind.COLUMN, "label": Kind.ENUM}
_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^."]+))\s*(\.|$)')


@dataclass(frozen=True, slots=True)
class Rename:
    """`name` is what PROD calls the object (for a label: its enum), `label` the label, `to` what DEV calls it (bare)."""

    kind: Kind
    name: str
    to: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a person decided. Expressions are over PROD's table, with its columns named as they are after the renames.

    `backfills`: columns to the value that rows get which have none; `conversions`: columns to the expression that makes the
    new value; `label_remaps`: enums to the labels that go and those that take their place; `shapes`: tables to DEV's columns
    as expressions over PROD's columns; `quarantine`: objects that only PROD has and that are to be set aside;
    `corrections`: functions of Archon's that cannot work, to be corrected in both databases (corrections.KNOWN).
    """

    renames: tuple[Rename, ...] = ()
    backfills: Mapping[str, str] = field(default_factory=dict)
    conversions: Mapping[str, str] = field(default_factory=dict)
    label_remaps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    shapes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    quarantine: tuple[str, ...] = ()
    corrections: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any((
            self.renames, self.backfills, self.conversions, self.label_remaps, self.shapes, self.quarantine, self.corrections,
        ))  # fmt: skip

    @classmethod
    def parse(cls, given: object) -> Decisions:
        """Decisions from the inventory's mapping. Raises AlignError naming the entry that cannot be used."""
        sections = _mapping(given or {}, VARIABLE)
        known = ("renames", "backfills", "conversions", "label_remaps", "shapes", "quarantine", "corrections")
        for name in sections:
            if name not in known:
                raise unusable(VARIABLE, f"the sections {', '.join(known)}", f"a section {name!r}")
        return cls(
            renames=tuple(_rename(entry) for entry in _list(sections.get("renames"), f"{VARIABLE}.renames")),
            backfills=_expressions(sections.get("backfills"), f"{VARIABLE}.backfills"),
            conversions=_expressions(sections.get("conversions"), f"{VARIABLE}.conversions"),
            label_remaps={
                name: _texts(labels, f"{VARIABLE}.label_remaps.{name}")
                for name, labels in _mapping(sections.get("label_remaps") or {}, f"{VARIABLE}.label_remaps").items()
            },
            shapes={
                name: _shape(shape, f"{VARIABLE}.shapes.{name}")
                for name, shape in _mapping(sections.get("shapes") or {}, f"{VARIABLE}.shapes").items()
            },
            quarantine=tuple(
                _text(entry, f"{VARIABLE}.quarantine") for entry in _list(sections.get("quarantine"), f"{VARIABLE}.quarantine")
            ),
            corrections=_corrections(_list(sections.get("corrections"), f"{VARIABLE}.corrections")),
        )  # fmt: skip


def identifiers(name: str) -> tuple[str, ...]:
    """The parts of a dotted name with SQL quoting; unquoted parts are taken as they stand (no folding to lower case)."""
    parts: list[str] = []
    place = 0
    while place < len(name):
        match = _PART.match(name, place)
        if match is None:
            return ()
        parts.append(match[1].replace('""', '"') if match[1] is not None else match[2].strip())
        place = match.end()
    return tuple(parts)


class Names:
    """Finds objects by the names that people write, among `keys`."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._by_name: dict[str, list[Key]] = {}
        self._by_parts: dict[tuple[Kind, tuple[str, ...]], Key] = {}
        for key in keys:
            self._by_name.setdefault(key.qualified, []).append(key)
            self._by_parts[key.kind, tuple(part for part in (key.schema, key.name, key.part) if part)] = key

    def find(self, name: str, kinds: frozenset[Kind]) -> Key | None:
        """The object of one of `kinds` that `name` means, or None. Raises AlignError when it could mean several."""
        for kind in sorted(kinds, key=len, reverse=True):
            if name.startswith(f"{kind} "):
                kinds, name = frozenset({kind}), name.removeprefix(f"{kind} ").strip()
                break
        found = {key for key in self._by_name.get(name, ()) if key.kind in kinds}
        if not found and (parts := identifiers(name)):
            found = {key for kind in kinds if (key := self._by_parts.get((kind, parts))) is not None}
        if len(found) > 1:
            meant = "; ".join(sorted(map(str, found)))
            raise unusable(VARIABLE, "a name that means one object", f"{name!r}, which could be {meant}")
        return next(iter(found), None)


def unusable(place: str, expected: str, found: str) -> AlignError:
    """The error for a decision that cannot be what was meant."""
    return AlignError(
        "A decision cannot be used.",
        object_name=place,
        expected=expected,
        found=found,
        remedy=f"Correct {VARIABLE} (see docs/phases/2-schema.md); nothing was changed.",
        code="bad_decision",
    )


def _mapping(given: object, place: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise unusable(place, "a mapping with names as keys", f"{type(given).__name__}")
    return given


def _list(given: object, place: str) -> list[object]:
    if given is None:
        return []
    if not isinstance(given, (list, tuple)):
        raise unusable(place, "a list", type(given).__name__)
    return list(given)


def _text(given: object, place: str) -> str:
    if not isinstance(given, str) or not given.strip():
        raise unusable(place, "a text", repr(given))
    return given.strip()


def _texts(given: object, place: str) -> dict[str, str]:
    found = _mapping(given, place)
    return {name: _text(value, f"{place}.{name}") for name, value in found.items()}


def _corrections(given: Iterable[object]) -> tuple[str, ...]:
    names = tuple(_text(entry, f"{VARIABLE}.corrections") for entry in given)
    for name in names:
        if name not in CORRECTIONS:
            raise unusable(f"{VARIABLE}.corrections", f"one of {', '.join(CORRECTIONS)}", repr(name))
    return names


def _rename(entry: object) -> Rename:
    place = f"{VARIABLE}.renames"
    texts = _texts(entry, place)
    kind = _RENAMED.get(texts.get("kind", ""))
    wanted = {"kind", "from", "to"} | ({"label"} if kind is Kind.ENUM else set())
    if kind is None or texts.keys() != wanted:
        expected = "kind (table, column or label), from and to, and for a label the label"
        raise unusable(place, expected, f"{dict(texts)}")
    return Rename(kind, texts["from"], texts["to"], texts.get("label", ""))


def _expressions(given: object, place: str) -> dict[str, str]:
    return {name: _expression(value, f"{place}.{name}") for name, value in _mapping(given or {}, place).items()}


def _shape(given: object, place: str) -> dict[str, str]:
    shape = _mapping(given, place)
    if shape.keys() != {"columns"}:
        raise unusable(place, "columns, a mapping of DEV's columns to expressions", ", ".join(shape) or "nothing")
    return _expressions(shape["columns"], f"{place}.columns")


def _expression(given: object, place: str) -> str:
    """One SQL expression and nothing else: it becomes part of a statement."""
    text = _text(given, place)
    try:
        statements = parse_sql(f"SELECT (\n{text}\n)")
    except ParseError as error:
        raise unusable(place, "an SQL expression", f"{text!r}: {error}") from error
    alone = statements[0].stmt if len(statements) == 1 else None
    if not isinstance(alone, ast.SelectStmt) or not _only_one_value(alone) or "--" in text or "/*" in text:
        raise unusable(place, "a single SQL expression without comments", repr(text))
    return text


def _only_one_value(statement: ast.SelectStmt) -> bool:
    clauses = ("fromClause", "whereClause", "groupClause", "havingClause", "windowClause", "sortClause", "limitCount")
    others = ("limitOffset", "lockingClause", "withClause", "distinctClause", "intoClause", "valuesLists", "larg")
    return len(statement.targetList or ()) == 1 and not any(getattr(statement, name) for name in (*clauses, *others))
