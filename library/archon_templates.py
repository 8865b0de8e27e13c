#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Phase 5: template components and definitions."""

DOCUMENTATION = r"""
module: archon_templates
short_description: Move the objects of the template system from DEV to PROD by name
description:
  - Creates in PROD the rows of C(archon_template_components) and C(archon_template_definitions) that only DEV has, and updates
    those that differ. The key is the name. Surrogate ids and times are not carried; a parent is found by its name, and parents
    come before children.
  - Rows that only PROD has are kept and named. What is equal is not touched.
  - Every value is carried as text and read by the column's own type, so that nothing is altered on the way.
  - Before COMMIT every placeholder of every active template of PROD must name an active component. A template from DEV that
    does not is an error and nothing is changed; a template that only PROD has becomes a finding.
  - Everything happens in one transaction, under the run lock of PROD, from one snapshot of DEV.
  - C(archon_workflow_templates) and C(archon_prompts) (in either shape) are moved alike. An assignment is carried over where PROD
    has exactly one project (and task) of the same title, with the injection template that it needs; others are told.
  - Project components, their dependencies and caches are never moved.
attributes:
  check_mode:
    description: Predicts exactly the statements of a run, also while PROD's tables are missing or in the legacy shape.
    support: full
  diff_mode:
    description: Shows the changed texts of every row, line by line.
    support: full
  idempotent:
    description: Only what differs is written; a second run changes nothing.
    support: full
extends_documentation_fragment: [archon_phase, archon_templates]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: Move templates
  archon_templates:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    templates_conflicts:
      "archon_prompts: document_builder": take_dev
    templates_words:
      _archon-dev: _archon-prod
"""

RETURN = r"""
status:
  description: C(aligned), C(changed), or C(drift) (check mode, something would change).
  returned: always
  type: str
  sample: changed
seconds:
  description: Time taken, in seconds.
  returned: success
  type: float
  sample: 0.141
statements:
  description: The statements in order, the same in both modes.
  returned: success
  type: list
  elements: str
  sample:
    - UPDATE "public"."archon_template_components" SET "instruction_text" = 'Run the tests.' WHERE name = 'group::test_locally'
findings:
  description: What a person should know, each with code, severity, object, message and remedy.
  returned: success
  type: list
  elements: dict
  sample:
    - code: user_task_count
      severity: warning
      object: "public.archon_template_definitions: workflow_hotfix"
      message: The template holds {{USER_TASK}} 0 times instead of once.
      remedy: Correct the template in DEV.
proofs:
  description: One proof per protected table of PROD when PROD was written.
  returned: success
  type: list
  elements: dict
  sample:
    - table: public.archon_tasks
      rows_before: 120
      rows_after: 120
      preserved: true
details:
  description: The phase's part of the report. C(placeholders_checked) counts each placeholder of an active template once.
  returned: success
  type: dict
  sample:
    templates:
      created: 12
      updated: 3
      unchanged: 0
      only_in_prod:
        - group::house_rules
      kept: []
      placeholders_checked: 10
      bodies_checked: 19
      bodies_different: []
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: placeholder_unresolved
    what: A template names a component that nobody has.
    object: "public.archon_template_definitions: workflow_default"
    expected: an active component of exactly the placeholder's name
    found: template workflow_default names {{group::check_jenkins_build}}
    remedy: Add or activate the component in DEV, or correct the template there, and run again; no template was changed.
"""

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.templates import phase
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import (
    PHASE_OPTIONS,
    TEMPLATE_OPTIONS,
    finish,
    require_libraries,
    run_phase,
    template_options,
)


def main():
    module = AnsibleModule(argument_spec={**PHASE_OPTIONS, **TEMPLATE_OPTIONS}, supports_check_mode=True)
    require_libraries(module, MISSING)
    finish(module, lambda: run_phase(module, "templates", lambda context: phase.run(context, template_options(module))))


if __name__ == "__main__":
    main()
