"""Everything the schemas hold, as the catalogue names it, in a form that is equal on two servers of any version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ..database.session import Session

# Names come from pg_identify_object, which neither translates nor depends on the search path. What belongs to an
# extension is left out. NOT NULL constraints are, too: they are columns' own before PostgreSQL 18.
_INVENTORY = """
WITH dumped AS (SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY(%(schemas)s)),
member AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
relation AS (
  SELECT c.* FROM pg_class c WHERE c.relnamespace IN (SELECT oid FROM dumped) AND c.relkind <> 't'
    AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)),
routine AS (
  SELECT p.* FROM pg_proc p WHERE p.pronamespace IN (SELECT oid FROM dumped)
    AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)),
named_type AS (
  SELECT t.* FROM pg_type t WHERE t.typnamespace IN (SELECT oid FROM dumped) AND t.typtype IN ('e', 'd', 'r')
    AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)),
item(classid, objid, objsubid, detail) AS (
  SELECT 'pg_class'::regclass::oid, c.oid, 0, CASE WHEN c.relkind IN ('i', 'I') THEN
      (SELECT concat_ws(' ', a.amname, x.indisunique, x.indisprimary) FROM pg_index x, pg_am a
       WHERE x.indexrelid = c.oid AND a.oid = c.relam)
    ELSE concat_ws(' ', pg_get_userbyid(c.relowner), c.relpersistence, c.relrowsecurity, c.relforcerowsecurity) END
  FROM relation c WHERE NOT EXISTS (SELECT FROM pg_index x WHERE x.indexrelid = c.oid AND NOT x.indisvalid AND c.relkind = 'i')
  UNION ALL SELECT 'pg_class'::regclass, a.attrelid, a.attnum,
    concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, a.atthasdef)
  FROM pg_attribute a JOIN relation c ON c.oid = a.attrelid
  WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind NOT IN ('i', 'I', 'S')
  UNION ALL SELECT 'pg_constraint'::regclass, k.oid, 0, concat_ws(' ', k.contype, k.condeferrable, k.convalidated)
  FROM pg_constraint k WHERE k.contype IN ('p', 'u', 'f', 'c', 'x') AND k.conparentid = 0
    AND (k.conrelid IN (SELECT oid FROM relation) OR k.contypid IN (SELECT oid FROM named_type))
  UNION ALL SELECT 'pg_trigger'::regclass, t.oid, 0, t.tgenabled::text
  FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgrelid IN (SELECT oid FROM relation)
  UNION ALL SELECT 'pg_policy'::regclass, p.oid, 0, concat_ws(' ', p.polcmd, p.polpermissive,
    (SELECT string_agg(r.name, ',' ORDER BY r.name) FROM (SELECT CASE oid WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(oid) END
     FROM unnest(p.polroles) AS oid) AS r(name)))
  FROM pg_policy p WHERE p.polrelid IN (SELECT oid FROM relation)
  UNION ALL SELECT 'pg_rewrite'::regclass, r.oid, 0, '' FROM pg_rewrite r WHERE r.ev_class IN (SELECT oid FROM relation)
  UNION ALL SELECT 'pg_proc'::regclass, p.oid, 0, concat_ws(' ', pg_get_userbyid(p.proowner), p.prokind, p.provolatile,
    p.prosecdef, pg_get_function_result(p.oid), md5(p.prosrc))
  FROM routine p
  UNION ALL SELECT 'pg_type'::regclass, t.oid, 0, concat_ws(' ', t.typtype, pg_get_userbyid(t.typowner), t.typnotnull,
    CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
    (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid))
  FROM named_type t
  UNION ALL SELECT 'pg_operator'::regclass, o.oid, 0, '' FROM pg_operator o WHERE o.oprnamespace IN (SELECT oid FROM dumped)
    AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_operator'::regclass AND m.objid = o.oid)
  UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid, 0, '' FROM pg_statistic_ext s WHERE s.stxnamespace IN (SELECT oid FROM dumped)
  UNION ALL SELECT 'pg_ts_config'::regclass, t.oid, 0, '' FROM pg_ts_config t WHERE t.cfgnamespace IN (SELECT oid FROM dumped)
  UNION ALL SELECT 'pg_ts_dict'::regclass, t.oid, 0, '' FROM pg_ts_dict t WHERE t.dictnamespace IN (SELECT oid FROM dumped)
)
SELECT i.type AS kind, i.identity AS name, item.detail
FROM item CROSS JOIN LATERAL pg_identify_object(item.classid, item.objid, item.objsubid) i
UNION ALL
SELECT 'comment on ' || i.type, i.identity, md5(d.description)
FROM pg_description d JOIN item ON (d.classoid, d.objoid, d.objsubid) = (item.classid, item.objid, item.objsubid)
CROSS JOIN LATERAL pg_identify_object(item.classid, item.objid, item.objsubid) i
UNION ALL
SELECT 'grant on ' || CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'relation' END,
  format('%%s: %%s to %%s', i.identity, g.privilege_type,
    CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee) END), g.is_grantable::text
FROM relation c CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) g
CROSS JOIN LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) i
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S')
UNION ALL
SELECT 'grant on column', format('%%s: %%s to %%s', i.identity, g.privilege_type,
    CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee) END), g.is_grantable::text
FROM relation c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped CROSS JOIN LATERAL aclexplode(a.attacl) g
CROSS JOIN LATERAL pg_identify_object('pg_class'::regclass, c.oid, a.attnum) i
UNION ALL
SELECT 'grant on function', format('%%s: %%s to %%s', i.identity, g.privilege_type,
    CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee) END), g.is_grantable::text
FROM routine p CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
CROSS JOIN LATERAL pg_identify_object('pg_proc'::regclass, p.oid, 0) i
"""

Inventory = Mapping[tuple[str, str], str]


def inventory(session: Session, schemas: Sequence[str]) -> Inventory:
    """Detail by (kind, name) of every object, column, comment and grant of the schemas."""
    return {
        (row["kind"], row["name"]): row["detail"] or "" for row in session.rows(_INVENTORY, {"schemas": list(schemas)})
    }


def counts(items: Inventory) -> dict[str, int]:
    """How many objects of each kind there are, by kind in alphabetical order."""
    return dict(sorted(Counter(kind for kind, _ in items).items()))


def differences(expected: Inventory, found: Inventory) -> list[str]:
    """In words, what `expected` has and `found` lacks or has otherwise; what `found` has besides does not count."""
    return [
        f"{kind} {name}: " + ("missing" if (kind, name) not in found else f"{detail!r} became {found[kind, name]!r}")
        for (kind, name), detail in sorted(expected.items())
        if found.get((kind, name)) != detail
    ]
