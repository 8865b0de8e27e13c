"""Which rows of PROD somebody has edited there, and who decides whether DEV's version goes over them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from ..context import Context
from ..database.session import Session
from ..database.target import Table
from ..errors import AlignError
from ..findings import Finding
from ..rollback.capture import read_payload
from ..rollback.find import find_points, same_identity
from ..rollback.ledger import FOLDER, Point, identity_of, read_point
from .model import CREATED, UPDATED, Row, TableState

KEEP, TAKE = "keep_prod", "take_dev"
EVERYTHING = "*"
_VARIABLE = "archon_templates_conflicts"
_NAMED = 8


@dataclass(frozen=True, slots=True)
class Decisions:
    """For objects by name, `table: name` or `*`: keep_prod or take_dev. What is not named is kept."""

    given: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        odd = sorted(f"{key}: {value}" for key, value in self.given.items() if value not in (KEEP, TAKE))
        if odd:
            raise _unusable("A decision about templates cannot be used.", "; ".join(odd), f"{KEEP} or {TAKE}")

    def takes(self, table: str, name: str) -> bool:
        """Whether DEV's version goes over what was edited in PROD."""
        keys = (f"{table}: {name}", name, EVERYTHING)
        return next((self.given[key] for key in keys if key in self.given), KEEP) == TAKE

    def require_known(self, states: Iterable[TableState]) -> None:
        """Raise AlignError for a decision about an object that neither database has."""
        known = {EVERYTHING}
        for state in states:
            for row in state.rows:
                known |= {row.name, f"{state.kind.table}: {row.name}"}
        lost = sorted(self.given.keys() - known)
        if lost:
            some = sorted(name for name in known if ": " in name)
            more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
            raise _unusable(
                "A decision names a template object that does not exist.",
                ", ".join(lost),
                f"'*' or one of {', '.join(some[:_NAMED])}{more}",
            )


def _unusable(what: str, found: str, expected: str) -> AlignError:
    return AlignError(
        what,
        object_name=_VARIABLE,
        expected=expected,
        found=found,
        remedy=f"Correct {_VARIABLE}; no template was changed.",
        code="bad_variable",
    )


def edited(state: TableState, own: Collection[tuple[Table, int]]) -> set[str]:
    """The names of rows that somebody has edited in PROD: changed after they were made, and not last by a run of ours.

    A row that was never changed since it came is a copy or a seed; so is every row where the table does not tell both times.
    """
    return {row.name for row in state.rows if (state.table, row.xmin) not in own and _changed_since_made(row)}


def _changed_since_made(row: Row) -> bool:
    made, changed = (_time(row.values.get(name)) for name in (CREATED, UPDATED))
    return made is not None and changed is not None and changed > made


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def written_by_runs(context: Context, prod: Session) -> set[tuple[Table, int]]:
    """What runs of ours have written in PROD, by table and the low 32 bits of the transaction's id, as the restore points of
    this artifacts folder tell. A row that still has that mark was touched by nobody since."""
    here = identity_of(prod)
    found: set[tuple[Table, int]] = set()
    for point in (*find_points(context.run.artifacts.parent).points, *_of_this_run(context)):
        for entry in point.entries:
            identity = point.databases.get(entry.database)
            if entry.kind != "rows" or identity is None or not same_identity(identity, here):
                continue
            try:
                tables = read_payload(entry.payload)
            except (KeyError, TypeError):
                continue  # a rollback tells of a ledger that cannot be read
            found |= {(table.table, row.xmin) for table in tables for row in table.rows}
    return found


def _of_this_run(context: Context) -> Iterator[Point]:
    """Its restore points, also where its folder is not among those of other runs."""
    for path in sorted((context.run.artifacts / FOLDER).glob("*.jsonl")):
        with suppress(AlignError):
            yield read_point(path)


def kept_findings(state: TableState, names: Iterable[str]) -> list[Finding]:
    """What is told of rows that stay as somebody has edited them."""
    return [
        Finding(
            "edited_in_prod",
            "warning",
            f"{state}: {name}",
            f"This {state.kind.word} differs from DEV's and was edited in PROD, so it was left as it is there.",
            f"To have DEV's version, set {_VARIABLE}: {{'{state.kind.table}: {name}': {TAKE}}}; to silence this, bring DEV's to it.",
        )
        for name in names
    ]
