"""Changes of one column: type, collation, default, NOT NULL, identity, generation, storage."""

# ruff: noqa: S608 - texts are composed of quoted identifiers

from __future__ import annotations

from ..database.transaction import LockMode
from ..plan import Statement
from . import recast, snippets, stages
from .compare import Difference
from .conversion import Conversion, conversion, in_proof, replaced, way_back, way_there
from .ddl import COMPRESSION, STORAGE, ident, literal, storage_options
from .draft import Draft
from .evidence import misfits
from .model import Column, Constraint, Key, Kind, Sequence
from .quarantine import set_aside_column
from .vectors import COMPUTE_ANEW, changes_dimensions, require_indexable

_IDENTITY = {"a": "ALWAYS", "d": "BY DEFAULT"}
_REPLACED = "_replaced"
_DECIDED = ("changes_values", "needs_decision")
_OF_EACH_TABLE = ("SET DEFAULT", "SET STORAGE", "SET STATISTICS", "SET COMPRESSION")


def choose(draft: Draft, key: Key, aspects: set[str]) -> None:
    """Decide what has to be dropped before the column can change."""
    new, old = draft.desired.column(key), draft.current.column(key)
    assert new is not None
    assert old is not None
    if old.generated and new.generated and aspects & {"type", "collation", "generated", "default"}:
        draft.closure.drop(key)  # its values are computed, and will be again
    elif old.generated == "v" and not new.generated:
        draft.closure.drop(key)  # to be computed once more, and stored
    elif new.generated and not old.generated:
        answer = draft.evidence.against(key, "generated")
        if answer is not None:
            draft.refuse(
                "values_would_be_replaced", key, f"DEV computes this column, PROD stores values in it: {answer.text}"
            )
        else:
            draft.closure.drop_recomputed(key)
    elif aspects & {"type", "collation"}:
        draft.closure.retype(key)
        recast.choose(draft, key)


def change(draft: Draft, key: Key, aspects: dict[str, Difference]) -> list[Statement]:
    """The statements that make PROD's column what DEV's is, in an order that the server accepts."""
    new, old = draft.desired.column(key), draft.current.column(key)
    assert new is not None
    assert old is not None
    if set(aspects) - {"comment"}:
        draft.lock(key.table, LockMode.ALTER)
    made: list[Statement] = []
    if old.identity and not new.identity:
        made += _leave_identity(draft, old, new)
    if aspects.keys() & {"type", "collation"}:
        made += _retype(draft, old, new, aspects)
    elif "default" in aspects and new.default is None and old.default is not None and not old.generated:
        made.append(no_default(draft, new))
    if "default" in aspects and new.default is not None:
        made.append(set_default(draft, new))
    if "not null" in aspects:
        made += _not_null(draft, old, new, aspects["not null"])
    if new.identity and not old.identity:
        made += _become_identity(draft, old, new)
    elif new.identity and "identity" in aspects:
        words = f"SET GENERATED {_IDENTITY[new.identity]}"
        made.append(_alter(draft, key, words, "identity"))
    if new.identity and old.identity and "identity options" in aspects:
        beyond = draft.evidence.against(key, "identity options")
        if beyond is not None:
            draft.refuse("rows_in_the_way", key, f"identity options: {beyond.reason}: {beyond.text}")
        text = f"ALTER SEQUENCE {ident(key.schema, old.identity_sequence)} {new.identity_options}"
        made.append(draft.statement(text, key, f"identity options of {key}"))
    made += _settings(draft, new, aspects)
    return made


def becomes_plain(draft: Draft, key: Key) -> bool:
    """Is it a stored computed column that DEV has as a plain one?"""
    new, old = draft.desired.column(key), draft.current.column(key)
    if key.kind is not Kind.COLUMN or new is None or old is None:
        return False
    return "generated" in draft.aspects[key] and old.generated == "s" and not new.generated


def release(draft: Draft, key: Key) -> Statement:
    """A stored computed column becomes a plain one, before anything that it is computed from changes."""
    return _alter(draft, key, "DROP EXPRESSION", "keeps the computed values")


def guard_recomputed(draft: Draft, key: Key) -> Statement:
    """The query that must find no value besides the computed one in a column that is dropped to become a computed one."""
    new = draft.desired.column(key)
    assert new is not None
    query = misfits(key.table, replaced(new, draft.desired, draft.current), draft.current)
    summary = f"{key} holds no value that is not computed (no row may come back)"
    return draft.guard(query, key, summary, "stored values would be replaced")


def _alter(draft: Draft, key: Key, words: str, summary: str, *hazards: str, proves: bool = False) -> Statement:
    # What a child table may have otherwise is its own matter: it is compared, and changed, by itself.
    only = "ONLY " if words.startswith(_OF_EACH_TABLE) else ""
    text = f"ALTER TABLE {only}{draft.writer.name(key.table)} ALTER COLUMN {ident(key.part)} {words}"
    return draft.statement(text, key, f"{key}: {summary}", *hazards, proves=proves)


def set_default(draft: Draft, column: Column) -> Statement:
    assert column.default is not None
    draft.lock(column.key.table, LockMode.ALTER)
    return _alter(draft, column.key, f"SET DEFAULT {draft.writer.text(column.default)}", "default")


def no_default(draft: Draft, column: Column) -> Statement:
    draft.lock(column.key.table, LockMode.ALTER)
    # ONLY: a child's default is compared, and dropped, by itself.
    text = f"ALTER TABLE ONLY {draft.writer.name(column.key.table)} ALTER COLUMN {ident(column.key.part)} DROP DEFAULT"
    return draft.statement(text, column.key, f"{column.key}: no default")


def set_not_null(draft: Draft, key: Key) -> Statement:
    return _alter(draft, key, "SET NOT NULL", "not null", "validates_rows")


def _not_null(draft: Draft, old: Column, new: Column, difference: Difference) -> list[Statement]:
    key = new.key
    if new.not_null:
        answer = draft.evidence.against(key, "not null")
        if answer is not None:
            remedy = snippets.deciding("Say what rows without a value get", snippets.backfill(key))
            draft.refuse("nulls_in_the_way", key, f"DEV does not allow NULL: {answer.reason}: {answer.text}", remedy)
        filling = [_fill_nulls(draft, old, new)] if key in draft.decided.backfills else []
        if not filling and stages.takes_not_null(draft, new):
            return stages.not_null(draft, new)
        return [*filling, set_not_null(draft, key)]
    for one in draft.current.on_table.get(key.table, ()):
        found = draft.current.objects[one]
        if (
            isinstance(found, Constraint)
            and found.type == "p"
            and key.part in found.columns
            and one not in draft.closure.dropped
        ):
            message = f"stays NOT NULL because it is part of {one}, which only PROD has"
            draft.leave("primary_key_only_in_prod", difference, message, f"Drop {one} on PROD if it is not wanted.")
            return []
    return [_alter(draft, key, "DROP NOT NULL", "may be NULL")]


def fill(draft: Draft, new: Column) -> Statement:
    """Give a column the values that were decided. By a change of type, because that fires no trigger."""
    value, type_name = f"({draft.decided.backfills[new.key]})", draft.writer.text(new.type)
    if draft.current.column(new.key) is not None:
        value = f"coalesce({ident(new.key.part)}, {value})"
    words = f"TYPE {type_name} USING CAST({value} AS {type_name})"
    return _alter(draft, new.key, words, "filled as decided", *_DECIDED, "rewrites_table", proves=True)


def _fill_nulls(draft: Draft, old: Column, new: Column) -> Statement:
    set_aside_column(draft, new.key)
    value, type_name = draft.decided.backfills[new.key], draft.writer.text(new.type)
    filled = f"coalesce(CAST({way_there(old, new, draft.current)} AS {type_name}), CAST(({value}) AS {type_name}))"
    for one in draft.current.with_heirs(new.key):
        draft.carry(one, ident(new.key.part), filled)
    return fill(draft, new)


def _decided_conversion(draft: Draft, new: Column) -> Conversion:
    """The conversion that a person gave: old values are kept aside, and the rows are proved to be what it says."""
    set_aside_column(draft, new.key)
    type_name = draft.writer.text(new.type)
    value = f"CAST(({draft.decided.conversions[new.key]}) AS {type_name})"
    for one in draft.current.with_heirs(new.key):
        draft.carry(one, ident(new.key.part), value)
    return Conversion(value, None, "", ("takes_exclusive_lock", "rewrites_table", *_DECIDED))


def _retype(draft: Draft, old: Column, new: Column, aspects: dict[str, Difference]) -> list[Statement]:
    key = new.key
    answer = draft.evidence.against(key, "type")
    if key in draft.decided.conversions:
        found = _decided_conversion(draft, new)
    else:
        found = conversion(old, new, draft.desired, draft.current)
        for one in draft.current.with_heirs(key):
            place, back = ident(key.part), way_back(old, new, draft.current)
            read = in_proof(old, place, draft.current)
            otherwise = read != place and one.table in draft.protected
            draft.carry(one, in_proof(old, back, draft.current), read if otherwise else "")
    change_of = f"{draft.writer.text(old.type)} → {draft.writer.text(new.type)}"
    if answer is not None:
        remedy = snippets.deciding("Say how the values become DEV's", snippets.conversion(key))
        if changes_dimensions(old, new):
            remedy = COMPUTE_ANEW
        draft.refuse("type_change_loses", key, f"{change_of}: {answer.reason}: {answer.text}", remedy)
    elif changes_dimensions(old, new):
        require_indexable(draft, key, new)
    for one in draft.current.on_table.get(key.table, ()):
        equal = draft.evidence.against(one, "type")
        if equal is not None and key not in draft.decided.conversions:
            draft.refuse("rows_in_the_way", one, f"as {draft.writer.text(new.type)}, {equal.reason}: {equal.text}")
    table = draft.current.table(key.table)
    for column in table.columns.values() if table is not None and key.table in draft.protected else ():
        lost = draft.evidence.against(column.key, f"computed from {key.part}")
        if lost is not None and answer is None:
            draft.refuse("values_would_be_replaced", column.key, f"{lost.reason}: {lost.text}")
    for user in sorted(draft.current.dependents.get(key.table, ())):
        if user.kind is Kind.COLUMN and user.table != key.table:
            message = f"its table's row type is that of {user}, under which the server changes no column's type"
            draft.refuse("in_the_way", key, message)
    made: list[Statement] = []
    if found.misfit is not None:
        query = misfits(key.table, found.misfit, draft.current)
        summary = f"{key}: every stored value survives {change_of} (no row may come back)"
        made.append(draft.guard(query, key, summary, found.reason))
    if "default" in aspects and old.default is not None and not old.generated:
        made.append(_alter(draft, key, "DROP DEFAULT", "default of the old type"))
    collation = f" COLLATE {draft.writer.text(new.collation)}" if new.collation else ""
    using = f" USING {found.using}" if found.using else ""
    words = f"TYPE {draft.writer.text(new.type)}{collation}{using}"
    made.append(_alter(draft, key, words, change_of, *found.hazards, proves=True))
    return made + _settings_again(draft, key, aspects)


def _settings_again(draft: Draft, key: Key, aspects: dict[str, Difference]) -> list[Statement]:
    """A change of type takes storage and compression back to the type's own, in every table that inherits the column."""
    made = []
    for one in draft.current.with_heirs(key):
        column = draft.desired.column(one) or draft.current.column(one)
        if column is None or column.generated:
            continue
        draft.lock(one.table, LockMode.ALTER)
        if column.storage and not (one == key and "storage" in aspects):
            made.append(_alter(draft, one, f"SET STORAGE {STORAGE[column.storage]}", "storage as before"))
        if column.compression and not (one == key and "compression" in aspects):
            made.append(
                _alter(draft, one, f"SET COMPRESSION {COMPRESSION[column.compression]}", "compression as before")
            )
    return made


def _settings(draft: Draft, new: Column, aspects: dict[str, Difference]) -> list[Statement]:
    made = []
    if "storage" in aspects:
        # By name: versions before 16 do not understand SET STORAGE DEFAULT.
        words = STORAGE[new.storage or new.type_storage]
        made.append(_alter(draft, new.key, f"SET STORAGE {words}", "storage"))
    if "compression" in aspects:
        made.append(
            _alter(draft, new.key, f"SET COMPRESSION {COMPRESSION.get(new.compression, 'DEFAULT')}", "compression")
        )
    if "statistics" in aspects:
        made.append(_alter(draft, new.key, f"SET STATISTICS {new.statistics}", "statistics target"))
    if "options" in aspects:
        found = draft.current.column(new.key)
        gone = {one.partition("=")[0] for one in found.options if found} if found else set()
        gone -= {one.partition("=")[0] for one in new.options}
        if gone:
            made.append(_alter(draft, new.key, f"RESET ({', '.join(sorted(gone))})", "options"))
        if new.options:
            made.append(_alter(draft, new.key, f"SET ({storage_options(new.options)})", "options"))
    return made


# -- positions of sequences ------------------------------------------------------------------------------------------


def position(draft: Draft, sequence: Key, column: Key) -> Statement:
    """Put a new sequence behind the values that its column already holds."""
    name = literal(ident(sequence.schema, sequence.name))
    text = (
        f"SELECT pg_catalog.setval({name}::regclass, max({ident(column.part)})) FROM {draft.writer.name(column.table)}"
        f" HAVING max({ident(column.part)}) >= 1"
    )
    return draft.statement(text, sequence, f"{sequence} goes on after the values of {column}")


def _hand_over(draft: Draft, old: tuple[str, str], new: tuple[str, str], key: Key) -> Statement:
    text = f"SELECT pg_catalog.setval({literal(ident(*new))}::regclass, last_value, is_called) FROM {ident(*old)}"
    return draft.statement(text, key, f"the sequence of {key} goes on where it was")


def _out_of_the_way(draft: Draft, key: Key, name: str) -> str:
    """Rename a sequence that is to be replaced, so that its name is free; the new name."""
    free = name.encode()[: 63 - len(_REPLACED)].decode(errors="ignore") + _REPLACED
    text = f"ALTER SEQUENCE {ident(key.schema, name)} RENAME TO {ident(free)}"
    draft.opening.append(draft.statement(text, key, f"free the name of sequence {key.schema}.{name}"))
    return free


def _sequence_of_default(draft: Draft, key: Key, *, desired: bool) -> Key | None:
    catalog = draft.desired if desired else draft.current
    default = Key(Kind.DEFAULT, key.schema, key.name, key.part)
    return next((one for one in sorted(catalog.depends.get(default, ())) if one.kind is Kind.SEQUENCE), None)


def _leave_identity(draft: Draft, old: Column, new: Column) -> list[Statement]:
    key, made = new.key, []
    sequence = _sequence_of_default(draft, key, desired=True)
    if sequence is not None and sequence not in draft.current.objects:
        name = _out_of_the_way(draft, key, old.identity_sequence)
        made.append(_hand_over(draft, (key.schema, name), (sequence.schema, sequence.name), key))
    made.append(_alter(draft, key, "DROP IDENTITY", "no identity column"))
    return made


def _become_identity(draft: Draft, old: Column, new: Column) -> list[Statement]:
    key = new.key
    sequence = _sequence_of_default(draft, key, desired=False)
    found = draft.current.objects.get(sequence) if sequence is not None else None
    add = _alter(draft, key, f"ADD {draft.writer.identity(new)}", "identity column")
    name = (key.schema, new.identity_sequence)
    default = Key(Kind.DEFAULT, key.schema, key.name, key.part)
    shared = sequence is not None and bool(draft.current.dependents.get(sequence, frozenset()) - {default, key})
    if shared and sequence is not None and (sequence.schema, sequence.name) == name:
        draft.refuse(
            "in_the_way", sequence, f"{key} shall have an identity sequence of that name, and others use this one"
        )
    if (
        not isinstance(found, Sequence)
        or sequence is None
        or sequence in draft.desired.objects
        or found.owned_by != old.key
        or shared
    ):
        seen = Key(Kind.SEQUENCE, *name)
        return [add, position(draft, seen, key)]
    # The serial's sequence lives on in the identity column: same position, and its name if DEV uses the same.
    freed = _out_of_the_way(draft, sequence, sequence.name)
    drop = f"DROP SEQUENCE {ident(sequence.schema, freed)}"
    return [
        add,
        _hand_over(draft, (sequence.schema, freed), name, key),
        draft.statement(drop, sequence, f"{sequence} was replaced by the identity column"),
    ]
