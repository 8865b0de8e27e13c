"""Writing down what a change of the structure did, so that it can be undone: the two readings that the change is proved by anyway."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..database.session import Session
from ..schema.compare import Comparison
from ..schema.decided import Decided
from ..schema.decisions import Decisions
from ..schema.inspect import inspect
from ..schema.model import Catalog, Index, Key, Kind
from .ledger import Ledger
from .structure_codec import encode
from .structure_states import Change, changes, encode_change, states
from .structure_vectors import Released, Swapped, encode_released, encode_swapped

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Rename:
    """A table or column is called `key` now, and had the bare name `was`; of an enum it is its `label`."""

    key: Key
    was: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Intent:
    """An index that is about to be built on `table`; what it is like is written down when it is there."""

    key: Key
    table: Key


def payload(
    found: Collection[Change],
    *,
    renames: Collection[Rename] = (),
    intends: Collection[Intent] = (),
    final: Collection[str] = (),
    swapped: Collection[Swapped] = (),
    released: Collection[Released] = (),
    decisions: Any = None,
) -> dict[str, Any]:
    """An entry's payload. `final` names what was changed in a way that only a backup brings back."""
    return {
        "format": FORMAT,
        "changes": [encode_change(change) for change in found],
        "renames": [[encode(one.key), one.was, one.label] for one in renames],
        "intends": [[encode(one.key), encode(one.table)] for one in intends],
        "final": sorted(final),
        "swapped": [encode_swapped(one) for one in swapped],
        "released": [encode_released(one) for one in released],
        "decisions": decisions or {},
    }


class StructureRecorder:
    """The Recorder of a transaction; `before` and `after` yield the structure once everything is proved.

    `renames` and `decisions` took part in it; `final` names what it changed for good.
    """

    def __init__(
        self,
        ledger: Ledger,
        before: Callable[[], Catalog],
        after: Callable[[], Catalog],
        *,
        renames: Collection[Rename] = (),
        decisions: Decisions | None = None,
        final: Collection[str] = (),
        swapped: Collection[Swapped] = (),
    ) -> None:
        self.ledger = ledger
        self.before = before
        self.after = after
        self.renames = renames
        self.final = final
        self.swapped = swapped
        self.decisions = asdict(decisions) if decisions else None
        self.xid: int | None = None

    def before_commit(self, session: Session) -> None:
        found = changes(self.before(), self.after())
        made = payload(found, renames=self.renames, final=self.final, swapped=self.swapped, decisions=self.decisions)
        self.xid = self.ledger.record(session, "structure", made)

    def after_commit(self, session: Session) -> None:
        if self.xid is not None:
            self.ledger.committed(session, self.xid)


class ReleaseRecorder:
    """The Recorder of a transaction that removes copies of old vectors, after it has put them into `released`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.released: list[Released] = []
        self.xid: int | None = None

    def before_commit(self, session: Session) -> None:
        self.xid = self.ledger.record(session, "structure", payload((), released=self.released))

    def after_commit(self, session: Session) -> None:
        if self.xid is not None:
            self.ledger.committed(session, self.xid)


def record_alone(ledger: Ledger, session: Session, found: Collection[Change], intends: Collection[Intent] = ()) -> None:
    """Write down changes that are made outside any transaction, under the id of a small one of their own."""
    with session.transaction():
        xid = ledger.record(session, "structure", payload(found, intends=intends))
    ledger.committed(session, xid)


def foreseen(before: Catalog, desired: Catalog, keys: Collection[Key]) -> list[Change]:
    """What a stage is going to change, told beforehand from what it shall make."""
    one, other = states(before), states(desired)
    return [
        Change(key, one.get(key), other[key]) for key in sorted(keys) if key in other and one.get(key) != other[key]
    ]


def indexes_of(session: Session, schema: str, table: str) -> Catalog:
    """The structure of one schema with nothing in it but the indexes of one table."""
    found = inspect(session, [schema])
    key = Key(Kind.TABLE, schema, table)
    kept = {one: value for one, value in found.objects.items() if isinstance(value, Index) and value.table == key}
    return replace(
        found,
        objects=dict(kept),
        comments={key: text for key, text in found.comments.items() if key in kept},
        grants={},
        depends={key: needed for key, needed in found.depends.items() if key in kept},
    )


def renames_of(decided: Decided) -> list[Rename]:
    """The renames that were carried out, by the names that hold now."""
    found = [
        Rename(new, old.name if new.kind is Kind.TABLE else old.part)
        for new, old in sorted(decided.origin.items())
        if (new.part or new.name) != (old.part or old.name)
    ]
    labels = (
        Rename(enum, old, new) for enum, pairs in sorted(decided.relabelled.items()) for old, new in pairs.items()
    )
    return [*found, *labels]


def final_of(decided: Decided, comparison: Comparison) -> list[str]:
    """What decisions moved, or gave other values: its undoing takes more than the structure."""
    changed = {one.key for one in comparison.differences if one.aspect in ("type", "collation", "not null")}
    valued = changed & {*decided.backfills, *decided.conversions}
    return [str(key) for key in sorted({*valued, *decided.remaps, *decided.shapes, *decided.quarantine})]
