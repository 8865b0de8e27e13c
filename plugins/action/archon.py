# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The action behind every module archon_*: on the controller itself it is run from the project's folder, elsewhere it is shipped.

To ship a module, Ansible packs the whole core anew for each task, and the Python at the other end compiles it anew, which takes
longer than most of the modules run. Where the other end is this very Python on this machine, the files are already there, compiled,
and where Linux can fork, the core is even loaded (plugins/archon_forking.py).

Where PROD's host is another machine (docs/hosts.md), what belongs to the controller runs on the controller all the same, and a
module on the host gets a folder there instead of the run's, whose files are carried to and fro (plugins/archon_carrying.py).
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.executor.module_common import _BuiltModule
from ansible.module_utils.common.json import Direction, get_module_encoder
from ansible.plugins.action.normal import ActionModule as NormalAction

CORE = Path(__file__).resolve().parents[2] / "module_utils"
PROFILE = "legacy"
# A backup on the database's own host is none, keys do not leave the controller, and users come from outside.
OF_THE_CONTROLLER = {
    f"archon_{name}"
    for name in ("backup", "functional", "preflight", "report", "restore", "rollback", "run", "services")
}
# What the AnsiballZ wrapper does once it has unpacked a module. The arguments stay off the command line, as they do there.
_PROGRAM = """\
import ansible.module_utils, ansible.modules, sys
sys.path[:] = [entry for entry in sys.path if entry]
ansible.module_utils.__path__.append({core!r})
ansible.modules.__path__.append({library!r})
from ansible.module_utils._internal._ansiballz import _loader
_loader.run_module(json_params={params!r}, profile={profile!r}, module_fqn={name!r}, modlib_path={library!r}, extensions={{}})
"""


@dataclass(frozen=True)
class _Here:
    """A module that runs on this machine: as what Ansible's wrapper would make of it, and as the program that does the same."""

    name: str
    params: bytes
    library: Path
    program: bytes


class ActionModule(NormalAction):  # type: ignore[misc]  # ansible-core has no type information
    """Ansible's own action, but for how a module gets to where it runs. Rests on internals of the ansible-core that is pinned."""

    _module: _Here | None = None

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = dict(task_vars or {})
        name, arguments = self._task.action.rpartition(".")[2], self._task.args
        if not self._is_elsewhere():
            if name == "archon_spool":
                return {"changed": False, "collected": []}
            return dict(super().run(tmp, variables))
        if name in OF_THE_CONTROLLER:
            return dict(super().run(tmp, self._come_home(variables)))
        if name == "archon_spool":
            return dict(_neighbour("archon_carrying").collect(self, variables))
        # A worker's folder on its host is its own (roles/embeddings/tasks/worker.yml).
        if not arguments.get("artifacts_dir") or arguments.get("worker"):
            return dict(super().run(tmp, variables))
        return dict(_neighbour("archon_carrying").run(self, name, variables, super().run))

    def _is_elsewhere(self) -> bool:
        """Whether the task runs on another machine, or as another user, who cannot write to the run's folder."""
        return self._connection.transport != "local" or self._connection.become is not None

    def _come_home(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Have the task run on this machine, as this user; the variables with which it does."""
        self._connection = self._shared_loader_obj.connection_loader.get("ansible.builtin.local", self._play_context)
        self._connection.set_options(var_options={})
        own = {"ansible_python_interpreter": sys.executable}
        host = self._task.delegate_to
        if host:
            delegated = task_vars["ansible_delegated_vars"]
            return task_vars | {"ansible_delegated_vars": delegated | {host: delegated[host] | own}}
        return task_vars | own

    def _configure_module(
        self, module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any]
    ) -> tuple[_BuiltModule, str]:
        path = self._shared_loader_obj.module_loader.find_plugin(module_name)
        if path is None or not self._is_here(task_vars):
            return super()._configure_module(module_name, module_args, task_vars)
        encoder = get_module_encoder(PROFILE, Direction.CONTROLLER_TO_MODULE)
        name, library = f"ansible.modules.{Path(path).stem}", Path(path).parent
        params = json.dumps({"ANSIBLE_MODULE_ARGS": module_args}, cls=encoder).encode()
        program = _PROGRAM.format(
            core=str(CORE), library=str(library), params=params, profile=PROFILE, name=name
        ).encode()
        self._module = _Here(name, params, library, program)
        built = _BuiltModule(
            b_module_data=program,
            module_style="new",
            shebang=f"#!{sys.executable}",
            serialization_profile=PROFILE,
        )
        return built, path

    def _low_level_execute_command(
        self, cmd: str, sudoable: bool = True, in_data: bytes | None = None, **options: Any
    ) -> dict[str, Any]:
        here = self._module
        # An environment that the task asks for is set by a shell, which only a new process can have.
        if here is None or in_data is not here.program or sys.platform != "linux" or self._compute_environment_string():
            return dict(super()._low_level_execute_command(cmd, sudoable=sudoable, in_data=in_data, **options))
        forking = _neighbour("archon_forking")
        forking.make_known(CORE, here.library)
        code, written, complained = forking.run(here.name, here.params, PROFILE, here.library)
        output, errors = written.decode(errors="replace"), complained.decode(errors="replace")
        return {
            "rc": code,
            "stdout": output,
            "stdout_lines": output.splitlines(),
            "stderr": errors,
            "stderr_lines": errors.splitlines(),
        }

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


def _neighbour(name: str) -> Any:
    """A module beside the plugins: loaded only where it is needed."""
    for folder in (CORE, CORE.parent / "plugins"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return importlib.import_module(name)
