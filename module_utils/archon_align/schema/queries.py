"""The catalogue queries: set-based, one per family of objects, each taking the schema names as its only parameter."""

# ruff: noqa: S608 - constants put together; the only parameter is bound

from __future__ import annotations

from typing import LiteralString


def _not_of_extension(catalog: LiteralString, oid: LiteralString) -> LiteralString:
    return (
        "NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '"
        + catalog
        + "'::regclass AND e.objid = "
        + oid
        + " AND e.deptype = 'e')"
    )


def _names(numbers: LiteralString, relation: LiteralString) -> LiteralString:
    """The names of a key's columns in its order. Nearly all keys have one, and need nothing sorted."""
    here = "pg_attribute a WHERE a.attrelid = " + relation + " AND a.attnum = " + numbers + "[1]"
    return (
        "CASE WHEN " + numbers + " IS NULL THEN '{}' WHEN cardinality(" + numbers + ") = 1 AND " + numbers + "[1] <> 0 THEN ARRAY[(SELECT a.attname::text FROM " + here + ")]"
        " ELSE ARRAY(SELECT a.attname::text FROM unnest(" + numbers + ") WITH ORDINALITY k(number, position)"
        " JOIN pg_attribute a ON a.attrelid = " + relation + " AND a.attnum = k.number ORDER BY k.position) END"
    )  # fmt: skip


ENVIRONMENT: LiteralString = """
SELECT current_setting('server_version_num')::int AS version, current_database()::text AS database, current_user::text AS me,
       (SELECT array_agg(rolname::text) FROM pg_roles) AS roles,
       (SELECT array_agg(rolname::text) FROM pg_roles r WHERE pg_has_role(r.oid, 'MEMBER')) AS my_roles,
       (SELECT array_agg(nspname::text) FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_toast%%' AND nspname NOT LIKE 'pg\\_temp%%') AS all_schemas,
       (SELECT array_agg(ARRAY[format_type(castsource, NULL), format_type(casttarget, NULL)]) FROM pg_cast) AS casts,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
       has_database_privilege(current_database(), 'CREATE') AS creates,
       (SELECT array_agg(name::text) FROM (
          SELECT relname AS name FROM pg_class WHERE relnamespace = to_regnamespace('archon_quarantine')::oid
          UNION SELECT typname FROM pg_type WHERE typnamespace = to_regnamespace('archon_quarantine')::oid
          UNION SELECT proname FROM pg_proc WHERE pronamespace = to_regnamespace('archon_quarantine')::oid) AS found) AS quarantined
WHERE %(schemas)s::text[] IS NOT NULL
"""

AVAILABLE: LiteralString = """
SELECT a.name::text, coalesce(a.default_version, '')::text AS version, coalesce(v.superuser, true) AS superuser, coalesce(v.trusted, false) AS trusted
FROM pg_available_extensions a LEFT JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
WHERE %(schemas)s::text[] IS NOT NULL
"""

MEMBERS: LiteralString = """
SELECT x.extname::text AS extension, n.nspname::text AS schema, m.name::text AS name, NULL::text AS version
FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
JOIN LATERAL (
  SELECT typnamespace AS namespace, typname AS name FROM pg_type WHERE d.classid = 'pg_type'::regclass AND oid = d.objid
  UNION ALL SELECT pronamespace, proname FROM pg_proc WHERE d.classid = 'pg_proc'::regclass AND oid = d.objid
  UNION ALL SELECT oprnamespace, oprname FROM pg_operator WHERE d.classid = 'pg_operator'::regclass AND oid = d.objid
  UNION ALL SELECT opcnamespace, opcname FROM pg_opclass WHERE d.classid = 'pg_opclass'::regclass AND oid = d.objid
  UNION ALL SELECT relnamespace, relname FROM pg_class WHERE d.classid = 'pg_class'::regclass AND oid = d.objid
  UNION ALL SELECT collnamespace, collname FROM pg_collation WHERE d.classid = 'pg_collation'::regclass AND oid = d.objid
  UNION ALL SELECT cfgnamespace, cfgname FROM pg_ts_config WHERE d.classid = 'pg_ts_config'::regclass AND oid = d.objid
  UNION ALL SELECT dictnamespace, dictname FROM pg_ts_dict WHERE d.classid = 'pg_ts_dict'::regclass AND oid = d.objid
) m ON true
JOIN pg_namespace n ON n.oid = m.namespace
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND n.nspname <> 'pg_catalog' AND %(schemas)s::text[] IS NOT NULL
UNION ALL SELECT x.extname, n.nspname, NULL, x.extversion FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace
"""

SCHEMAS: LiteralString = """
SELECT n.oid::bigint, n.nspname::text AS schema, pg_get_userbyid(n.nspowner)::text AS owner FROM pg_namespace n WHERE n.nspname = ANY(%(schemas)s)
"""

# Who new objects shall belong to: the role that owns most tables, if this role may hand objects over to it and it may
# have objects there; schema '' stands for new schemas. What is set aside is handed over, too.
MAKERS: LiteralString = (
    """
WITH maker AS (
  SELECT c.relowner AS oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p')
    AND pg_has_role(c.relowner, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
    AND """
    + _not_of_extension("pg_class", "c.oid")
    + """ GROUP BY c.relowner ORDER BY count(*) DESC, pg_get_userbyid(c.relowner) = current_user DESC, c.relowner LIMIT 1
)
SELECT n.nspname::text AS schema, pg_get_userbyid(m.oid)::text AS owner FROM maker m CROSS JOIN pg_namespace n
WHERE (n.nspname = ANY(%(schemas)s) OR n.nspname = 'archon_quarantine') AND has_schema_privilege(m.oid, n.oid, 'CREATE')
UNION ALL SELECT '', pg_get_userbyid(m.oid)::text FROM maker m WHERE has_database_privilege(m.oid, current_database(), 'CREATE')
"""
)

# The server's own counts; what was never counted is measured. That takes a lock on the table, so one that another session
# holds exclusively is left out instead of waited for.
SIZES: LiteralString = """
WITH held AS MATERIALIZED (
  SELECT relation FROM pg_locks WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' AND granted AND pid <> pg_backend_pid()
)
SELECT c.relkind::text AS kind, n.nspname::text AS schema, c.relname::text AS name, f.bytes,
       CASE WHEN c.relpages > 0 AND c.reltuples >= 0 THEN c.reltuples::float8 END AS tuples
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_class o ON o.oid = c.reltoastrelid
CROSS JOIN LATERAL (
  SELECT sum(CASE WHEN file.pages > 0 THEN file.pages::bigint * current_setting('block_size')::bigint
                  WHEN c.oid <> ALL (ARRAY(SELECT relation FROM held)) THEN coalesce(pg_relation_size(file.oid), 0) ELSE 0 END)::bigint AS bytes
  FROM (VALUES (c.oid, c.relpages), (o.oid, o.relpages)) file (oid, pages) WHERE file.oid IS NOT NULL
) f
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'm') AND f.bytes > 0
"""

RELATIONS: LiteralString = """
SELECT c.oid::bigint, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind, c.relpersistence::text AS persistence,
       c.relrowsecurity AS row_security, c.relforcerowsecurity AS force_row_security, coalesce(c.reloptions, '{}')::text[]
         || ARRAY(SELECT 'toast.' || o FROM pg_class s CROSS JOIN unnest(s.reloptions) o WHERE s.oid = c.reltoastrelid) AS options,
       CASE WHEN c.relreplident = 'i' THEN (SELECT 'i' || r.relname FROM pg_index i JOIN pg_class r ON r.oid = i.indexrelid
            WHERE i.indrelid = c.oid AND i.indisreplident) ELSE c.relreplident::text END AS replica_identity,
       pg_get_userbyid(c.relowner)::text AS owner, a.amname::text AS method, CASE WHEN c.reloftype <> 0 THEN format_type(c.reloftype, NULL) ELSE '' END AS typed,
       CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END AS partition_key,
       CASE WHEN c.relispartition THEN pg_get_expr(c.relpartbound, c.oid) END AS bound, pg_get_partition_constraintdef(c.oid) AS accepts,
       ARRAY(SELECT quote_ident(pn.nspname) || '.' || quote_ident(p.relname) FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent
             JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE h.inhrelid = c.oid ORDER BY h.inhseqno) AS parents,
       CASE WHEN c.relkind IN ('v', 'm') THEN rtrim(pg_get_viewdef(c.oid), ';') END AS viewdef,
       c.relispopulated AS populated
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am a ON a.oid = c.relam
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'm', 'c') AND """ + _not_of_extension(
    "pg_class", "c.oid"
)

COLUMNS: LiteralString = (
    """
SELECT a.attrelid::bigint AS relation, a.attnum::int AS number, a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type,
       format_type(a.atttypid, NULL) AS base, a.attnotnull AS not_null, pg_get_expr(d.adbin, d.adrelid) AS default_text, d.oid::bigint AS default_oid,
       a.attgenerated::text AS generated, a.attidentity::text AS identity, a.attinhcount > 0 AS inherited,
       CASE WHEN a.attcollation <> t.typcollation THEN quote_ident(cn.nspname) || '.' || quote_ident(co.collname) END AS collation,
       CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage::text ELSE '' END AS storage, coalesce(t.typstorage::text, '') AS type_storage,
       a.attcompression::text AS compression, coalesce(a.attstattarget, -1)::int AS statistics,
       -- What newer servers note there for themselves (pg_attver) is no option that anybody set.
       array(SELECT o FROM unnest(a.attoptions) o WHERE o !~ '^pg_attver=')::text[] AS options
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_collation co ON co.oid = a.attcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'm', 'c') AND a.attnum > 0 AND NOT a.attisdropped
  AND """
    + _not_of_extension("pg_class", "c.oid")
    + """ ORDER BY a.attrelid, a.attnum"""
)

CONSTRAINTS: LiteralString = (
    """
SELECT o.oid::bigint, n.nspname::text AS schema, o.conrelid::bigint AS relation_oid, c.relname::text AS relation, t.typname::text AS domain, o.conname::text AS name, o.contype::text AS type,
       o.convalidated AS validated, pg_get_constraintdef(o.oid) AS definition,
       CASE WHEN o.contype = 'c' THEN pg_get_expr(o.conbin, o.conrelid) END AS expression, o.conindid::bigint AS index_oid,
       """
    + _names("o.conkey", "o.conrelid")
    + """ AS columns,
       fn.nspname::text AS foreign_schema, f.relname::text AS foreign_name,
       """
    + _names("o.confkey", "o.confrelid")
    + """ AS foreign_columns,
       CASE WHEN o.contype = 'u' THEN coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) ELSE false END AS nulls_equal, coalesce(i.indisclustered, false) AS clustered, coalesce(x.reloptions, '{}')::text[] AS options
FROM pg_constraint o JOIN pg_namespace n ON n.oid = o.connamespace
LEFT JOIN pg_index i ON i.indexrelid = o.conindid AND o.contype IN ('p', 'u', 'x') LEFT JOIN pg_class x ON x.oid = i.indexrelid
LEFT JOIN pg_class c ON c.oid = o.conrelid LEFT JOIN pg_type t ON t.oid = o.contypid
LEFT JOIN pg_class f ON f.oid = o.confrelid LEFT JOIN pg_namespace fn ON fn.oid = f.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND o.contype <> 't' AND o.conparentid = 0
  AND (o.contype = 'n' AND o.conrelid <> 0 AND NOT o.convalidated OR o.contype <> 'n' AND (o.coninhcount = 0 OR o.conislocal))
  AND (o.conrelid = 0 OR """
    + _not_of_extension("pg_class", "o.conrelid")
    + """) AND (o.contypid = 0 OR """
    + _not_of_extension("pg_type", "o.contypid")
    + ")"
)

INDEXES: LiteralString = """
SELECT i.indexrelid::bigint AS oid, n.nspname::text AS schema, x.relname::text AS name, cn.nspname::text AS table_schema, c.relname::text AS table_name,
       c.relkind::text AS table_kind, a.amname::text AS method, i.indisunique AS is_unique, i.indisvalid AND i.indisready AS valid, i.indisclustered AS clustered,
       pg_get_indexdef(i.indexrelid) AS definition, quote_ident(x.relname) AS quoted, pg_get_expr(i.indpred, i.indrelid) AS predicate,
       CASE WHEN i.indisunique THEN ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts) k) ELSE '{}' END AS keys,
       CASE WHEN i.indisunique THEN coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) ELSE false END AS nulls_equal,
       ARRAY(SELECT ARRAY[a.attnum, a.attstattarget]::int[] FROM pg_attribute a WHERE a.attrelid = i.indexrelid AND a.attstattarget >= 0 ORDER BY a.attnum) AS statistics
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_namespace n ON n.oid = x.relnamespace JOIN pg_am a ON a.oid = x.relam
JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND NOT x.relispartition
  AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = i.indexrelid AND o.contype IN ('p', 'u', 'x'))
  AND """ + _not_of_extension("pg_class", "c.oid")

TYPES: LiteralString = """
SELECT t.oid::bigint, t.typarray::bigint AS array_oid, t.typrelid::bigint AS relation, n.nspname::text AS schema, t.typname::text AS name, t.typtype::text AS kind,
       pg_get_userbyid(t.typowner)::text AS owner, CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END AS base,
       t.typnotnull AS not_null, CASE WHEN t.typtype = 'd' THEN t.typdefault END AS default_text,
       CASE WHEN t.typtype = 'd' AND t.typcollation <> b.typcollation THEN quote_ident(cn.nspname) || '.' || quote_ident(co.collname) END AS collation,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_type b ON b.oid = t.typbasetype
LEFT JOIN pg_collation co ON co.oid = t.typcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
WHERE n.nspname = ANY(%(schemas)s) AND t.typtype IN ('e', 'd', 'c') AND """ + _not_of_extension("pg_type", "t.oid")

FUNCTIONS: LiteralString = """
SELECT p.oid::bigint, n.nspname::text AS schema, p.proname::text AS name, oidvectortypes(p.proargtypes) AS arguments, p.prokind::text AS kind,
       pg_get_functiondef(p.oid) AS definition, pg_get_userbyid(p.proowner)::text AS owner, p.pronargdefaults::int AS defaults,
       ARRAY[p.prokind::text, coalesce(pg_get_function_result(p.oid), ''), coalesce(p.proargnames::text, ''), coalesce(p.proargmodes::text, '')] AS signature
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = ANY(%(schemas)s) AND p.prokind IN ('f', 'p', 'w')
  AND NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = 'pg_proc'::regclass AND i.objid = p.oid AND i.deptype = 'i') AND """ + _not_of_extension(
    "pg_proc", "p.oid"
)

SEQUENCES: LiteralString = """
SELECT c.oid::bigint, n.nspname::text AS schema, c.relname::text AS name, format_type(s.seqtypid, NULL) AS type, c.relpersistence::text AS persistence,
       format('START WITH %%s INCREMENT BY %%s MINVALUE %%s MAXVALUE %%s CACHE %%s %%s', s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache,
              CASE WHEN s.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END) AS options,
       pg_get_userbyid(c.relowner)::text AS owner, d.deptype::text AS link, d.refobjid::bigint AS table_oid, d.refobjsubid AS number,
       tn.nspname::text AS table_schema, t.relname::text AS table_name, a.attname::text AS column_name
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
LEFT JOIN pg_class t ON t.oid = d.refobjid LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE n.nspname = ANY(%(schemas)s) AND """ + _not_of_extension("pg_class", "c.oid")

TRIGGERS: LiteralString = """
SELECT g.oid::bigint, n.nspname::text AS schema, c.relname::text AS relation, g.tgname::text AS name, pg_get_triggerdef(g.oid) AS definition,
       g.tgenabled::text AS enabled
FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND NOT g.tgisinternal AND g.tgparentid = 0
"""

POLICIES: LiteralString = """
SELECT p.oid::bigint, n.nspname::text AS schema, c.relname::text AS relation, p.polname::text AS name, p.polpermissive AS permissive,
       CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END AS command,
       ARRAY(SELECT CASE WHEN r = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r)::text END FROM unnest(p.polroles) r ORDER BY 1) AS roles,
       pg_get_expr(p.polqual, p.polrelid) AS using_text, pg_get_expr(p.polwithcheck, p.polrelid) AS check_text
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s)
"""

GRANTS: LiteralString = """
WITH held AS (
  SELECT 1259 AS class, c.oid, 0 AS sub, c.relowner AS owner, coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, c.relowner)) AS acl
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
  UNION ALL SELECT 1259, a.attrelid, a.attnum, c.relowner, a.attacl FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = ANY(%(schemas)s) AND a.attacl IS NOT NULL AND NOT a.attisdropped
  UNION ALL SELECT 1255, p.oid, 0, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner)) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = ANY(%(schemas)s)
  UNION ALL SELECT 1247, t.oid, 0, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner)) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
  WHERE n.nspname = ANY(%(schemas)s) AND (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
  UNION ALL SELECT 2615, n.oid, 0, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner)) FROM pg_namespace n WHERE n.nspname = ANY(%(schemas)s)
)
SELECT h.class, h.oid::bigint, h.sub::int, CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END AS role, x.privilege_type::text AS privilege, x.is_grantable AS grantable
FROM held h CROSS JOIN LATERAL aclexplode(h.acl) x WHERE x.grantee <> h.owner
"""

DEFAULT_GRANTS: LiteralString = """
SELECT coalesce(n.nspname, '')::text AS schema, d.defaclobjtype::text AS type, d.defaclrole::regrole::text AS grantor, d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = current_user) AS mine,
       CASE WHEN x.grantee = 0 THEN 'PUBLIC' WHEN x.grantee = d.defaclrole THEN '«owner»' ELSE pg_get_userbyid(x.grantee)::text END AS role, x.privilege_type::text AS privilege, x.is_grantable AS grantable
FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace LEFT JOIN LATERAL aclexplode(d.defaclacl) x ON true
WHERE n.nspname IS NULL OR n.nspname = ANY(%(schemas)s)
"""

COMMENTS: LiteralString = """
SELECT classoid::bigint AS class, objoid::bigint AS oid, objsubid AS sub, description AS text FROM pg_description
WHERE objoid >= 16384 AND classoid IN (1259, 1255, 1247, 2606, 2620, 3256, 2615, 2605, 2617, 2618, 3381, 3456, 3600, 3602) AND %(schemas)s::text[] IS NOT NULL
"""

DEPENDS: LiteralString = """
SELECT classid::bigint AS class, objid::bigint AS oid, objsubid AS sub, refclassid::bigint AS ref_class, refobjid::bigint AS ref_oid, refobjsubid AS ref_sub, deptype = 'n' AS normal
FROM pg_depend WHERE objid >= 16384 AND refobjid >= 16384 AND deptype IN ('n', 'a', 'i', 'P', 'S')
  AND refclassid IN (1259, 1255, 1247, 2606, 1417, 2328, 2601, 2605, 2612, 2616, 2617, 2753, 3456, 3576, 3600, 3601, 3602, 3764)
  AND NOT (deptype = 'i' AND classid IN (1247, 2620)) -- row types and arrays are known with what they belong to, triggers of foreign keys with these
  AND %(schemas)s::text[] IS NOT NULL
"""

DESCRIBE: LiteralString = """
SELECT class, oid, sub, pg_describe_object(class::oid, oid::oid, sub) AS name
FROM ROWS FROM (unnest(%(classes)s::bigint[]), unnest(%(oids)s::bigint[]), unnest(%(subs)s::int[])) AS found (class, oid, sub)
"""

REWRITES: LiteralString = """
SELECT r.oid::bigint, r.ev_class::bigint AS relation FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND r.rulename = '_RETURN'
"""
