# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The callback archon_preload: the playbook's process has loaded the core before it forks the workers that run modules."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: archon_preload
type: aggregate
short_description: Load the core of archon-align once for all of a playbook's modules
description:
  - Loads archon-align's core, with the libraries that its phases use, before the first task that may need it, so that modules on the
    controller need not do so once for each task.
  - Without it a run does the same and takes about twice the processor's time. On another system than Linux it does nothing.
requirements:
  - enable it as C(callbacks_enabled = archon_preload) in ansible.cfg
"""

PLUGINS = Path(__file__).resolve().parents[1]


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core has no type information
    """Works once, before the first task of a play of ours."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "archon_preload"
    CALLBACK_NEEDS_ENABLED = True

    _done = sys.platform != "linux"

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002 - Ansible passes them by name
        if self._done or not str(task.action).rpartition(".")[2].startswith("archon_"):
            return
        self._done = True
        if str(PLUGINS) not in sys.path:
            sys.path.append(str(PLUGINS))
        importlib.import_module("archon_forking").preload(PLUGINS.parent / "module_utils", PLUGINS.parent / "library")
