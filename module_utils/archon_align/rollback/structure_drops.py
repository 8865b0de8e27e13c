"""What planning by comparison never does: dropping what is too much, dependents first, and loosening what was tightened. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..plan import Statement
from ..schema.ddl import Writer, ident
from ..schema.model import OWNER, Catalog, Constraint, Domain, Index, Key, Kind, Other, Sequence, Table, View
from .structure_states import State

_ALWAYS = frozenset({Kind.TRIGGER, Kind.POLICY, Kind.RULE})


@dataclass(frozen=True, slots=True)
class Drops:
    """What is dropped: `early`, before anything else changes, and `late`, when nothing needs it any more."""

    early: tuple[Key, ...]
    late: tuple[Key, ...]


def relation_of(here: Catalog, key: Key) -> Key | None:
    """The table or view that an object lives on or belongs to; None if on none."""
    value = here.objects.get(key)
    if isinstance(value, Index):
        return value.table
    if isinstance(value, Sequence):
        return value.owned_by.table if value.owned_by is not None else None
    if isinstance(value, Other):
        return value.relation
    if key.kind in (Kind.COLUMN, Kind.DEFAULT, Kind.CONSTRAINT, Kind.TRIGGER, Kind.RULE, Kind.POLICY):
        return key.table
    if key.kind is Kind.SEQUENCE and key.part:
        return key.table
    return None


def needed_by(here: Catalog, key: Key) -> frozenset[Key]:
    """What an object needs; a column needs what its default does, and the parent's of which it is."""
    found = here.depends.get(key, frozenset())
    if key.kind is Kind.COLUMN:
        found |= here.depends.get(Key(Kind.DEFAULT, *key[1:]), frozenset())
        found |= {parent.key for parent in here.parents_of(key)}
    return found - {key}


def arrange(here: Catalog, gone: Collection[Key]) -> Drops:
    """The order in which `gone` are dropped, each by a statement of its own unless it goes with what it belongs to."""
    provider = {key: _provider(here, key, gone) for key in gone}
    after: dict[Key, set[Key]] = {key: set() for key in provider.values()}
    late: set[Key] = set()
    for key, one in provider.items():
        for needed in needed_by(here, key):
            other = provider.get(needed)
            if other is not None and other != one:
                after[other].add(one)
        for dependent in here.dependents.get(key, ()):
            owner = Key(Kind.COLUMN, *dependent[1:]) if dependent.kind is Kind.DEFAULT else dependent
            if owner not in gone:
                late.add(one)
    ordered = list(_dependents_first(after))
    for key in ordered:
        # What has to wait holds back what it depends on as well.
        if after[key] & late:
            late.add(key)
    return Drops(tuple(key for key in ordered if key not in late), tuple(key for key in ordered if key in late))


def _provider(here: Catalog, key: Key, gone: Collection[Key]) -> Key:
    """What is dropped when `key` goes: itself, or the table or column that it goes with."""
    value = here.objects.get(key)
    if key.kind in _ALWAYS or (isinstance(value, Constraint) and value.type == "f"):
        return key
    if isinstance(value, Sequence) and value.owned_by is not None and value.owned_by in gone:
        return _provider(here, value.owned_by, gone)
    owner = relation_of(here, key)
    if owner is not None and owner in gone:
        return owner
    parents = [parent.key for parent in here.parents_of(key) if parent.key in gone] if key.kind is Kind.COLUMN else []
    return _provider(here, min(parents), gone) if parents else key


def _dependents_first(after: Mapping[Key, Iterable[Key]]) -> Iterator[Key]:
    seen: set[Key] = set()

    def visit(key: Key) -> Iterator[Key]:
        if key in seen:
            return
        seen.add(key)
        for one in sorted(after[key]):
            yield from visit(one)
        yield key

    for key in sorted(after):
        yield from visit(key)


def dropping(key: Key, writer: Writer) -> Statement:
    """The statement that drops one object that the run made."""
    if key.kind is Kind.COLUMN:
        text = f"ALTER TABLE {writer.name(key.table)} DROP COLUMN {ident(key.part)}"
    else:
        text = writer.drop(key)
    return Statement(
        text,
        key.qualified,
        f"drop {key}, which the run made",
        ("takes_exclusive_lock",),
        proves_values=key.kind is Kind.COLUMN,
    )


def loosening(wanted: Mapping[Key, State], found: Mapping[Key, State], writer: Writer) -> list[Statement]:
    """What is there now and was not before, on objects that stay: comments, privileges, row security, conditions."""
    made: list[Statement] = []
    stay = {(key.schema, key.name) for key, state in wanted.items() if state.value is not None}
    for key in sorted(wanted.keys() | found.keys()):
        now, goal = found.get(key), wanted.get(key)
        if now is not None and goal is None and now.value is None and (key.schema, key.name) in stay:
            goal = State()  # what is said of a view's column, or of an identity's sequence, is not there any more
        if now is None or goal is None:
            continue
        if now.comment is not None and goal.comment is None:
            text = f"COMMENT ON {writer.target(key)} IS NULL"
            made.append(Statement(text, key.qualified, f"no comment on {key}"))
        too_much = frozenset(grant for grant in now.grants | goal.grants if grant.role != OWNER)
        right = frozenset(grant for grant in goal.grants if grant.role != OWNER)
        made += [
            Statement(text, key.qualified, f"revoke privileges on {key}")
            for text in (writer.grants(key, right, too_much) if too_much != right else ())
        ]
        made += [
            Statement(text, key.qualified, f"{key} as before", ("takes_exclusive_lock",))
            for text in _looser(key, goal, now, writer)
        ]
    return made


def _looser(key: Key, goal: State, now: State, writer: Writer) -> Iterator[str]:
    one, other = goal.value, now.value
    if isinstance(one, Table) and isinstance(other, Table):
        alter = f"ALTER TABLE {writer.name(key)}"
        if other.force_row_security and not one.force_row_security:
            yield f"{alter} NO FORCE ROW LEVEL SECURITY"
        if other.row_security and not one.row_security:
            yield f"{alter} DISABLE ROW LEVEL SECURITY"
    elif isinstance(one, Domain) and isinstance(other, Domain):
        for name in sorted(other.constraints.keys() - one.constraints.keys()):
            yield f"ALTER DOMAIN {writer.name(key)} DROP CONSTRAINT {ident(name)}"
    elif isinstance(one, View) and isinstance(other, View) and other.populated and not one.populated:
        yield f"REFRESH MATERIALIZED VIEW {writer.name(key)} WITH NO DATA"
