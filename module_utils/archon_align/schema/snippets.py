"""What a person has to write to decide: entries for `archon_schema_decisions`, ready to be filled in. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

from .decisions import VARIABLE
from .model import Catalog, Column, Key, Table, readable

FILL_IN = "?"  # no SQL expression: a snippet that was not filled in is refused


def snippet(section: str, entries: object) -> str:
    """The YAML of one section with these entries, on one line: tables of findings keep no line breaks."""
    import yaml  # only who has to decide needs it

    inner = yaml.safe_dump(
        {section: entries}, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10_000
    )
    return f"{VARIABLE}: {inner.rstrip()}"


def backfill(column: Key) -> str:
    return snippet("backfills", {column.qualified: FILL_IN})


def conversion(column: Key) -> str:
    return snippet("conversions", {column.qualified: FILL_IN})


def rename(column: Key, to: str) -> str:
    return renames([(column, to)])


def renames(pairs: Iterable[tuple[Key, str]]) -> str:
    return snippet("renames", [{"kind": "column", "from": column.qualified, "to": to} for column, to in pairs])


def deciding(what: str, *snippets: str) -> str:
    """A remedy: what to decide, and how to write it down."""
    ways = "\nor:\n".join(snippets)
    return f"{what} in the inventory, then run again; nothing was changed:\n{ways}"


def likely_renames(desired: Catalog, current: Catalog) -> dict[Key, Column]:
    """Columns that only PROD has, each with the column of the same type that only DEV has and that is most like it."""
    found: dict[Key, Column] = {}
    for key, table in sorted((key, value) for key, value in current.objects.items() if isinstance(value, Table)):
        wanted = desired.table(key)
        if wanted is not None and wanted.columns.keys() != table.columns.keys():
            found |= _pairs(wanted, table)
    return found


def _pairs(wanted: Table, table: Table) -> Mapping[Key, Column]:
    lacking = [one for name, one in wanted.columns.items() if name not in table.columns and not one.generated]
    besides = [one for name, one in table.columns.items() if name not in wanted.columns and not one.generated]
    found = {}
    for new in lacking:
        alike = [old for old in candidates(new, besides) if old.type == new.type and old.key not in found]
        if alike:
            found[alike[0].key] = new
    return found


def candidates(new: Column, olds: Iterable[Column]) -> list[Column]:
    """`olds`, those first that are of the type of `new` and of a name like its."""

    def unlike(old: Column) -> tuple[bool, bool, float, str]:
        alike = SequenceMatcher(None, old.key.part, new.key.part).ratio()
        return (old.type != new.type, old.base != new.base, -alike, old.key.part)

    return sorted(olds, key=unlike)


def shape(wanted: Table, table: Table, needed: Iterable[Column]) -> tuple[str, str]:
    """The snippet that maps PROD's rows to DEV's table, and a sentence on what is to be filled in.

    A column of which PROD has exactly one of the same type to offer is proposed; the others are left open.
    """
    besides = [one for name, one in table.columns.items() if name not in wanted.columns]
    columns, open_ones = {}, []
    for new in needed:
        ordered = candidates(new, besides)
        alike = [old for old in ordered if old.base == new.base]
        columns[new.key.part] = _quoted(alike[0].key.part) if len(alike) == 1 else FILL_IN
        offered = ", ".join(f"{old.key.part} ({readable(old.type)})" for old in ordered) or "none"
        open_ones.append(f"{new.key.part} ({readable(new.type)}) from {offered}")
    optional = [
        f"{new.key.part} ({readable(new.type)})"
        for name, new in wanted.columns.items()
        if name not in table.columns and not new.generated and name not in columns
    ]
    told = "; ".join(open_ones)
    if optional:
        told += f"; besides, if PROD has values for them: {', '.join(optional)}"
    return snippet("shapes", {wanted.key.qualified: {"columns": columns}}), told


def _quoted(name: str) -> str:
    plain = name.isidentifier() and name == name.lower() and name.isascii()
    return name if plain else '"' + name.replace('"', '""') + '"'


def columns_only_in(table: Table, other: Table) -> list[str]:
    return [f"{name} ({readable(one.type)})" for name, one in table.columns.items() if name not in other.columns]
