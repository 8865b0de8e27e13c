"""What inspection gathers while it reads: the objects, and under which oid each was found."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from ..database.session import Session
from .model import Key, Kind, Object
from .portable import Portable

type Row = dict[str, Any]


class Class(IntEnum):
    """The oids of the catalogues themselves, the same in every version."""

    CLASS = 1259
    PROC = 1255
    TYPE = 1247
    CONSTRAINT = 2606
    ATTRDEF = 2604
    REWRITE = 2618
    TRIGGER = 2620
    POLICY = 3256
    NAMESPACE = 2615
    STATISTIC = 3381


class Reading:
    """One reading of `schemas` through `session`. `keys` maps (catalogue, oid, column number) to what was found there;
    `inner` does so for columns of views and composites, which are no objects of their own, `faces` for what comes and goes
    with an object (a range's constructors); `told` maps (catalogue, oid) to the name of what is told of but not modelled."""

    def __init__(self, session: Session, schemas: tuple[str, ...]) -> None:
        self.session = session
        self.schemas = schemas
        self.objects: dict[Key, Object] = {}
        self.owners: dict[Key, str] = {}
        self.keys: dict[tuple[int, int, int], Key] = {}
        self.inner: dict[tuple[int, int], Key] = {}
        self.faces: dict[tuple[int, int, int], Key] = {}
        self.told: dict[tuple[int, int], str] = {}
        self.portable = Portable(())

    def rows(self, query: Any) -> list[Row]:
        return self.session.rows(query, {"schemas": list(self.schemas)})

    def tuples(self, query: Any) -> list[tuple[Any, ...]]:
        return self.session.tuples(query, {"schemas": list(self.schemas)})

    def add(self, value: Object, row: Row, catalog: int, owner: str | None = None) -> None:
        self.objects[value.key] = value
        self.keys[catalog, row["oid"], 0] = value.key
        if owner is not None:
            self.owners[value.key] = owner

    def add_inner(self, key: Key, oid: int, columns: list[Row]) -> None:
        """Columns of views and composites are no objects of their own, but comments and grants can be theirs."""
        for column in columns:
            self.keys[Class.CLASS, oid, column["number"]] = key
            self.inner[oid, column["number"]] = Key(Kind.COLUMN, key.schema, key.name, column["name"])

    def attached_to(self, row: Row) -> Key | None:
        """What a comment or grant belongs to."""
        if row["class"] == Class.CLASS and (inner := self.inner.get((row["oid"], row["sub"]))) is not None:
            return inner
        return self.keys.get((row["class"], row["oid"], row["sub"]))
