"""What surrounds the objects: comments, grants, dependencies, and kinds that are only named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from . import queries
from .model import OWNER, Grant, Key, Kind, Size, Table, Unmodelled
from .other_kinds import UNMODELLED
from .reading import Class, Reading, Row

# Roles of a hosted platform, whose own objects are none of a user's business.
_MANAGED = "supabase_"
_DEFAULTS = {"r": "tables", "S": "sequences", "f": "functions", "T": "types", "n": "schemas", "L": "large objects"}
_ROW_BYTES = 100  # taken for a table whose rows the server never counted


def comments(reading: Reading) -> dict[Key, str]:
    found = {}
    for row in reading.rows(queries.COMMENTS):
        key = reading.attached_to(row)
        # The query of a view is no object of its own.
        query = key is not None and row["class"] == Class.REWRITE and key.kind is not Kind.RULE
        if key is not None and key.kind is not Kind.DEFAULT and not query:
            found[key] = row["text"]
    return found


def grants(reading: Reading) -> dict[Key, frozenset[Grant]]:
    found: dict[Key, set[Grant]] = {key: set() for key in reading.owners}
    for row in reading.rows(queries.GRANTS):
        key = reading.attached_to(row)
        if key is not None:
            found.setdefault(key, set()).add(Grant(row["role"], row["privilege"], row["grantable"]))
    return {key: frozenset(grants) for key, grants in found.items()}


def sizes(reading: Reading) -> dict[Key, Size]:
    """How large tables and materialised views are; empty ones are left out."""
    found = {}
    for row in reading.rows(queries.SIZES):
        rows = int(row["tuples"]) if row["tuples"] is not None else row["bytes"] // _ROW_BYTES
        key = Key(Kind.MATVIEW if row["kind"] == "m" else Kind.TABLE, row["schema"], row["name"])
        found[key] = Size(rows, row["bytes"])
    return found


def unmodelled(reading: Reading, defaults: Iterable[Row]) -> tuple[Unmodelled, ...]:
    found = set()
    for row in reading.rows(UNMODELLED):
        name = reading.portable(row["name"])
        definition, attached = reading.portable.optional(row["definition"]), reading.portable(row["attached"])
        found.add(Unmodelled(row["kind"], name, definition, attached))
        if row["oid"]:
            reading.told[row["class"], row["oid"]] = f"{row['kind']} {name}"
    privileges: dict[str, set[str]] = {}
    for row in defaults:
        if not row["grantor"].startswith(_MANAGED):
            whose = "" if row["mine"] else f" of {row['grantor']}"
            held = privileges.setdefault(
                f"for {_DEFAULTS[row['type']]}{whose} in {row['schema'] or 'any schema'}", set()
            )
            if row["privilege"] not in (None, "MAINTAIN"):
                held.add(f"{row['privilege']} to {row['role']}{' with grant option' if row['grantable'] else ''}")
    found |= {Unmodelled("default privileges", name, "; ".join(sorted(held))) for name, held in privileges.items()}
    return tuple(sorted(found, key=lambda one: (one.kind, one.name)))


def default_grants(rows: Iterable[Row]) -> dict[tuple[str, str], frozenset[Grant]]:
    found: dict[tuple[str, str], set[Grant]] = {}
    for row in rows:
        if row["mine"]:
            grants = found.setdefault((row["schema"], row["type"]), set())
            if row["privilege"] is not None and row["role"] != OWNER:
                grants.add(Grant(row["role"], row["privilege"], row["grantable"]))
    return {key: frozenset(grants) for key, grants in found.items()}


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the catalogue calls `depends`, `strangers` and `needs`."""

    depends: dict[Key, frozenset[Key]]
    strangers: dict[Key, tuple[str, ...]]
    needs: dict[Key, frozenset[str]]


def dependencies(reading: Reading) -> Dependencies:
    """Who needs whom, once everything that is told of has been read."""
    for row in reading.rows(queries.REWRITES):
        view = reading.keys.get((Class.CLASS, row["relation"], 0))
        if view is not None:
            reading.keys[Class.REWRITE, row["oid"], 0] = view
    found: dict[Key, set[Key]] = {}
    needs: dict[Key, set[str]] = {}
    strangers: dict[tuple[int, int, int], set[Key]] = {}
    keys = reading.keys | reading.faces
    for line in reading.tuples(queries.DEPENDS):
        place, normal = line[:3], line[6]
        one, other = keys.get(place), keys.get(line[3:6])
        if other is None:
            if one is not None and line[3:5] in reading.told:
                needs.setdefault(one, set()).add(reading.told[line[3:5]])
            continue
        if one == other:
            continue
        if one is not None:
            found.setdefault(one, set()).add(other)
        elif normal or _vanishes(reading, place[0], other):
            strangers.setdefault(place, set()).add(other)
    return Dependencies(
        {key: frozenset(needed) for key, needed in found.items()},
        _described(reading, strangers),
        {key: frozenset(names) for key, names in needs.items()},
    )


def _vanishes(reading: Reading, catalog: int, other: Key) -> bool:
    """Would statistics of another schema go without a word if `other` were dropped to be made anew?"""
    if catalog != Class.STATISTIC:
        return False
    table = reading.objects.get(other.table) if other.kind is Kind.COLUMN else None
    if isinstance(table, Table):
        return table.columns[other.part].generated != ""
    return other.kind is Kind.MATVIEW


def _described(reading: Reading, strangers: dict[tuple[int, int, int], set[Key]]) -> dict[Key, tuple[str, ...]]:
    """Objects that are not compared but depend on some that are: nobody here could put them back."""
    if not strangers:
        return {}
    classes, oids, subs = (list(part) for part in zip(*strangers, strict=True))
    found: dict[Key, set[str]] = {}
    for row in reading.session.rows(queries.DESCRIBE, {"classes": classes, "oids": oids, "subs": subs}):
        for key in strangers[row["class"], row["oid"], row["sub"]]:
            found.setdefault(key, set()).add(row["name"])
    return {key: tuple(sorted(names)) for key, names in found.items()}
