"""Changes in place of everything but columns."""

from __future__ import annotations

from ..database.transaction import LockMode
from ..plan import Statement
from . import enums, stages
from .compare import MISSING, UNMODELLED, Difference
from .conversion import type_of, users_of_domain
from .ddl import ident, storage_options
from .draft import Draft
from .making import owned_by, replica_identity
from .model import (
    Composite,
    Constraint,
    Domain,
    Enum,
    Function,
    Index,
    Key,
    Kind,
    Object,
    Other,
    Sequence,
    Table,
    Trigger,
    View,
    readable,
)
from .steps import Node

_FIXED = ("partition key", "bound", "parents", "typed", "access method")
_REACHES_OTHERS = "its rows would come into, or go out of, another table's"


def change(draft: Draft, node: Node, value: Object, aspects: dict[str, Difference]) -> None:
    """Add to `node` what makes PROD's object what DEV's is."""
    key = value.key
    match value:
        case Table():
            node.statements += _table(draft, value, aspects)
        case Enum():
            if "labels" in aspects:
                if replaced(draft, value):
                    enums.replace_type(draft, node)
                else:
                    node.statements += enums.extend(draft, key)
        case Composite():
            node.statements += _composite(draft, value, aspects)
        case Domain():
            node.statements += _domain(draft, value, aspects)
        case Sequence():
            _sequence(draft, node, value, aspects)
        case Function() if "definition" in aspects:
            node.statements.append(draft.statement(draft.writer.create(value)[0], key, f"new definition of {key}"))
        case View():
            _view(draft, node, value, aspects)
        case Trigger() if "enabled" in aspects:
            draft.lock(key.table, LockMode.ALTER)
            node.statements.append(draft.statement(draft.writer.trigger_state(value), key, f"state of {key}"))
        case Index() if "valid" in aspects:
            stages.add(draft, value)
        case Constraint() if "definition" in aspects:
            _validate(draft, node, value)
        case Other():
            _leave(draft, aspects)
        case Index() | Constraint():
            node.statements += _index(draft, value, aspects)


def _leave(draft: Draft, aspects: dict[str, Difference]) -> None:
    """Stored values may hang on what it is now."""
    for aspect in aspects.keys() & {"definition", "settings"}:
        found = aspects[aspect]
        message = f"{aspect} is {found.current or 'none'}, on DEV {found.desired or 'none'}; it is made where it is missing, but not changed"
        draft.leave(UNMODELLED, found, readable(message), "Align it by hand if it matters.")


def _index(draft: Draft, wanted: Index | Constraint, aspects: dict[str, Difference]) -> list[Statement]:
    """What an index, or the one behind a constraint, is besides its definition."""
    key = wanted.key
    table = wanted.table if isinstance(wanted, Index) else key.table
    found = draft.current.objects[draft.comparison.renamed.get(key, key)]
    made = []
    if "clustered" in aspects:
        noun = "MATERIALIZED VIEW" if table.kind is Kind.MATVIEW else "TABLE"
        not_any = f"ALTER {noun} {draft.writer.name(table)} SET WITHOUT CLUSTER"
        text = draft.writer.clustered(wanted) if wanted.clustered else not_any
        made.append(draft.statement(text, key, f"clustering by {key}"))
    if isinstance(wanted, Index) and isinstance(found, Index) and "statistics" in aspects:
        targets = dict.fromkeys(dict(found.statistics), -1) | dict(wanted.statistics)
        texts = [draft.writer.index_statistics(wanted, *one) for one in sorted(targets.items())]
        made += [draft.statement(text, key, f"statistics target of {key}") for text in texts]
    if isinstance(wanted, Constraint) and isinstance(found, Constraint) and "options" in aspects:
        gone = {one.partition("=")[0] for one in found.options} - {one.partition("=")[0] for one in wanted.options}
        reset = f"ALTER INDEX {ident(key.schema, key.part)} RESET ({', '.join(sorted(gone))})"
        texts = [*([reset] if gone else []), *([draft.writer.index_options(wanted)] if wanted.options else [])]
        made += [draft.statement(text, key, f"options of the index of {key}") for text in texts]
    if made:
        draft.lock(table, LockMode.ALTER)
    return made


def rename(draft: Draft, node: Node, value: Object) -> None:
    """A constraint or index of the same meaning gets DEV's name."""
    old = draft.comparison.renamed[node.key]
    draft.lock_tables_of(old, LockMode.ALTER)
    if isinstance(value, Constraint):
        words = f"RENAME CONSTRAINT {ident(old.part)} TO {ident(node.key.part)}"
        text = f"ALTER TABLE {draft.writer.name(node.key.table)} {words}"
    else:
        text = f"ALTER INDEX {ident(old.schema, old.name)} RENAME TO {ident(node.key.name)}"
    node.statements.append(draft.statement(text, node.key, f"{old} gets DEV's name"))


def _validate(draft: Draft, node: Node, value: Constraint) -> None:
    """PROD has the constraint, but NOT VALID."""
    answer = draft.evidence.against(value.key, MISSING)
    if answer is not None:
        remedy = "Correct the rows on PROD (or the definition on DEV), then run again; nothing was changed."
        draft.refuse("rows_in_the_way", value.key, f"{answer.reason}: {answer.text}", remedy)
    elif stages.takes(draft, value):
        stages.validate(draft, value)
    else:
        draft.lock_tables_of(value.key, LockMode.WRITE)
        node.statements.append(stages.validation(draft, value, transactional=True))


def replaced(draft: Draft, value: Enum) -> bool:
    """Must this enum be made anew, rather than extended?"""
    found = draft.current.objects[value.key]
    again = value.key in draft.replaced_enums or value.key in draft.decided.remaps
    return again or (isinstance(found, Enum) and enums.reordered(value, found))


def _table(draft: Draft, table: Table, aspects: dict[str, Difference]) -> list[Statement]:
    key, made = table.key, []
    alter = f"ALTER TABLE {draft.writer.name(key)}"
    for aspect in _FIXED:
        if aspect in aspects:
            found = aspects[aspect]
            why = _REACHES_OTHERS if aspect in ("bound", "parents") else "the rows would have to be moved"
            message = f"{aspect} is {found.current or 'none'}, on DEV {found.desired or 'none'}: {why}"
            draft.refuse("table_form", key, message)
    if aspects.keys() - {"comment"} and any(not name.startswith("grant ") for name in aspects):
        draft.lock(key, LockMode.ALTER)
    if "row security" in aspects:
        made.append(draft.statement(f"{alter} ENABLE ROW LEVEL SECURITY", key, f"row-level security of {key}"))
    if "force row security" in aspects:
        made.append(
            draft.statement(f"{alter} FORCE ROW LEVEL SECURITY", key, f"row-level security of {key}, for its owner too")
        )
    if "persistence" in aspects and table.persistence == "u" and key in draft.protected:
        message = "DEV's is unlogged: a crash of the server would empty it, and it is a protected table"
        draft.refuse(
            "protected_unlogged", key, message, "Make DEV's logged (ALTER TABLE … SET LOGGED); nothing was changed."
        )
    elif "persistence" in aspects:
        if (answer := draft.evidence.against(key, "persistence")) is not None:
            remedy = f"If they may be lost in a crash, ALTER TABLE {draft.writer.name(key)} SET UNLOGGED by hand; nothing was changed."
            draft.refuse("rows_in_the_way", key, f"DEV's is unlogged, {answer.reason}: {answer.text}", remedy)
        words = "UNLOGGED" if table.persistence == "u" else "LOGGED"
        made.append(draft.statement(f"{alter} SET {words}", key, f"{key} becomes {words.lower()}", "rewrites_table"))
    if "replica identity" in aspects and table.replica_identity.startswith("i"):
        # The index may be one that this plan makes.
        late = draft.late(key, "replica identity", set(draft.desired.on_table.get(key, ())))
        late.statements.append(replica_identity(draft, table))
    elif "replica identity" in aspects:
        made.append(replica_identity(draft, table))
    if "options" in aspects:
        made += _options(draft, key, "TABLE", table.options)
    return made


def _options(draft: Draft, key: Key, noun: str, wanted: tuple[str, ...]) -> list[Statement]:
    current = draft.current.objects[key]
    found = current.options if isinstance(current, (Table, View)) else ()
    made, alter = [], f"ALTER {noun} {draft.writer.name(key)}"
    gone = sorted({option.partition("=")[0] for option in found} - {option.partition("=")[0] for option in wanted})
    if gone:
        made.append(draft.statement(f"{alter} RESET ({', '.join(gone)})", key, f"options of {key}"))
    if set(wanted) - set(found):
        text = f"{alter} SET ({storage_options(sorted(set(wanted) - set(found)))})"
        made.append(draft.statement(text, key, f"options of {key}"))
    return made


def _composite(draft: Draft, wanted: Composite, aspects: dict[str, Difference]) -> list[Statement]:
    if "attributes" not in aspects:
        return []
    found = draft.current.objects[wanted.key]
    assert isinstance(found, Composite)
    old, new = list(found.attributes.values()), list(wanted.attributes.values())
    shape = [[(one.key, one.type, one.collation) for one in attributes] for attributes in (new[: len(old)], old)]
    if shape[0] != shape[1]:
        draft.refuse(
            "composite_type", wanted.key, "attributes that exist are otherwise on DEV; only adding at the end is safe"
        )
        return []
    users = sorted(one for one in draft.current.dependents.get(wanted.key, ()) if one.kind in (Kind.COLUMN, Kind.TABLE))
    for user in users:
        draft.lock(user.table, LockMode.ALTER)
        table = draft.current.table(user)
        if user.kind is Kind.TABLE and table is not None and table.typed:
            draft.refuse("typed_table", wanted.key, f"{user} is OF it, and tables OF a type are not handled")
    return [
        draft.statement(
            f"ALTER TYPE {draft.writer.name(wanted.key)} ADD ATTRIBUTE {text}", wanted.key, f"attribute of {wanted.key}"
        )
        for text in map(draft.writer.attribute, new[len(old) :])
    ]


def _domain(draft: Draft, wanted: Domain, aspects: dict[str, Difference]) -> list[Statement]:
    key, made = wanted.key, []
    alter = f"ALTER DOMAIN {draft.writer.name(key)}"
    found = draft.current.objects[key]
    assert isinstance(found, Domain)
    for user in draft.current.dependents.get(key, ()):
        if user.kind is Kind.COLUMN:
            draft.lock(user.table, LockMode.ALTER)
    if aspects.keys() & {"base type", "collation"}:
        draft.refuse(
            "domain_base", key, f"is over {found.base}, on DEV over {wanted.base}: a domain's base cannot be changed"
        )
    if "default" in aspects:
        words = f"SET DEFAULT {draft.writer.text(wanted.default)}" if wanted.default is not None else "DROP DEFAULT"
        made.append(draft.statement(f"{alter} {words}", key, f"default of {key}"))
    for aspect in aspects:
        answer = draft.evidence.against(key, aspect)
        if answer is not None:
            draft.refuse("rows_in_the_way", key, f"{aspect}: {answer.reason}: {answer.text}")
    if "not null" in aspects:
        words = "SET NOT NULL" if wanted.not_null else "DROP NOT NULL"
        made.append(draft.statement(f"{alter} {words}", key, f"{key}: {words.lower()}", "validates_rows"))
    asked = [definition for name, (definition, _) in wanted.constraints.items() if f"constraint {name}" in aspects]
    if ("not null" in aspects and wanted.not_null) or not all(one.endswith(" NOT VALID") for one in asked):
        inside = next(
            (user for user in users_of_domain(draft.current, key) if type_of(draft.current, user) is None), None
        )
        if inside is not None:
            message = f"{inside.key} holds it inside other values, where the server cannot check a new condition"
            draft.refuse("in_the_way", key, message)
    for name, (definition, _) in wanted.constraints.items():
        if f"constraint {name}" in aspects:
            if name in found.constraints:
                made.append(
                    draft.statement(f"{alter} DROP CONSTRAINT {ident(name)}", key, f"old form of constraint {name}")
                )
            text = f"{alter} ADD CONSTRAINT {ident(name)} {draft.writer.text(definition)}"
            made.append(draft.statement(text, key, f"constraint {name} of {key}", "validates_rows"))
            one = Key(Kind.DOMAIN_CONSTRAINT, key.schema, key.name, name)
            if one in draft.desired.comments:
                said = draft.writer.comment(one, draft.desired.comments[one])
                made.append(draft.statement(said, one, f"comment on {one}"))
    return made


def _sequence(draft: Draft, node: Node, wanted: Sequence, aspects: dict[str, Difference]) -> None:
    key, alter = wanted.key, f"ALTER SEQUENCE {draft.writer.name(wanted.key)}"
    for aspect in ("type", "options"):
        beyond = draft.evidence.against(key, aspect)
        if beyond is not None:
            draft.refuse("rows_in_the_way", key, f"{aspect}: {beyond.reason}: {beyond.text}")
            break
    if aspects.keys() & {"type", "options"}:
        node.statements.append(draft.statement(f"{alter} AS {wanted.type} {wanted.options}", key, f"options of {key}"))
    if "persistence" in aspects:
        words = "SET UNLOGGED" if wanted.persistence == "u" else "SET LOGGED"
        node.statements.append(draft.statement(f"{alter} {words}", key, f"{key}: {words.lower()}"))
    if "owned by" in aspects:
        late = draft.late(key, "owned by", {wanted.owned_by} if wanted.owned_by else set())
        late.statements.append(owned_by(draft, wanted))


def _view(draft: Draft, node: Node, wanted: View, aspects: dict[str, Difference]) -> None:
    key = wanted.key
    if key.kind is Kind.MATVIEW:
        if "populated" in aspects:
            text = f"REFRESH MATERIALIZED VIEW {draft.writer.name(key)}"
            node.statements.append(draft.statement(text, key, f"fill {key}"))
        return
    if aspects.keys() & {"definition", "columns", "options"}:
        text = draft.writer.view(wanted, replace=True)
        node.statements.append(draft.statement(text, key, f"new definition of {key}"))
