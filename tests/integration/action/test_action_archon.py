"""Where a module's code comes from: the project's folder on the controller itself, a package that Ansible ships elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROBE = """
import os, signal, sys
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.archon_align import findings

def main():
    module = AnsibleModule({"secret": {"type": "str", "no_log": True}, "text": {"type": "str"}}, supports_check_mode=True)
    if module.params["text"] == "ends":
        print("before the end", file=sys.stderr, flush=True)
        os._exit(7)
    if module.params["text"] == "fails":
        module.fail_json(msg="as told", code="own")
    module.warn("be careful")
    handlers = [signal.getsignal(one) in (signal.SIG_DFL, signal.default_int_handler) for one in (signal.SIGINT, signal.SIGTERM)]
    module.exit_json(mood=os.environ.get("MOOD", ""), input=sys.stdin.read(), handlers=handlers,
                     streams=sorted(int(one) for one in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{one}")),
                     where=findings.__file__, text=module.params["text"], check=module.check_mode, echo=module.params["secret"])

if __name__ == "__main__":
    main()
"""
TEXT = "quotes ' \" \\ [[ 数据 %s\nnew line"
PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - archon_probe: {secret: hunter2, text: "{{ text }}"}
      register: found
    - archon_probe: {secret: hunter2, text: fails}
      register: failed
      failed_when: false
    - archon_probe: {secret: hunter2, text: ends}
      register: ended
      failed_when: false
    - archon_probe: {secret: hunter2, text: moody}
      register: moody
      environment: {MOOD: "it's fine"}
    - copy: {content: "{{ {'found': found, 'failed': failed, 'ended': ended, 'moody': moody} | to_json }}", dest: "{{ out }}"}
      check_mode: false
"""


def probe(folder: Path, interpreter: str, *arguments: str) -> dict[str, object]:
    """What the probe returns when its host has this interpreter."""
    (folder / "archon_probe.py").write_text(PROBE)
    (folder / "play.yml").write_text(PLAY)
    (folder / "vars.json").write_text(json.dumps({"text": TEXT, "out": str(folder / "out")}))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")), str(folder / "play.yml"), "-e", f"@{folder / 'vars.json'}",
            "-e", f"ansible_python_interpreter={interpreter}", *arguments,
        ],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_LIBRARY": str(folder)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    told = json.loads((folder / "out").read_text())
    assert told["failed"]["msg"] == "as told"
    assert told["failed"]["code"] == "own"
    assert told["ended"]["rc"] == 7
    assert "before the end" in str(told["ended"])
    assert told["moody"]["mood"] == "it's fine"
    found = dict(told["found"])
    assert found["warnings"] == ["be careful"]
    assert found["mood"] == ""
    assert found["input"] == ""
    assert found["handlers"] == [True, True]
    return found


@pytest.mark.parametrize("arguments", [(), ("--check",)], ids=["run", "check"])
def test_on_the_controller_the_projects_folder_is_used(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    found = probe(tmp_path, sys.executable, *arguments)
    assert found["where"] == str(ROOT / "module_utils" / "archon_align" / "findings.py")
    assert found["check"] is bool(arguments)
    assert found["streams"] == [0, 1, 2]
    assert found["text"] == TEXT
    assert "hunter2" not in str(found)


def test_another_interpreter_gets_the_core_shipped(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    found = probe(tmp_path, str(other))
    assert str(ROOT) not in str(found["where"])
    assert str(found["where"]).endswith("archon_align/findings.py")
    assert found["text"] == TEXT
    assert "hunter2" not in str(found)
