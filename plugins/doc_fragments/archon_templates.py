# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was decided about templates (TEMPLATE_OPTIONS in archon_align.ansible_edge)."""


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  templates_conflicts:
    description:
      - "What becomes of an object that differs from DEV's and was edited in PROD, by C(table: name), its name, or C(*) for all that
        are not named: V(keep_prod), also where nothing is said, or V(take_dev)."
      - Edited is what was changed after it was made (C(updated_at) later than C(created_at)) by anybody but a run of archon-align
        whose restore points are in this artifacts folder.
    type: dict
    default: {}
  templates_words:
    description: Words of DEV's environment and what stands for them in PROD, like C(_archon-dev) and C(_archon-prod).
    type: dict
    default: {}
"""
