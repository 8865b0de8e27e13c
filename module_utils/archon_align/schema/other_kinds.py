"""The query for every kind of object that is told of but not changed: name, definition, and what is attached to it."""

# ruff: noqa: S608 - constants put together; the only parameter is bound

from __future__ import annotations

from typing import LiteralString

from .others import CAST_IS_NEAR

# Roles that manage schemas of their own on a hosted platform: what they own is theirs, whatever it is called.
MANAGED: LiteralString = "(r.rolname LIKE 'supabase\\_%%' OR r.rolname IN ('pgbouncer', 'pgsodium_keymaker'))"

_ROUTINES: LiteralString = f"""
  SELECT 'operator class' AS kind, 'pg_opclass'::regclass AS class, o.oid, format('%%I.%%I using %%I', n.nspname, o.opcname, a.amname) AS name, o.opcowner AS owner, NULL::aclitem[] AS acl,
      concat_ws(', ', o.opcfamily::regclass::text, format_type(o.opcintype, NULL), o.opcdefault, format_type(nullif(o.opckeytype, 0), NULL)) AS definition
    FROM pg_opclass o JOIN pg_namespace n ON n.oid = o.opcnamespace JOIN pg_am a ON a.oid = o.opcmethod WHERE n.nspname = ANY(%(schemas)s)
  UNION ALL SELECT 'operator family', 'pg_opfamily', o.oid, format('%%I.%%I using %%I', n.nspname, o.opfname, a.amname), o.opfowner, NULL,
      concat_ws('; ', (SELECT string_agg(concat_ws(' ', m.amopstrategy, m.amopopr::regoperator, m.amoppurpose), ', ' ORDER BY m.amopstrategy, m.amopopr::regoperator::text) FROM pg_amop m WHERE m.amopfamily = o.oid),
        (SELECT string_agg(concat_ws(' ', m.amprocnum, format_type(m.amproclefttype, NULL), format_type(m.amprocrighttype, NULL), m.amproc::regprocedure), ', '
                           ORDER BY m.amprocnum, m.amproc::regprocedure::text) FROM pg_amproc m WHERE m.amprocfamily = o.oid))
    FROM pg_opfamily o JOIN pg_namespace n ON n.oid = o.opfnamespace JOIN pg_am a ON a.oid = o.opfmethod WHERE n.nspname = ANY(%(schemas)s)
  UNION ALL SELECT 'cast', 'pg_cast', oid, format('(%%s AS %%s)', format_type(castsource, NULL), format_type(casttarget, NULL)), NULL, NULL, concat_ws(', ', castfunc::regprocedure, castcontext, castmethod)
    FROM pg_cast c WHERE oid >= 16384 AND NOT {CAST_IS_NEAR}
  UNION ALL SELECT 'transform', 'pg_transform', t.oid, format('for %%s language %%I', format_type(t.trftype, NULL), l.lanname), NULL, NULL, concat_ws(', ', t.trffromsql::oid::regprocedure, t.trftosql::oid::regprocedure)
    FROM pg_transform t JOIN pg_language l ON l.oid = t.trflang
  UNION ALL SELECT 'language', 'pg_language', oid, quote_ident(lanname), lanowner, lanacl,
      concat_ws(', ', lanplcallfoid::regprocedure, laninline::regprocedure, lanvalidator::regprocedure, lanpltrusted)
    FROM pg_language WHERE oid >= 16384
  UNION ALL SELECT 'access method', 'pg_am', oid, quote_ident(amname), NULL, NULL, concat_ws(', ', amhandler::oid::regprocedure, amtype) FROM pg_am WHERE oid >= 16384
  UNION ALL SELECT 'event trigger', 'pg_event_trigger', e.oid, quote_ident(e.evtname), e.evtowner, NULL, concat_ws(', ', e.evtevent, e.evttags::text, e.evtfoid::regprocedure, e.evtenabled)
    FROM pg_event_trigger e JOIN pg_roles r ON r.oid = e.evtowner WHERE NOT {MANAGED}
"""

_TYPES: LiteralString = """
  UNION ALL SELECT 'base type', 'pg_type', t.oid, format('%%I.%%I', n.nspname, t.typname), t.typowner, t.typacl,
      concat_ws(', ', t.typisdefined, t.typinput::oid::regprocedure, t.typoutput::oid::regprocedure, t.typreceive::oid::regprocedure, t.typsend::oid::regprocedure, t.typmodin::oid::regprocedure,
        t.typlen, t.typbyval, t.typalign, t.typstorage, t.typcategory, t.typispreferred, t.typdelim, coalesce(t.typdefault, '-'))
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = ANY(%(schemas)s) AND (t.typtype = 'p' OR t.typtype = 'b' AND t.typelem = 0 AND t.typcategory <> 'A')
  UNION ALL SELECT 'conversion', 'pg_conversion', o.oid, format('%%I.%%I', n.nspname, o.conname), o.conowner, NULL, concat_ws(', ', o.conforencoding, o.contoencoding, o.conproc::oid::regprocedure, o.condefault)
    FROM pg_conversion o JOIN pg_namespace n ON n.oid = o.connamespace WHERE n.nspname = ANY(%(schemas)s)
  UNION ALL SELECT 'text search parser', 'pg_ts_parser', o.oid, format('%%I.%%I', n.nspname, o.prsname), NULL, NULL,
      concat_ws(', ', o.prsstart::oid::regprocedure, o.prstoken::oid::regprocedure, o.prsend::oid::regprocedure, o.prsheadline::oid::regprocedure, o.prslextype::oid::regprocedure)
    FROM pg_ts_parser o JOIN pg_namespace n ON n.oid = o.prsnamespace WHERE n.nspname = ANY(%(schemas)s)
  UNION ALL SELECT 'text search template', 'pg_ts_template', o.oid, format('%%I.%%I', n.nspname, o.tmplname), NULL, NULL, concat_ws(', ', o.tmplinit::oid::regprocedure, o.tmpllexize::oid::regprocedure)
    FROM pg_ts_template o JOIN pg_namespace n ON n.oid = o.tmplnamespace WHERE n.nspname = ANY(%(schemas)s)
"""

# Options of foreign objects can hold passwords: only their digest leaves the server.
_FOREIGN: LiteralString = """
  UNION ALL SELECT 'foreign table', 'pg_class', c.oid, format('%%I.%%I', n.nspname, c.relname), c.relowner, c.relacl,
      concat_ws('; ', s.srvname, md5(f.ftoptions::text),
        (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, md5(a.attfdwoptions::text), pg_get_expr(d.adbin, d.adrelid), a.attacl::text), ', ' ORDER BY a.attname)
         FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT string_agg(o.conname || ' ' || pg_get_constraintdef(o.oid), ', ' ORDER BY o.conname) FROM pg_constraint o WHERE o.conrelid = c.oid AND o.contype <> 'n'))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_foreign_table f ON f.ftrelid = c.oid JOIN pg_foreign_server s ON s.oid = f.ftserver WHERE n.nspname = ANY(%(schemas)s)
  UNION ALL SELECT 'foreign-data wrapper', 'pg_foreign_data_wrapper', oid, quote_ident(fdwname), fdwowner, fdwacl, concat_ws(', ', fdwhandler::regprocedure, fdwvalidator::regprocedure, md5(fdwoptions::text)) FROM pg_foreign_data_wrapper
  UNION ALL SELECT 'foreign server', 'pg_foreign_server', s.oid, quote_ident(s.srvname), s.srvowner, s.srvacl, concat_ws(', ', w.fdwname, s.srvtype, s.srvversion, md5(s.srvoptions::text))
    FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
  UNION ALL SELECT 'user mapping', 'pg_user_mapping', umid, format('for %%I server %%I', usename, srvname), NULL, NULL, NULL FROM pg_user_mappings
  UNION ALL SELECT 'publication', 'pg_publication', p.oid, quote_ident(p.pubname), p.pubowner, NULL,
      concat_ws(', ', p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, to_jsonb(p) ->> 'pubgencols',
        CASE WHEN NOT p.puballtables THEN (SELECT string_agg((to_jsonb(t) - 'pubname')::text, ', ' ORDER BY t.schemaname, t.tablename) FROM pg_publication_tables t WHERE t.pubname = p.pubname) END)
    FROM pg_publication p
  UNION ALL SELECT 'subscription', 'pg_subscription', s.oid, quote_ident(s.subname), s.subowner, NULL, concat_ws(', ', s.subenabled, s.subslotname, s.subsynccommit, s.subpublications::text)
    FROM pg_subscription s WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_ON_TABLES: LiteralString = """
  UNION ALL SELECT 'special NOT NULL constraint', 'pg_constraint', o.oid, format('%%I.%%I.%%I', n.nspname, c.relname, o.conname), NULL, NULL, pg_get_constraintdef(o.oid)
    FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY(%(schemas)s) AND o.contype = 'n' AND c.relkind IN ('r', 'p') AND (NOT o.convalidated OR o.connoinherit)
  UNION ALL SELECT 'foreign key that is switched off', 'pg_constraint', o.oid, format('%%I.%%I.%%I', n.nspname, c.relname, o.conname), NULL, NULL, string_agg(concat_ws(' ', tn.relname, g.tgtype, g.tgenabled), ', ' ORDER BY tn.relname, g.tgtype)
    FROM pg_trigger g JOIN pg_constraint o ON o.oid = g.tgconstraint JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class tn ON tn.oid = g.tgrelid
    WHERE n.nspname = ANY(%(schemas)s) AND g.tgisinternal AND o.contype = 'f' AND g.tgenabled <> 'O' GROUP BY o.oid, n.nspname, c.relname
  UNION ALL SELECT 'trigger of a partition in a state of its own', 'pg_trigger', g.oid, format('%%I.%%I.%%I', n.nspname, c.relname, g.tgname), NULL, NULL, g.tgenabled::text
    FROM pg_trigger g JOIN pg_trigger u ON u.oid = g.tgparentid JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY(%(schemas)s) AND NOT g.tgisinternal AND g.tgenabled <> u.tgenabled
  UNION ALL SELECT 'place of storage', 'pg_class', 0, format('%%I.%%I', n.nspname, c.relname), NULL, NULL, s.spcname::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE n.nspname = ANY(%(schemas)s)
  UNION ALL SELECT 'inheritance across the aligned schemas', 'pg_class', 0, format('%%I.%%I from %%I.%%I', n.nspname, c.relname, pn.nspname, p.relname), NULL, NULL, ''
    FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f') AND (n.nspname = ANY(%(schemas)s)) <> (pn.nspname = ANY(%(schemas)s))
  UNION ALL SELECT 'dependency on an extension', 'pg_extension', 0, format('%%s on %%I', pg_describe_object(d.classid, d.objid, d.objsubid), x.extname), NULL, NULL, ''
    FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid WHERE d.deptype = 'x' AND d.refclassid = 'pg_extension'::regclass
"""

# On tables that are not aligned: what is a user's, and says what happens to rows there or calls a function of the user's.
_OUTSIDE: LiteralString = f"""
  UNION ALL SELECT 'trigger on a table outside the aligned schemas', 'pg_trigger', g.oid, format('%%I.%%I.%%I', n.nspname, c.relname, g.tgname), NULL, NULL,
      concat_ws(' ', nullif(g.tgenabled::text, 'O'), pg_get_triggerdef(g.oid), CASE WHEN pn.nspname <> ALL(%(schemas)s) THEN pg_get_functiondef(p.oid) END)
    FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = n.nspowner
      JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_namespace pn ON pn.oid = p.pronamespace
    WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND n.nspname <> ALL(%(schemas)s) AND n.nspname <> 'pg_catalog'
      AND (pn.nspname = ANY(%(schemas)s) OR {MANAGED} AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid IN (p.proowner, pn.nspowner) AND {MANAGED}))
      AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
  UNION ALL SELECT 'policy on a table outside the aligned schemas', 'pg_policy', p.oid, format('%%I.%%I.%%I', n.nspname, c.relname, p.polname), NULL, NULL,
      concat_ws('; ', p.polcmd, p.polpermissive, (SELECT string_agg(CASE WHEN u = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(u)::text END, ', ' ORDER BY 1) FROM unnest(p.polroles) u),
        pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = n.nspowner
    WHERE n.nspname <> ALL(%(schemas)s) AND {MANAGED} AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
  UNION ALL SELECT 'schema outside the aligned ones', 'pg_namespace', n.oid, quote_ident(n.nspname), NULL, NULL, NULL
    FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner WHERE n.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp)' AND n.nspname <> ALL(%(schemas)s) AND n.nspname <> 'archon_quarantine' AND NOT {MANAGED}
  UNION ALL SELECT 'security label', 'pg_class', 0, format('%%s on %%s', l.provider, pg_describe_object(l.classoid, l.objoid, l.objsubid)), NULL, NULL, md5(l.label) FROM pg_seclabel l
  UNION ALL SELECT 'large objects', 'pg_class', 0, 'in the database', NULL, NULL, NULL FROM (SELECT FROM pg_largeobject_metadata LIMIT 1) one
  UNION ALL SELECT 'setting of the database', 'pg_class', 0, concat_ws(' for ', split_part(one, '=', 1), pg_get_userbyid(nullif(s.setrole, 0))), NULL, NULL, md5(one)
    FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) one WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
  UNION ALL SELECT 'privileges withheld from the owner', 'pg_class', 0, o.name, NULL, NULL, string_agg(d.privilege_type, ', ' ORDER BY d.privilege_type)
    FROM (
      SELECT format('%%I.%%I', n.nspname, c.relname) AS name, c.relowner AS owner, c.relacl AS acl, CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END AS type
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY(%(schemas)s) AND c.relacl IS NOT NULL AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
      UNION ALL SELECT format('%%I.%%I(%%s)', n.nspname, p.proname, oidvectortypes(p.proargtypes)), p.proowner, p.proacl, 'f'
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = ANY(%(schemas)s) AND p.proacl IS NOT NULL
      UNION ALL SELECT format('%%I.%%I', n.nspname, t.typname), t.typowner, t.typacl, 'T'
        FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = ANY(%(schemas)s) AND t.typacl IS NOT NULL
      UNION ALL SELECT quote_ident(n.nspname), n.nspowner, n.nspacl, 'n' FROM pg_namespace n WHERE n.nspname = ANY(%(schemas)s) AND n.nspacl IS NOT NULL
    ) o CROSS JOIN LATERAL aclexplode(acldefault(o.type, o.owner)) d
    WHERE EXISTS (SELECT FROM unnest(acldefault(o.type, o.owner)) whole WHERE NOT o.acl @> whole) -- which is soon told, and rare
      AND d.grantee = o.owner AND d.privilege_type <> 'MAINTAIN' AND NOT EXISTS (SELECT FROM aclexplode(o.acl) x WHERE x.grantee = o.owner AND x.privilege_type = d.privilege_type) GROUP BY o.name
  UNION ALL SELECT 'comment on an extension', 'pg_class', 0, quote_ident(x.extname), NULL, NULL, md5(d.description)
    FROM pg_extension x JOIN pg_description d ON d.classoid = 'pg_extension'::regclass AND d.objoid = x.oid
"""

UNMODELLED: LiteralString = (
    """
SELECT f.kind, f.class::oid::bigint AS class, f.oid::bigint AS oid, f.name, f.definition,
       concat_ws('; ', obj_description(f.oid, f.class::text::name), 'owner ' || nullif(pg_get_userbyid(f.owner), current_user),
         (SELECT string_agg(concat_ws(' ', CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END, x.privilege_type, nullif(x.is_grantable, false)), ', ' ORDER BY x.grantee::regrole::text, x.privilege_type)
          FROM aclexplode(f.acl) x WHERE x.grantee <> f.owner)) AS attached
FROM ("""
    + _ROUTINES
    + _TYPES
    + _FOREIGN
    + _ON_TABLES
    + _OUTSIDE
    + """) f WHERE NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = f.class AND e.objid = f.oid AND e.deptype IN ('e', 'i'))
ORDER BY f.kind, f.name
"""
)
