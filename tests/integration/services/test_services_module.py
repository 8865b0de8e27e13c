"""The module in a playbook, as verbose as can be: what it prints, returns and writes holds no secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg

from tests.conftest import RUN_ID
from tests.support.archon_services import IMAGES, SETTINGS, STACK, STACK_SECRET, embedding_stub
from tests.support.portainer import StandIn, stand_in

ROOT = Path(__file__).resolve().parents[3]
EXTRA_SECRET = "hunter2-hunter2"
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  connection: local
  tasks:
    - name: The services
      archon_services:
        run_id: "{{ run }}"
        artifacts_dir: "{{ folder }}"
        prod_dsn: "{{ prod }}"
        dev_dsn: ""
        mode: update
        portainer_url: "{{ portainer_url }}"
        portainer_api_key: "{{ lookup('ansible.builtin.env', 'TEST_PORTAINER_KEY') }}"
        portainer_ca_file: "{{ ca_file }}"
        prod_url: "{{ url }}"
        environment: {EXTRA_KEY: "{{ lookup('ansible.builtin.env', 'TEST_EXTRA') }}", LOG_LEVEL: DEBUG}
        embedding_provider: ollama
        embedding_base_url: "{{ base_url }}"
        embedding_model: nomic-embed-text
        embedding_dimensions: 768
      register: found
    - ansible.builtin.copy:
        content: "{{ found | to_json }}"
        dest: "{{ folder }}/result.json"
        mode: "0600"
      check_mode: false
"""


def play(folder: Path, portainer: StandIn, dsn: str, base_url: str, *arguments: str) -> tuple[str, dict[str, object]]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "playbook.yml").write_text(PLAYBOOK)
    variables = {
        "run": RUN_ID + ("-check" if arguments else ""),
        "folder": str(folder),
        "prod": dsn,
        "portainer_url": portainer.record.url,
        "ca_file": portainer.record.ca_file,
        "url": portainer.url,
        "base_url": base_url,
        "ansible_python_interpreter": sys.executable,
    }
    ended = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            "localhost,",
            "-vvv",
            "--diff",
            *arguments,
            "-e",
            json.dumps(variables),
            str(folder / "playbook.yml"),
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "TEST_PORTAINER_KEY": portainer.api_key,
            "TEST_EXTRA": EXTRA_SECRET,
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    output = ended.stdout + ended.stderr
    assert ended.returncode == 0, output
    return output, json.loads((folder / "result.json").read_text())


def test_no_secret_of_the_environments_leaves_the_module(
    tmp_path: Path, new_database: Callable[[str], str], hold_run_lock: Callable[[str], object]
) -> None:
    dsn = new_database(SETTINGS)
    hold_run_lock(dsn)
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("UPDATE archon_settings SET value = value")
    with stand_in(tmp_path / "lab", (STACK,), IMAGES) as portainer, embedding_stub() as base_url:
        portainer.wait(lambda: portainer.tasks("archon-prod_archon-server")[-1]["Status"]["State"] == "running")
        told = [
            play(tmp_path / "check", portainer, dsn, base_url, "--check"),
            play(tmp_path / "run", portainer, dsn, base_url),
        ]
        again, result = play(tmp_path / "again", portainer, dsn, base_url)
        assert "changed=0" not in told[1][0]
        assert not result["changed"]
        written = "".join(
            path.read_text()
            for name in ("check", "run", "again")
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        )
        everything = "".join(output for output, _ in told) + again + written
        for secret in (STACK_SECRET, EXTRA_SECRET, portainer.api_key, "sk-plain-text-secret-1234567890"):
            assert secret not in everything
        assert "EXTRA_KEY" in told[1][0]
