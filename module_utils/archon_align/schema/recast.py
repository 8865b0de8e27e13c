"""What only PROD has over a column that gets a type of another kind: its definition goes on about the values as they were."""

from __future__ import annotations

from typing import Any

from pglast import ast
from pglast.parser import parse_sql, scan
from pglast.visitors import Visitor

from .conversion import type_of, way_back
from .draft import Draft
from .model import Constraint, Domain, Index, Key
from .widening import split

_LIKE_EACH_OTHER = (
    frozenset(("smallint", "integer", "bigint", "numeric", "real", "double precision")),
    frozenset(("text", "character varying", "character", "name")),
    frozenset(("date", "timestamp without time zone", "timestamp with time zone")),
    frozenset(("inet", "cidr")),
)
_WITHOUT_ORDER = frozenset(("json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle"))


def choose(draft: Draft, column: Key) -> None:
    """Drop checks that only PROD has, to be put back over the old type; refuse indexes that could not be built over the new."""
    new = draft.desired.column(column)
    if new is None or not _apart(draft, column):
        return
    base = split(new.type)[0]
    for key in draft.current.on_table.get(column.table, ()):
        found = draft.current.objects[key]
        if key in draft.desired.objects or column not in draft.current.depends.get(key, ()):
            continue
        if isinstance(found, Constraint) and found.type == "c":
            draft.closure.drop(key, column)
        elif (isinstance(found, Index) and not _buildable(draft, found, base)) or (
            isinstance(found, Constraint) and (found.type == "x" or (found.type in "pu" and base in _WITHOUT_ORDER))
        ):
            draft.refuse(
                "in_the_way",
                key,
                f"only PROD has it, and {column} gets a type of another kind, over which it may not be possible",
                f"Drop {key} on PROD if it is not wanted, or give DEV the one it should become; then run again.",
            )


def as_before(draft: Draft, table: Key, statement: str) -> str:
    """A statement about `table` from PROD's definitions, in which columns that get a type of another kind are cast back."""
    found = draft.current.table(table)
    old = {
        column.key.part: column
        for column in (found.columns.values() if found is not None else ())
        if _apart(draft, column.key)
    }
    if not old:
        return statement
    references = _References()
    references(parse_sql(statement))
    tokens = scan(statement)
    place_of = {token.start: number for number, token in enumerate(tokens)}
    for start, names in sorted(references.found, reverse=True):
        # A table's name, a dot, the column's name: or the last alone.
        if names[-1] in old and names[:-1] in ((), (table.name,)):
            end = tokens[place_of[start] + 2 * (len(names) - 1)].end + 1
            column = old[names[-1]]
            new = draft.desired.column(column.key) or column
            back = way_back(column, new, draft.current, statement[start:end])
            statement = f"{statement[:start]}{back}{statement[end:]}"
    return statement


class _References(Visitor):
    """The places of all columns in a statement, and their names."""

    def __init__(self) -> None:
        self.found: list[tuple[int, tuple[str, ...]]] = []

    def visit_ColumnRef(self, _ancestors: Any, node: Any) -> None:  # noqa: N802 - named by the package
        if all(isinstance(field, ast.String) for field in node.fields):
            self.found.append((node.location, tuple(field.sval for field in node.fields)))


def _apart(draft: Draft, column: Key) -> bool:
    """Does a column get a type with other operators and functions?"""
    new, old = draft.desired.column(column), draft.current.column(column)
    if "type" not in draft.aspects.get(column, ()) or new is None or old is None:
        return False
    bases = set()
    for catalog, one in ((draft.desired, new), (draft.current, old)):
        kind = type_of(catalog, one)
        bases.add(split(kind.base if isinstance(kind, Domain) else one.type)[::2])
    kinds = {base for base, _ in bases}
    arrays = {array for _, array in bases}
    return len(bases) > 1 and not (len(arrays) == 1 and any(kinds <= alike for alike in _LIKE_EACH_OTHER))


def _buildable(draft: Draft, index: Index, base: str) -> bool:
    """Is it over plain columns, by the method and the operators of every type that can be ordered?"""
    if base in _WITHOUT_ORDER:
        return False
    made: Any = parse_sql(draft.writer.create(index)[0])[0].stmt
    elements = all(one.name is not None and not one.opclass and not one.collation for one in made.indexParams)
    return elements and made.accessMethod == "btree" and made.whereClause is None
