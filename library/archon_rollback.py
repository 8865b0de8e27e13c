#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Undo what runs did, back to a restore point."""

DOCUMENTATION = r"""
module: archon_rollback
short_description: Undo what runs of archon-align did, back to a restore point
description:
  - Undoes what the restore point's phase, the later phases of its run and every later run did on this PROD. That is known
    from their own ledgers, and nothing else is undone.
  - PROD is undone in one transaction under the run lock, then DEV in one of its own. Each is committed only when everything
    is proved undone and every protected table untouched.
  - What users changed or deleted since is neither overwritten nor brought back. It is listed row by row, and undone when
    O(overwrite) names it.
  - Objects that a run made are removed only while they hold nothing that users wrote since.
attributes:
  check_mode:
    description: Plans everything on read-only sessions and shows the statements, which are those of a run.
    support: full
  diff_mode:
    description: Shows the rows and objects that change, and to what.
    support: full
  idempotent:
    description: What is as it was before needs nothing; a second run changes nothing.
    support: full
options:
  restore_point:
    description: Its name, C(<run id>:<phase>), as C(make restore-points) and the reports give it.
    type: str
    required: true
  artifacts_root:
    description: The folder in which the runs' artifacts folders are. By default the one of this run's own.
    type: path
  overwrite:
    description:
      - What is undone though users changed or deleted it since, by the names that the findings C(kept_as_users_left_it) give.
      - V(all) stands for everything. What users wrote there is gone then, but for the verified backup of this run.
    type: list
    elements: str
    default: []
  look_only:
    description: Only see that the restore point is there, can be read, and is of this PROD. Nothing is changed.
    type: bool
    default: false
extends_documentation_fragment: [archon_phase]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: Undo everything from the schema phase of a run on
  archon_rollback:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    restore_point: 20260131-094500-3f9a1c:schema
"""

RETURN = r"""
status:
  description: C(changed), C(aligned) (nothing was left to undo), or C(drift) (check mode, something would be undone).
  returned: always
  type: str
  sample: changed
seconds:
  description: Time taken, in seconds.
  returned: success
  type: float
  sample: 0.431
statements:
  description: The statements, the same in both modes; PROD's first, then DEV's.
  returned: success
  type: list
  elements: str
  sample:
    - DROP TABLE "public"."archon_credentials"
findings:
  description: Each row and object that is left as users left it (C(kept_as_users_left_it)), with why and how to undo it too.
  returned: success
  type: list
  elements: dict
  sample:
    - code: kept_as_users_left_it
      severity: warning
      object: PROD public.archon_settings key=EMBEDDING_MODEL
      message: "public.archon_settings key=EMBEDDING_MODEL is left as it is: changed since the run"
      remedy: Nothing, if users want it so.
proofs:
  description: One proof per protected table of PROD.
  returned: success
  type: list
  elements: dict
  sample:
    - table: public.archon_tasks
      rows_before: 120
      rows_after: 120
      preserved: true
details:
  description:
    - Under the key C(rollback) the C(point), the C(points) that were undone with what they held, the C(statements) by
      database, everything that was C(kept), and under C(lost) what nothing but a backup can bring back.
  returned: success
  type: dict
  sample:
    rollback:
      point: 20260131-094500-3f9a1c:schema
      points:
        - name: 20260131-094500-3f9a1c:schema
          holds: 157 objects
      kept: []
      lost: []
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: restore_point_of_another_database
    what: The restore point is of another PROD.
    object: restore_point 20260131-094500-3f9a1c:schema
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.rollback import phase
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import PHASE_OPTIONS, context_of, finish, require_libraries


def main():
    module = AnsibleModule(
        argument_spec={
            **PHASE_OPTIONS,
            "restore_point": {"type": "str", "required": True},
            "artifacts_root": {"type": "path"},
            "overwrite": {"type": "list", "elements": "str", "default": []},
            "look_only": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)
    given = module.params
    root = Path(given["artifacts_root"]) if given["artifacts_root"] else Path(given["artifacts_dir"]).parent
    options = phase.Options(given["restore_point"], root, tuple(given["overwrite"]))
    work = phase.look if given["look_only"] else phase.run
    finish(module, lambda: work(context_of(module, phase.PHASE), options).as_result())


if __name__ == "__main__":
    main()
