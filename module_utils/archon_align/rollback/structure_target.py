"""What the structure shall be: as it is now, with everything put back that is still as the run left it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import AlignError
from ..schema.ddl import ident
from ..schema.decisions import Decisions
from ..schema.decisions import Rename as Decision
from ..schema.model import Catalog, Index, Key, Kind, readable
from ..schema.renaming import Renames, renamed
from .ledger import Entry
from .structure_codec import decode_key
from .structure_recording import FORMAT, Intent, Rename
from .structure_states import Change, State, catalog_of, decode_change, states
from .structure_vectors import Released, Swapped, decode_released, decode_swapped
from .undo import Kept, Request

_ON_TABLE = frozenset({Kind.TABLE, Kind.COLUMN, Kind.DEFAULT, Kind.CONSTRAINT, Kind.TRIGGER, Kind.RULE, Kind.POLICY})
_CHANGED = "changed since the run"


@dataclass(frozen=True, slots=True)
class Told:
    """One entry's payload, checked."""

    changes: tuple[Change, ...]
    renames: tuple[Rename, ...]
    intends: tuple[Intent, ...]
    swapped: tuple[Swapped, ...]
    released: tuple[Released, ...]
    final: tuple[str, ...]


@dataclass(slots=True)
class Target:
    """`here` is the structure as it is, under the names that it had before the run; `wanted` what it shall become.

    `kept` is what is left alone, by its name; `decisions` are the renames that lead back. Keys are those of before the run.
    """

    here: Catalog
    wanted: dict[Key, State]
    decisions: Decisions
    names: Mapping[Key, Key]
    kept: dict[str, Kept] = field(default_factory=dict)

    def keep(self, key: Key, kept: Kept) -> None:
        """Leave `key` as it is now."""
        self.kept.setdefault(kept.name, kept)
        now = states(self.here).get(key)
        if now is None:
            self.wanted.pop(key, None)
        else:
            self.wanted[key] = now


def read(entry: Entry) -> Told:
    """What an entry says. Raises ValueError, TypeError or KeyError when it is none of ours."""
    payload = entry.payload
    if payload["format"] != FORMAT:
        raise ValueError(f"format {payload['format']} of a structure entry")
    renames = (Rename(decode_key(key), str(was), str(label)) for key, was, label in payload["renames"])
    intends = (Intent(decode_key(key), decode_key(table)) for key, table in payload["intends"])
    return Told(
        tuple(decode_change(one) for one in payload["changes"]),
        tuple(renames),
        tuple(intends),
        tuple(map(decode_swapped, payload["swapped"])),
        tuple(map(decode_released, payload["released"])),
        tuple(map(str, payload["final"])),
    )


def require_undoable(told: Sequence[Told], where: str) -> None:
    """Raise AlignError when what is written down does not suffice to undo it."""
    final = sorted({name for one in told for name in one.final})
    if final:
        raise AlignError(
            "This restore point cannot be undone from what is written down; nothing was changed.",
            object_name=f"{where}: {', '.join(final)}",
            expected="changes of the structure, which keep the values where they are",
            found="values that were moved or replaced, as decided; what was there before is in archon_quarantine",
            remedy="Restore the verified backup of that run into an empty database (playbooks/restore.yml), or put the values"
            " back by hand from archon_quarantine.",
            code="rollback_not_possible",
        )


def target(now: Catalog, told: Sequence[Told], request: Request) -> Target:
    """What `told` (oldest first) means for the structure as it is `now`."""
    folding = _Folding(now, request)
    known = {change.key for one in told for change in one.changes}
    for one in reversed(told):
        folding.undo(one)
        folding.forget([intent for intent in one.intends if intent.key not in known])
    return folding.target()


class _Folding:
    """Takes entries back one by one, newest first. `here` and `found` go by the names that hold before the entry taken last."""

    def __init__(self, now: Catalog, request: Request) -> None:
        self.now = now
        self.request = request
        self.here = now
        self.found = states(now)
        self.tables: dict[Key, str] = {}
        self.columns: dict[Key, str] = {}
        self.labels: dict[Key, dict[str, str]] = {}
        self.names: dict[Key, Key] = {}
        self.kept: dict[str, Kept] = {}

    def target(self) -> Target:
        renames = [Decision(Kind.TABLE, _quoted(key), to) for key, to in self.tables.items()]
        renames += [Decision(Kind.COLUMN, _quoted(key), to) for key, to in self.columns.items()]
        renames += [
            Decision(Kind.ENUM, _quoted(key), to, label)
            for key, pairs in self.labels.items()
            for label, to in pairs.items()
        ]
        return Target(self.here, self.found, Decisions(renames=tuple(renames)), self.names, self.kept)

    def undo(self, told: Told) -> None:
        renames = [one for one in told.renames if self._applies(one)]
        former = _former(renames)
        by_key = {change.key: change for change in told.changes}
        put: dict[Key, State] = {}
        gone: set[Key] = set()
        paired: set[Key] = set()
        for change in told.changes:
            old = former(change.key)
            if change.before is None and old != change.key and (there := by_key.get(old)) and there.before:
                # One object under two names: what users did to it under the new one is theirs.
                paired.add(old)
                self._take_back(change._replace(before=there.before), old, put, gone)
        for change in told.changes:
            if change.key not in paired and not (change.before is None and former(change.key) in paired):
                self._take_back(change, former(change.key), put, gone)
        if renames:
            self._rename(renames, told)
        for key in gone:
            self.found.pop(key, None)
        self.found.update(put)

    def forget(self, intends: Sequence[Intent]) -> None:
        """Take back the indexes of builds whose end nobody wrote down."""
        for one in intends:
            state = self.found.get(one.key)
            if state is not None and isinstance(state.value, Index) and state.value.table == one.table:
                del self.found[one.key]

    def _take_back(self, change: Change, old: Key, put: dict[Key, State], gone: set[Key]) -> None:
        now = self.found.get(change.key)
        name = str(old)
        if change.before is None:
            assert change.after is not None
            if now is None:
                return
            if change.after.same(now) or self._insists(name, now):
                gone.add(old)
        elif change.after is None:
            if now is None:
                put[old] = change.before
            elif not change.before.same(now):
                self._keep(name, "made again by users since", now, change.before)
        elif now is None:
            if change.before.value is None:
                return
            if self.request.wants(name):
                put[old] = change.before
            else:
                self._keep(name, "dropped by users since", None, change.before)
        else:
            made = self._parts(name, change.before, change.after, now)
            # What users changed under its new name is led back by the rename alone.
            if made.value is None or made.value.key == old:
                put[old] = made

    def _parts(self, name: str, before: State, after: State, now: State) -> State:
        """Object, comment and grants each for itself: a comment that users wrote stays, whatever becomes of its object."""
        made: dict[str, Any] = {}
        for part in ("value", "comment", "grants"):
            one, other, found = getattr(before, part), getattr(after, part), getattr(now, part)
            if one == other or found == one:
                continue
            shown = name if part == "value" else f"{part} of {name}"
            if found == other or self.request.wants(shown):
                made[part] = one
            else:
                self._keep(shown, _CHANGED, found, one)
        if "value" in made or before.value is None:
            made["depends"] = before.depends
        return replace(now, **made)

    def _insists(self, name: str, now: State) -> bool:
        if not self.request.wants(name):
            self._keep(name, _CHANGED, now, None)
            return False
        return True

    def _keep(self, name: str, why: str, found: object, was: object) -> None:
        self.kept.setdefault(name, Kept(name, why, _shown(found), _shown(was)))

    # -- names ---------------------------------------------------------------------------------------------------

    def _applies(self, one: Rename) -> bool:
        """Is it still called so, and is its former name free?"""
        now = self.found.get(one.key)
        if now is None:
            return False
        if one.key.kind is Kind.ENUM:
            labels = getattr(now.value, "labels", ())
            return one.label in labels and one.was not in labels
        return _former([one])(one.key) not in self.found

    def _rename(self, renames: Sequence[Rename], told: Told) -> None:
        desired = replace(
            self.now,
            objects={
                **self.now.objects,
                **{
                    change.key: change.before.value
                    for change in told.changes
                    if change.before is not None and change.before.value is not None
                },
            },
        )
        tables: dict[Key, str] = {}
        columns: dict[Key, str] = {}
        labels: dict[Key, dict[str, str]] = {}
        for rename in renames:
            if rename.key.kind is Kind.ENUM:
                labels.setdefault(rename.key, {})[rename.label] = rename.was
                self.labels.setdefault(rename.key, {})[rename.label] = rename.was
            elif rename.key.kind is Kind.TABLE:
                tables[rename.key] = rename.was
                self.tables[self.names.get(rename.key, rename.key)] = rename.was
            else:
                columns[rename.key] = rename.was
                self.columns[self.names.get(rename.key, rename.key)] = rename.was
        step = Renames(tables, columns, labels)
        self.found = states(renamed(desired, catalog_of(self.found, self.here), step)[0])
        self.here = renamed(desired, self.here, step)[0]
        whole = Renames(self.tables, self.columns, self.labels)
        self.names = renamed(desired, self.now, whole)[2]


def _former(renames: Sequence[Rename]) -> Callable[[Key], Key]:
    tables = {one.key: one.was for one in renames if one.key.kind is Kind.TABLE}
    columns = {one.key: one.was for one in renames if one.key.kind is Kind.COLUMN}

    def former(key: Key) -> Key:
        if key.kind not in _ON_TABLE:
            return key
        part = key.part
        if key.kind in (Kind.COLUMN, Kind.DEFAULT):
            part = columns.get(Key(Kind.COLUMN, key.schema, key.name, key.part), part)
        return Key(key.kind, key.schema, tables.get(key.table, key.name), part)

    return former


def _quoted(key: Key) -> str:
    return ".".join(ident(part) for part in (key.schema, key.name, key.part) if part)


def _shown(value: object) -> str:
    """A few words of a state or of a part of one."""
    if isinstance(value, State):
        value = value.value
    if value is None:
        return "nothing"
    text = getattr(value, "definition", None) or getattr(value, "type", None) or getattr(value, "labels", None)
    text = readable(str(text or value))
    return text if len(text) <= 200 else f"{text[:200]} …"
