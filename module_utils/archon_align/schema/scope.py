"""Partial scopes: what is outside keeps PROD's definition in what is desired, so that nothing of it is planned. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ..errors import AlignError
from ..findings import Finding
from .compare import Comparison, Difference, compare
from .making import extensions_of
from .model import CALLED, PUBLIC, Catalog, Column, Grant, Index, Key, Kind, Object, Other, Sequence, Table

GRANT, COMMENT, ANY = "grant", "comment", "*"
_ALIASES = {
    "materialized view": "materialised view",
    "matview": "materialised view",
    "composite": "composite type",
    "procedure": "function",
}
# A column's default goes with the column, a domain's constraints with the domain.
_PARTS = frozenset({Kind.DEFAULT, Kind.DOMAIN_CONSTRAINT})
KINDS = (*(str(kind) for kind in Kind if kind not in _PARTS), GRANT, COMMENT, ANY)
_VIEWS = frozenset({Kind.VIEW, Kind.MATVIEW})
_HOMES = (Kind.TABLE, Kind.VIEW, Kind.MATVIEW, Kind.COMPOSITE)
_ON_TABLES = frozenset({Kind.COLUMN, Kind.DEFAULT, Kind.CONSTRAINT, Kind.TRIGGER, Kind.RULE, Kind.POLICY})


@dataclass(frozen=True, slots=True)
class Pattern:
    """`kind:name`, the name as fnmatch patterns go, on the qualified name or on the last part alone."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    def matches(self, key: Key, facet: str = "") -> bool:
        """Does this name `key`, or (with a `facet`) its grants or its comment?"""
        if self.kind not in (ANY, facet or str(key.kind)):
            return False
        names = {key.qualified, key.part or key.name}
        if key.part:
            names.add(f"{key.name}.{key.part}")
        if key.kind in CALLED:
            names = {key.qualified, f"{key.schema}.{key.name}", key.name}
        return any(fnmatchcase(name, self.name) for name in names)


@dataclass(frozen=True, slots=True)
class Scope:
    """What is aligned: whatever `include` names (everything, when it is empty), without what `exclude` names.

    What lives on a table is named with the table as well as by itself.
    """

    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()

    @classmethod
    def parse(cls, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> Scope:
        """From texts like `table:archon_*`. Raises AlignError for what is none or names an unknown kind."""
        return cls(
            tuple(_pattern(text, "archon_schema_include") for text in include),
            tuple(_pattern(text, "archon_schema_exclude") for text in exclude),
        )

    def covers(self, key: Key, home: Key | None = None, facet: str = "") -> bool:
        """Is `key` (living on `home`, if on anything) inside? With a `facet`: are its grants, or its comment?"""
        named = [(key, "")]
        if facet:
            named.append((key, facet))
        if home is not None:
            named.append((home, ""))

        def any_of(patterns: Iterable[Pattern]) -> bool:
            return any(pattern.matches(one, of) for pattern in patterns for one, of in named)

        return (not self.include or any_of(self.include)) and not any_of(self.exclude)

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)


def _pattern(text: str, variable: str) -> Pattern:
    kind, colon, name = (part.strip() for part in str(text).partition(":"))
    kind = kind.lower().replace("_", " ").replace("-", " ")
    kind = _ALIASES.get(kind, kind)
    if colon and name and kind in KINDS:
        return Pattern(kind, name)
    raise AlignError(
        "A scope's pattern cannot be used.",
        object_name=variable,
        expected=f"kind:name, where kind is one of {', '.join(KINDS)}, and name may have the wildcards *, ? and [...]",
        found=repr(text),
        remedy="Write it like table:archon_* or index:public.idx_*.",
        code="bad_scope",
    )


@dataclass(frozen=True, slots=True)
class Scoped:
    """`comparison` has in `desired` PROD's definition of all that is outside; `outside` are the differences that stay because
    of it; `refused` tells what is inside but needs something that PROD lacks and that is outside. `aside` says that there are
    views outside whose columns follow what changes inside: they are put back as they are, and not compared."""

    comparison: Comparison
    outside: tuple[Difference, ...] = ()
    refused: tuple[Finding, ...] = ()
    aside: bool = False

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One finding that counts and names what is left out."""
        if not self.outside:
            return ()
        number = len(self.outside)
        return (
            Finding(
                "out_of_scope",
                "warning",
                f"{number} difference{'' if number == 1 else 's'}",
                f"outside the scope, so not aligned: {'; '.join(map(str, self.outside))}",
                "Widen archon_schema_include or narrow archon_schema_exclude to align them too.",
            ),
        )


def narrow(whole: Comparison, scope: Scope) -> Scoped:
    """What is to be aligned of `whole` within `scope`."""
    if not scope:
        return Scoped(whole)
    inside = compare(within(whole.desired, whole.current, scope), whole.current, vector_indexes=whole.vector_indexes)
    inside = replace(inside, only_in_prod=whole.only_in_prod)
    kept = frozenset(inside.differences)
    outside = tuple(difference for difference in whole.differences if difference not in kept)
    return Scoped(inside, outside, tuple(_lacking(inside, whole.desired)), bool(inside.extra - whole.extra))


def within(desired: Catalog, current: Catalog, scope: Scope) -> Catalog:
    """`desired` with the definitions of `current` for all that is outside `scope`, but for views that follow what changes."""
    if not scope:
        return desired
    narrowing = _Narrowing(desired, current, scope)
    narrowed = narrowing.catalog()
    reached = {difference.key for difference in compare(narrowed, current).differences}
    new = reached
    while new:
        new = {key for one in new for key in current.dependents.get(one, ())} - reached
        reached |= new
    following = {key for key in reached if key.kind in _VIEWS and not narrowing.covers(key)}
    return replace(narrowed, objects={key: value for key, value in narrowed.objects.items() if key not in following})


class _Narrowing:
    """One desired catalogue seen through a scope."""

    def __init__(self, desired: Catalog, current: Catalog, scope: Scope) -> None:
        self.desired, self.current, self.scope = desired, current, scope

    def covers(self, key: Key, facet: str = "") -> bool:
        return self.scope.covers(key, self._home_of(key), facet)

    def _home_of(self, key: Key) -> Key | None:
        """What an object lives on: a table, for columns, triggers and comments on columns also a view."""
        if key.kind is Kind.DOMAIN_CONSTRAINT:
            return Key(Kind.DOMAIN, key.schema, key.name)
        if key.kind in _ON_TABLES:
            homes = (Key(kind, key.schema, key.name) for kind in _HOMES)
            return next((one for one in homes if one in self.desired.objects or one in self.current.objects), None)
        value = self.desired.objects.get(key) or self.current.objects.get(key)
        if isinstance(value, Index):
            return value.table
        if isinstance(value, Other):
            return value.relation
        if isinstance(value, Sequence) and value.owned_by is not None:
            return value.owned_by.table
        return None

    def catalog(self) -> Catalog:
        desired, current = self.desired, self.current
        keys = desired.depends.keys() | current.depends.keys()
        depends = {key: (desired if self.covers(key) else current).depends.get(key) for key in keys}
        return replace(
            desired,
            objects=self._objects(),
            depends={key: needed for key, needed in depends.items() if needed},
            comments={
                key: text
                for key, here in desired.comments.items()
                if (text := here if self.covers(key, COMMENT) else current.comments.get(key)) is not None
            },
            grants={key: self._grants(key) for key in desired.grants},
            forbidden=frozenset((key, role) for key, role in desired.forbidden if self.covers(key, GRANT)),
        )

    def _objects(self) -> dict[Key, Object]:
        objects: dict[Key, Object] = {}
        for key, value in self.desired.objects.items():
            here = self.current.objects.get(key)
            chosen = value if self.covers(key) else here
            if isinstance(chosen, Table) and isinstance(value, Table):
                chosen = replace(chosen, columns=self._columns(value, here if isinstance(here, Table) else None))
            if chosen is not None:
                objects[key] = chosen
        return objects

    def _columns(self, wanted: Table, here: Table | None) -> dict[str, Column]:
        found = {}
        for name, column in wanted.columns.items():
            chosen = column if self.covers(column.key) else here.columns.get(name) if here is not None else None
            if chosen is not None:
                found[name] = chosen
        return found

    def _grants(self, key: Key) -> frozenset[Grant]:
        wanted, here = self.desired.grants[key], self.current.grants.get(key, frozenset())
        if self.covers(key, GRANT):
            return wanted
        # What only PROD grants still counts as only in PROD; what stands open to everybody there stays open.
        return (wanted & here) | {grant for grant in here if grant.role == PUBLIC}


def _lacking(inside: Comparison, whole: Catalog) -> Iterator[Finding]:
    """Refusals of what would need an object that the scope leaves out and PROD does not have."""
    found: set[tuple[Key, Key]] = set()
    for key in {difference.key for difference in inside.differences}:
        for needed in _needs(inside.desired, key):
            if not _has(inside.desired, needed) and not _has(inside.current, needed) and _has(whole, needed):
                in_table = needed.kind in (Kind.COLUMN, Kind.DEFAULT) and needed.table not in inside.desired.objects
                found.add((key, needed.table if in_table else needed))
    for key, needed in sorted(found):
        yield Finding(
            "needs_out_of_scope",
            "error",
            str(key),
            f"it needs {needed}, which PROD lacks and the scope leaves out",
            f"Include {needed} as well, or leave {key} out; nothing was changed.",
        )


def _has(catalog: Catalog, key: Key) -> bool:
    if key.kind in (Kind.COLUMN, Kind.DEFAULT):
        return catalog.column(key) is not None
    return key in catalog.objects


def _needs(catalog: Catalog, key: Key) -> set[Key]:
    value = catalog.objects.get(key) or catalog.column(key)
    parts = [key]
    if isinstance(value, Table):
        parts += [column.key for column in value.columns.values()]
    parts += [Key(Kind.DEFAULT, one.schema, one.name, one.part) for one in parts if one.kind is Kind.COLUMN]
    found = {one for part in parts for one in catalog.depends.get(part, ())}
    found |= {Key(Kind.EXTENSION, "", name) for name in extensions_of(value)}
    return found | ({Key(Kind.SCHEMA, "", key.schema)} if key.schema else set())
