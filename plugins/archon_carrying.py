# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run's files carried between the controller and PROD's host, by the module archon_spool as the user the tasks run as there."""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from archon_align import spool
from archon_align.context import CHECK_SUFFIX, RUN_ID
from archon_align.errors import AlignError
from archon_align.spool_steps import PIECE

ROOT = "archon_spool_dir"
DEFAULT_ROOT = "~/.archon-align"
POINTS = "restore-points"
# Small files of the controller that a module reads: they go along. (Token and CA files are the host's own.)
GIVEN = ("queries_file", "plan")
# Vectors in files of their own are large; only what goes on writing them needs them.
# How often, and with how many seconds between, a module that outlived its playbook is given the time to end. Its sessions in the
# databases are ended by then.
ATTEMPTS, PAUSE = 60, 1.0
OF_VECTORS = ("archon_embeddings", "archon_search", "archon_schema", "archon_reupload")


class Host:
    """The host of one action's task, as archon_spool sees it."""

    def __init__(self, action: Any, run_id: str, task_vars: dict[str, Any]) -> None:
        self._action, self._run_id, self._vars = action, run_id, task_vars
        root = task_vars.get(ROOT) or DEFAULT_ROOT
        self._root = action._templar.template(root)

    def do(self, step: str, **arguments: Any) -> dict[str, Any]:
        """One step there. Raises AnsibleActionFail; an unreachable host is Ansible's own exception."""
        given = {"step": step, "root": self._root, "run_id": self._run_id, **arguments}
        result: dict[str, Any] = self._action._execute_module(
            module_name="archon_spool", module_args=given, task_vars=self._vars
        )
        if result.get("failed"):
            raise AnsibleActionFail(f"The run's files could not be carried ({step}): {result.get('msg')}")
        return result

    def send(self, files: Callable[[], dict[str, Path]], prod: str, artifacts: Path) -> str:
        """Put the files into the run's folder there; its path.

        What an earlier module of this run has left there, since it could not be brought, is brought first: a module builds on it.
        """
        sent = self._send(files(), prod)
        if sent.get("waiting"):
            self.bring(artifacts)
            sent = self._send(files(), prod)
        if sent.get("waiting"):
            raise self._busy("files that another task has put there")
        return str(sent["folder"])

    def _send(self, files: dict[str, Path], prod: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="archon-align-") as scratch:
            archive = Path(scratch, "sent.tar")
            spool.pack(archive, files)
            size, offset = archive.stat().st_size, 0
            with archive.open("rb") as stream:
                while True:
                    data = base64.b64encode(stream.read(PIECE)).decode()
                    if offset + PIECE >= size:
                        return self.do("open", offset=offset, data=data, prod=prod)
                    sent = self.do("put", offset=offset, data=data)
                    if sent["waiting"]:
                        return sent
                    offset += PIECE

    def bring(self, folder: Path) -> None:
        """Bring what was written there into the run's folder here, and only then remove it there."""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE)
            if self._take(folder) and not self.do("drop")["busy"]:
                return
        raise self._busy("a module that is still at work there")

    def _take(self, folder: Path) -> bool:
        """Whether all that was written there is in the run's folder now."""
        with tempfile.TemporaryDirectory(prefix=".bringing-", dir=folder) as scratch:
            archive, offset = Path(scratch, "brought.tar"), 0
            with archive.open("wb") as stream:
                while True:
                    piece = self.do("take", offset=offset)
                    if piece["busy"]:
                        return False
                    offset += stream.write(base64.b64decode(piece["data"]))
                    if offset >= piece["size"]:
                        break
            below = Path(scratch, "files")
            below.mkdir(mode=0o700)
            spool.unpack(archive, below)
            # Only this run's files; what was lent of other runs, or given, stays as the controller has it.
            own = below / self._run_id
            spool.pack(archive, {name: own / name for name in spool.files_below(own)})
            spool.unpack(archive, folder)
        return True

    def _busy(self, found: str) -> AlignError:
        return AlignError(
            "A run's files cannot be brought in from PROD's host.",
            object_name=f"{self._root}/{self._run_id}.spool on the host",
            expected="a folder in which nothing is at work",
            found=found,
            remedy="End that process on the host, then start the run again; nothing was removed there.",
            code="spool_busy",
        )


def _to_send(name: str, run_id: str, artifacts: Path) -> dict[str, Path]:
    folders = [artifacts]
    if name == "archon_templates":
        # Which rows earlier runs have written is told by their restore points.
        folders += [one for one in artifacts.parent.iterdir() if RUN_ID.fullmatch(one.name) and one.name != run_id]
    files = {}
    for folder in folders:
        for part in (POINTS, "reupload") if folder == artifacts else (POINTS,):
            for found in spool.files_below(folder / part):
                if found.endswith(".jsonl") or (folder == artifacts and name in OF_VECTORS):
                    files[f"{folder.name}/{part}/{found}"] = folder / part / found
    events = artifacts / "events.jsonl"
    return files | ({f"{run_id}/events.jsonl": events} if name == "archon_templates" and events.exists() else {})


def _told_here(value: Any, there: str, here: str) -> Any:
    """A result that names the controller's folder instead of the host's."""
    if isinstance(value, str):
        return value.replace(there, here)
    if isinstance(value, list):
        return [_told_here(one, there, here) for one in value]
    if isinstance(value, dict):
        return {key: _told_here(one, there, here) for key, one in value.items()}
    return value


def run(action: Any, name: str, task_vars: dict[str, Any], work: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Run the module with a folder on its host; what it wrote there is in the run's folder afterwards, also when it failed."""
    arguments = dict(action._task.args)
    artifacts, run_id = Path(arguments["artifacts_dir"]), arguments["run_id"]
    host = Host(action, run_id, task_vars)
    given = {}
    for option in GIVEN:
        if arguments.get(option):
            path = Path(arguments[option]).expanduser()
            if not path.is_file():
                raise AnsibleActionFail(f"{name}: {option} names {path}, which is no file on the controller.")
            given[f"given/{option}"] = path
    try:
        folder = host.send(
            lambda: _to_send(name, run_id, artifacts) | given, task_vars["inventory_hostname"], artifacts
        )
        there = f"{folder}/{run_id}"
        action._task.args = arguments | {
            "artifacts_dir": there,
            **{option: f"{folder}/given/{option}" for option in GIVEN if arguments.get(option)},
        }
        try:
            result = dict(work(None, task_vars))
        finally:
            action._task.args = arguments
        if not result.get("unreachable"):
            result |= _brought(host, artifacts, result)
    except AlignError as error:
        raise AnsibleActionFail(str(error)) from error
    told: dict[str, Any] = _told_here(result, there, str(artifacts))
    for option in GIVEN:
        if arguments.get(option):
            told = _told_here(told, f"{folder}/given/{option}", str(arguments[option]))
    return told


def _brought(host: Host, artifacts: Path, result: dict[str, Any]) -> dict[str, Any]:
    """What becomes of a module's result when its files cannot be brought: a failure that does not hide the module's own."""
    try:
        host.bring(artifacts)
    except (AlignError, AnsibleActionFail) as error:
        return {
            "failed": True,
            "msg": f"{result['msg']} {error}" if result.get("failed") and result.get("msg") else str(error),
        }
    return {}


def collect(action: Any, task_vars: dict[str, Any]) -> dict[str, Any]:
    """Bring in what dead runs of this controller have left on the host."""
    arguments = action._task.args
    own, prod, root = arguments["run_id"], arguments["prod"], Path(arguments["artifacts_root"]).expanduser()
    collected = []
    for run_id, theirs in Host(action, own, task_vars).do("list")["runs"].items():
        if run_id == own or not (root / run_id).is_dir():
            continue  # another controller's run is that one's to bring in
        # Who has PROD's lock knows that no other run changes it; a check knows of an end only where a keeper has noted it.
        locked = not own.endswith(CHECK_SUFFIX) and not run_id.endswith(CHECK_SUFFIX) and theirs == prod
        if locked or _has_ended(root / run_id):
            try:
                Host(action, run_id, task_vars).bring(root / run_id)
            except AlignError as error:
                raise AnsibleActionFail(str(error)) from error
            collected.append(run_id)
    return {"changed": False, "collected": collected}


def _has_ended(folder: Path) -> bool:
    try:
        lines = (folder / "events.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        try:
            if json.loads(line).get("kind") == "run_ended":
                return True
        except (ValueError, AttributeError):
            continue
    return False
