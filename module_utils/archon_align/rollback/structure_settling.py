"""What must stay of what the run made, since users use it: decided until nothing more follows from it. Only reads."""

from __future__ import annotations

from collections.abc import Mapping

from ..database.session import Session
from ..database.target import Table as TableName
from ..schema.ddl import Writer
from ..schema.decisions import identifiers
from ..schema.model import Column, Enum, Key, Kind, View
from .structure_drops import needed_by, relation_of
from .structure_emptiness import labels_used, removed_labels, rows_written, values_written
from .structure_states import State, states
from .structure_target import Target
from .undo import Kept, Request

_NEVER = {
    Kind.EXTENSION: "extensions are never dropped: other objects may have come to need it",
    Kind.SCHEMA: "schemas are never dropped: others may have put something into it",
}


class Settling:
    """Keeps in a Target what may not go."""

    def __init__(
        self, session: Session, goal: Target, request: Request, deleted: Mapping[TableName, int], writer: Writer
    ) -> None:
        self.session = session
        self.goal = goal
        self.here = goal.here
        self.found = states(goal.here)
        self.request = request
        self.deleted = deleted
        self.writer = writer
        self.answers: dict[Key, str] = {}

    def settle(self) -> None:
        """Go on until everything that would go may go."""
        while sum(self._keep_one(key) for key in sorted(self.gone())):
            pass
        for key in sorted(self.goal.wanted):
            self._labels(key)

    def gone(self) -> set[Key]:
        """What is there and shall not be any more."""
        return {key for key, now in self.found.items() if now.value is not None and key not in self.goal.wanted}

    def keep(self, key: Key, why: str) -> None:
        """Leave an object as it is; one that is to go stays with all that it is made of and all that it needs."""
        name = str(key)
        if key in self.goal.wanted or key not in self.found:
            was, found = self.goal.wanted.get(key), self.found.get(key)
            self.goal.keep(key, Kept(name, why, _word(found), _word(was), on_request=False))
            self._keep_what_follows(key)
            return
        self.goal.keep(key, Kept(name, why, "there", "not there", on_request=False))
        pending = [key]
        while pending:
            one = pending.pop()
            for other in [*self._parts(one), *needed_by(self.here, one)]:
                if other in self.found and other not in self.goal.wanted:
                    self.goal.wanted[other] = self.found[other]
                    pending.append(other)
            owner = relation_of(self.here, one)
            if owner is not None and owner in self.found and owner not in self.goal.wanted:
                self.goal.wanted[owner] = self.found[owner]
                pending.append(owner)

    def _keep_what_follows(self, key: Key) -> None:
        """A column's heirs and the views on it have its type."""
        if key.kind is not Kind.COLUMN:
            return
        for heir in self.here.with_heirs(key):
            if heir != key and heir in self.found:
                self.goal.wanted[heir] = self.found[heir]
            for one, state in list(self.goal.wanted.items()):
                if isinstance(state.value, View) and heir in state.depends and state != self.found.get(one):
                    self.keep(one, f"{heir} stays as it is")

    def _parts(self, key: Key) -> list[Key]:
        """What lives on a table, or on a column, and stays with it."""
        if key.kind is Kind.COLUMN:
            own = [Key(kind, *key[1:]) for kind in (Kind.DEFAULT, Kind.SEQUENCE)]
            return own + [heir for heir in self.here.with_heirs(key) if heir != key]
        return [one for one in self.found if one != key and relation_of(self.here, one) == key]

    def _keep_one(self, key: Key) -> bool:
        if key in self.goal.wanted or not (why := self._reason(key)):
            return False
        owner = relation_of(self.here, key)
        while owner is not None and owner not in self.goal.wanted and owner in self.found:
            key, owner = owner, relation_of(self.here, owner)
        self.keep(key, why)
        return True

    def _reason(self, key: Key) -> str:
        """Why `key` may not go; empty if it may."""
        if key.kind in _NEVER:
            return _NEVER[key.kind]
        strangers = [one for one in self.here.strangers.get(key, ()) if not self._goes_along(one)]
        if strangers:
            return f"{', '.join(strangers)} depends on it"
        for dependent in sorted(self.here.dependents.get(key, ())):
            if self._still_needs(dependent, key):
                return f"{dependent} depends on it"
        if key.kind is Kind.TABLE:
            theirs = [one for one in self._parts(key) if one in self.goal.wanted and self.found[one].value is not None]
            if theirs:
                return f"{min(theirs)} was added by users since"
        return self._data(key)

    def _goes_along(self, stranger: str) -> bool:
        """Is it part of a table that goes? An inherited condition is no object of its own."""
        place = identifiers(stranger.rpartition(" on table ")[2])
        if len(place) != 2:
            return False
        table = Key(Kind.TABLE, *place)
        return table in self.found and table not in self.goal.wanted

    def _still_needs(self, dependent: Key, key: Key) -> bool:
        goal = self.goal.wanted.get(dependent)
        if goal is None or key not in goal.depends:
            return False
        if dependent.kind is Kind.DEFAULT:
            return Key(Kind.COLUMN, *dependent[1:]) in self.goal.wanted
        return goal.value is not None

    def _data(self, key: Key) -> str:
        if key not in self.answers:
            self.answers[key] = self._ask(key)
        return self.answers[key]

    def _ask(self, key: Key) -> str:
        table = self.goal.names.get(key.table, key.table)
        if key.kind is Kind.TABLE:
            deleted = self.deleted.get(TableName(table.schema, table.name), 0)
            return rows_written(self.session, table, self.request.xids, deleted)
        column = self.found[key].value
        if isinstance(column, Column) and key.table in self.goal.wanted:
            read = self.goal.names.get(key, key).part
            return values_written(self.session, column, read, self.writer, table, self.request.xids)
        return ""

    def _labels(self, key: Key) -> None:
        goal, now = self.goal.wanted[key].value, self.found[key].value if key in self.found else None
        if not isinstance(goal, Enum) or not isinstance(now, Enum) or not (gone := removed_labels(now, goal)):
            return
        why = labels_used(self.session, self.here, key, gone, self.goal.names) or self._spoken_of(key, gone)
        if why:
            self.keep(key, why)

    def _spoken_of(self, enum: Key, labels: list[str]) -> str:
        """Does anything that stays speak of a label that would go?"""
        for dependent in sorted(self.here.dependents.get(enum, ())):
            goal = self.goal.wanted.get(dependent)
            owner = self.goal.wanted.get(Key(Kind.COLUMN, *dependent[1:])) if dependent.kind is Kind.DEFAULT else None
            text = f"{goal.value if goal else ''} {owner.value if owner else ''}"
            if any(f"'{label.replace("'", "''")}'" in text for label in labels):
                return f"{dependent} speaks of a label that the run added"
        return ""


def exact_enums(goal: Target, found: Mapping[Key, State]) -> frozenset[Key]:
    """The enums that lose labels."""
    return frozenset(
        key
        for key, state in goal.wanted.items()
        if isinstance(state.value, Enum)
        and key in found
        and isinstance(now := found[key].value, Enum)
        and removed_labels(now, state.value)
    )


def _word(state: State | None) -> str:
    return "as the run left it" if state is not None else "not there"
