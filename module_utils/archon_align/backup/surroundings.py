"""What a backup's objects lean on outside of it: written down when it is taken, looked for where it is restored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from ..database.session import Session
from .outside import NEEDED, LeftOut
from .survey import Survey

_ROLES = """
WITH dumped AS (SELECT oid, nspowner, nspacl FROM pg_namespace WHERE nspname = ANY(%(schemas)s)),
member AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
relation AS (SELECT oid, relowner, relacl FROM pg_class c WHERE relnamespace IN (SELECT oid FROM dumped)
  AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)),
routine AS (SELECT proowner, proacl FROM pg_proc p WHERE pronamespace IN (SELECT oid FROM dumped)
  AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)),
named AS (SELECT typowner, typacl FROM pg_type t WHERE typnamespace IN (SELECT oid FROM dumped)
  AND typtype IN ('e', 'd', 'r') AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)),
used(oid, owns) AS (
  SELECT relowner, true FROM relation UNION SELECT proowner, true FROM routine UNION SELECT typowner, true FROM named
  UNION SELECT (aclexplode(acl)).grantee, false FROM (
    SELECT relacl AS acl FROM relation UNION ALL SELECT proacl FROM routine UNION ALL SELECT typacl FROM named
    UNION ALL SELECT nspacl FROM dumped
    UNION ALL SELECT attacl FROM pg_attribute WHERE attrelid IN (SELECT oid FROM relation)
    UNION ALL SELECT defaclacl FROM pg_default_acl WHERE defaclnamespace IN (SELECT oid FROM dumped)) acls
  UNION SELECT unnest(polroles), false FROM pg_policy WHERE polrelid IN (SELECT oid FROM relation))
SELECT rolname AS name, bool_or(owns) AS owns FROM used JOIN pg_roles USING (oid) WHERE rolname !~ '^pg_' GROUP BY 1 ORDER BY 1
"""
# What foreign keys, collations and foreign tables need is not among the needs of a proof: there it is left out or stood in for.
_MORE = """
WITH dumped AS (SELECT oid FROM pg_namespace WHERE nspname = ANY(%(schemas)s)),
relation AS (SELECT oid FROM pg_class WHERE relnamespace IN (SELECT oid FROM dumped)),
more(refclassid, refobjid, classid, objid) AS (
  SELECT 'pg_class'::regclass::oid, confrelid, 'pg_constraint'::regclass::oid, k.oid FROM pg_constraint k
    JOIN pg_class f ON f.oid = k.confrelid
    WHERE k.contype = 'f' AND k.conparentid = 0 AND conrelid IN (SELECT oid FROM relation)
      AND f.relnamespace NOT IN (SELECT oid FROM dumped)
  UNION SELECT 'pg_collation'::regclass, a.attcollation, 'pg_class'::regclass, a.attrelid FROM pg_attribute a
    JOIN pg_collation c ON c.oid = a.attcollation
    WHERE attrelid IN (SELECT oid FROM relation) AND c.collnamespace NOT IN (SELECT oid FROM dumped)
      AND c.collname NOT IN ('default', 'C', 'POSIX')
  UNION SELECT 'pg_foreign_server'::regclass, ftserver, 'pg_class'::regclass, ftrelid FROM pg_foreign_table
    WHERE ftrelid IN (SELECT oid FROM relation))
SELECT m.refclassid::regclass::text AS catalogue, m.refobjid::bigint AS oid, '' AS extension, i.type AS kind, i.identity AS name,
  m.classid::regclass::text AS by_catalogue, m.objid::bigint AS by_oid, b.identity AS by_name
FROM more m CROSS JOIN LATERAL pg_identify_object(m.refclassid, m.refobjid, 0) i
CROSS JOIN LATERAL pg_identify_object(m.classid, m.objid, 0) b ORDER BY 1, 5, 8
"""
_ADDRESSES = """
SELECT n.catalogue, n.oid, a.type, a.object_names AS names, a.object_args AS args,
  (SELECT pg_get_functiondef(p.oid) FROM pg_proc p
   WHERE n.catalogue = 'pg_proc' AND p.oid = n.oid::oid AND p.prokind IN ('f', 'p')) AS definition
FROM unnest(%(catalogues)s::text[], %(oids)s::bigint[]) AS n(catalogue, oid)
CROSS JOIN LATERAL pg_identify_object_as_address(n.catalogue::regclass, n.oid::oid, 0) a
"""
_CATALOGUES = {"pg_constraint": 2606, "pg_class": 1259}


@dataclass(frozen=True, slots=True)
class Need:
    """An object of another schema. `address` is what pg_get_object_address takes, `definition` makes a function anew.

    `extension` brings it where that is not ''. `by` names what needs it; `leavable` says that the proof left all that out.
    """

    kind: str
    name: str
    address: tuple[str, list[str], list[str]]
    extension: str
    definition: str | None
    by: tuple[str, ...]
    leavable: bool


@dataclass(frozen=True, slots=True)
class Leavable:
    """Something that a restore can do without when what it `needs` (names of Need) is missing."""

    item: LeftOut
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The schemas' owners by name, the roles and whether they own anything, extensions with version and schema, and objects."""

    schemas: Mapping[str, str]
    roles: Mapping[str, bool]
    extensions: Mapping[str, Mapping[str, str]]
    needs: tuple[Need, ...]
    leavables: tuple[Leavable, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Surroundings:
        """What `as_json` made. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            schemas={str(name): str(owner) for name, owner in content["schemas"].items()},
            roles={str(name): bool(owns) for name, owns in content["roles"].items()},
            extensions={
                str(name): {"version": str(item["version"]), "schema": str(item["schema"])}
                for name, item in content["extensions"].items()
            },
            needs=tuple(
                Need(**{**need, "address": tuple(need["address"]), "by": tuple(need["by"])})
                for need in content["needs"]
            ),
            leavables=tuple(
                Leavable(LeftOut(**leavable["item"]), tuple(leavable["needs"])) for leavable in content["leavables"]
            ),
        )


def surroundings(session: Session, found: Survey, left_out: Collection[LeftOut]) -> Surroundings:
    """What the surveyed schemas need in the session's snapshot; `left_out` is what their proof does without."""
    schemas = list(found.schemas)
    extensions = {item.name: {"version": item.version, "schema": item.schema} for item in found.extensions}
    rows = session.rows(NEEDED, {"schemas": schemas, "bundled": []}) + session.rows(_MORE, {"schemas": schemas})
    objects = {(row["catalogue"], row["oid"]): row for row in rows}
    dispensable = {(item.catalogue, item.oid) for item in left_out}
    users: dict[tuple[str, int], list[dict[str, Any]]] = {key: [] for key in objects}
    for row in rows:
        users[row["catalogue"], row["oid"]].append(row)
    addresses = session.rows(
        _ADDRESSES, {"catalogues": [key[0] for key in objects], "oids": [key[1] for key in objects]}
    )
    needs = tuple(
        Need(
            kind=objects[key]["kind"],
            name=objects[key]["name"],
            address=(address["type"], address["names"], address["args"]),
            extension=objects[key]["extension"],
            definition=None if objects[key]["extension"] else address["definition"],
            by=tuple(sorted({row["by_name"] for row in users[key]})[:3]),
            leavable=all(_user(row) in dispensable for row in users[key]),
        )
        for address in addresses
        if (key := (address["catalogue"], address["oid"]))
    )
    return Surroundings(
        schemas=dict(found.schemas),
        roles={row["name"]: row["owns"] for row in session.rows(_ROLES, {"schemas": schemas})},
        extensions={name: extensions[name] for name in sorted({need.extension for need in needs} - {""})},
        needs=needs,
        leavables=tuple(
            Leavable(item, tuple(sorted({row["name"] for row in rows if _user(row) == (item.catalogue, item.oid)})))
            for item in left_out
        ),
    )


def _user(row: Mapping[str, Any]) -> tuple[int, int]:
    """The catalogue's oid and the object's, as pg_restore lists it; catalogues that nothing is left out of are 0."""
    return _CATALOGUES.get(row["by_catalogue"], 0), row["by_oid"]


def is_there(session: Session, need: Need) -> bool:
    """Whether the session's database has it."""
    try:
        session.rows("SELECT pg_get_object_address(%s, %s::text[], %s::text[])", need.address)
    except psycopg.DatabaseError:
        return False
    return True
