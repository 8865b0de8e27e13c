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

import base64
import os
import shutil
from pathlib import Path

from ansible.module_utils.archon_align import spool
from ansible.module_utils.archon_align.ansible_edge import finish
from ansible.module_utils.archon_align.context import RUN_ID
from ansible.module_utils.basic import AnsibleModule

PIECE = 4 << 20


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
    root = Path(options["root"]).absolute()
    folder = root / options["run_id"]

    def put():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (0 if options["offset"] else os.O_TRUNC)
        with os.fdopen(os.open(folder / spool.INCOMING, flags, 0o600), "wb") as stream:
            stream.seek(options["offset"])
            stream.write(base64.b64decode(options["data"]))

    def open_():
        put()
        spool.unpack(folder / spool.INCOMING, folder)
        (folder / spool.INCOMING).unlink()
        spool.note(folder, options["prod"])
        return {"folder": str(folder)}

    def take():
        archive = folder / spool.OUTGOING
        if not options["offset"]:
            spool.pack(archive, spool.outcome(folder, spool.files_below(folder)))
        with archive.open("rb") as stream:
            stream.seek(options["offset"])
            data = stream.read(PIECE)
        return {"data": base64.b64encode(data).decode(), "size": archive.stat().st_size}

    def list_():
        found = sorted(one for one in root.iterdir() if RUN_ID.fullmatch(one.name)) if root.is_dir() else []
        return {"runs": {one.name: spool.read_note(one).get("prod", "") for one in found}}

    steps = {"put": put, "open": open_, "take": take, "list": list_, "drop": lambda: shutil.rmtree(folder)}
    finish(module, lambda: {"changed": False} | (steps[options["step"]]() or {}))


if __name__ == "__main__":
    main()
