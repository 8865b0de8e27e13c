"""What a transaction writes in small tables, for the restore point: which rows, and what they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..database.session import Session
from ..database.target import Table
from ..errors import AlignError
from .ledger import Ledger
from .stored import Place, Shape, Values, Version, digest, key_of, shape_of, versions


def _nothing(_: Values) -> Collection[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Written:
    """A table that a phase writes: `label` are the columns by which people know a row.

    `secret` says which values of a row must not be written down. Columns in `unread` are never read, and not undone.
    """

    table: Table
    label: tuple[str, ...]
    secret: Callable[[Values], Collection[str]] = _nothing
    unread: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RowRecord:
    """One row as one transaction left it.

    `key` identifies it (None: by place alone), `before` is the row as it was (None: inserted), without the `withheld` values;
    `changed` are the columns with other values now; `digest` is over the row as written but for the `uncovered` columns.
    `xmin` and `before_xmin` are the low 32 bits of the ids of the transactions that wrote the two versions.
    """

    name: str
    key: Mapping[str, str] | None
    xmin: int
    digest: str
    uncovered: tuple[str, ...] = ()
    before: Values | None = None
    before_xmin: int | None = None
    changed: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableRecord:
    """What one transaction wrote in one table, which had these `columns` and was in `file` then. Of `unread` columns is known
    only whether they hold something."""

    table: Table
    file: int | None
    columns: tuple[str, ...]
    unread: tuple[str, ...]
    rows: tuple[RowRecord, ...]


_LISTS = ("uncovered", "changed", "withheld")


def read_payload(payload: Mapping[str, Any]) -> list[TableRecord]:
    """The tables of an entry of kind `rows`. Raises KeyError or TypeError when it is none."""
    return [
        TableRecord(
            Table(part["schema"], part["name"]),
            part["file"],
            tuple(part["columns"]),
            tuple(part["unread"]),
            tuple(RowRecord(**{**row, **{name: tuple(row[name]) for name in _LISTS}}) for row in part["rows"]),
        )
        for part in payload["tables"]
    ]


@dataclass(slots=True)
class _Seen:
    written: Written
    shape: Shape
    rows: Mapping[tuple[Place, int | None], Version]


@dataclass(slots=True)
class RowRecorder:
    """The Recorder of a transaction that writes rows of `tables`, which must be locked against all other writers.

    Whatever wrote a row counts, the plan's statement or a trigger of it: versions before and after are compared.
    """

    ledger: Ledger
    tables: Sequence[Written]
    _seen: list[_Seen] = field(default_factory=list)
    _xid: int | None = None

    def look(self, session: Session) -> None:
        """Read the tables as they are: to be called under the locks, before anything is written."""
        self._seen = []
        for written in self.tables:
            shape = shape_of(session, written.table)
            if shape is not None:
                self._seen.append(_Seen(written, shape, _by_place(versions(session, shape, written.unread))))

    def before_commit(self, session: Session) -> None:
        """Write down what has changed since `look`. Raises AlignError when a row would be gone: no plan removes any."""
        parts = []
        for seen in self._seen:
            now = _by_place(versions(session, seen.shape, seen.written.unread))
            new = [version for place, version in now.items() if place not in seen.rows]
            old = [version for place, version in seen.rows.items() if place not in now]
            if new or old:
                rows = _records(seen, now.values(), old, new)
                unread = tuple(sorted(seen.written.unread))
                parts.append(TableRecord(seen.written.table, seen.shape.file, seen.shape.columns, unread, rows))
        self._xid = (
            self.ledger.record(session, "rows", {"tables": [_as_dict(part) for part in parts]}) if parts else None
        )

    def after_commit(self, session: Session) -> None:
        if self._xid is not None:
            self.ledger.committed(session, self._xid)


def _by_place(rows: Sequence[Version]) -> dict[tuple[Place, int | None], Version]:
    return {(row.place, row.xmin): row for row in rows if row.place is not None}


def _as_dict(part: TableRecord) -> dict[str, Any]:
    told = asdict(part)
    del told["table"]
    return {"schema": part.table.schema, "name": part.table.name, **told}


def _records(
    seen: _Seen, now: Collection[Version], old: Sequence[Version], new: Sequence[Version]
) -> tuple[RowRecord, ...]:
    key = _identity(seen, now, old, new)
    was = {key_of(version.values, key): version for version in old} if key else {}
    if len(was) < len(old) or not was.keys() <= {key_of(version.values, key or ()) for version in new}:
        raise AlignError(
            "A row would be gone, or have another key, and no rollback could bring it back.",
            object_name=str(seen.shape.table),
            expected="rows inserted or updated, each found again by its key",
            found="a row that is not found again: a trigger or a rule removed it, or no key tells the rows apart",
            remedy="Nothing was changed. Look at the table's triggers and rules, or give it its primary key.",
            code="row_not_recoverable",
        )
    names = _names(seen, key, new)
    return tuple(
        _record(seen, key, name, version, was.get(key_of(version.values, key)) if key else None)
        for name, version in zip(names, new, strict=True)
    )


def _identity(
    seen: _Seen, now: Collection[Version], old: Sequence[Version], new: Sequence[Version]
) -> tuple[str, ...] | None:
    """The columns by which the rows that were written are told apart: a key of the table, else what people know them by."""
    candidates = [key for key in seen.shape.identifying if seen.written.unread.isdisjoint(key)]
    label = seen.written.label
    if all(_single(label, some, among) for some, among in ((new, now), (old, seen.rows.values()))):
        candidates.append(label)
    for key in candidates:
        if {key_of(version.values, key) for version in old} <= {key_of(version.values, key) for version in new}:
            return key
    return candidates[0] if candidates else None


def _single(key: Sequence[str], some: Collection[Version], among: Collection[Version]) -> bool:
    """Whether each of `some` rows is the only one `among` all with its values of `key`."""
    count = Counter(key_of(version.values, key) for version in among)
    return all((found := key_of(version.values, key)) is not None and count[found] == 1 for version in some)


def _names(seen: _Seen, key: tuple[str, ...] | None, new: Sequence[Version]) -> list[str]:
    """How people call the rows: `schema.table column=value`, with the key where that alone is not unique."""
    label = tuple(column for column in seen.written.label if column in seen.shape.columns)
    known = [_called(seen.shape.table, label or key or seen.shape.columns[:1], version.values) for version in new]
    more = tuple(column for column in key or () if column not in label)
    return [
        name if known.count(name) == 1 else _called(seen.shape.table, (*label, *more), version.values)
        for name, version in zip(known, new, strict=True)
    ]


def _called(table: Table, columns: Sequence[str], values: Values) -> str:
    told = (f"{column}={'NULL' if values[column] is None else values[column]}" for column in columns)
    return " ".join((str(table), *told))


def _record(seen: _Seen, key: tuple[str, ...] | None, name: str, version: Version, before: Version | None) -> RowRecord:
    values = version.values
    assert version.xmin is not None  # it was read
    secret = set(seen.written.secret(values))
    kept: Values | None = None
    hidden: set[str] = set()
    if before is not None:
        # What was never read is lost only if there was something.
        unread = {column for column in seen.written.unread if before.values.get(column) is not None}
        hidden = {*seen.written.secret(before.values), *unread}
        kept = {column: text for column, text in before.values.items() if column not in hidden}
    columns = seen.shape.columns
    return RowRecord(
        name,
        {column: str(values[column]) for column in key} if key else None,
        version.xmin,
        digest(values, (column for column in columns if column not in secret)),
        tuple(column for column in columns if column in secret),
        kept,
        before.xmin if before is not None else None,
        tuple(column for column in columns if before is not None and before.values[column] != values[column]),
        tuple(column for column in columns if column in hidden),
    )
