#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Phase 2: PROD's structure in line with DEV's."""

DOCUMENTATION = r"""
module: archon_schema
short_description: Bring PROD's schema into line with DEV's without losing a stored value
description:
  - Reads the catalogues of both databases, compares them by meaning, and makes in PROD what DEV has and PROD lacks or has otherwise,
    in one transaction. Inside it both catalogues are compared again and the protected tables proved; only then is it committed.
  - Drops nothing that only PROD has. It stays, and is named in C(details.schema.only_in_prod).
  - A change of type that is not a proven widening is made only when every stored value survives the way there and back, tried on
    the rows themselves under the lock. Otherwise, and wherever else a person has to decide, the phase fails with
    C(decision_needed), names count and examples, and changes nothing.
  - Decisions that are needed are given by name (O(decisions)); with them the same run aligns.
  - What large tables cannot bear inside a transaction is done after COMMIT, in stages that are proved one by one. Should one fail,
    the phase ends C(resumable); the next run does the rest.
  - Creates the plan's C(archon_credentials) in both databases, closed to C(anon) like C(archon_settings).
  - Vector indexes (ivfflat, hnsw) are left to the embeddings phase.
  - Writes C(plan.sql) and C(plan.json) to the run's folder.
attributes:
  check_mode:
    description: Only reads. Returns exactly the statements that a run would execute.
    support: full
  diff_mode:
    description: The differences before and after, grouped by kind of object.
    support: full
  idempotent:
    description: A second run finds no difference and executes nothing.
    support: full
options:
  credentials:
    description: Whether C(archon_credentials) belongs to the desired structure of both databases.
    type: bool
    default: true
  plan:
    description:
      - A reviewed C(plan.json), as a check (or the assess phase) wrote it. Exactly its statements are executed, or nothing. Relative
        paths begin where C(ansible-playbook) was started.
      - The plan is made anew and must equal the file. It is refused when either database has changed since, when the file was edited,
        and when it was made for other databases or with other options.
    type: path
  stage_timeout:
    description: Seconds a statement may run outside the transaction, where it holds nobody up.
    type: float
    default: 14400.0
extends_documentation_fragment: [archon_phase, archon_schema]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: Bring PROD's schema into line with DEV's
  archon_schema:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    schema_names: [public]
  register: schema_result

- name: Apply exactly the plan that was reviewed
  archon_schema:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    plan: reviewed/plan.json

- name: Rename a column instead of adding one, and leave everything else alone
  archon_schema:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    decisions:
      renames:
        - {kind: column, from: public.archon_prompts.prompt_content, to: prompt}
    include: ["table:archon_prompts"]
"""

RETURN = r"""
status:
  description: >-
    C(aligned) (nothing to do), C(changed), C(drift) (check mode, something would change), C(decision_needed), or C(resumable) (a stage
    failed after COMMIT).
  returned: always
  type: str
  sample: changed
seconds:
  description: Time taken, in seconds.
  returned: always
  type: float
  sample: 0.921
statements:
  description: Every statement in order, the same in both modes, first those for DEV. Queries among them are guards.
  returned: always
  type: list
  elements: str
  sample:
    - ALTER TABLE "public"."archon_tasks" ADD COLUMN "template_metadata" jsonb DEFAULT '{}'::jsonb
findings:
  description: >-
    What a person should know, each with code, severity, object, message and remedy: refusals first, then kinds of objects that are
    not compared (C(unmodelled)) and what only PROD has and writes may stumble over.
  returned: always
  type: list
  elements: dict
  sample:
    - code: unmodelled
      severity: warning
      object: publication supabase_realtime
      message: exists on DEV only; this kind of object is not changed
      remedy: Align it by hand if it matters.
proofs:
  description: One proof per protected table of PROD.
  returned: when PROD was changed
  type: list
  elements: dict
  sample:
    - table: public.archon_tasks
      rows_before: 120
      rows_after: 120
      preserved: true
details:
  description:
    - C(schema) with C(differences_before) and C(differences_after) (counted on a fresh reading before COMMIT), C(only_in_prod)
      (names), C(statements) for PROD with those of C(stages) (names), C(locks) by table, and C(dev_statements) for DEV. Differences
      that the scope leaves out are counted. When a decision is needed, C(statements) are what was planned, and C(dev_statements) what
      was done.
  returned: always
  type: dict
  sample:
    schema:
      differences_before: 133
      differences_after: 0
      only_in_prod: ["column public.archon_projects.client_reference"]
      statements: []
      stages: []
      locks: {public.archon_tasks: {mode: ACCESS EXCLUSIVE, seconds: 0.4}}
      dev_statements: []
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: decision_needed
    what: The schema cannot be aligned without a decision; nothing was changed.
    object: column public.archon_prompts.name
    expected: a change that keeps every stored value
    found: "column public.archon_prompts.name: character varying(200) -> character varying(50): 2 rows (id=3; id=9)"
    remedy: Decide it by hand on PROD (or change DEV), then run again; nothing was changed.
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.schema import phase
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import (
    PHASE_OPTIONS,
    SCHEMA_OPTIONS,
    finish,
    require_libraries,
    run_phase,
    schema_options,
)


def main():
    module = AnsibleModule(
        argument_spec={
            **PHASE_OPTIONS,
            **SCHEMA_OPTIONS,
            "credentials": {"type": "bool", "default": True},
            "plan": {"type": "path"},
            "stage_timeout": {"type": "float", "default": 14400.0},
        },
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)

    def work():
        given = module.params
        options = schema_options(
            module,
            credentials=given["credentials"],
            plan_file=Path(given["plan"]).absolute() if given["plan"] else None,
            stage_timeout=given["stage_timeout"],
        )
        return run_phase(module, phase.PHASE, lambda context: phase.run(context, options))

    finish(module, work)


if __name__ == "__main__":
    main()
