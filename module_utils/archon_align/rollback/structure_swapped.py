"""The change of vectors as part of what is undone: which columns get their old vectors again, and from where. Only reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..database.session import Session
from ..errors import AlignError
from ..plan import Statement
from ..schema.ddl import Writer
from ..schema.model import Key, Kind
from .structure_states import states
from .structure_target import Target, Told
from .structure_vectors import Swapped, copied_again, is_there, put_back, released_by, without_vector
from .undo import Request


class Vectors:
    """What `told` says of vectors that others took the place of."""

    def __init__(self, session: Session, told: Sequence[Told], goal: Target) -> None:
        self.session = session
        self.goal = goal
        self.found = states(goal.here)
        self.swapped = [one for entry in told for one in entry.swapped]
        self.released = [one for entry in told for one in entry.released]

    def replaced(self) -> list[Swapped]:
        """The columns that become what they were, and need their values from the copy. Raises AlignError when the new
        vectors would have to go back beside them, or when there is no copy."""
        due = [one for one in self.swapped if self._is_due(one)]
        for one in due:
            own = Key(Kind.DEFAULT, *one.column[1:])
            others = {key for key in self.goal.here.dependents.get(one.column, ()) if key.kind is not Kind.INDEX} - {
                own
            }
            if one.beside in self.goal.wanted:
                raise _not_possible(
                    one, f"the new vectors are to stay in {one.beside}", "Roll back to the point :schema."
                )
            if others:
                raise _not_possible(one, f"{min(others)} depends on the column", f"Drop {min(others)}, and run again.")
            if not is_there(self.session, one.copy) and released_by(self.released, one.copy) is None:
                raise _not_possible(one, f"{one.copy} is gone", "Restore the verified backup of that run.")
        return due

    def _is_due(self, one: Swapped) -> bool:
        goal, now = self.goal.wanted.get(one.column), self.found.get(one.column)
        return goal is not None and now is not None and goal.value != now.value

    def indexes(self, dropped: Collection[Key]) -> list[Key]:
        """The indexes that go with columns of `dropped`, whatever becomes of them."""
        columns = {one.column for one in self.swapped} & set(dropped)
        return [
            key for column in columns for key in self.goal.here.dependents.get(column, ()) if key.kind is Kind.INDEX
        ]

    def copies(self, replaced: Collection[Swapped]) -> list[Statement]:
        """What makes the copies again that validation removed: those that are needed, or that are all that is undone."""
        needed = {one.copy for one in replaced}
        ours = {one.copy for one in self.swapped}
        found: list[Statement] = []
        for copy in sorted({one.copy for one in self.released}):
            one = released_by(self.released, copy)
            if one is not None and (copy in needed or copy not in ours) and not is_there(self.session, copy):
                found += copied_again(self.session, one)
        return found

    def filled(self, one: Swapped, statements: Sequence[Statement], writer: Writer) -> list[Statement]:
        """`statements` with the old vectors put into their column as soon as it is there."""
        made = next(
            place
            for place, statement in enumerate(statements)
            if statement.object == one.column.qualified and " ADD COLUMN " in statement.sql
        )
        return [*statements[: made + 1], *put_back(one, self.goal.here, writer), *statements[made + 1 :]]

    def name_rows(self, one: Swapped, request: Request) -> None:
        """Name the rows that will have no vector."""
        kept = without_vector(self.session, one, is_there(self.session, one.copy), request)
        if kept is not None:
            self.goal.kept.setdefault(kept.name, kept)


def _not_possible(one: Swapped, found: str, remedy: str) -> AlignError:
    return AlignError(
        "The change of vectors cannot be undone; nothing was changed.",
        object_name=str(one.column),
        expected="the old vectors, and a place for them",
        found=found,
        remedy=remedy,
        code="rollback_not_possible",
    )
