"""Phase 1's roles in real playbook runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
RUN_ID = "20260102-030405-abcdef"


def play(folder: Path, prod: str, dev: str, *arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run the roles backup and assess on localhost; their results are left in results.json."""
    run_id = RUN_ID + ("-check" if "--check" in arguments else "")
    given = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "archon_run_id": run_id,
        "archon_artifacts_dir": str(folder / run_id),
        "archon_prod_dsn": prod,
        "archon_dev_dsn": dev,
        **variables,
    }
    keep = {
        "ansible.builtin.copy": {
            "content": "{{ {'backup': backup_result, 'assess': assess_result} | to_json }}",
            "dest": str(folder / "results.json"),
        },
        "check_mode": False,
        "changed_when": False,
    }
    roles = ["backup", "assess"]
    book = [{"hosts": "localhost", "gather_facts": False, "vars": given, "roles": roles, "tasks": [keep]}]
    (folder / "play.yml").write_text(yaml.safe_dump(book))
    return subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", "localhost,", folder / "play.yml", *arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_CALLBACKS_ENABLED": "default"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_both_roles_in_check_mode(prod: str, new_database: Callable[[str], str], tmp_path: Path) -> None:
    """Real runs of them are part of every end-to-end test."""
    ended = play(tmp_path, prod, new_database("CREATE TABLE archon_components (id int)"), "--check", "--diff")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "changed=0" in ended.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["backup"]["details"]["backup"]["planned"] is True
    assert results["backup"]["details"]["protected_before"]["public.archon_tasks"]["rows"] == 120
    assert results["assess"]["details"]["state"]["prod"]["counts"]["tasks"] == 120
    (artifacts,) = (path for path in tmp_path.iterdir() if path.name.startswith(RUN_ID))
    names = {path.name for path in artifacts.iterdir()}
    assert names == {"snapshot-before.json", "plan.sql", "plan.json"}
