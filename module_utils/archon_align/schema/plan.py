"""Plan: from a comparison and the evidence of the rows to ordered statements. Pure: no database is asked.

Nothing that only PROD has is ever dropped. What stands in the way of a change (views, policies, triggers, constraints, …) is
dropped and put back with options, owner, grants and comment. What a machine must not decide is refused, by name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pglast.parser import ParseError, parse_sql_protobuf

from ..database import gate
from ..database.target import Table as TableName
from ..database.transaction import LockMode
from ..errors import GateRefused
from ..findings import Finding
from ..plan import Statement
from ..preservation.carried import Carried
from . import changes, columns, enums, gaps, removal, shapes, stages
from .beyond import refuse_lacking, refuse_unknown
from .compare import MISSING, Comparison, Difference
from .costs import transaction_seconds
from .decided import Decided
from .draft import DECIDE, Draft
from .evidence import Evidence
from .making import change_grants, make, make_missing
from .mapping import Mapping as Shape
from .model import VECTOR_INDEX_METHODS, Catalog, Constraint, Enum, Function, Index, Key, Kind, View
from .notes import notes
from .stages import Stage
from .steps import CyclicNeed, ordered
from .vectors import leave_to_rebuild

# Types that can be compared with each other by a foreign key.
_FAMILY = dict.fromkeys(("smallint", "integer", "bigint", "numeric"), "number") | dict.fromkeys(
    ("text", "character varying"), "string"
)
_WORD = re.compile(r"\w+")


# Nothing that is stored hangs on these, so that one that differs is dropped and made again.
_MADE_ANEW = frozenset({Kind.AGGREGATE, Kind.CAST, Kind.STATISTICS, Kind.RULE})


@dataclass(frozen=True, slots=True)
class SchemaPlan:
    """`statements` in order, guards among them. With anything in `refused`, nothing may be executed.

    `left` are differences that stay, each told by a finding; `locks` is what the transaction takes first; `carried` says
    how the rows of tables that it reshapes are proved; `found` is the structure as read, before any rename; `decided` what
    decisions come to here; `stages` run after COMMIT; `seconds` is about how long the transaction runs and each of its locks
    is held.
    """

    comparison: Comparison
    statements: tuple[Statement, ...]
    refused: tuple[Finding, ...]
    findings: tuple[Finding, ...]
    left: frozenset[Difference]
    locks: Mapping[TableName, LockMode]
    carried: Mapping[TableName, Carried]
    found: Catalog
    decided: Decided
    stages: tuple[Stage, ...] = ()
    seconds: float = 0.0

    @property
    def every(self) -> tuple[Statement, ...]:
        """The statements of the transaction and of the stages after it."""
        return (*self.statements, *(one for stage in self.stages for one in stage.statements))


def plan(
    comparison: Comparison,
    evidence: Evidence,
    *,
    protected: frozenset[Key] = frozenset(),
    decided: Decided | None = None,
    large_table_bytes: int | None = None,
    seed: Callable[[Draft], None] | None = None,
    exact: frozenset[Key] = frozenset(),
) -> SchemaPlan:
    """The one plan that turns `comparison.current` into `comparison.desired`, in check mode and in a run alike.

    `protected` are keys as read. With `decided`, `comparison.current` is its `current`. Tables of `large_table_bytes` and more
    get their indexes and constraints in stages; None: there are none. `seed` puts into the draft what is planned elsewhere.
    The enums `exact` lose the labels that only `comparison.current` has.
    """
    decided = decided or Decided(comparison.current, comparison.current)
    present = {old: new for new, old in decided.origin.items()}
    protected = frozenset(present.get(key, key) for key in protected)
    replaced: frozenset[Key] = frozenset()
    while True:
        draft = Draft(comparison, evidence, protected, replaced, decided, large_table_bytes, exact)
        if seed is not None:
            seed(draft)
        result = _attempt(draft)
        # A label cannot be used by the transaction that adds it: then the type is replaced inside the transaction.
        used = frozenset(
            key
            for key, new in enums.added_labels(comparison, replaced).items()
            if enums.uses(result.every, new) or _converts_to(comparison, key) or _copied_into(comparison, decided, key)
        )
        if not used:
            return result
        replaced |= used


def _converts_to(comparison: Comparison, enum: Key) -> bool:
    """Does a column of another type become one of this enum?"""
    return any(
        difference.aspect == "type" and enum in comparison.desired.depends.get(difference.key, ())
        for difference in comparison.differences
        if difference.key.kind is Kind.COLUMN
    )


def _copied_into(comparison: Comparison, decided: Decided, enum: Key) -> bool:
    """Do rows of another shape get values of this enum that were none of it?"""
    for table in decided.shapes.keys() & comparison.desired.objects.keys():
        shape = Shape(decided, comparison.desired, table)
        for name, mapped in shape.columns.items():
            old = shape.origin(name)
            same = old is not None and enum in decided.whole.depends.get(old.key, ())
            if enum in comparison.desired.depends.get(mapped.column.key, ()) and not same:
                return True
    return False


def _attempt(draft: Draft) -> SchemaPlan:
    leave_to_rebuild(draft)
    removal.choose(draft)
    shapes.choose(draft)
    _choose(draft)
    for key, problem in draft.closure.refused.items():
        draft.refuse("in_the_way", key, problem)
    for key in sorted(draft.closure.dropped):
        _put_back(draft, key)
    for key, aspects in draft.aspects.items():
        if key not in draft.closure.dropped:
            _provide(draft, key, aspects)
    dropping = [columns.release(draft, key) for key in sorted(draft.closure.released)]
    dropping += [columns.guard_recomputed(draft, key) for key in sorted(draft.closure.recomputed)]
    for key in draft.closure.order():
        draft.lock_tables_of(key, LockMode.ALTER)
        text = draft.closure.drop_text(key, draft.writer)
        computed = key.kind is Kind.COLUMN
        if computed and _computes_otherwise(draft, key):
            draft.compute_again(key)
        hazards = ("takes_exclusive_lock", "rewrites_table") if computed else ("takes_exclusive_lock",)
        dropping.append(draft.statement(text, key, f"drop {key}, to be put back", *hazards, proves=computed))
    try:
        providing = [statement for node in ordered(draft.nodes, draft.needs) for statement in node.statements]
    except CyclicNeed as error:
        for key in error.keys:
            draft.refuse("cyclic_need", key, f"needs something that needs it: {error}")
        providing = []
    for key in {one.table for one in draft.decided.origin}:
        draft.lock(key, LockMode.ALTER)
    renaming = draft.decided.opening
    tidying = stages.forget_leftovers(draft)
    statements = (*renaming, *draft.setting_aside, *tidying, *dropping, *draft.moving, *draft.opening, *providing)
    staged = tuple(sorted(draft.stages, key=lambda stage: stage.order))
    gaps.refuse(draft)
    _require_ownership(draft)
    refuse_unknown(draft)
    refuse_lacking(draft)
    _ask_the_gate(draft, (*statements, *(one for stage in staged for one in stage.statements)))
    if statements:
        # Users wait for these as well: what is only proved is held against writing until COMMIT.
        for key in _read_for_proof(draft):
            draft.lock(key, LockMode.PROVE)
    findings = (
        *draft.decided.findings,
        *draft.notes,
        *draft.left.values(),
        *gaps.possible_renames(draft),
        *notes(draft.comparison),
    )
    return SchemaPlan(
        draft.comparison,
        statements,
        tuple(draft.refused),
        findings,
        frozenset(draft.left),
        dict(draft.locks),
        draft.carried,
        draft.decided.found,
        draft.decided,
        staged,
        transaction_seconds(statements, draft.current, _read_for_proof(draft)),
    )


def _computes_otherwise(draft: Draft, column: Key) -> bool:
    """Will a computed column that is made anew hold other values than before?"""
    expression = Key(Kind.DEFAULT, column.schema, column.name, column.part)
    calls = (one for one in draft.current.depends.get(expression, ()) if one.kind is Kind.FUNCTION)
    return not {"default", "type", "generated", "collation"}.isdisjoint(draft.aspects.get(column, ())) or any(
        "definition" in draft.aspects.get(one, ()) for one in calls
    )


def _read_for_proof(draft: Draft) -> Iterable[Key]:
    """The tables whose rows the proof reads: the protected ones or, where every table is protected, those that are locked."""
    if any(key.kind is Kind.TABLE and key not in draft.protected for key in draft.current.objects):
        return draft.protected
    return [key for key in draft.protected if TableName(key.schema, key.name) in draft.locks]


def _structural(aspects: Mapping[str, Difference]) -> set[str]:
    return {name for name in aspects if name != "comment" and not name.startswith("grant ")}


def _choose(draft: Draft) -> None:
    """Decide what can only change by being dropped and made again, dependents and all."""
    draft.closure.released |= {key for key in draft.aspects if columns.becomes_plain(draft, key)}
    for key, found in draft.aspects.items():
        aspects = _structural(found)
        if not aspects or aspects & {MISSING, "name"}:
            continue
        value = draft.desired.objects.get(key)
        replace = not stages.completes(draft, key, aspects) and (
            key.kind is Kind.POLICY
            or (key.kind is Kind.CONSTRAINT and aspects - {"clustered", "options"})
            or (key.kind is Kind.INDEX and aspects - {"clustered", "statistics"})
            or (key.kind is Kind.MATVIEW and aspects != {"populated"})
            or (key.kind is Kind.TRIGGER and aspects != {"enabled"})
            or key.kind in _MADE_ANEW
            or (isinstance(value, View) and key.kind is Kind.VIEW and not _replaceable(draft, value))
            or (isinstance(value, Function) and not _compatible(draft, value))
        )
        found_value = draft.current.objects.get(key)
        if isinstance(value, Index) and isinstance(found_value, Index) and value.table != found_value.table:
            draft.refuse("name_taken", key, f"PROD has an index of this name on {found_value.table}")
        elif replace:
            draft.closure.drop(key)
        elif key.kind is Kind.COLUMN:
            columns.choose(draft, key, aspects)
        elif isinstance(value, Enum) and changes.replaced(draft, value):
            enums.choose_replacement(draft, key)
        elif isinstance(value, Function) and "definition" in aspects:
            _choose_what_it_computed(draft, key)


def _choose_what_it_computed(draft: Draft, function: Key) -> None:
    """Indexes, checks and computed columns hold what a function once said: under a new body they are made anew."""
    for dependent in sorted(draft.current.dependents.get(function, ())):
        found = draft.current.objects.get(dependent)
        checked = isinstance(found, Constraint) and found.validated
        if checked or dependent.kind is Kind.INDEX or draft.closure.computes(dependent):
            draft.closure.drop(dependent, function)


def _replaceable(draft: Draft, wanted: View) -> bool:
    """Can CREATE OR REPLACE VIEW do it? Only by adding columns at the end."""
    found = draft.current.objects[wanted.key]
    return (
        isinstance(found, View)
        and wanted.columns[: len(found.columns)] == found.columns
        and wanted.settings == found.settings
    )


def _compatible(draft: Draft, wanted: Function) -> bool:
    """Can CREATE OR REPLACE FUNCTION do it? Not if kind, result, argument names or the presence of defaults change."""
    found = draft.current.objects[wanted.key]
    return isinstance(found, Function) and wanted.signature == found.signature and wanted.defaults >= found.defaults


def _put_back(draft: Draft, key: Key) -> None:
    """Make a dropped object again: as DEV has it or, when only PROD has it, as it was."""
    if key.kind is Kind.COLUMN:
        source = draft.desired if draft.desired.column(key) is not None else draft.current
        column, found_column = source.column(key), draft.current.column(key)
        assert column is not None
        if found_column is not None and found_column.generated == "v" and not column.generated:
            # Made as a stored one, it keeps its computed values when its expression goes.
            make(draft, dataclasses.replace(found_column, generated="s"), source)
            released = (columns.release(draft, key), *columns.change(draft, key, draft.aspects[key]))
            draft.node(key, source).statements += released
            needed = draft.current.depends.get(Key(Kind.DEFAULT, *key[1:]), frozenset()) - {key}
            if any("type" in draft.aspects.get(one, ()) for one in needed):
                draft.refuse("values_not_stored", key, "DEV stores it, PROD computes it from what changes its type")
        else:
            make(draft, column, source)
        return
    if key.kind is Kind.DEFAULT:
        owner = Key(Kind.COLUMN, key.schema, key.name, key.part)
        source = draft.desired if draft.desired.column(owner) is not None else draft.current
        column = source.column(owner)
        if column is not None and column.default is not None and "default" not in draft.aspects.get(owner, {}):
            draft.node(key, source).statements.append(columns.set_default(draft, column))
        return
    wanted = next((new for new, old in draft.comparison.renamed.items() if old == key), key)
    value, found = draft.desired.objects.get(wanted), draft.current.objects[key]
    elsewhere = (
        isinstance(found, Index) and found.method in VECTOR_INDEX_METHODS and not draft.comparison.vector_indexes
    )
    if value is None and isinstance(found, Constraint) and (apart := _types_apart(draft, found)):
        draft.refuse(
            "in_the_way", key, f"only PROD has this foreign key, and with DEV's types it could not be: {apart}"
        )
    elif value is None and shapes.refuse_put_back(draft, key):
        return
    elif value is None or elsewhere:
        make(draft, found, draft.current)
    elif (answer := draft.evidence.against(wanted, MISSING)) is not None:
        remedy = "Correct the rows on PROD (or the definition on DEV), then run again; nothing was changed."
        draft.refuse("rows_in_the_way", wanted, f"{answer.reason}: {answer.text}", remedy)
    else:
        make(draft, value, draft.desired)


def _types_apart(draft: Draft, foreign: Constraint) -> str:
    """The columns of a foreign key whose types no longer go together once they are DEV's; empty if there are none."""
    if foreign.references is None:
        return ""
    for here, there in zip(foreign.columns, foreign.referenced_columns, strict=True):
        pair = [
            Key(Kind.COLUMN, table.schema, table.name, name)
            for table, name in ((foreign.key.table, here), (foreign.references, there))
        ]
        before = [found.base for one in pair if (found := draft.current.column(one))]
        after = [found.base for one in pair if (found := draft.desired.column(one) or draft.current.column(one))]
        if after != before and len({_FAMILY.get(base, base) for base in after}) > 1:
            return f"{here} would be {after[0]}, {foreign.references.qualified}.{there} {after[-1]}"
    return ""


def _provide(draft: Draft, key: Key, aspects: dict[str, Difference]) -> None:
    if MISSING in aspects:
        make_missing(draft, aspects[MISSING])
        return
    renamed = draft.comparison.renamed.get(key)
    if renamed is not None and renamed in draft.closure.dropped:
        return  # it is made anew, under its new name
    node = draft.node(key, draft.desired)
    value = draft.desired.objects.get(key)
    if "name" in aspects and value is not None:
        changes.rename(draft, node, value)
    elif key.kind is Kind.COLUMN and draft.desired.column(key) is not None:
        node.statements += columns.change(draft, key, aspects)
    elif value is not None:
        changes.change(draft, node, value, aspects)
    if "comment" in aspects:
        draft.lock_tables_of(key, LockMode.WRITE)
        text = draft.writer.comment(key, draft.desired.comments[key])
        node.statements.append(draft.statement(text, key, f"comment on {key}"))
    change_grants(draft, node, aspects)


def _require_ownership(draft: Draft) -> None:
    """Only owners may alter and drop; a member of the owner is one."""
    for key in sorted(
        {*draft.nodes, *draft.closure.dropped, *draft.decided.quarantine, *(stage.table for stage in draft.stages)}
    ):
        value = draft.decided.whole.objects.get(key)
        owned = value.table if isinstance(value, Index) else key
        if key.kind in (Kind.COLUMN, Kind.DEFAULT, Kind.CONSTRAINT, Kind.TRIGGER, Kind.POLICY, Kind.RULE):
            owned = key.table
        owner = draft.current.owners.get(owned)
        if owner is not None and owner not in draft.current.my_roles and owned.kind is not Kind.SCHEMA:
            remedy = f"Connect as a member of {owner}, or give {owned} to {draft.current.me}; nothing was changed."
            draft.refuse(
                "not_owner", owned, f"it belongs to {owner}, and {draft.current.me} is no member of that role", remedy
            )


def _ask_the_gate(draft: Draft, statements: tuple[Statement, ...]) -> None:
    """What the execution gate would refuse is refused now, before anything runs.

    The gate looks at every statement again when it is executed; here it is asked about those that name a protected table,
    and of the others only whether its grammar can read them, which is ten times as fast.
    """
    protected = frozenset((key.schema, key.name) for key in draft.protected)
    names = {name for _, name in protected}
    words = {name for name in names if _WORD.fullmatch(name)}
    others = [form for name in names - words for form in {name, name.replace('"', '""')}]
    for statement in statements:
        try:
            # Word by word, because there may be thousands of names.
            named = not words.isdisjoint(_WORD.findall(statement.sql)) or any(one in statement.sql for one in others)
            if named:
                gate.inspect(statement.sql, read_only=False, protected=protected, proves_values=statement.proves_values)
            else:
                parse_sql_protobuf(statement.sql)
        except (GateRefused, ParseError) as error:
            reason = error.object_name if isinstance(error, GateRefused) else f"cannot be read: {error}"
            message = f"{statement.summary}: {reason}"
            draft.refused.setdefault(Finding("gate_refused", "error", statement.object, message, DECIDE))
