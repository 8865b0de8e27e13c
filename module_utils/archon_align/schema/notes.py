"""What a person should know besides the differences: findings that never stop a run."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..findings import Finding
from .compare import Comparison
from .model import Catalog, Constraint, Domain, Extension, Function, Index, Key, Kind, Other, Table, Trigger, is_older
from .portable import same_meaning

# Kinds that differ between healthy environments.
_CIRCUMSTANCES = frozenset(
    {
        "comment on an extension",
        "large objects",
        "place of storage",
        "schema outside the aligned ones",
        "setting of the database",
    }
)
# What a function's text says, without comments and strings: a field of the row, an error, a query whose result goes nowhere.
_SAID = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
_FIELD = re.compile(r"\b(?:new|old)\.(\w+)", re.IGNORECASE)
_RAISES = re.compile(r"\braise\b(?!\s+(?:notice|info|log|debug|warning)\b)", re.IGNORECASE)
_NO_DESTINATION = re.compile(
    r"(?:;|\bbegin\b|\bthen\b|\belse\b|\bloop\b)\s*(?:select|with)\b(?:(?!\binto\b)[^;])*;", re.IGNORECASE
)


def notes(comparison: Comparison) -> Iterator[Finding]:
    """Findings about kinds that are not compared, and about what only PROD has and Archon's writes may stumble over."""
    yield from _unmodelled(comparison)
    yield from _extension_versions(comparison)
    yield from _stumbling_blocks(comparison)
    yield from _overloads(comparison)
    yield from _owners(comparison)


def _unmodelled(comparison: Comparison) -> Iterator[Finding]:
    """What differs one by one; what is the same in both databases in one finding per kind, all names in it."""
    desired, current = (
        {(one.kind, one.name): (one.definition, one.attached) for one in catalog.unmodelled}
        for catalog in (comparison.desired, comparison.current)
    )
    same_version = comparison.desired.version // 10000 == comparison.current.version // 10000
    equal: dict[tuple[str, bool], list[str]] = {}
    for kind, name in sorted(desired.keys() | current.keys()):
        place = (kind, name)
        if place in desired and place in current:
            (one, attached), (other, attached_there) = desired[place], current[place]
            read = one is not None and other is not None
            same = one == other or (one and other and same_meaning(one, other, same_version=same_version))
            if same and attached == attached_there:
                equal.setdefault((kind, read), []).append(name)
                continue
            where = f"{'has another comment, owner or grants' if same else 'is defined otherwise'} on DEV"
        else:
            where = f"exists on {'DEV' if place in desired else 'PROD'} only"
        yield Finding(
            "unmodelled",
            "warning" if place in desired and kind not in _CIRCUMSTANCES else "info",
            f"{kind} {name}",
            f"{where}; this kind of object is not changed",
            "Align it by hand if it matters.",
        )
    # An extension brings its comment along: the same one is not worth a word.
    for (kind, read), names in sorted(one for one in equal.items() if one[0][0] != "comment on an extension"):
        how = (
            "the same in both databases" if read else "in both databases under the same name, definitions not compared"
        )
        yield Finding(
            "unmodelled",
            "info",
            f"{kind} ({len(names)})",
            f"{how}: {'; '.join(names)}; this kind of object is not changed",
            "" if read else "Compare them by hand if it matters.",
        )


def _extension_versions(comparison: Comparison) -> Iterator[Finding]:
    for key, wanted in sorted(comparison.desired.objects.items()):
        found = comparison.current.objects.get(key)
        if not isinstance(wanted, Extension):
            continue
        offered = comparison.current.available.get(key.name)
        if isinstance(found, Extension) and wanted.version != found.version:
            behind = is_older(found.version, wanted.version)
            where = f"version {found.version} on PROD, {wanted.version} on DEV"
            if not behind:
                remedy = f"ALTER EXTENSION {key.name} UPDATE on DEV, if its server offers the version."
            elif offered is not None and not is_older(offered.version, wanted.version):
                remedy = f"ALTER EXTENSION {key.name} UPDATE on PROD, whose server offers {offered.version}."
            else:
                where += f"; PROD's server offers no newer one than {offered.version if offered else found.version}"
                remedy = f"Have extension {key.name} {wanted.version} installed on PROD's server, then ALTER EXTENSION {key.name} UPDATE."
            yield Finding("extension_version", "warning" if behind else "info", str(key), where, remedy)
        elif found is None and offered is not None and offered.version != wanted.version:
            message = f"PROD gets version {offered.version}, which its server offers; DEV has {wanted.version}"
            yield Finding("extension_version", "info", str(key), message, "Nothing, unless DEV's version matters.")


def _can_fail(comparison: Comparison, trigger: Key) -> bool:
    """Does the text of a trigger's function say that it can make a write fail?"""
    table = comparison.desired.table(trigger.table)
    columns = {name.lower() for name in table.columns} if table is not None else set()
    for key in comparison.current.depends.get(trigger, ()):
        found = comparison.current.objects.get(key)
        if isinstance(found, Function):
            text = _SAID.sub(" ", found.definition)
            unknown = {match[1].lower() for match in _FIELD.finditer(text)} - columns
            if unknown or _RAISES.search(text) or _NO_DESTINATION.search(text):
                return True
    return False


def _stumbling_blocks(comparison: Comparison) -> Iterator[Finding]:
    desired, current = comparison.desired, comparison.current
    for key, table in sorted((k, v) for k, v in current.objects.items() if isinstance(v, Table)):
        wanted = desired.table(key)
        if wanted is None:
            continue
        for name, column in table.columns.items():
            supplied = column.default is not None or column.identity or column.generated
            if name not in wanted.columns and column.not_null and not supplied:
                yield Finding(
                    "blocks_writes",
                    "error",
                    str(column.key),
                    "only PROD has this column; it must not be NULL and has no default, so every insert that follows DEV's schema fails",
                    f"Give {column.key.qualified} a default on PROD, or allow NULL there.",
                )
    for key in sorted(comparison.extra):
        value = current.objects[key]
        table_key = value.table if isinstance(value, Index) else key.table
        if isinstance(value, Other) and value.relation is not None:
            table_key = value.relation
        if table_key not in desired.objects:
            continue
        narrowing = {
            "c": "check",
            "u": "unique constraint",
            "x": "exclusion constraint",
            "f": "foreign key",
            "p": "primary key",
        }
        what = (
            narrowing[value.type]
            if isinstance(value, Constraint)
            else "trigger"
            if isinstance(value, Trigger) and value.enabled not in ("D", "R")
            else "rule"
            if isinstance(value, Other)
            and key.kind is Kind.RULE
            and not any(" DISABLE " in one for one in value.settings)
            else "unique index"
            if isinstance(value, Index) and value.unique
            else None
        )
        if isinstance(value, Constraint) and value.definition.endswith(" NOT ENFORCED"):
            continue
        if what is not None:
            fails = what == "check" or (what == "trigger" and _can_fail(comparison, key))
            yield _may_block(str(key), what, fails=fails)
    for key in sorted(desired.objects.keys() & current.objects.keys()):
        one, other = desired.objects[key], current.objects[key]
        if isinstance(one, Domain) and isinstance(other, Domain):
            for name in sorted(other.constraints.keys() - one.constraints.keys()):
                yield _may_block(f"constraint {name} of {key}", "check", fails=True)
        elif isinstance(one, Table) and isinstance(other, Table) and other.row_security and not one.row_security:
            yield _may_block(f"row security of {key}", "row security", fails=False)


def _may_block(name: str, what: str, *, fails: bool) -> Finding:
    return Finding(
        "may_block_writes",
        "error" if fails else "warning",
        name,
        f"only PROD has this {what}; writes that DEV's schema allows can fail or change under it",
        "Keep it if it is wanted; otherwise drop it on PROD by hand.",
    )


def _overloads(comparison: Comparison) -> Iterator[Finding]:
    names = {(key.schema, key.name) for key, value in comparison.desired.objects.items() if isinstance(value, Function)}
    for key in sorted(comparison.extra):
        if key.kind is Kind.FUNCTION and (key.schema, key.name) in names:
            yield Finding(
                "overload_only_in_prod",
                "warning",
                str(key),
                "only PROD has this overload; calls that name no types may become ambiguous or reach it",
                "Drop it on PROD by hand if nothing needs it.",
            )


def _owners(comparison: Comparison) -> Iterator[Finding]:
    desired, current = comparison.desired, comparison.current

    def plain(catalog: Catalog, key: Key) -> str | None:
        owner = catalog.owners[key]
        return None if owner == catalog.maker(key) else owner

    for key in sorted(desired.owners.keys() & current.owners.keys(), key=Key.__str__):
        wanted, found = plain(desired, key), plain(current, key)
        if wanted != found:
            yield Finding(
                "owner",
                "info",
                str(key),
                f"belongs to {current.owners[key]} on PROD and to {desired.owners[key]} on DEV",
                "Owners are left alone; ALTER … OWNER TO by hand if it matters.",
            )
