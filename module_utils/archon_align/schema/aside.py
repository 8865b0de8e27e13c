"""What a catalogue is without the objects that decisions set aside. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .model import Catalog, Constraint, Domain, Index, Key, Kind, Object, Sequence, Table

_ON_TABLE = frozenset({Kind.COLUMN, Kind.DEFAULT, Kind.CONSTRAINT, Kind.TRIGGER, Kind.RULE, Kind.POLICY})


def going_along(catalog: Catalog, keys: Iterable[Key]) -> frozenset[Key]:
    """`keys` and what lives on them or belongs to them."""
    given = frozenset(keys)
    found = set(given)
    for key in given:
        found |= set(catalog.on_table.get(key, ()))
    found |= {
        key
        for key, value in catalog.objects.items()
        if isinstance(value, Sequence)
        and value.owned_by is not None
        and (value.owned_by.table in given or value.owned_by in given)
    }
    return frozenset(found)


def acts(catalog: Catalog, key: Key) -> bool:
    """Would this part of a table go on acting on other tables, or need them, after the table was set aside?"""
    found = catalog.objects.get(key)
    foreign = isinstance(found, Constraint) and found.type == "f" and found.references != key.table
    return foreign or key.kind in (Kind.TRIGGER, Kind.POLICY, Kind.RULE, Kind.STATISTICS)


def without(catalog: Catalog, reshaped: Iterable[Key], moved: Iterable[Key], dropped: Iterable[Key]) -> Catalog:
    """`catalog` without the tables that are `reshaped`, what is `moved` to the quarantine schema, and what is `dropped`.

    What depends on it is still known to do so. What it depends on itself knows it as a stranger, which stands in the way of
    being dropped. Comments, grants and owners stay known.
    """
    old_shapes = going_along(catalog, reshaped)
    moving = going_along(catalog, moved) | {key for key in old_shapes if not acts(catalog, key)}
    gone = moving | old_shapes | going_along(catalog, dropped)

    def stays(key: Key) -> bool:
        if key.kind is Kind.DEFAULT and Key(Kind.COLUMN, *key[1:]) in gone:
            return False
        return key not in gone and not (key.kind in _ON_TABLE and key.table in gone)

    strangers: dict[Key, set[str]] = {key: set(names) for key, names in catalog.strangers.items()}
    for key, needed in catalog.depends.items():
        if not stays(key) and (key in moving or (key.table in moving and key not in old_shapes)):
            for one in needed:
                if stays(one) and one.kind is not Kind.TABLE:
                    strangers.setdefault(one, set()).add(f"{key}, which is set aside,")
    objects = {key: _left(value, gone) for key, value in catalog.objects.items() if stays(key)}
    return replace(
        catalog,
        objects=objects,
        depends={key: needed for key, needed in catalog.depends.items() if stays(key)},
        strangers={key: tuple(sorted(names)) for key, names in strangers.items()},
        sizes={key: size for key, size in catalog.sizes.items() if stays(key)},
    )


def _left(value: Object, gone: frozenset[Key]) -> Object:
    """An object without the parts of it that are gone."""
    if isinstance(value, Table) and any(column.key in gone for column in value.columns.values()):
        return replace(value, columns={name: one for name, one in value.columns.items() if one.key not in gone})
    if isinstance(value, Domain):
        constraints: Mapping[str, tuple[str, str]] = {
            name: one
            for name, one in value.constraints.items()
            if Key(Kind.DOMAIN_CONSTRAINT, value.key.schema, value.key.name, name) not in gone
        }
        return replace(value, constraints=constraints)
    return value


def indexes_of(catalog: Catalog, relation: Key) -> list[Key]:
    """The indexes of a table or materialised view, those behind constraints left out."""
    return [key for key in catalog.on_table.get(relation, ()) if isinstance(catalog.objects[key], Index)]
