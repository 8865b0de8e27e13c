# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a person chooses about the schema's alignment (SCHEMA_OPTIONS in archon_align.ansible_edge)."""


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  decisions:
    description:
      - What a machine must not decide, by name, as docs/phases/2-schema.md describes it in the sections C(renames), C(backfills),
        C(conversions), C(label_remaps), C(shapes), C(quarantine) and C(corrections).
      - A decision whose object is nowhere (any more) is told by a finding and does no harm, so that runs can be repeated.
    type: dict
    default: {}
  include:
    description:
      - Align only what one of these patterns names, as C(kind:name), for example C(table:archon_*). Everything, when empty.
      - The kind is one of schema, extension, enum, domain, composite type, range type, sequence, function, aggregate, operator, cast,
        collation, text search dictionary, text search configuration, table, column, constraint, index, extended statistics, view,
        materialised view, trigger, rule, policy, grant, comment, or C(*). A table stands for what lives on it, too.
      - The name may have the wildcards C(*), C(?) and C([...]), and is compared with the qualified name and with the last part of it.
      - What is outside stays as it is, and is counted and named in a finding C(out_of_scope). What is inside but needs something
        that PROD lacks and that is outside is refused (C(needs_out_of_scope)).
    type: list
    elements: str
    default: []
  exclude:
    description: Leave alone what one of these patterns names, even if O(include) names it too.
    type: list
    elements: str
    default: []
  large_table_mb:
    description:
      - Tables of this size and more, in MiB, get their indexes and constraints after COMMIT, in stages during which rows are read
        and written as usual.
    type: int
    default: 1024
"""
