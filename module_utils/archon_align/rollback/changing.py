"""One row that a run wrote: undone newest first, as far as nobody else has written it in between."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..settings.wanted import HIDDEN, is_secret
from .capture import RowRecord, TableRecord
from .stored import Place, Shape, Values, Version, digest, key_of, low
from .undo import Kept, Request

_SHOWN = 200
_CHANGED = "users changed it since"


@dataclass(frozen=True, slots=True)
class Done:
    """What one transaction did to a row of a table."""

    record: RowRecord
    of: TableRecord


@dataclass(slots=True)
class Row:
    """One row that the run wrote: as it is (`now`, None: gone), and as it shall be (`then`, None: gone).

    `secret` are the columns whose values may not be shown.
    """

    name: str
    key: Mapping[str, str] | None
    now: Version | None
    then: Version | None
    secret: frozenset[str] = frozenset()
    kept: list[Kept] = field(default_factory=list)

    @property
    def deleted(self) -> bool:
        return self.now is not None and self.then is None

    @property
    def changes(self) -> dict[str, str | None]:
        """The columns that get other values, with these; all of them for a row that comes back."""
        if self.then is None:
            return {}
        return {
            column: text
            for column, text in self.then.values.items()
            if self.now is None or self.now.values.get(column) != text
        }

    def keep(self, why: str) -> None:
        """Leave the row as it is, whatever is asked for."""
        self.kept.append(Kept(self.name, why, on_request=False))
        self.then = self.now

    def words(self, values: Values, columns: Iterable[str]) -> str:
        """Values as people may see them, not too long."""
        told = []
        for column in columns:
            if column in values:
                text = values[column]
                hide = column in self.secret or is_secret("", text)
                told.append(f"{column}={HIDDEN if hide else 'NULL' if text is None else repr(text)}")
        words = ", ".join(told)
        return words if len(words) <= _SHOWN else f"{words[: _SHOWN - 2]} …"


def walk(shape: Shape, there: Sequence[Version], done: Sequence[Done], request: Request) -> list[Row]:
    """Every row that `done` (oldest first) wrote, undone as far as may be; `there` are all the table's rows."""
    ours = frozenset(low(xid) for xid in request.xids)
    found = _Finder(there)
    alone: list[Row] = []
    histories: dict[object, list[Done]] = {}
    for one in done:
        if one.record.key is None:
            alone.append(_by_place(shape, there, one, {row.now.place for row in alone if row.now}))
            continue
        # Runs may have known one row by different keys.
        same = found.by(one.record.key)
        histories.setdefault(same[0].place if same else tuple(one.record.key.items()), []).append(one)
    return [*alone, *(_undone(shape, found, history, request, ours) for history in histories.values())]


class _Finder:
    """Rows by the values of any key."""

    def __init__(self, there: Sequence[Version]) -> None:
        self._there = there
        self._indexes: dict[tuple[str, ...], dict[tuple[str, ...] | None, list[Version]]] = {}

    def by(self, key: Mapping[str, str]) -> Sequence[Version]:
        columns = tuple(key)
        if columns not in self._indexes:
            index = self._indexes[columns] = {}
            for version in self._there:
                index.setdefault(key_of(version.values, columns), []).append(version)
        return self._indexes[columns].get(tuple(key.values()), ())


def _undone(shape: Shape, found: _Finder, history: Sequence[Done], request: Request, ours: Collection[int]) -> Row:
    newest = history[-1].record
    key = newest.key or {}
    secret = {column for one in history for column in (*one.record.uncovered, *one.record.withheld, *one.of.unread)}
    same = found.by(key)
    now = same[0] if same else None
    row = Row(newest.name, key, now, now, frozenset(secret))
    if missing := [column for column in key if column not in shape.columns]:
        row.keep(f"{', '.join(missing)}, which identified it, is not there any more")
    elif len(same) > 1:
        row.keep(f"{len(same)} rows have its {', '.join(key)} now")
    else:
        for one in reversed(history):
            if not _step(row, one, shape, request, ours):
                break
    return row


def _by_place(shape: Shape, there: Sequence[Version], one: Done, taken: Collection[Place | None]) -> Row:
    """An inserted row of a table without any key: it is found as long as it lies where it was put."""
    record = one.record
    mine = [
        version
        for version in there
        if version.xmin == record.xmin and version.place not in taken and _same(version, one)
    ]
    row = Row(record.name, None, mine[0] if mine else None, None, frozenset(record.uncovered))
    if row.now is None:
        row.keep("its table has no key, and users changed or deleted it, or the table was rewritten")
    elif row.now.place is not None and row.now.place.table != shape.oid:
        row.keep("its table has no key, and it lies in a partition")
    return row


def _same(version: Version, one: Done) -> bool:
    """Whether the version has the values that the transaction has written, as far as they were noted."""
    covered = [column for column in one.of.columns if column not in one.record.uncovered]
    return set(covered) <= version.values.keys() and digest(version.values, covered) == one.record.digest


def _untouched(version: Version, one: Done, ours: Collection[int]) -> bool:
    """Whether the version is the one that the transaction wrote, or the exact copy that a rewrite of the table has made."""
    if version.xmin == one.record.xmin:
        return True
    rewritten = one.of.file is None or version.file != one.of.file
    if not rewritten or one.record.uncovered or not _same(version, one):
        return False
    # In a column that came since there may be something that users wrote; not if the last to write was a run.
    added = version.values.keys() - set(one.of.columns)
    return version.xmin in ours or all(version.values[column] is None for column in added)


def _step(row: Row, one: Done, shape: Shape, request: Request, ours: Collection[int]) -> bool:
    """Undo one transaction's change of `row`; False when it has to stay, and all that was done before it."""
    record = one.record
    state, before = row.then, record.before
    if state is None:
        return before is None or _brought_back(row, one, shape, request)
    mine = _untouched(state, one, ours)
    if before is None:
        if not mine and not request.wants(row.name):
            row.kept.append(Kept(row.name, _CHANGED, row.words(state.values, one.of.columns), "no such row"))
            return False
        row.then = None
        return True
    hidden = [column for column in record.changed if column in record.withheld]
    lost = [column for column in record.changed if column not in state.values]
    undone = {column: before[column] for column in record.changed if column not in (*hidden, *lost)}
    # A column that has gone since takes what was written in it along.
    if not hidden and all(state.values[column] == text for column, text in undone.items()):
        if all(state.values.get(column) == text for column, text in before.items()):
            row.then = replace(state, xmin=record.before_xmin, file=one.of.file)
        return True
    told = row.words(state.values, record.changed), row.words(before, record.changed)
    if hidden:
        why = f"the former value of {', '.join(hidden)} is secret and is in the run's backup alone"
        row.kept.append(Kept(row.name, why if mine else f"{_CHANGED}, and {why}", *told, on_request=False, lost=True))
        return False
    if (lost or not mine) and not request.wants(row.name):
        row.kept.append(Kept(row.name, f"{', '.join(lost)} is not there any more" if lost else _CHANGED, *told))
        return False
    # For what an older transaction did to the row it is the former version again.
    row.then = Version(state.place, record.before_xmin, one.of.file, {**state.values, **undone})
    return True


def _brought_back(row: Row, one: Done, shape: Shape, request: Request) -> bool:
    """A row that users deleted since: it comes back only if somebody asks for it and all of it is known."""
    record = one.record
    before = record.before or {}
    known = not record.withheld and before.keys() <= set(shape.columns)
    if not known or not request.wants(row.name):
        why = "users deleted it since" if known else "users deleted it since, and not all of it is known"
        row.kept.append(Kept(row.name, why, "no such row", row.words(before, before), on_request=known, lost=not known))
        return False
    row.then = Version(None, record.before_xmin, one.of.file, before)
    return True
