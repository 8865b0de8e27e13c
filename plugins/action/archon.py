# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The action behind every module archon_*: on the controller itself it is run from the project's folder, elsewhere it is shipped.

To ship a module, Ansible packs the whole core anew for each task, and the Python at the other end compiles it anew, which takes
longer than most of the modules run. Where the other end is this very Python on this machine, the
files are already there, compiled.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.executor.module_common import _BuiltModule
from ansible.module_utils.common.json import Direction, get_module_encoder
from ansible.plugins.action.normal import ActionModule as NormalAction

CORE = Path(__file__).resolve().parents[2] / "module_utils"
PROFILE = "legacy"
# What the AnsiballZ wrapper does once it has unpacked a module. The arguments stay off the command line, as they do there.
_PROGRAM = """\
import ansible.module_utils, ansible.modules, sys
sys.path[:] = [entry for entry in sys.path if entry]
ansible.module_utils.__path__.append({core!r})
ansible.modules.__path__.append({library!r})
from ansible.module_utils._internal._ansiballz import _loader
_loader.run_module(json_params={params!r}, profile={profile!r}, module_fqn={name!r}, modlib_path={library!r}, extensions={{}})
"""


class ActionModule(NormalAction):  # type: ignore[misc]  # ansible-core has no type information
    """Ansible's own action, but for how a module gets to where it runs. Rests on internals of the ansible-core that is pinned."""

    def _configure_module(
        self, module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any]
    ) -> tuple[_BuiltModule, str]:
        path = self._shared_loader_obj.module_loader.find_plugin(module_name)
        if path is None or not self._is_here(task_vars):
            return super()._configure_module(module_name, module_args, task_vars)
        encoder = get_module_encoder(PROFILE, Direction.CONTROLLER_TO_MODULE)
        program = _PROGRAM.format(
            core=str(CORE),
            library=str(Path(path).parent),
            params=json.dumps({"ANSIBLE_MODULE_ARGS": module_args}, cls=encoder).encode(),
            profile=PROFILE,
            name=f"ansible.modules.{Path(path).stem}",
        )
        built = _BuiltModule(
            b_module_data=program.encode(),
            module_style="new",
            shebang=f"#!{sys.executable}",
            serialization_profile=PROFILE,
        )
        return built, path

    def _is_here(self, task_vars: dict[str, Any]) -> bool:
        """Whether the task runs on this machine, as this user, by this interpreter, and nothing else is asked for."""
        host = self._task.delegate_to
        variables = task_vars["ansible_delegated_vars"][host] if host else task_vars
        interpreter = self._templar.template(variables.get("ansible_python_interpreter"))
        return (
            self._connection.transport == "local"
            and self._connection.become is None
            and not self._task.async_val
            and not constants.DEFAULT_KEEP_REMOTE_FILES
            and self._is_pipelining_enabled("new")
            and interpreter is not None
            and Path(interpreter) == Path(sys.executable)
        )
