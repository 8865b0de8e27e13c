"""From DEV's rows and PROD's to the statements that make up the difference, parents before children. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from psycopg import sql

from ..errors import AlignError
from ..plan import Statement
from .model import NEVER_MOVED, UPDATED, Column, Row, TableState


@dataclass(frozen=True, slots=True)
class Move:
    """One row that is created or updated. `before` and `after` hold the columns that change; `before` is None for a new row."""

    name: str
    statement: Statement
    before: Mapping[str, str | None] | None
    after: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class TablePlan:
    """Everything to do in one table, and what it will hold then (`result`, by name). `kept` differ and stay as PROD has them, `doubled` names that
    several rows have are left alone."""

    dev: TableState
    prod: TableState
    moves: tuple[Move, ...]
    unchanged: int
    result: Mapping[str, Row]
    kept: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()

    @property
    def only_in_prod(self) -> list[str]:
        return sorted(self.result.keys() - {row.name for row in self.dev.rows})


def moved_columns(dev: TableState) -> tuple[Column, ...]:
    """DEV's columns whose values are carried as they are: no surrogate ids, no references, no times, none the server fills."""
    return tuple(
        column
        for column in dev.columns.values()
        if not column.fixed
        and not column.reference
        and column.name not in NEVER_MOVED
        and column.name != dev.kind.parent
    )


def in_shape_of(prod: TableState, dev: TableState) -> TableState:
    """DEV's rows with the twins of a column that PROD has; where PROD has none of them, as they are."""
    theirs = [name for name in dev.kind.twins if name in dev.columns]
    ours = [name for name in dev.kind.twins if name in prod.columns]
    if not theirs or not ours or theirs == ours:
        return dev
    columns = {name: column for name, column in dev.columns.items() if name not in theirs}
    columns |= {name: prod.columns[name] for name in ours}
    rows = tuple(
        replace(row, values={**row.values, **{name: row.values.get(name, row.values[theirs[0]]) for name in ours}})
        for row in dev.rows
    )
    return replace(dev, columns=columns, rows=rows)


def absent_columns(dev: TableState, prod: TableState) -> tuple[Column, ...]:
    """The columns that a move needs and PROD does not have yet."""
    needed = list(moved_columns(dev))
    if dev.kind.parent is not None and dev.kind.parent in dev.columns:
        needed.append(dev.columns[dev.kind.parent])
    return tuple(column for column in needed if column.name not in prod.columns)


def plan_table(
    dev: TableState, prod: TableState, defaults: Mapping[str, str | None], keep: Collection[str] = ()
) -> TablePlan:
    """What PROD needs to have every named row of DEV as DEV has it, but for those to `keep` as they are.

    `defaults` holds what PROD's rows have in columns that the schema phase is yet to add. Raises AlignError for names
    that are not unique, parents that do not exist, and cycles.
    """
    double: set[str] = set()
    if dev.kind.unique:
        _refuse_duplicates(dev, None)
        _refuse_duplicates(prod, {row.name for row in dev.rows})
    else:
        double = {*duplicates(dev.rows), *duplicates(prod.rows)}
        dev, prod = (_without(state, double) for state in (dev, prod))
    columns = [
        column.name
        for column in moved_columns(dev)
        if column.name not in prod.columns or not prod.columns[column.name].fixed
    ]
    linked = dev.kind.parent is not None and dev.kind.parent in dev.columns
    present = {row.name: row for row in prod.rows}
    result = {name: Row(name, {**defaults, **row.values}, row.parent, row.dangling) for name, row in present.items()}
    moves, kept = [], []
    for row in parents_first(dev):
        move = _move(dev, prod, columns, row, result.get(row.name), linked=linked)
        if move is not None and row.name in keep:
            kept.append(row.name)
            continue
        if move is not None:
            moves.append(move)
        former = result[row.name].values if row.name in result else {}
        carried = {column: row.values[column] for column in columns}
        result[row.name] = Row(row.name, {**former, **carried}, row.parent)
    unchanged = len(dev.rows) - len(moves) - len(kept)
    return TablePlan(dev, prod, tuple(moves), unchanged, result, tuple(kept), tuple(sorted(double)))


def _without(state: TableState, names: Collection[str]) -> TableState:
    return replace(state, rows=tuple(row for row in state.rows if row.name not in names))


def _move(
    dev: TableState, prod: TableState, columns: list[str], row: Row, present: Row | None, *, linked: bool
) -> Move | None:
    relink = linked and (present is None or (present.parent, present.dangling) != (row.parent, False))
    changed = [column for column in columns if present is None or present.values.get(column) != row.values[column]]
    if present is not None and not changed and not relink:
        return None
    table = dev.table.identifier
    # Literals carry no cast: the server reads an unknown literal by the column's own type, whatever that is by then, and
    # refuses a text that is too long where an explicit cast would cut it.
    values: dict[str, sql.Composable] = {column: sql.Literal(row.values[column]) for column in changed}
    before = {column: present.values.get(column) for column in changed} if present is not None else None
    after = {column: row.values[column] for column in changed}
    if relink:
        parent = str(dev.kind.parent)
        values[parent] = (
            sql.SQL("NULL")
            if row.parent is None
            else sql.SQL("(SELECT id FROM {} WHERE {} = {})").format(
                table, sql.Identifier(dev.kind.key), sql.Literal(row.parent)
            )
        )
        after[parent] = row.parent
        if before is not None and present is not None:
            before[parent] = present.parent
    if present is None:
        query = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            table, sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(values.values())
        )
    else:
        if UPDATED in prod.columns and not prod.columns[UPDATED].fixed:
            # Not every table has a trigger for it, and by it a server is known to have been started before (services).
            values[UPDATED] = sql.SQL("now()")
        assignments = (sql.SQL("{} = {}").format(sql.Identifier(column), value) for column, value in values.items())
        query = sql.SQL("UPDATE {} SET {} WHERE {} = {}").format(
            table, sql.SQL(", ").join(assignments), sql.Identifier(dev.kind.key), sql.Literal(row.name)
        )
    summary = f"{'Create' if present is None else 'Update'} {dev.kind.word} {row.name}"
    return Move(row.name, Statement(query.as_string(None), str(prod.table), summary), before, after)


def parents_first(dev: TableState) -> Iterator[Row]:
    """DEV's rows, each after its parent, otherwise by name. Raises AlignError for missing parents and cycles."""
    rows = {row.name: row for row in dev.rows}
    lost = sorted(row.name for row in dev.rows if row.dangling)
    if lost:
        raise AlignError(
            "A template's parent does not exist.",
            object_name=f"{dev}: {', '.join(lost)}",
            expected=f"{dev.kind.parent} of an existing row with a name",
            found="an id that no such row has",
            remedy="Correct or clear the parent in DEV and run again; no template was changed.",
            code="parent_missing",
        )
    done: set[str] = set()
    for name in sorted(rows):
        chain: list[str] = []
        step: str | None = name
        while step is not None and step not in done:
            if step in chain:
                raise AlignError(
                    "Templates are each other's parents.",
                    object_name=str(dev),
                    expected="parents without a cycle",
                    found=" → ".join((*chain[chain.index(step) :], step)),
                    remedy="Clear one of these parents in DEV and run again; no template was changed.",
                    code="parent_cycle",
                )
            chain.append(step)
            step = rows[step].parent
        for link in reversed(chain):
            done.add(link)
            yield rows[link]


def duplicates(rows: Iterable[Row]) -> list[str]:
    """Names that more than one row has."""
    seen: set[str] = set()
    return sorted({row.name for row in rows if row.name in seen or seen.add(row.name)})  # type: ignore[func-returns-value]


def _refuse_duplicates(state: TableState, among: set[str] | None) -> None:
    double = [name for name in duplicates(state.rows) if among is None or name in among]
    if double:
        raise AlignError(
            "A name that is to be moved is not unique.",
            object_name=f"{state}: {', '.join(double)}",
            expected=f"one row per {state.kind.key}",
            found="several",
            remedy=f"Decide in {state.database} which row is right, rename or remove the others, and run again; no template was changed.",
            code="duplicate_name",
        )
