"""Making objects whole: CREATE, owner, comment, grants, and what can only be said once several objects exist."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

from ..database.transaction import LockMode
from ..plan import Statement
from . import gaps, recast, shapes, stages
from .columns import fill, no_default, position, set_default, set_not_null
from .compare import MAINTAIN_SINCE, MISSING, UNMODELLED, Difference
from .costs import of_constraint, of_new_column
from .ddl import BUILT_IN_GRANTS, DEFAULT_GRANT_LETTER, ident
from .draft import Draft
from .model import (
    PUBLIC,
    RELATIONS,
    TYPES,
    Catalog,
    Column,
    Constraint,
    Domain,
    Extension,
    Grant,
    Index,
    Key,
    Kind,
    Object,
    Other,
    Policy,
    Sequence,
    Table,
    View,
    is_older,
)
from .portable import extensions_in
from .steps import FOREIGN_KEY_RANK, Node

_ROW_TYPES = frozenset({Kind.TABLE, Kind.VIEW, Kind.MATVIEW})


def make_missing(draft: Draft, difference: Difference) -> None:
    """Make what PROD lacks, or refuse."""
    key = difference.key
    value = draft.desired.objects.get(key) or draft.desired.column(key)
    assert value is not None
    if isinstance(value, Extension) and not _may_create(draft, value, difference):
        return
    if isinstance(value, Other) and not _may_make(draft, value, difference):
        return
    if (taken := _name_taken(draft.current, key)) is not None:
        draft.refuse("name_taken", key, f"PROD has a {taken} of the same name")
    elif isinstance(value, Table) and value.typed:
        draft.refuse("typed_table", key, "tables OF a type are not handled")
    elif (answer := draft.evidence.against(key, MISSING)) is not None:
        if shapes.is_echo(draft, key, answer):
            return
        if isinstance(value, Column) and key not in draft.decided.backfills:
            gaps.note(draft, value, answer)
            return
        remedy = "Correct the rows on PROD (or the definition on DEV), then run again; nothing was changed."
        draft.refuse("rows_in_the_way", key, f"{answer.reason}: {answer.text}", remedy)
    elif isinstance(value, Constraint) and (index := stages.leftover_index(draft, value)) is not None:
        _make_over(draft, value, index)
    else:
        _make_or_stage(draft, value)


def _make_or_stage(draft: Draft, value: Object) -> None:
    if not isinstance(value, (Index, Constraint)) or not stages.takes(draft, value):
        make(draft, value, draft.desired)
        return
    if isinstance(value, Constraint) and stages.is_validated_later(draft, value):
        make(draft, stages.unvalidated(value), draft.desired)
    stages.add(draft, value)


def _make_over(draft: Draft, value: Constraint, index: Index) -> None:
    """A key whose index's name is taken: by an index to make it of, or by what a build that failed left behind."""
    if index.valid and not stages.fits(index, value):
        draft.refuse("name_taken", value.key, f"PROD has an {index.key} of the same name, of which it cannot be made")
    elif index.valid:
        make(draft, stages.of_index(draft, value), draft.desired)
    else:
        if not stages.takes(draft, value):
            summary = f"{index.key}, left behind invalid by a build that failed"
            node = draft.node(value.key, draft.desired)
            node.statements.append(draft.statement(draft.writer.drop(index.key), index.key, summary))
        _make_or_stage(draft, value)


def make(draft: Draft, value: Object, source: Catalog) -> None:
    """The node that makes `value`, as `source` has it, with everything that belongs to it."""
    key = value.key
    node = draft.node(key, source)
    shaped = key in draft.kept
    again = key in draft.closure.dropped or shaped
    draft.lock_tables_of(key, LockMode.ALTER)
    hazards: tuple[str, ...] = ()
    if isinstance(value, Constraint):
        hazards = of_constraint(value)
        node.rank = FOREIGN_KEY_RANK if value.type == "f" else node.rank
    elif isinstance(value, Index):
        hazards = ("builds_index",)
    elif isinstance(value, Column):
        hazards = of_new_column(value)
    elif isinstance(value, Policy) and (unknown := set(value.roles) - draft.current.roles - {PUBLIC}):
        for role in sorted(unknown):
            remedy = f"Create role {role} on PROD, then run again; nothing was changed."
            draft.refuse("role_missing", key, f"is for role {role}, which PROD does not have", remedy)
    made: Object = value
    found = draft.current.objects.get(key)
    if isinstance(value, View) and isinstance(found, View) and found.populated:
        made = replace(value, populated=True)  # DEV's may be empty: PROD's was not
    if isinstance(value, Table):
        # The copy of another shape's rows needs the defaults at once.
        made = shapes.as_shaped(draft, value) if shaped else _with_late_defaults(draft, value, source)
    filled = isinstance(value, Column) and not again and key in draft.decided.backfills
    if filled and isinstance(value, Column):
        made = replace(value, not_null=False)
    summary = f"{'put back' if again and not shaped else 'create'} {key}"
    texts = draft.writer.create(made)
    if again and source is draft.current:
        texts = [recast.as_before(draft, key.table, text) for text in texts]
    created = [draft.statement(text, key, summary, *hazards) for text in texts]
    if isinstance(value, Table) and shaped:
        created[1:1] = shapes.copy(draft, value)
        for policy in shapes.policies_only_here(draft, key):
            make(draft, policy, draft.decided.whole)
    node.statements += created
    if filled and isinstance(value, Column):
        node.statements.append(fill(draft, value))
        node.statements += [set_not_null(draft, key)] if value.not_null else []
    if isinstance(value, Column) and not again and not value.generated:
        _defaults_of_children(draft, value, key.table)
    if isinstance(value, Sequence):
        _own_sequence(draft, value)
    if again and isinstance(value, (Index, Constraint)):
        _identifies_rows_again(draft, value)
    if isinstance(value, Table) and value.replica_identity.startswith("i"):
        late = draft.late(key, "replica identity", set(source.on_table.get(key, ())))
        late.statements.append(replica_identity(draft, value))
    elif isinstance(value, Table) and value.replica_identity != "d":
        node.statements.append(replica_identity(draft, value))
    attach(draft, node, key, source, again)
    inner: list[Key] = []
    if isinstance(value, Table):
        inner = [column.key for column in value.columns.values()]
        inner += [column.sequence for column in value.columns.values() if column.identity]
    elif isinstance(value, Column) and value.identity:
        inner = [value.sequence]
    elif isinstance(value, Domain):
        inner = [Key(Kind.DOMAIN_CONSTRAINT, key.schema, key.name, name) for name in value.constraints]
    elif isinstance(value, View):
        inner = [Key(Kind.COLUMN, key.schema, key.name, name) for name, _ in value.columns]
    for column in inner:
        attach(draft, node, column, source, again)
    # Last: a new owner might not let us go on.
    owner = draft.current.owners.get(key) if again else draft.current.maker(key)
    if key in source.owners and owner is not None and owner != draft.current.me:
        summary = f"owner of {key} as {'before' if again else 'of the other tables'}"
        node.statements.append(draft.statement(draft.writer.owner(key, owner), key, summary))


def _name_taken(current: Catalog, key: Key) -> Key | None:
    """What stands where `key` should be: relations share one set of names, types (rows' included) another."""
    families = [family for family in (RELATIONS, TYPES | _ROW_TYPES) if key.kind in family]
    for kind in sorted({kind for family in families for kind in family}):
        other = Key(kind, key.schema, key.name)
        if kind is not key.kind and other in current.objects:
            return other
    return None


def _may_create(draft: Draft, value: Extension, difference: Difference) -> bool:
    name = value.key.name
    offered = draft.current.available.get(name)
    old = offered is not None and is_older(offered.version, value.version)
    if offered is not None and offered.creatable and not old:
        return True
    found = f"{draft.current.me} may not create it"
    if offered is None:
        found = "PROD's server does not offer it"
    elif old:
        found = f"DEV has version {value.version}, and PROD's server offers {offered.version}"
    remedy = f"Have an administrator install and create extension {name} {value.version} on PROD, then run again."
    if any(name in extensions_of(draft.desired.objects.get(key) or draft.desired.column(key)) for key in draft.aspects):
        draft.refuse("extension_missing", value.key, f"it is needed, but {found}", remedy)
    else:
        draft.leave("extension_missing", difference, f"{found}; no definition that is compared needs it", remedy)
    return False


def _may_make(draft: Draft, value: Other, difference: Difference) -> bool:
    why = value.obstacle or ("" if draft.current.superuser else value.privileged)
    if why:
        message = f"exists on DEV only, and is not made: {why}"
        draft.leave(UNMODELLED, difference, message, "Create it on PROD by hand if it matters.")
    return not why


def extensions_of(value: object) -> set[str]:
    """The extensions that any text in an object needs."""
    if isinstance(value, str):
        return extensions_in(value)
    if isinstance(value, dict):
        return set().union(*map(extensions_of, value.values()))
    if isinstance(value, tuple) and not isinstance(value, Key):
        return set().union(*map(extensions_of, value))
    if is_dataclass(value):
        return set().union(*(extensions_of(getattr(value, field.name)) for field in fields(value)))
    return set()


def _with_late_defaults(draft: Draft, table: Table, source: Catalog) -> Table:
    """A default that calls a function of this plan is set once the table exists: the function may need the table."""
    columns: dict[str, Column] = dict(table.columns)
    for name, column in table.columns.items():
        if column.inherited and column.not_null and not any(one.not_null for one in source.parents_of(column.key)):
            late = draft.late(column.key, "not null", {table.key})
            late.statements.append(set_not_null(draft, column.key))
        if column.default is None or column.generated:
            continue
        default = Key(Kind.DEFAULT, table.key.schema, table.key.name, name)
        calls = any(key.kind is Kind.FUNCTION for key in source.depends.get(default, ()))
        if calls or (column.inherited and column.default != _inherited_default(source, table, name)):
            columns[name] = replace(column, default=None)
            draft.node(default, source).statements.append(set_default(draft, column))
    return replace(table, columns=columns)


def _defaults_of_children(draft: Draft, column: Column, parent: Key) -> None:
    """Tables of PROD that inherit a new column get its default with it; DEV's may have another."""
    for table in sorted(draft.desired.dependents.get(parent, ())):
        found = draft.desired.column(Key(Kind.COLUMN, table.schema, table.name, column.key.part))
        if table.kind is not Kind.TABLE or found is None or not found.inherited or draft.current.table(table) is None:
            continue
        if found.default != column.default:
            late = draft.late(found.key, "default", {column.key})
            late.statements.append(set_default(draft, found) if found.default is not None else no_default(draft, found))
        _defaults_of_children(draft, column, table)


def _inherited_default(source: Catalog, table: Table, name: str) -> str | None:
    for key in source.depends.get(table.key, ()):
        parent = source.table(key) if key.kind is Kind.TABLE else None
        if parent is not None and name in parent.columns:
            return parent.columns[name].default
    return None


def _own_sequence(draft: Draft, sequence: Sequence) -> None:
    if sequence.owned_by is None:
        return
    column = sequence.owned_by
    late = draft.late(sequence.key, "owned by", {column})
    late.statements.append(owned_by(draft, sequence))
    found = draft.current.column(column)
    if found is not None and not found.identity:  # an identity column hands its own position over
        late.statements.append(position(draft, sequence.key, column))


def owned_by(draft: Draft, sequence: Sequence) -> Statement:
    column = sequence.owned_by
    owner = ident(column.schema, column.name, column.part) if column is not None else "NONE"
    text = f"ALTER SEQUENCE {draft.writer.name(sequence.key)} OWNED BY {owner}"
    return draft.statement(text, sequence.key, f"{sequence.key} belongs to {column or 'no column'}")


def _identifies_rows_again(draft: Draft, value: Index | Constraint) -> None:
    """Replication forgets which index it goes by when that is dropped."""
    key = value.table if isinstance(value, Index) else value.key.table
    found, by_it = draft.current.table(key), f"i{value.key.part or value.key.name}"
    wanted = draft.desired.table(key) or found
    if found is not None and wanted is not None and found.replica_identity == wanted.replica_identity == by_it:
        late = draft.late(key, "replica identity", {value.key})
        late.statements.append(replica_identity(draft, wanted))


def replica_identity(draft: Draft, table: Table) -> Statement:
    kind = table.replica_identity
    words = {"n": "NOTHING", "f": "FULL", "d": "DEFAULT"}.get(kind) or f"USING INDEX {ident(kind[1:])}"
    text = f"ALTER TABLE {draft.writer.name(table.key)} REPLICA IDENTITY {words}"
    return draft.statement(text, table.key, f"replica identity of {table.key}")


# -- comments and grants ---------------------------------------------------------------------------------------------


def attach(draft: Draft, node: Node, key: Key, source: Catalog, again: bool) -> None:
    """Comment and grants of a new object; one that is put back keeps besides what only PROD had."""
    text = source.comments.get(key) or (draft.current.comments.get(key) if again else None)
    if text is not None:
        node.statements.append(draft.statement(draft.writer.comment(key, text), key, f"comment on {key}"))
    wanted = known_grants(draft, source, key)
    if again:
        wanted |= known_grants(draft, draft.current, key)
    wanted = frozenset(
        grant
        for grant in wanted
        if (key, grant.role) not in draft.desired.forbidden and not _withheld(draft, key, grant)
    )
    _grant(draft, node, key, wanted, _granted_when_new(draft.current, key, _both_know_maintain(draft)))


def _withheld(draft: Draft, key: Key, grant: Grant) -> bool:
    """Is it a grant that DEV has taken away?"""
    found = draft.aspects.get(key, {}).get(f"grant {grant.privilege} to {grant.role}")
    return found is not None and not found.desired


def _granted_when_new(current: Catalog, key: Key, knows_maintain: bool) -> frozenset[Grant]:
    """What PostgreSQL and ALTER DEFAULT PRIVILEGES grant on a new object before anybody says a word."""
    letter = DEFAULT_GRANT_LETTER.get(key.kind)
    if letter is None:
        return frozenset()
    everywhere = current.default_grants.get(("", letter), BUILT_IN_GRANTS.get(key.kind, frozenset()))
    granted = everywhere | current.default_grants.get((key.schema, letter), frozenset())
    # Never named by us where DEV's server does not know it: nobody there could have granted or withheld it.
    return granted if knows_maintain else frozenset(grant for grant in granted if grant.privilege != "MAINTAIN")


def known_grants(draft: Draft, catalog: Catalog, key: Key) -> frozenset[Grant]:
    """Grants without the privilege that one of the two servers does not know."""
    grants = catalog.grants.get(key, frozenset())
    if _both_know_maintain(draft):
        return grants
    return frozenset(grant for grant in grants if grant.privilege != "MAINTAIN")


def _both_know_maintain(draft: Draft) -> bool:
    return min(draft.desired.version, draft.current.version) >= MAINTAIN_SINCE


def change_grants(draft: Draft, node: Node, aspects: dict[str, Difference]) -> None:
    """GRANT what is lacking, REVOKE what must not be; grants that only PROD has stay."""
    old = draft.comparison.renamed.get(node.key, node.key)
    wanted, found = (known_grants(draft, draft.desired, node.key), known_grants(draft, draft.current, old))

    def difference(grant: Grant) -> Difference | None:
        return aspects.get(f"grant {grant.privilege} to {grant.role}")

    lacking = {grant for grant in wanted - found if difference(grant) is not None}
    forbidden = {grant for grant in found - wanted if (seen := difference(grant)) is not None and not seen.desired}
    if lacking or forbidden:
        _grant(draft, node, node.key, (found - forbidden) | lacking, found)


def _grant(draft: Draft, node: Node, key: Key, wanted: frozenset[Grant], found: frozenset[Grant]) -> None:
    unknown = {grant.role for grant in wanted - found} - draft.current.roles - {PUBLIC}
    for role in sorted(unknown):
        remedy = f"Create role {role} on PROD, then run again; nothing was changed."
        draft.refuse("role_missing", key, f"a privilege goes to role {role}, which PROD does not have", remedy)
    if not unknown:
        for text in draft.writer.grants(key, wanted, found):
            verb = "revoke" if text.startswith("REVOKE") else "grant"
            node.statements.append(draft.statement(text, key, f"{verb} privileges on {key}"))
