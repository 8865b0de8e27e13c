"""The kinds of objects that are known by the statements that make them, and by nothing else."""

# ruff: noqa: S608 - constants put together; the only parameter is bound

from __future__ import annotations

from typing import LiteralString

from .model import Key, Kind, Other
from .reading import Class, Reading

# A cast has no schema: it is looked at where one of its types, or its function, is in one that is aligned.
CAST_IS_NEAR: LiteralString = """EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = ANY(%(schemas)s)
      AND (n.oid IN (SELECT typnamespace FROM pg_type WHERE oid IN (c.castsource, c.casttarget)) OR n.oid = (SELECT pronamespace FROM pg_proc WHERE oid = c.castfunc)))"""


def _function(oid: LiteralString) -> LiteralString:
    return "nullif(" + oid + "::oid, 0)::regproc::text"


def _operator(oid: LiteralString) -> LiteralString:
    return (
        "(SELECT format('OPERATOR(%%I.%%s)', x.nspname, o.oprname) FROM pg_operator o"
        " JOIN pg_namespace x ON x.oid = o.oprnamespace WHERE o.oid = " + oid + ")"
    )


# The statement that makes each object, in words that are the same in every version; what pg_dump writes, too.
_AGGREGATES: LiteralString = f"""
  SELECT '{Kind.AGGREGATE}' AS kind, 'pg_proc'::regclass AS class, p.oid, n.nspname AS schema, p.proname AS name, oidvectortypes(p.proargtypes) AS part, p.proowner AS owner, NULL::oid AS relation,
      format('CREATE AGGREGATE %%I.%%I(%%s) (%%s)', n.nspname, p.proname, coalesce(nullif(pg_get_function_identity_arguments(p.oid), ''), '*'), concat_ws(', ',
        'SFUNC = ' || {_function("a.aggtransfn")}, 'STYPE = ' || format_type(a.aggtranstype, NULL), 'SSPACE = ' || nullif(a.aggtransspace, 0), 'INITCOND = ' || quote_literal(a.agginitval),
        'FINALFUNC = ' || {_function("a.aggfinalfn")}, CASE WHEN a.aggfinalextra THEN 'FINALFUNC_EXTRA' END,
        CASE WHEN a.aggfinalfn <> 0 THEN 'FINALFUNC_MODIFY = ' || CASE a.aggfinalmodify WHEN 'r' THEN 'READ_ONLY' WHEN 's' THEN 'SHAREABLE' ELSE 'READ_WRITE' END END,
        'COMBINEFUNC = ' || {_function("a.aggcombinefn")}, 'SERIALFUNC = ' || {_function("a.aggserialfn")}, 'DESERIALFUNC = ' || {_function("a.aggdeserialfn")},
        'MSFUNC = ' || {_function("a.aggmtransfn")}, 'MINVFUNC = ' || {_function("a.aggminvtransfn")}, 'MSTYPE = ' || format_type(nullif(a.aggmtranstype, 0), NULL),
        'MSSPACE = ' || nullif(a.aggmtransspace, 0), 'MINITCOND = ' || quote_literal(a.aggminitval), 'MFINALFUNC = ' || {_function("a.aggmfinalfn")}, CASE WHEN a.aggmfinalextra THEN 'MFINALFUNC_EXTRA' END,
        CASE WHEN a.aggmfinalfn <> 0 THEN 'MFINALFUNC_MODIFY = ' || CASE a.aggmfinalmodify WHEN 'r' THEN 'READ_ONLY' WHEN 's' THEN 'SHAREABLE' ELSE 'READ_WRITE' END END,
        'SORTOP = ' || {_operator("a.aggsortop")}, CASE WHEN a.aggkind = 'h' THEN 'HYPOTHETICAL' END, CASE p.proparallel WHEN 's' THEN 'PARALLEL = SAFE' WHEN 'r' THEN 'PARALLEL = RESTRICTED' END)) AS definition,
      '{{}}'::text[] AS settings, CASE WHEN 'internal'::regtype IN (a.aggtranstype, a.aggmtranstype) THEN 'its state is internal to the server' END AS privileged, NULL AS obstacle,
      '{{}}'::oid[] AS types, '{{}}'::oid[] AS functions
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_aggregate a ON a.aggfnoid = p.oid WHERE n.nspname = ANY(%(schemas)s)
"""

_OPERATORS_AND_CASTS: LiteralString = f"""
  UNION ALL SELECT '{Kind.OPERATOR}', 'pg_operator', o.oid, n.nspname, o.oprname, concat(coalesce(format_type(nullif(o.oprleft, 0), NULL), 'NONE'), ', ', format_type(o.oprright, NULL)), o.oprowner, NULL,
      format('CREATE OPERATOR %%I.%%s (%%s)', n.nspname, o.oprname, concat_ws(', ', 'FUNCTION = ' || {_function("o.oprcode")}, 'LEFTARG = ' || format_type(nullif(o.oprleft, 0), NULL),
        'RIGHTARG = ' || format_type(o.oprright, NULL), 'COMMUTATOR = ' || {_operator("u.oprcom")}, 'NEGATOR = ' || {_operator("u.oprnegate")},
        'RESTRICT = ' || {_function("o.oprrest")}, 'JOIN = ' || {_function("o.oprjoin")}, CASE WHEN o.oprcanhash THEN 'HASHES' END, CASE WHEN o.oprcanmerge THEN 'MERGES' END)),
      '{{}}', NULL, NULL, '{{}}', '{{}}'
    FROM pg_operator o JOIN pg_operator u ON u.oid = o.oid JOIN pg_namespace n ON n.oid = o.oprnamespace WHERE n.nspname = ANY(%(schemas)s) AND o.oprcode <> 0
  UNION ALL SELECT '{Kind.CAST}', 'pg_cast', c.oid, '', format('(%%s AS %%s)', format_type(c.castsource, NULL), format_type(c.casttarget, NULL)), '', NULL, NULL,
      format('CREATE CAST (%%s AS %%s) %%s%%s', format_type(c.castsource, NULL), format_type(c.casttarget, NULL),
        CASE c.castmethod WHEN 'f' THEN 'WITH FUNCTION ' || c.castfunc::regprocedure WHEN 'i' THEN 'WITH INOUT' ELSE 'WITHOUT FUNCTION' END,
        CASE c.castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT' ELSE '' END),
      '{{}}', CASE WHEN c.castmethod = 'b' THEN 'it takes bytes of one type for those of another' END, NULL, '{{}}', '{{}}'
    FROM pg_cast c WHERE c.oid >= 16384 AND {CAST_IS_NEAR}
"""

_TYPES: LiteralString = f"""
  UNION ALL SELECT '{Kind.COLLATION}', 'pg_collation', o.oid, n.nspname, o.collname, '', o.collowner, NULL,
      format('CREATE COLLATION %%I.%%I (%%s)', n.nspname, o.collname, concat_ws(', ', 'provider = ' || CASE o.collprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'default' END,
        CASE WHEN o.collprovider = 'c' THEN format('lc_collate = %%L, lc_ctype = %%L', o.collcollate, o.collctype)
             ELSE format('locale = %%L', coalesce(to_jsonb(o) ->> 'colllocale', to_jsonb(o) ->> 'colliculocale', o.collcollate)) END,
        'rules = ' || quote_literal(to_jsonb(o) ->> 'collicurules'), CASE WHEN NOT o.collisdeterministic THEN 'deterministic = false' END)),
      '{{}}', NULL, NULL, '{{}}', '{{}}'
    FROM pg_collation o JOIN pg_namespace n ON n.oid = o.collnamespace WHERE n.nspname = ANY(%(schemas)s)
  UNION ALL SELECT '{Kind.RANGE}', 'pg_type', t.oid, n.nspname, t.typname, '', t.typowner, NULL,
      format('CREATE TYPE %%I.%%I AS RANGE (%%s)', n.nspname, t.typname, concat_ws(', ', 'SUBTYPE = ' || format_type(g.rngsubtype, NULL),
        CASE WHEN NOT c.opcdefault THEN format('SUBTYPE_OPCLASS = %%I.%%I', cn.nspname, c.opcname) END,
        (SELECT format('COLLATION = %%I.%%I', x.nspname, l.collname) FROM pg_collation l JOIN pg_namespace x ON x.oid = l.collnamespace WHERE l.oid = g.rngcollation AND l.oid <> s.typcollation),
        'CANONICAL = ' || {_function("g.rngcanonical")}, 'SUBTYPE_DIFF = ' || {_function("g.rngsubdiff")}, format('MULTIRANGE_TYPE_NAME = %%I.%%I', mn.nspname, m.typname))),
      '{{}}', NULL, CASE WHEN g.rngcanonical <> 0 THEN 'its canonical function needs the type before it is whole' END, ARRAY[t.typarray, m.oid, m.typarray],
      ARRAY(SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, m.oid) AND d.deptype = 'i')
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_range g ON g.rngtypid = t.oid JOIN pg_opclass c ON c.oid = g.rngsubopc JOIN pg_namespace cn ON cn.oid = c.opcnamespace
      JOIN pg_type s ON s.oid = g.rngsubtype JOIN pg_type m ON m.oid = g.rngmultitypid JOIN pg_namespace mn ON mn.oid = m.typnamespace WHERE n.nspname = ANY(%(schemas)s)
"""

_TEXT_SEARCH: LiteralString = f"""
  UNION ALL SELECT '{Kind.DICTIONARY}', 'pg_ts_dict', o.oid, n.nspname, o.dictname, '', o.dictowner, NULL,
      format('CREATE TEXT SEARCH DICTIONARY %%I.%%I (%%s)', n.nspname, o.dictname, concat_ws(', ', format('TEMPLATE = %%I.%%I', tn.nspname, t.tmplname), o.dictinitoption)), '{{}}', NULL, NULL, '{{}}', '{{}}'
    FROM pg_ts_dict o JOIN pg_namespace n ON n.oid = o.dictnamespace JOIN pg_ts_template t ON t.oid = o.dicttemplate JOIN pg_namespace tn ON tn.oid = t.tmplnamespace WHERE n.nspname = ANY(%(schemas)s)
  UNION ALL SELECT '{Kind.CONFIGURATION}', 'pg_ts_config', o.oid, n.nspname, o.cfgname, '', o.cfgowner, NULL,
      format('CREATE TEXT SEARCH CONFIGURATION %%I.%%I (PARSER = %%I.%%I)', n.nspname, o.cfgname, pn.nspname, r.prsname),
      ARRAY(SELECT format('ALTER TEXT SEARCH CONFIGURATION %%I.%%I ADD MAPPING FOR %%I WITH %%s', n.nspname, o.cfgname, k.alias, string_agg(format('%%I.%%I', dn.nspname, d.dictname), ', ' ORDER BY m.mapseqno))
        FROM pg_ts_config_map m JOIN ts_token_type(o.cfgparser) k ON k.tokid = m.maptokentype JOIN pg_ts_dict d ON d.oid = m.mapdict JOIN pg_namespace dn ON dn.oid = d.dictnamespace
        WHERE m.mapcfg = o.oid GROUP BY k.tokid, k.alias ORDER BY k.tokid), NULL, NULL, '{{}}', '{{}}'
    FROM pg_ts_config o JOIN pg_namespace n ON n.oid = o.cfgnamespace JOIN pg_ts_parser r ON r.oid = o.cfgparser JOIN pg_namespace pn ON pn.oid = r.prsnamespace WHERE n.nspname = ANY(%(schemas)s)
"""

_ON_TABLES: LiteralString = f"""
  UNION ALL SELECT '{Kind.RULE}', 'pg_rewrite', r.oid, n.nspname, c.relname, r.rulename, NULL, c.oid, rtrim(pg_get_ruledef(r.oid), ';'),
      CASE WHEN r.ev_enabled = 'O' THEN '{{}}' ELSE ARRAY[format('ALTER TABLE %%I.%%I %%s RULE %%I', n.nspname, c.relname, CASE r.ev_enabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, r.rulename)] END,
      NULL, NULL, '{{}}', '{{}}'
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY(%(schemas)s) AND r.rulename <> '_RETURN'
  UNION ALL SELECT '{Kind.STATISTICS}', 'pg_statistic_ext', o.oid, n.nspname, o.stxname, '', o.stxowner, o.stxrelid, pg_get_statisticsobjdef(o.oid),
      CASE WHEN coalesce((to_jsonb(o) ->> 'stxstattarget')::int, -1) < 0 THEN '{{}}' ELSE ARRAY[format('ALTER STATISTICS %%I.%%I SET STATISTICS %%s', n.nspname, o.stxname, o.stxstattarget)] END,
      NULL, NULL, '{{}}', '{{}}'
    FROM pg_statistic_ext o JOIN pg_namespace n ON n.oid = o.stxnamespace WHERE n.nspname = ANY(%(schemas)s)
"""

OTHERS: LiteralString = (
    """
SELECT f.kind, f.class::oid::bigint AS class, f.oid::bigint, f.schema::text, f.name::text, f.part::text, pg_get_userbyid(f.owner)::text AS owner, f.relation::bigint, f.definition, f.settings, f.privileged, f.obstacle,
       f.types::bigint[], f.functions::bigint[]
FROM ("""
    + _AGGREGATES
    + _OPERATORS_AND_CASTS
    + _TYPES
    + _TEXT_SEARCH
    + _ON_TABLES
    + """) f WHERE NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = f.class AND e.objid = f.oid AND e.deptype IN ('e', 'i'))
"""
)


def read_others(reading: Reading) -> None:
    """Add them to what was read, once tables and views have been."""
    for row in reading.rows(OTHERS):
        relation = reading.keys.get((Class.CLASS, row["relation"], 0)) if row["relation"] else None
        key = Key(Kind(row["kind"]), row["schema"], row["name"], reading.portable(row["part"]))
        if key.kind is Kind.CAST:
            key = key._replace(name=reading.portable(key.name))
        definition, settings = reading.portable(row["definition"]), tuple(map(reading.portable, row["settings"]))
        value = Other(key, definition, settings, relation, row["privileged"] or "", row["obstacle"] or "")
        reading.add(value, row, row["class"], row["owner"])
        reading.faces |= {(Class.TYPE, oid, 0): key for oid in row["types"]}
        reading.faces |= {(Class.PROC, oid, 0): key for oid in row["functions"]}
