#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The module archon_report: writes report.json and report.md of a run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: archon_report
short_description: Write the report of a run
description:
  - Assembles C(report.json) and C(report.md) from the results of a run's phases and writes them to the run's artifacts folder.
  - Touches no database. Never reports C(changed), because artifacts do not count, and writes in check mode too.
  - The callback plugin of the same name writes the report of a run that failed before this task was reached.
options:
  run_id:
    description: The run's id, as M(archon_run) returned it.
    type: str
    required: true
  artifacts_dir:
    description: The run's artifacts folder.
    type: path
    required: true
  started_at:
    description: When the run began, ISO 8601 in UTC. Empty takes the time that is in the run id, to the second.
    type: str
    default: ""
  results:
    description: The registered results of the phases in the order in which they ran. Results of skipped tasks are ignored.
    type: list
    elements: dict
    default: []
attributes:
  check_mode:
    description: Can run in check mode and writes the report there too.
    support: full
  diff_mode:
    description: There is nothing to compare, as each run has a report of its own.
    support: none
  idempotent:
    description: The same results give the same report, save for the time at which it was written.
    support: full
"""

EXAMPLES = r"""
- name: Write the report of a run in which only the schema phase ran
  archon_report:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    results: "{{ [schema_result] }}"
"""

RETURN = r"""
run_id:
  description: The run's id.
  returned: success
  type: str
  sample: 20260101-120000-abcdef
artifacts_dir:
  description: The run's artifacts folder.
  returned: success
  type: str
  sample: /srv/archon-align/artifacts/20260101-120000-abcdef
report:
  description: Path of report.json, whose keys docs/report.md describes.
  returned: success
  type: str
  sample: /srv/archon-align/artifacts/20260101-120000-abcdef/report.json
result:
  description: The run's result. One of aligned, changed, drift, decision_needed, resumable, rolled_back, failed.
  returned: success
  type: str
  sample: changed
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.context import Run
    from ansible.module_utils.archon_align.report import build, now, snapshot, started_at, write
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error

from ansible.module_utils.archon_align.ansible_edge import finish, require_libraries


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "run_id": {"type": "str", "required": True},
            "artifacts_dir": {"type": "path", "required": True},
            "started_at": {"type": "str", "default": ""},
            "results": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)
    options = module.params

    def work() -> dict[str, object]:
        run = Run(options["run_id"], Path(options["artifacts_dir"]))
        report = build(
            run,
            options["results"],
            options["started_at"] or started_at(run),
            now(),
            before=snapshot(run, "before"),
            after=snapshot(run, "after"),
        )
        return {
            "changed": False,
            "run_id": run.id,
            "artifacts_dir": str(run.artifacts),
            "report": str(write(run, report)),
            "result": report["result"],
        }

    finish(module, work)


if __name__ == "__main__":
    main()
