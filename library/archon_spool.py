#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module archon_spool: a run's files on the host on which its modules run."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: archon_spool
short_description: Carry a run's files to and from the host that a module runs on
description:
  - Used by the action of all modules of this project where PROD's host is not the controller itself (docs/hosts.md).
  - As a task it is used with C(step=collect) alone, which brings in what dead runs have left on the host.
options:
  step:
    description: What to do; all but C(collect) are steps of the action.
    type: str
    choices: [collect, list, put, open, take, drop]
    default: collect
  root:
    description: The folder on the host below which each run has a folder of its own.
    type: path
    required: true
  run_id:
    description: The run whose folder it is; for C(collect) the run that asks.
    type: str
    required: true
  artifacts_root:
    description: For C(collect) the folder on the controller in which the artifacts folders of all runs lie.
    type: path
  prod:
    description: The inventory's name of the PROD host.
    type: str
    default: ''
  offset:
    description: Where in the archive a piece begins.
    type: int
    default: 0
  data:
    description: A piece of the archive, Base64.
    type: str
    default: ''
attributes:
  check_mode:
    support: full
    description: A check's files are carried as well; PROD is never touched.
  diff_mode:
    support: none
author:
  - archon-align contributors
"""

EXAMPLES = r"""
- name: Bring in what dead runs have left on PROD's host
  archon_spool:
    run_id: "{{ archon_run_id }}"
    root: "{{ archon_spool_dir }}"
    artifacts_root: "{{ archon_artifacts_root }}"
    prod: "{{ inventory_hostname }}"
"""

RETURN = r"""
collected:
  description: The runs whose files were brought in.
  returned: when step is collect
  type: list
  elements: str
  sample: [20260131-090000-aa10bc]
"""

import os
from pathlib import Path

from ansible.module_utils.archon_align.context import RUN_ID
from ansible.module_utils.archon_align.errors import AlignError
from ansible.module_utils.archon_align.spool_steps import Spool
from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "step": {
                "type": "str",
                "choices": ["collect", "list", "put", "open", "take", "drop"],
                "default": "collect",
            },
            "root": {"type": "path", "required": True},
            "run_id": {"type": "str", "required": True},
            "artifacts_root": {"type": "path"},
            "prod": {"type": "str", "default": ""},
            "offset": {"type": "int", "default": 0},
            "data": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    options = module.params
    if options["step"] == "collect" or not RUN_ID.fullmatch(options["run_id"]):
        module.fail_json(msg="archon_spool needs the action plugin archon and a run's id.")
    os.umask(0o077)
    spool = Spool(Path(options["root"]).absolute(), options["run_id"])
    steps = {
        "put": lambda: spool.put(options["offset"], options["data"]),
        "open": lambda: spool.open(options["offset"], options["data"], options["prod"]),
        "take": lambda: spool.take(options["offset"]),
        "drop": spool.drop,
        "list": spool.runs,
    }
    # Not by `finish`: with it the whole core would be shipped, for each step anew.
    try:
        result = steps[options["step"]]()
    except AlignError as error:
        module.fail_json(msg=str(error), error=error.as_dict())
    except OSError as error:
        module.fail_json(msg=f"The folder that archon_spool_dir names on this host cannot be used: {error}")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
