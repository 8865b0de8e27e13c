"""The role in real playbook runs: validation, report, and what its tags mean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from test_validate_phase import ALIGNED, ROWS

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text())
RUN_ID = "20260102-030405-abcdef"


def play(folder: Path, prod: str, dev: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run the role on localhost in a run whose schema phase is said to have changed something; output and report."""
    schema = {
        "phase": "schema",
        "status": "changed",
        "changed": True,
        "findings": [],
        "proofs": [],
        "details": {"schema": {"differences_before": 7, "differences_after": 0}},
    }
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "archon_run_id": RUN_ID,
        "archon_artifacts_dir": str(folder / RUN_ID),
        "archon_prod_dsn": prod,
        "archon_dev_dsn": dev,
        "archon_schema_names": ["public"],
        "archon_protected_tables": [],
        "archon_connect_timeout": 10,
        "archon_statement_timeout": 60,
        "archon_embedding_provider": "ollama",
        "archon_embedding_base_url": "http://127.0.0.1:11434/v1",
        "archon_embedding_model": "nomic-embed-text",
        "archon_embedding_dimensions": 4,
        "schema_result": schema,
        "data_result": {"skipped": True, "changed": False},
    }
    book = [{"hosts": "localhost", "gather_facts": False, "vars": variables, "roles": ["validate"]}]
    (folder / "play.yml").write_text(yaml.safe_dump(book))
    ended = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", "localhost,", folder / "play.yml", *arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_CALLBACKS_ENABLED": "archon_report"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (folder / RUN_ID / "report.json").exists(), ended.stdout + ended.stderr
    report = json.loads((folder / RUN_ID / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    return ended, report


def test_the_role_reports_and_its_tags_decide_whether_it_enforces(
    new_database: Callable[[str], str], tmp_path: Path
) -> None:
    prod, dev = new_database(ALIGNED + ROWS), new_database(ALIGNED)
    ended, report = play(tmp_path, prod, dev)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [phase["name"] for phase in report["phases"]] == ["schema", "validate"]
    assert report["result"] == "changed"
    assert report["schema"]["differences_before"] == 7
    assert {criterion["met"] for criterion in report["criteria"]} == {True, None}
    assert "changed=0" in ended.stdout
    assert "restart_archon_server" in {finding["code"] for finding in report["findings"]}

    lost = new_database(ALIGNED + ROWS + "UPDATE archon_crawled_pages SET embedding = NULL;")
    ended, report = play(tmp_path, lost, dev, "--tags", "report")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert report["phases"][-1]["status"] == "drift"
    ended, report = play(tmp_path, lost, dev, "--tags", "validate")
    assert ended.returncode == 2
    assert report["result"] == "failed"
    assert report["embeddings"]["missing_after"] == 8
    assert "8 rows without an embedding" in ended.stdout.partition("PLAY RECAP")[2]
