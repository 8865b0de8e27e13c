"""The callback and the module in real playbook runs, with modules that hand back what phases would."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text())
RUN_ID = "20260102-030405-abcdef"
FAKE = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"run_id": {}, "artifacts_dir": {}, "hand_back": {"type": "dict", "default": {}}}, supports_check_mode=True)
result = module.params["hand_back"]
if "error" in result or "crash" in result:
    if "crash" in result:
        raise RuntimeError("crashed")
    module.fail_json(**result)
module.exit_json(**result)
"""
ERROR = {
    "code": "wrong_password",
    "what": "PROD cannot be reached.",
    "object": "PROD (archon@localhost)",
    "expected": "a log-in",
    "found": "password authentication failed",
    "remedy": "Check the DSN.",
}
Play = Callable[..., subprocess.CompletedProcess[str]]


def done(phase: str, status: str = "changed", **fields: Any) -> dict[str, Any]:
    return {
        "phase": phase,
        "status": status,
        "changed": status == "changed",
        "seconds": 0.5,
        "statements": ["SELECT 1"],
        "findings": [],
        "proofs": [],
        "details": {},
        **fields,
    }


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Call with tasks, and hosts if there shall be others than one PROD, to run them with ansible-playbook."""
    library = tmp_path / "library"
    library.mkdir()
    for name in ("archon_run", "archon_schema", "archon_data"):
        (library / f"{name}.py").write_text(FAKE)
    (tmp_path / "ansible.cfg").write_text(
        f"[defaults]\nlibrary = {library}:{ROOT / 'library'}\nmodule_utils = {ROOT / 'module_utils'}\n"
        f"callback_plugins = {ROOT / 'plugins' / 'callback'}\ncallbacks_enabled = archon_report\n"
        f"local_tmp = {tmp_path / 'tmp'}\nlocalhost_warning = False\n"
        "[connection]\npipelining = True\n"
    )

    def run(
        tasks: list[dict[str, Any]],
        *,
        hosts: tuple[str, ...] = ("prod",),
        unreachable: str = "",
        check: bool = False,
        variables: dict[str, Any] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **(variables or {})}
        lost = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
        inventory = {"all": {"hosts": {host: {**local, **(lost if host == unreachable else {})} for host in hosts}}}
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
        (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        return subprocess.run(
            [ROOT / ".venv/bin/ansible-playbook", "-i", "hosts.yml", "play.yml", *(["--check"] if check else [])],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "ANSIBLE_CONFIG": "ansible.cfg"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


def begin(tmp_path: Path, run_id: str = RUN_ID) -> dict[str, Any]:
    return {
        "name": "Begin",
        "archon_run": {"hand_back": {"run_id": run_id, "artifacts_dir": str(tmp_path / run_id)}},
    }


def report_of(tmp_path: Path, run_id: str = RUN_ID) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((tmp_path / run_id / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    return report


def test_a_run_that_reports_itself_ends_with_its_summary(play: Play, tmp_path: Path) -> None:
    ended = play(
        [
            begin(tmp_path),
            {"archon_schema": {"hand_back": done("schema")}, "register": "schema_result"},
            {
                "archon_report": {
                    "run_id": RUN_ID,
                    "artifacts_dir": str(tmp_path / RUN_ID),
                    "started_at": "2026-01-02T03:04:05.678+00:00",
                    "results": "{{ query('ansible.builtin.vars', 'schema_result', 'data_result', default={}) }}",
                },
                "register": "written",
            },
            {"ansible.builtin.assert": {"that": ["not written.changed", "written.result == 'changed'"]}},
        ]
    )
    assert ended.returncode == 0, ended.stdout
    report = report_of(tmp_path)
    assert report["started_at"] == "2026-01-02T03:04:05.678+00:00"
    assert [phase["name"] for phase in report["phases"]] == ["schema"]
    recap, _, told = ended.stdout.partition("PLAY RECAP")
    assert "archon-align" not in recap
    assert told.rstrip().splitlines()[-1] == f"Report: {tmp_path / RUN_ID / 'report.md'}"
    assert "schema       changed, 1 statement" in told
    assert "WARNING" not in ended.stderr + ended.stdout


def test_a_phase_that_fails_after_the_report_was_written_is_reported(play: Play, tmp_path: Path) -> None:
    proof = {
        "table": "public.archon_tasks",
        "rows_before": 3,
        "rows_after": 3,
        "fingerprint_before": "a",
        "fingerprint_after": "a",
        "method": "scan",
        "preserved": True,
    }
    ended = play(
        [
            begin(tmp_path),
            {"archon_schema": {"hand_back": done("schema", proofs=[proof])}},
            {"archon_report": {"run_id": RUN_ID, "artifacts_dir": str(tmp_path / RUN_ID), "results": []}},
            {"archon_data": {"hand_back": {"error": ERROR, "msg": "PROD cannot be reached.", "status": "failed"}}},
        ]
    )
    assert ended.returncode == 2
    report = report_of(tmp_path)
    assert report["result"] == "failed"
    assert [(phase["name"], phase["status"]) for phase in report["phases"]] == [
        ("schema", "changed"),
        ("data", "failed"),
    ]
    assert report["phases"][1]["error"] == ERROR
    assert report["protected"]["public.archon_tasks"]["preserved"] is True
    told = ended.stdout.partition("PLAY RECAP")[2]
    assert "Phase data failed: PROD cannot be reached." in told
    assert "Check the DSN." in told
    assert "Committed and kept: schema" in told


def test_each_run_has_its_own_report_however_it_ends(play: Play, tmp_path: Path) -> None:
    """One host is lost, one module crashes, one other task fails, one folder cannot be written, one goes well."""
    runs = {
        host: f"20260102-030405-00000{number}"
        for number, host in enumerate(("well", "lost", "crash", "other", "folder"))
    }
    begun = {
        "archon_run": {
            "hand_back": {
                "run_id": "{{ runs[inventory_hostname] }}",
                "artifacts_dir": "{{ base }}/{{ runs[inventory_hostname] }}",
            }
        },
        "when": "inventory_hostname in runs",
        "delegate_to": "helper",
    }
    tasks = [
        begun,
        {"archon_schema": {"hand_back": done("schema")}, "when": "inventory_hostname in ['well', 'folder', 'lost']"},
        {"archon_data": {"hand_back": {"crash": True}}, "when": "inventory_hostname == 'crash'"},
        {
            "name": "See to it",
            "ansible.builtin.assert": {"that": ["inventory_hostname != 'other'"], "fail_msg": "No."},
        },
    ]
    (tmp_path / runs["folder"]).write_text("a file where the folder should be")
    ended = play(tasks, hosts=(*runs, "helper"), unreachable="lost", variables={"runs": runs, "base": str(tmp_path)})
    assert report_of(tmp_path, runs["well"])["result"] == "changed"
    (lost,) = report_of(tmp_path, runs["lost"])["phases"]
    assert (lost["error"]["code"], lost["error"]["found"]) == ("unreachable", "unreachable")
    (crashed,) = report_of(tmp_path, runs["crash"])["phases"]
    assert (crashed["name"], crashed["error"]["code"]) == ("data", "task_failed")
    (other,) = report_of(tmp_path, runs["other"])["phases"]
    assert (other["name"], other["error"]["what"]) == ("See to it", "No.")
    assert "An artifact could not be written" in ended.stdout + ended.stderr
    assert ended.stdout.count("Report: ") == 5, "what happened is told even where it could not be written"


def test_check_mode_writes_its_report(play: Play, tmp_path: Path) -> None:
    run_id = f"{RUN_ID}-check"
    result = done("schema", "drift", changed=True)
    report = {"archon_report": {"run_id": run_id, "artifacts_dir": str(tmp_path / run_id), "results": [result]}}
    ended = play([begin(tmp_path, run_id), report], check=True)
    assert ended.returncode == 0, ended.stdout
    assert report_of(tmp_path, run_id)["result"] == "drift"
    assert "would change" in ended.stdout


def test_without_a_run_nothing_is_added(play: Play) -> None:
    ended = play([{"ansible.builtin.debug": {"msg": "hello"}}, {"ansible.builtin.fail": {"msg": "clear"}}])
    assert ended.returncode == 2
    assert ended.stdout.rstrip().splitlines()[-1].startswith("prod ")
