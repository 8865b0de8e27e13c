"""Stages: what a large table cannot bear inside the transaction is done after its COMMIT, step by step and proved each time.

New indexes are built CONCURRENTLY, keys are made of such an index, checks and foreign keys are added NOT VALID in the transaction
and validated here, and so is the check that lets SET NOT NULL skip its scan. Pure: this decides and composes; outside.py executes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..database.target import Table as TableName
from ..database.transaction import LockMode
from ..findings import Finding
from ..plan import Statement
from . import costs
from .compare import MISSING
from .ddl import ident
from .model import Column, Constraint, Index, Key, Kind, Size, Table

if TYPE_CHECKING:
    from .draft import Draft

LARGE_TABLE_BYTES = 1 << 30
STAGE_TIMEOUT = 4 * 3600.0
_CHECK = "archon_align_not_null_"
_NOT_VALID = " NOT VALID"
_RANK = ("not null", "index", "key", "check", "foreign key")


@dataclass(frozen=True, slots=True)
class Stage:
    """One object of a large table, made or validated outside the transaction.

    `statements` in order: one that is not transactional runs by itself, those between are short transactions under `locks`.
    `awaits` are the differences (object, aspect) that stay until the stage is done. `index` is what a build that dies leaves
    behind invalid. `kind` is one of: not null, index, key, check, foreign key.
    """

    kind: str
    key: Key
    table: Key
    statements: tuple[Statement, ...]
    awaits: frozenset[tuple[Key, str]]
    locks: Mapping[TableName, LockMode] = field(default_factory=dict)
    index: Key | None = None

    @property
    def name(self) -> str:
        words = {"index": "build", "key": "build the index of"}.get(self.kind, "validate")
        return f"{words} {f'NOT NULL of {self.key}' if self.kind == 'not null' else self.key}"

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        return round(sum(one.seconds or 0.0 for one in self.statements), 2)

    @property
    def order(self) -> tuple[int, Key]:
        return (_RANK.index(self.kind), self.key)


# -- which objects -----------------------------------------------------------------------------------------------------


def is_large(draft: Draft, table: Key) -> bool:
    """A plain table of PROD above the threshold. Partitioned and inherited ones know no CONCURRENTLY: theirs stays in the
    transaction, with the hazard told."""
    found = draft.current.table(table)
    if found is None or draft.large_table_bytes is None:
        return False
    plain = found.partition_key is None and found.persistence != "t" and not _children(draft, table)
    return plain and draft.current.sizes.get(table, Size()).bytes >= draft.large_table_bytes


def takes(draft: Draft, value: Index | Constraint) -> bool:
    """Is this missing index or constraint of a large table made outside the transaction?"""
    table = value.table if isinstance(value, Index) else value.key.table
    if isinstance(value, Constraint) and value.type == "f" and _needs_staged_key(draft, value):
        return True
    if not is_large(draft, table) or _identifies_replicas(draft, table, value.key.part or value.key.name):
        return False
    if isinstance(value, Constraint) and value.type in ("c", "f"):
        return value.validated
    if isinstance(value, Constraint) and (value.type == "x" or "WITHOUT OVERLAPS" in value.definition):
        return False
    # Whatever else needs it, a view for instance, is made in the transaction, and so must it be.
    return all(_is_missing_foreign_key(draft, one) for one in draft.desired.dependents.get(value.key, ()))


def takes_not_null(draft: Draft, new: Column) -> bool:
    """Is NOT NULL of this column of a large table proved outside the transaction?"""
    table, found = draft.current.table(new.key.table), draft.current.column(new.key)
    if table is None or found is None or table.parents or not is_large(draft, table.key):
        return False
    becomes_identity = bool(new.identity) and not found.identity
    return not becomes_identity and "replica identity" not in draft.aspects.get(table.key, {})


def completes(draft: Draft, key: Key, aspects: Collection[str]) -> bool:
    """Is what PROD has of it completed, instead of dropped and made again? A constraint that is only NOT VALID is, and what
    a build that died has left of a large table's index."""
    wanted, found = draft.desired.objects.get(key), draft.current.objects.get(key)
    if isinstance(wanted, Constraint) and isinstance(found, Constraint):
        return wanted.validated and found.definition == wanted.definition + _NOT_VALID
    return isinstance(wanted, Index) and set(aspects) == {"valid"} and takes(draft, wanted)


def leftover_index(draft: Draft, constraint: Constraint) -> Index | None:
    """An index of PROD under the name that the index of this missing key will have."""
    if constraint.type not in ("p", "u", "x"):
        return None
    found = draft.current.objects.get(Key(Kind.INDEX, constraint.key.schema, constraint.key.part))
    return found if isinstance(found, Index) and found.table == constraint.key.table else None


def fits(index: Index, constraint: Constraint) -> bool:
    """Can the constraint be made of this index? The proof looks at everything else."""
    names = tuple(name[1:-1].replace('""', '"') if name.startswith('"') else name for name in index.keys)
    plain = index.valid and index.unique and index.method == "btree" and index.predicate is None
    return plain and names == constraint.columns and index.nulls_equal == constraint.nulls_equal


# -- what is done ------------------------------------------------------------------------------------------------------


def add(draft: Draft, value: Index | Constraint) -> None:
    """Plan the stage that makes a missing object, and what the transaction does for it."""
    if isinstance(value, Index):
        _add_index(draft, value)
    elif value.type in ("p", "u"):
        _add_key(draft, value)
    elif _needs_staged_key(draft, value):
        _add_foreign_key(draft, value)
    else:
        validate(draft, value)


def is_validated_later(draft: Draft, value: Constraint) -> bool:
    """Does the transaction add it NOT VALID, for a stage to validate?"""
    return value.type in ("c", "f") and not _needs_staged_key(draft, value)


def of_index(draft: Draft, value: Constraint) -> Constraint:
    """The key as it is made of the index that exists under its name."""
    word, _, _, timing = _parts(draft, value)
    return replace(value, definition=f"{word} USING INDEX {ident(value.key.part)}{timing}")


def unvalidated(value: Constraint) -> Constraint:
    """The constraint as the transaction adds it, for a stage to validate."""
    return replace(value, definition=value.definition + _NOT_VALID, validated=False)


def validate(draft: Draft, value: Constraint) -> None:
    """Plan the stage that validates a constraint which is there by then."""
    kind = "foreign key" if value.type == "f" else "check"
    awaits = frozenset({(value.key, MISSING), (value.key, "definition")})
    draft.stages.append(Stage(kind, value.key, value.key.table, (validation(draft, value),), awaits))


def not_null(draft: Draft, new: Column) -> list[Statement]:
    """Plan the stage; the transaction adds a check that is not valid yet, unless a run that died left it behind."""
    key, table = new.key, draft.writer.name(new.key.table)
    check = _check_of(key)
    made = []
    if check not in draft.current.objects or check in draft.comparison.renamed.values():
        text = f"ALTER TABLE {table} ADD CONSTRAINT {ident(check.part)} CHECK ({ident(key.part)} IS NOT NULL) NOT VALID"
        made.append(draft.statement(text, key, f"{key}: no new NULL, until all rows are looked at"))
    validated = f"ALTER TABLE {table} VALIDATE CONSTRAINT {ident(check.part)}"
    statements = (
        draft.statement(validated, key, f"{key} holds no NULL", "validates_rows", transactional=False),
        draft.statement(f"ALTER TABLE {table} ALTER COLUMN {ident(key.part)} SET NOT NULL", key, f"{key}: not null"),
        draft.statement(f"ALTER TABLE {table} DROP CONSTRAINT {ident(check.part)}", key, "the check has done its work"),
    )
    draft.stages.append(
        Stage("not null", key, key.table, statements, frozenset({(key, "not null")}), _locks(key.table))
    )
    return made


def forget_leftovers(draft: Draft) -> list[Statement]:
    """Checks that a run which died left behind and that no stage of this plan goes on with."""
    used = {_check_of(stage.key) for stage in draft.stages if stage.kind == "not null"}
    made = []
    for key, value in draft.current.objects.items():
        if key.kind is not Kind.CONSTRAINT or not key.part.startswith(_CHECK) or not isinstance(value, Constraint):
            continue
        ours = value.type == "c" and len(value.columns) == 1 and key == _check_of(_column(key.table, value.columns[0]))
        if ours and key not in used and key not in draft.desired.objects and key not in draft.closure.dropped:
            draft.lock(key.table, LockMode.ALTER)
            made.append(
                draft.statement(draft.writer.drop(key), key, f"{key}, left behind by a run that was interrupted")
            )
            message = "was left behind by a run that was interrupted, and is removed"
            draft.notes.append(Finding("leftover", "info", str(key), message, "Nothing to do."))
    return made


def _add_index(draft: Draft, value: Index) -> None:
    key, method = value.key, " concurrently"
    create, *others = draft.writer.create(value)
    create = re.sub(r"^CREATE (UNIQUE )?INDEX ", r"CREATE \1INDEX CONCURRENTLY ", create, count=1)
    statements = [
        *_without_leftovers(draft, key, value.table),
        draft.statement(create, key, f"create {key}{method}", "builds_index", transactional=False),
        *(draft.statement(text, key, f"clustering by {key}") for text in others),
        *_comment(draft, key),
    ]
    awaits = frozenset({(key, aspect) for aspect in (MISSING, "valid", "comment", "clustered")})
    draft.stages.append(Stage("index", key, value.table, tuple(statements), awaits, _locks(value.table), index=key))


def _add_key(draft: Draft, value: Constraint) -> None:
    """A unique index, then the constraint made of it, which is a matter of a moment."""
    key, table = value.key, draft.writer.name(value.key.table)
    index = Key(Kind.INDEX, key.schema, key.part)
    word, columns, rest, timing = _parts(draft, value)
    nulls = " NULLS NOT DISTINCT" if value.nulls_equal else ""
    create = f"CREATE UNIQUE INDEX CONCURRENTLY {ident(key.part)} ON {ident(key.schema, key.name)} USING btree {columns}{rest}{nulls}"
    attach = f"ALTER TABLE {table} ADD CONSTRAINT {ident(key.part)} {word} USING INDEX {ident(key.part)}{timing}"
    statements = (
        *_without_leftovers(draft, index, key.table),
        draft.statement(create, key, f"create the index of {key} concurrently", "builds_index", transactional=False),
        draft.statement(attach, key, f"create {key} of its index"),
        *(draft.statement(text, key, f"index of {key}") for text in draft.writer.create(value)[1:]),
        *_comment(draft, key),
    )
    awaits = frozenset({(key, MISSING)})
    draft.stages.append(Stage("key", key, key.table, statements, awaits, _locks(key.table), index=index))


def _add_foreign_key(draft: Draft, value: Constraint) -> None:
    """The key that it refers to is made by a stage: it can only come after that."""
    key = value.key
    table = draft.current.table(key.table) or draft.desired.table(key.table)
    in_two = value.validated and table is not None and table.partition_key is None
    texts = draft.writer.create(unvalidated(value) if in_two else value)
    statements = [*(draft.statement(text, key, f"create {key}") for text in texts), *_comment(draft, key)]
    if in_two:
        statements.append(validation(draft, value))
    locks = {
        TableName(one.schema, one.name): LockMode.WRITE for one in (key.table, value.references) if one is not None
    }
    stage = Stage("foreign key", key, key.table, tuple(statements), frozenset({(key, MISSING)}), locks)
    draft.stages.append(stage)


_KEY = re.compile(
    r"(PRIMARY KEY|UNIQUE)(?: NULLS NOT DISTINCT)? (\(.*?\))( INCLUDE \(.*?\))?((?: NOT DEFERRABLE| DEFERRABLE| INITIALLY DEFERRED| INITIALLY IMMEDIATE)*)",
    re.DOTALL,
)


def _parts(draft: Draft, value: Constraint) -> tuple[str, ...]:
    """The definition of a key in parts: the word, its columns, those besides, and when it is looked at."""
    found = _KEY.fullmatch(draft.writer.text(value.definition))
    assert found is not None, value.definition
    return found.groups("")


def validation(draft: Draft, value: Constraint, *, transactional: bool = False) -> Statement:
    """The statement that validates a constraint: by itself, where the table is large."""
    key = value.key
    text = f"ALTER TABLE {draft.writer.name(key.table)} VALIDATE CONSTRAINT {ident(key.part)}"
    made = draft.statement(text, key, f"validate {key}", "validates_rows", transactional=transactional)
    if value.type == "f" and made.seconds is not None:
        made = replace(made, seconds=round(made.seconds * costs.VALIDATE_ROWS / costs.FOREIGN_KEY_ROWS, 3))
    return made


def _without_leftovers(draft: Draft, index: Key, table: Key) -> Iterable[Statement]:
    """Remove first what builds that failed left behind under this name: indexes that are not valid."""
    for key in draft.current.on_table.get(table, ()):
        found = draft.current.objects[key]
        if isinstance(found, Index) and not found.valid and is_leftover_of(key.name, index.name):
            text = f"DROP INDEX CONCURRENTLY IF EXISTS {ident(key.schema, key.name)}"
            summary = f"{key}, left behind invalid by a build that failed"
            yield draft.statement(text, key, summary, transactional=False)


def is_leftover_of(name: str, index: str) -> bool:
    """Is this what a build of `index` leaves behind, or a REINDEX CONCURRENTLY of it?"""
    return name == index or re.fullmatch(re.escape(index) + r"_cc(new|old)[0-9]*", name) is not None


def _comment(draft: Draft, key: Key) -> Iterable[Statement]:
    text = draft.desired.comments.get(key)
    if text is not None:
        yield draft.statement(draft.writer.comment(key, text), key, f"comment on {key}")


def _children(draft: Draft, table: Key) -> bool:
    return any(one.kind is Kind.TABLE for one in draft.current.dependents.get(table, ()))


def _identifies_replicas(draft: Draft, table: Key, index: str) -> bool:
    found = draft.desired.objects.get(table)
    return isinstance(found, Table) and found.replica_identity == f"i{index}"


def _is_missing_foreign_key(draft: Draft, key: Key) -> bool:
    found = draft.desired.objects.get(key)
    return isinstance(found, Constraint) and found.type == "f" and MISSING in draft.aspects.get(key, {})


def _needs_staged_key(draft: Draft, foreign: Constraint) -> bool:
    for key in draft.desired.depends.get(foreign.key, ()):
        found = draft.desired.objects.get(key)
        missing = MISSING in draft.aspects.get(key, {})
        if missing and isinstance(found, Constraint) and found.type in ("p", "u") and takes(draft, found):
            return True
        if missing and isinstance(found, Index) and takes(draft, found):
            return True
    return False


def _column(table: Key, name: str) -> Key:
    return Key(Kind.COLUMN, table.schema, table.name, name)


def _check_of(column: Key) -> Key:
    """The check that stands in for NOT NULL while the rows are looked at; its name is within 63 bytes."""
    room = 63 - len(_CHECK)
    name = column.part
    if len(name.encode()) > room:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[: room - 9].decode(errors='ignore')}_{digest}"
    return Key(Kind.CONSTRAINT, column.schema, column.name, _CHECK + name)


def _locks(table: Key) -> dict[TableName, LockMode]:
    return {TableName(table.schema, table.name): LockMode.ALTER}
