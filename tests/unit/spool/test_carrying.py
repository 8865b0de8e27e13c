"""What a run's files go through between the controller and a host: nothing that a module wrote there is lost on the way."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from archon_align import spool
from archon_align.spool_steps import Spool

sys.path.append(str(Path(__file__).resolve().parents[3] / "plugins"))
carrying = importlib.import_module("archon_carrying")

RUN, CHECK, OTHER = "20260131-090000-aa10bc", "20260131-090000-aa10bc-check", "20260131-080000-bb10bc"


class Action:
    """An action's task on a host whose folder is `root`; `struck` names the steps during which the connection is lost."""

    def __init__(self, root: Path, **arguments: Any) -> None:
        self.root, self.struck = root, set[str]()
        self._task = SimpleNamespace(args=arguments)
        self._templar = SimpleNamespace(template=lambda text: text)

    def _execute_module(self, *, module_name: str, module_args: dict[str, Any], **_: object) -> dict[str, Any]:
        assert module_name == "archon_spool"
        there, step = Spool(self.root, module_args["run_id"]), module_args["step"]
        if step in self.struck:
            return {"failed": True, "msg": "connection lost"}
        offset, data = module_args.get("offset", 0), module_args.get("data", "")
        if step == "open":
            return there.open(offset, data, module_args["prod"])
        return {"put": lambda: there.put(offset, data), "take": lambda: there.take(offset), "drop": there.drop, "list": there.runs}[
            step
        ]()  # fmt: skip


@pytest.fixture
def action(tmp_path: Path) -> Action:
    artifacts = tmp_path / "artifacts" / RUN
    artifacts.mkdir(parents=True)
    return Action(tmp_path / "host", artifacts_dir=str(artifacts), run_id=RUN)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "PAUSE", 0.0)


def run(action: Action, work: Callable[[Path], dict[str, Any]], name: str = "archon_settings") -> dict[str, Any]:
    """The result of a module whose `work` is given its folder on the host."""
    told: dict[str, Any] = carrying.run(
        action, name, {"inventory_hostname": "prod"}, lambda _, __: work(Path(action._task.args["artifacts_dir"]))
    )
    return told


def writes(name: str, text: str) -> Callable[[Path], dict[str, Any]]:
    def work(folder: Path) -> dict[str, Any]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return {"changed": True, "wrote": str(path)}

    return work


def test_what_a_module_wrote_is_brought_and_removed_there(action: Action, tmp_path: Path) -> None:
    told = run(action, writes("report/a.json", "a"))
    here = tmp_path / "artifacts" / RUN / "report/a.json"
    assert here.read_text() == "a"
    assert told["wrote"] == str(here)
    assert list(action.root.iterdir()) == []


@pytest.mark.parametrize("step", ["take", "drop"])
def test_files_that_could_not_be_brought_are_brought_before_the_next_module(
    action: Action, tmp_path: Path, step: str
) -> None:
    point = tmp_path / "artifacts" / RUN / "restore-points/settings.jsonl"
    action.struck = {step}
    told = run(action, writes("restore-points/settings.jsonl", "before"))
    assert told["failed"]
    assert "connection lost" in told["msg"]
    assert (Spool(action.root, RUN).folder / RUN / "restore-points/settings.jsonl").read_text() == "before"
    action.struck = set()

    def second(folder: Path) -> dict[str, Any]:
        # It is on the controller by now, and was sent from there.
        assert point.read_text() == "before"
        assert (folder / "restore-points/settings.jsonl").read_text() == "before"
        return writes("b", "b")(folder)

    assert "failed" not in run(action, second)
    assert point.read_text() == "before"
    assert (tmp_path / "artifacts" / RUN / "b").read_text() == "b"
    assert list(action.root.iterdir()) == []


def test_large_archives_neither_write_over_files_that_wait(
    action: Action, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying, "PIECE", 7)  # far less than the archive
    (tmp_path / "artifacts" / RUN / "restore-points").mkdir()
    (tmp_path / "artifacts" / RUN / "restore-points/old.jsonl").write_text("old")
    action.struck = {"take"}
    run(action, writes("restore-points/old.jsonl", "new"))
    assert (Spool(action.root, RUN).folder / RUN / "restore-points/old.jsonl").read_text() == "new"
    action.struck = set()
    run(action, writes("b", "b"))
    assert (tmp_path / "artifacts" / RUN / "restore-points/old.jsonl").read_text() == "new"


def test_a_failed_modules_own_message_is_not_hidden(action: Action) -> None:
    action.struck = {"take"}
    told = run(action, lambda _: {"failed": True, "msg": "PROD is full.", "error": {"code": "disk_full"}})
    assert told["msg"].startswith("PROD is full. ")
    assert "connection lost" in told["msg"]
    assert told["error"] == {"code": "disk_full"}


def test_a_module_at_work_is_waited_for_and_then_named(
    action: Action, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Spool(action.root, RUN).folder
    (there / RUN).mkdir(parents=True)
    (there / RUN / "before").write_text("before")
    spool.note(there, "prod")
    worker = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(there)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stdout.readline() == "holds\n"
    asked = Action(action.root, run_id=OTHER, prod="prod", artifacts_root=str(tmp_path / "artifacts"))
    with pytest.raises(AnsibleActionFail, match="still at work"):
        carrying.collect(asked, {})
    assert (there / RUN / "before").exists()

    def pause(_: float) -> None:
        worker.communicate("end\n")

    monkeypatch.setattr(carrying.time, "sleep", pause)
    assert carrying.collect(asked, {})["collected"] == [RUN]
    # The module wrote this while it was waited for.
    assert (tmp_path / "artifacts" / RUN / "after").read_text() == "after"
    assert not there.exists()


_HOLDER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[3] / "module_utils")!r})
from pathlib import Path
from archon_align import spool
there = Path(sys.argv[1])
spool.hold(there)
print("holds", flush=True)
sys.stdin.readline()
(there / {RUN!r} / "after").write_text("after")
"""


def test_what_is_written_after_it_was_taken_is_taken_again(
    action: Action, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    step = Action._execute_module

    def watched(self: Action, **given: Any) -> dict[str, Any]:
        if given["module_args"]["step"] == "drop" and not written:
            written.append((Spool(self.root, RUN).folder / RUN / "a").write_text("later!"))
        return step(self, **given)

    monkeypatch.setattr(Action, "_execute_module", watched)
    run(action, writes("a", "first"))
    assert written
    assert (tmp_path / "artifacts" / RUN / "a").read_text() == "later!"


def left_there(root: Path, run_id: str, prod: str) -> None:
    folder = Spool(root, run_id).folder
    folder.mkdir(parents=True)
    spool.note(folder, prod)
    (folder / run_id).mkdir()
    (folder / run_id / "a").write_text("a")


@pytest.mark.parametrize(
    ("own", "theirs", "prod", "ended", "collected"),
    [
        (OTHER, RUN, "prod", False, True),
        (OTHER, RUN, "another", False, False),
        (OTHER, RUN, "another", True, True),
        (OTHER + "-check", RUN, "prod", False, False),
        (OTHER, CHECK, "prod", False, False),
        (OTHER, CHECK, "prod", True, True),
        (RUN, RUN, "prod", False, False),
    ],
    ids=["dead", "anothers", "anothers-ended", "asked-by-a-check", "a-check", "a-check-ended", "own"],
)
def test_only_dead_runs_are_brought_in(
    tmp_path: Path, own: str, theirs: str, prod: str, ended: bool, collected: bool
) -> None:
    root, artifacts = tmp_path / "host", tmp_path / "artifacts"
    (artifacts / theirs).mkdir(parents=True)
    if ended:
        (artifacts / theirs / "events.jsonl").write_text(json.dumps({"kind": "run_ended"}) + "\n")
    left_there(root, theirs, prod)
    told = carrying.collect(Action(root, run_id=own, prod="prod", artifacts_root=str(artifacts)), {})
    assert told["collected"] == ([theirs] if collected else [])
    assert (artifacts / theirs / "a").exists() is collected
    assert (Spool(root, theirs).folder / theirs / "a").exists() is not collected


def test_another_controllers_run_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    left_there(tmp_path / "host", RUN, "prod")
    asked = Action(tmp_path / "host", run_id=OTHER, prod="prod", artifacts_root=str(tmp_path / "artifacts"))
    assert carrying.collect(asked, {})["collected"] == []
    assert (Spool(tmp_path / "host", RUN).folder / RUN / "a").exists()


def test_a_transfer_that_was_cut_short_is_begun_anew(action: Action, tmp_path: Path) -> None:
    (Spool(action.root, RUN).folder / RUN).mkdir(parents=True)
    (Spool(action.root, RUN).folder / spool.INCOMING).write_bytes(b"half")
    (Spool(action.root, RUN).folder / RUN / "unpacked").write_text("before the note")
    run(action, writes("a", "a"))
    assert sorted(path.name for path in (tmp_path / "artifacts" / RUN).iterdir()) == ["a"]


def test_a_workers_folder_below_the_same_root_is_none_of_the_spools(action: Action, tmp_path: Path) -> None:
    point = action.root / RUN / "restore-points/embeddings-one.jsonl"
    point.parent.mkdir(parents=True)
    point.write_text("a worker's")
    (tmp_path / "artifacts" / RUN / "events.jsonl").write_text(json.dumps({"kind": "run_ended"}) + "\n")
    run(action, writes("a", "a"))
    asked = Action(action.root, run_id=OTHER, prod="prod", artifacts_root=str(tmp_path / "artifacts"))
    assert carrying.collect(asked, {})["collected"] == []
    assert point.read_text() == "a worker's"
