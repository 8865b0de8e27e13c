# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The callback archon_report: the report of a failed run, and the summary that ends every run."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: archon_report
type: aggregate
short_description: Write the report of a failed run and print the summary of every run
description:
  - Collects the results of archon-align's phases while a playbook runs on the controller.
  - When the playbook ends without the task that writes the report (a failed phase, an unreachable host, some tags only),
    writes C(report.json) and C(report.md) to the run's artifacts folder. Neither C(rescue) nor C(always) runs for an
    unreachable host, so this cannot be left to tasks.
  - Prints a summary of at most 24 lines for each run as the last thing on the screen.
  - Of a fleet (a play with the variable C(archon_fleet)) it prints one summary of all PRODs, and writes it to C(fleet.json) and
    C(fleet.md), anew after each wave. A PROD's report is written when its wave is over, and its keeper then ended.
  - Does the same when the playbook is interrupted (Ctrl-C, SIGTERM), and says how to continue. A second Ctrl-C within the
    seconds that this takes is ignored.
  - Prints nothing when no run was begun. A run that is killed has no summary; the next run repairs what it left.
requirements:
  - enable it as C(callbacks_enabled = archon_report) in ansible.cfg
  - the project's Python environment, which has the libraries of the core
"""

PREFIX = "archon_"
WORKERS = "embeddings_workers_results"
CORE = Path(__file__).resolve().parents[2] / "module_utils"
# How long an interrupted playbook may take to end before another signal ends it at once.
GRACE_SECONDS = 3.0
# Modules leave within this time (see ansible_edge.finish).
LEAVING_SECONDS = 1.3


@dataclass
class Known:
    """What is known of one run: its phases' results in order, and whether the task that reports has covered them all."""

    run_id: str
    artifacts: Path
    started_at: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)
    reported: bool = False
    keeper: int | None = None


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core has no type information
    """Collects, and tells when the playbook is over."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "archon_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._runs: dict[str, Known] = {}
        self._run_of_host: dict[str, str] = {}
        self._begun: dict[tuple[str, str], float] = {}
        self._at_work: dict[tuple[str, str], Any] = {}
        self._ansibles: Any = None
        self._interrupted: tuple[int, float] | None = None
        self._modules: list[Any] = []
        self._fleet: Any = None

    def v2_playbook_on_start(self, playbook: Any) -> None:  # noqa: ARG002 - Ansible passes it by name
        if self._ansibles is None:
            self._ansibles = signal.getsignal(signal.SIGINT)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._interrupt)
            atexit.register(self._leave)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if play.get_vars().get("archon_fleet"):
            self._guarded(self._begin_fleet, play)
        # Each wave is met as a play of its own, and so is what comes after the last.
        self._guarded(self._close_wave)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._begun[host.get_name(), task._uuid] = time.monotonic()
        self._worked(host.get_name(), begins=True)
        self._at_work[host.get_name(), task._uuid] = task

    def v2_runner_on_ok(self, result: Any) -> None:
        self._ended(result)
        self._guarded(self._mark, result)
        self._guarded(self._collect, result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._ended(result)
        if not ignore_errors and not _is_of_workers(result):
            self._guarded(self._mark_stopped, result)
            self._guarded(self._collect, result, "failed")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._ended(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._ended(result)
        if _is_of_workers(result):
            return
        if not result.task.ignore_unreachable:
            self._guarded(self._mark_stopped, result)
        if not result.task.ignore_unreachable or _is_worker(result):
            self._guarded(self._collect, result, "unreachable")

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002 - Ansible passes it by name
        self._guarded(self._close_wave)
        for known in self._runs.values():
            self._guarded(self._tell, known)
        self._runs = {}
        self._guarded(self._tell_fleet)

    def _begin_fleet(self, play: Any) -> None:
        if self._fleet is not None:
            return
        _load_core()
        from archon_align.report.fleet_log import FleetLog

        # The inventory is restricted to the wave at hand; --limit stays.
        hosts = play.get_variable_manager()._inventory.get_hosts(play.hosts, ignore_restrictions=True)
        self._fleet = FleetLog([host.get_name() for host in hosts], check=bool(context.CLIARGS.get("check")))

    def _mark(self, result: Any) -> None:
        """What playbooks/fleet.yml says of a PROD by its facts."""
        facts = result.result.get("ansible_facts")
        name = result.host.get_name()
        if self._fleet is None or not facts or name not in self._fleet:
            return
        if "archon_fleet_wave" in facts:
            self._fleet.started(name, int(facts["archon_fleet_wave"]))
        if facts.get("archon_fleet_ended"):
            self._fleet.ended_because = str(facts["archon_fleet_ended"])
        if facts.get("archon_fleet_passed"):
            self._fleet.passed(name)

    def _mark_stopped(self, result: Any) -> None:
        if self._fleet is not None and result.host.get_name() in self._fleet:
            self._fleet.stopped(result.host.get_name())

    def _worked(self, name: str, *, begins: bool) -> None:
        if self._fleet is not None and name in self._fleet:
            self._fleet.worked(name, time.monotonic(), begins=begins)

    def _close_wave(self) -> None:
        """Its PRODs are through: their reports are written, what they told is forgotten, and their keepers need not stay."""
        if self._fleet is None:
            return
        for known in self._runs.values():
            self._guarded(self._tell, known)
            if known.keeper is not None:
                self._guarded(_end_keeper, known.keeper)
        self._runs = {}
        self._fleet.close_wave()
        self._fleet.save()

    def _tell_fleet(self) -> None:
        if self._fleet is None:
            return
        from archon_align.report import fleet

        path, summary = self._fleet.save() or (None, self._fleet.summary())
        self._display.display("\n" + fleet.terminal(summary, path or "no file: no run has begun"))

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C or SIGTERM: have Ansible interrupt its workers and end, which for SIGTERM alone it would do without a word."""
        now = time.monotonic()
        if self._interrupted is not None:
            if now - self._interrupted[1] > GRACE_SECONDS:
                _end_by(number)
            return
        self._interrupted = number, now
        self._guarded(self._find_modules)
        try:
            self._ansibles(signal.SIGINT, frame)
        finally:
            # Ansible has put back the default, by which a second Ctrl-C would leave no report.
            signal.signal(signal.SIGINT, self._interrupt)

    def _find_modules(self) -> None:
        """Workers die at once and leave their modules to nobody. The keeper, which has a session of its own, is none of them."""
        import psutil

        below = [process for worker in psutil.Process().children() for process in worker.children(recursive=True)]
        self._modules = [process for process in below if os.getsid(process.pid) != process.pid]

    def _await_modules(self, since: float) -> None:
        """What a module commits in its last moment shall not be missing from the report."""
        while any(_is_alive(module) for module in self._modules) and time.monotonic() - since < LEAVING_SECONDS:
            time.sleep(0.02)

    def _leave(self) -> None:
        """The last thing the playbook's process does. Whoever sent it SIGTERM shall see that it ended by that."""
        if self._interrupted is None:
            return
        self._guarded(self._await_modules, self._interrupted[1])
        # Ctrl-C has also ended what read our output in a pipe: that there is nobody to tell must not keep a report from being written.
        with suppress(OSError):
            for known in self._runs.values():
                self._guarded(self._tell_interrupted, known, *self._interrupted)
            self._guarded(self._tell_fleet)
            sys.stdout.flush()
        # Python puts back the default while it ends; all there is to say has been said, and shall not look like a crash now.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # It would also look through all that Ansible has in memory before it ends, which takes a second.
        gc.freeze()
        if self._interrupted[0] == signal.SIGTERM:
            _end_by(signal.SIGTERM)

    def _ended(self, result: Any) -> None:
        self._at_work.pop((result.host.get_name(), result.task._uuid), None)
        self._worked(result.host.get_name(), begins=False)

    def _guarded(self, work: Any, *args: Any) -> None:
        """Reporting must never break a run, so every error here ends as a warning."""
        try:
            work(*args)
        except Exception as error:  # noqa: BLE001 - see above
            self._display.warning(f"archon_report: {type(error).__name__}: {error}")

    def _collect(self, result: Any, trouble: str = "") -> None:
        found = json.loads(json.dumps(result.result, default=str))
        known = self._run(result.host.get_name(), found)
        if known is None:
            if trouble and self._fleet is not None:
                self._stopped(result, found)
            return
        known.keeper = found.get("keeper_pid", known.keeper)
        known.results += _of_workers(found)
        if "report" in found and "phase" not in found and not trouble:
            known.reported = True
        elif trouble or "phase" in found:
            known.reported = False
            known.results.append(self._phase_result(result, found, trouble))

    def _stopped(self, result: Any, found: dict[str, Any]) -> None:
        """A PROD of a fleet whose run did not begin has no report of its own."""
        from archon_align.report import assemble

        name = result.host.get_name()
        root = ((found.get("invocation") or {}).get("module_args") or {}).get("artifacts_root")
        self._fleet.root = self._fleet.root or (Path(root) if root else None)
        if name in self._fleet and name not in self._run_of_host:
            told = {"phase": result.task.get_name(), "failed": True, **found}
            self._fleet.stopped_by(name, assemble.error_of(told) or {})

    def _run(self, host: str, found: dict[str, Any]) -> Known | None:
        """The run a result belongs to: the one it names, or its host's."""
        run_id, artifacts = found.get("run_id"), found.get("artifacts_dir")
        if isinstance(run_id, str) and isinstance(artifacts, str):
            _load_core()
            known = self._runs.setdefault(run_id, Known(run_id, Path(artifacts)))
            known.started_at = known.started_at or str(found.get("started_at") or "")
            self._run_of_host[host] = run_id
            if self._fleet is not None:
                self._fleet.root = known.artifacts.parent
            return known
        if host in self._run_of_host:
            return self._runs.get(self._run_of_host[host])
        if self._fleet is not None:
            return None
        # A host that only helps (an embedding worker) is met without having begun a run of its own.
        return next(iter(self._runs.values())) if len(self._runs) == 1 else None

    def _phase_result(self, result: Any, found: dict[str, Any], trouble: str) -> dict[str, Any]:
        action = str(result.task.action).rpartition(".")[2]
        phase = action.removeprefix(PREFIX) if action.startswith(PREFIX) else result.task.get_name()
        begun = self._begun.get((result.host.get_name(), result.task._uuid))
        seconds = {"seconds": round(time.monotonic() - begun, 3)} if begun is not None else {}
        whose = {"worker": result.host.get_name()} if _is_worker(result) else {}
        return {"phase": phase, **whose, **seconds, **({trouble: True} if trouble else {}), **found}

    def _tell_interrupted(self, known: Known, number: int, at: float) -> None:
        """The report as far as the run has come; of what was at work, what its counters and ledgers tell."""
        from archon_align.context import Run
        from archon_align.report import interrupted

        run = Run(known.run_id, known.artifacts)
        by = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        found = {}
        for key, task in self._at_work.items():
            if self._run_of_host.get(key[0], known.run_id) != known.run_id:
                continue  # another PROD's
            action = str(task.action).rpartition(".")[2]
            module = action.removeprefix(PREFIX) if action.startswith(PREFIX) else ""
            # Several workers of one rebuild are told of together.
            seconds = round(at - self._begun[key], 3)
            found[module] = interrupted(run, module, task.get_name(), by) | {"seconds": seconds}
        if not found:
            found[""] = interrupted(run, "", "(none)", by)
        known.results.extend(found.values())
        known.reported = False
        self._tell(known)

    def _tell(self, known: Known) -> None:
        from archon_align import report as reports
        from archon_align.context import Run
        from archon_align.report.files import JSON_NAME

        run = Run(known.run_id, known.artifacts)
        if known.reported:
            report = reports.read(run.artifacts / JSON_NAME)
        elif known.results:
            looks: dict[str, Any] = {"before": {}, "after": {}}
            for moment in looks:
                self._guarded(lambda moment=moment: looks.update({moment: reports.snapshot(run, moment)}))
            report = reports.build(
                run,
                known.results,
                known.started_at or reports.started_at(run),
                reports.now(),
                **looks,
            )
            self._guarded(reports.write, run, report)
        else:
            return
        if self._fleet is None:
            self._display.display("\n" + reports.summary(report, run.artifacts))
            return
        for host, run_id in self._run_of_host.items():
            if run_id == known.run_id and host in self._fleet:
                self._fleet.reported(host, known.artifacts, report)


def _is_of_workers(result: Any) -> bool:
    """Whether it comes from the tasks that send out a fleet's workers: what becomes of them is told by the facts that those set."""
    return "/roles/embeddings/tasks/workers.yml:" in (result.task.get_path() or "")


def _of_workers(found: dict[str, Any]) -> list[dict[str, Any]]:
    """In a fleet PROD's own play gathers what its workers did (roles/embeddings/tasks/workers.yml), as facts of a loop."""
    gathered = [one.get("ansible_facts") or {} for one in found.get("results") or () if isinstance(one, dict)]
    told = next((facts[WORKERS] for facts in reversed(gathered) if WORKERS in facts), [])
    return [one for one in told if isinstance(one, dict)]


def _is_worker(result: Any) -> bool:
    """Whether it comes from an embedding worker. One that is lost does not end the run, but what it did belongs to the report."""
    return str(result.task.action).rpartition(".")[2] == f"{PREFIX}embeddings" and bool(result.task.args.get("worker"))


def _load_core() -> None:
    """Every run is told of in the end; an interrupted one has no time to load then what that needs."""
    if str(CORE) not in sys.path:
        sys.path.append(str(CORE))
        importlib.import_module("archon_align.report")


def _end_keeper(pid: int) -> None:
    """Have a run's keeper release the lock; it would do so when the playbook ends, which in a fleet may be hours from now."""
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if "archon_align.keeper" in process.cmdline():
            process.terminate()


def _is_alive(process: Any) -> bool:
    """A zombie is dead, though nobody may have noticed."""
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end_by(number: int) -> None:
    """End this process by the signal's default."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
