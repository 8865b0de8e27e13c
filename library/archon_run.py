#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Start a run: run id, artifacts folder, keeper."""

from __future__ import annotations

DOCUMENTATION = r"""
module: archon_run
short_description: Start a run of archon-align on one PROD database
description:
  - Makes the run's id and its artifacts folder, and starts the run's keeper, a small detached process on the controller.
  - The keeper holds PROD's run lock (an advisory lock) for as long as the playbook's process lives, writes what happens
    to C(events.jsonl), and when the playbook has ended or was killed ends the run's leftover sessions and releases the lock.
  - Must run on the controller (C(delegate_to=localhost), connection C(local)), by the interpreter of ansible-playbook.
options:
  prod_dsn:
    description: How to connect to PROD, as a URI or libpq key=value pairs. Handed to the keeper over a pipe only.
    type: str
    required: true
  artifacts_root:
    description: The folder below which the run's artifacts folder (mode 0700) is made. Created when missing.
    type: path
    required: true
  core_path:
    description: The project's C(module_utils) folder, from which the keeper is run after this module has ended.
    type: path
    required: true
  protected_tables:
    description: Tables protected besides the four that always are; a bare name means the first schema.
    type: list
    elements: str
    default: []
  connect_timeout:
    description: Seconds to wait for a connection.
    type: float
    default: 10.0
  controller_pid:
    description: The process whose end is the run's end. By default the ansible-playbook process that runs this module.
    type: int
attributes:
  check_mode:
    support: full
    description: A check gets an id that ends in C(-check). Its keeper takes no lock and writes nothing to the database.
  diff_mode:
    support: none
    description: Nothing of a database is changed.
  idempotent:
    support: none
    description: Each call starts a run of its own; while one is active, a second one on the same PROD is refused.
author: archon-align contributors
"""

EXAMPLES = r"""
- name: Start the run
  archon_run:
    prod_dsn: "{{ archon_prod_dsn }}"
    artifacts_root: "{{ playbook_dir }}/artifacts"
    core_path: "{{ playbook_dir }}/module_utils"
  delegate_to: localhost
  register: preflight_run
"""

RETURN = r"""
run_id:
  description: The run's id, C(YYYYMMDD-HHMMSS-xxxxxx) in UTC, with the suffix C(-check) in check mode.
  returned: success
  type: str
  sample: 20260131-094500-3f9a1c
artifacts_dir:
  description: The run's artifacts folder.
  returned: success
  type: str
  sample: /srv/archon-align/artifacts/20260131-094500-3f9a1c
check:
  description: Whether this is a run in check mode.
  returned: success
  type: bool
  sample: false
started_at:
  description: When the run started, UTC.
  returned: success
  type: str
  sample: "2026-01-31T09:45:00Z"
keeper_pid:
  description: The keeper's process id on the controller.
  returned: success
  type: int
  sample: 41234
findings:
  description: What a person should know, for instance the remains of a dead run that were found and ended.
  returned: success
  type: list
  elements: dict
  sample:
    - code: remains_of_dead_run
      severity: warning
      object: run 20260131-090000-aa10bc
      message: Run 20260131-090000-aa10bc is dead but had left 1 session(s) open on PROD (schema); they were ended.
      remedy: "Nothing to do: this run continues from what the databases hold."
error:
  description: The failure in parts (code, what, object, expected, found, remedy).
  returned: failure
  type: dict
  sample:
    code: run_active
    what: Another run is active on PROD.
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.keeper import start
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import finish, require_libraries


def main():
    module = AnsibleModule(
        argument_spec={
            "prod_dsn": {"type": "str", "required": True, "no_log": True},
            "artifacts_root": {"type": "path", "required": True},
            "core_path": {"type": "path", "required": True},
            "protected_tables": {"type": "list", "elements": "str", "default": []},
            "connect_timeout": {"type": "float", "default": 10.0},
            "controller_pid": {"type": "int"},
        },
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)
    options = module.params

    def work():
        return start.start(
            start.StartOptions(
                prod_dsn=options["prod_dsn"],
                artifacts_root=Path(options["artifacts_root"]),
                core_path=Path(options["core_path"]),
                protected_tables=options["protected_tables"],
                connect_timeout=options["connect_timeout"],
                controller_pid=options["controller_pid"],
                check=module.check_mode,
            )
        ).as_result()

    finish(module, work)


if __name__ == "__main__":
    main()
