"""What a killed run leaves on PROD's host is brought in by the next: a host of another HOME, reached by another connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from archon_align import spool

ROOT = Path(__file__).resolve().parents[3]
DEAD, NEXT = "20260131-080000-aa10bc", "20260131-090000-bb10bc"
CONNECTION = '''
"""A host of its own as far as this machine can be one: not local, and with another HOME."""
DOCUMENTATION = """
name: elsewhere
short_description: Commands in another HOME
description: For tests.
options:
  home:
    description: HOME there.
    type: str
    vars: [{name: elsewhere_home}]
"""
from ansible.plugins.connection.local import Connection as Local

class Connection(Local):
    transport = "elsewhere"

    def exec_command(self, cmd, in_data=None, sudoable=True):
        home = self.get_option("home")
        return super().exec_command(f"cd '{home}' && export HOME='{home}' && {cmd}", in_data=in_data, sudoable=sudoable)
'''
PROBE = """
import os, time
from pathlib import Path
from ansible.module_utils.archon_align.ansible_edge import finish
from ansible.module_utils.basic import AnsibleModule

def main():
    module = AnsibleModule({"run_id": {"type": "str"}, "artifacts_dir": {"type": "path"}, "waits": {"type": "bool"}})

    def work():
        points = Path(module.params["artifacts_dir"], "restore-points")
        points.mkdir(parents=True, exist_ok=True)
        (points / "probe.jsonl").write_text("before")
        (points / ".pid.part").write_text(str(os.getpid()))
        (points / ".pid.part").rename(points / "pid")
        while module.params["waits"]:
            time.sleep(0.1)
        return {"changed": True, "home": os.environ["HOME"], "uid": os.getuid()}

    finish(module, work)

if __name__ == "__main__":
    main()
"""
PLAY = """
- hosts: prod
  gather_facts: false
  tasks:
    - archon_spool: {run_id: "{{ run_id }}", root: "{{ archon_spool_dir }}", artifacts_root: "{{ art }}", prod: "{{ inventory_hostname }}"}
      register: spool
    - archon_probe: {run_id: "{{ run_id }}", artifacts_dir: "{{ art }}/{{ run_id }}", waits: "{{ waits }}"}
      register: probe
    - copy: {content: "{{ {'spool': spool, 'probe': probe} | to_json }}", dest: "{{ out }}"}
      delegate_to: localhost
      vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
"""


class World:
    """A controller's folder, and a host's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.artifacts = folder, folder / "home", folder / "artifacts"
        self.home.mkdir()
        self.artifacts.mkdir()
        for name, text in (("conn/elsewhere.py", CONNECTION), ("library/archon_probe.py", PROBE), ("play.yml", PLAY)):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        # Another path than the controller's own Python, as on another machine.
        interpreter = folder / "python"
        interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "$@"\n')
        interpreter.chmod(0o755)
        host = {
            "ansible_connection": "elsewhere",
            "elsewhere_home": str(self.home),
            "ansible_python_interpreter": str(interpreter),
            "archon_spool_dir": "~/.archon-align",
        }
        (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"prod": host}}}))

    @property
    def there(self) -> Path:
        return self.home / ".archon-align"

    def start(self, run_id: str, *, waits: bool = False) -> subprocess.Popen[str]:
        (self.artifacts / run_id).mkdir()
        given = {"run_id": run_id, "art": str(self.artifacts), "waits": waits, "out": str(self.folder / "out.json")}
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.json", "play.yml"]
        own = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_LIBRARY": f"{self.folder / 'library'}:{ROOT / 'library'}",
            "ANSIBLE_CONNECTION_PLUGINS": str(self.folder / "conn"),
        }
        with (self.folder / f"{run_id}.log").open("w") as log:
            return subprocess.Popen(
                [*command, "-e", json.dumps(given)], cwd=self.folder, env=os.environ | own, stdout=log, stderr=log, text=True
            )  # fmt: skip

    def finish(self, run_id: str) -> dict[str, dict[str, object]]:
        assert self.start(run_id).wait(timeout=600) == 0, self.log(run_id)
        told: dict[str, dict[str, object]] = json.loads((self.folder / "out.json").read_text())
        return told

    def log(self, run_id: str) -> str:
        return (self.folder / f"{run_id}.log").read_text()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_next_run_brings_in_what_a_killed_one_left(world: World) -> None:
    playbook = world.start(DEAD, waits=True)
    note = world.there / DEAD / DEAD / "restore-points/pid"
    last = time.monotonic() + 300
    while not note.exists():
        assert playbook.poll() is None, world.log(DEAD)
        assert time.monotonic() < last
        time.sleep(0.05)
    module = psutil.Process(int(note.read_text()))
    for process in (*psutil.Process(playbook.pid).children(recursive=True), psutil.Process(playbook.pid)):
        if process != module:
            process.kill()
    playbook.wait()

    # It outlives its playbook, and is seen to.
    assert spool.is_held(world.there / DEAD)
    module.kill()
    psutil.wait_procs([module], timeout=300)
    assert not spool.is_held(world.there / DEAD)

    foreign = world.there / "20260131-070000-cc10bc"  # of a run that this controller does not know
    (foreign / foreign.name).mkdir(parents=True)
    (foreign / foreign.name / "theirs").write_text("theirs")
    spool.note(foreign, "prod")

    told = world.finish(NEXT)
    assert told["spool"]["collected"] == [DEAD]
    assert (world.artifacts / DEAD / "restore-points/probe.jsonl").read_text() == "before"
    assert told["probe"]["home"] == str(world.home)
    assert (world.artifacts / NEXT / "restore-points/probe.jsonl").read_text() == "before"
    assert [one.name for one in world.there.iterdir()] == [foreign.name]
    assert (foreign / foreign.name / "theirs").exists()
