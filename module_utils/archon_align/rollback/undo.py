"""The one shape in which every kind of change says how it is undone, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..database.target import Table
from ..database.transaction import LockMode
from ..plan import Statement
from ..preservation.carried import Carried


@dataclass(frozen=True, slots=True)
class Kept:
    """One row or object that is left as it is, since users changed, deleted or need it. `name` is how it is asked for.

    `found` and `was` are what is there now and what was there before the run, in words and never secret; `on_request`
    says whether naming it in archon_rollback_overwrite undoes it all the same. `lost`: what was there before the run is not
    known any more, so that only a backup brings it back.
    """

    name: str
    why: str
    found: str = ""
    was: str = ""
    on_request: bool = True
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be undone in one database: the full transaction ids, and what a person wants undone though users changed
    it since (names as in Kept, or everything with `all`)."""

    xids: frozenset[int]
    names: frozenset[str] = frozenset()
    all: bool = False

    def wants(self, name: str) -> bool:
        return self.all or name in self.names


@dataclass(slots=True)
class Undo:
    """What one kind of change contributes to the transaction that undoes it.

    `statements` are in order. `deleted` counts, by table, the rows that the statements remove, `emptied`, by table and column,
    the values that they set to NULL. `carried` is the declared way back for protected tables that change their shape. `verify`
    raises when the statements did not do it.
    """

    statements: Sequence[Statement] = ()
    locks: Mapping[Table, LockMode] = field(default_factory=dict)
    kept: Sequence[Kept] = ()
    carried: Mapping[Table, Carried] = field(default_factory=dict)
    deleted: Mapping[Table, int] = field(default_factory=dict)
    diff: Sequence[dict[str, str]] = ()
    verify: Callable[[], None] = lambda: None
    emptied: Mapping[tuple[Table, str], int] = field(default_factory=dict)
