"""Modules on a PROD host that is not the controller, or as another user: what runs where, as whom, and what a killed run leaves."""

from __future__ import annotations

import json
import os
import stat
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
BECOME = '''
"""Another user as far as one without privileges can be one: told by the environment."""
DOCUMENTATION = """
name: pretended
short_description: Commands as if as another user
description: For tests.
options:
  become_user:
    description: The user.
    default: root
    vars: [{name: ansible_become_user}]
  become_exe: {description: Unused.}
  become_flags: {description: Unused.}
  become_pass: {description: Unused.}
"""
from ansible.plugins.become import BecomeBase

class BecomeModule(BecomeBase):
    name = "pretended"

    def build_become_command(self, cmd, shell):
        super().build_become_command(cmd, shell)
        return cmd and f"env BECAME={self.get_option('become_user')} {self._build_success_command(cmd, shell)}"
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
        return {"changed": True, "home": os.environ["HOME"], "user": os.environ.get("BECAME", ""), "there": str(points)}

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
    # By its name one of the controller's; in a process of its own, since the project's of that name is loaded already.
    - archon_functional: {run_id: "{{ run_id }}", artifacts_dir: "{{ art }}/{{ run_id }}"}
      environment: {OWN_PROCESS: "1"}
      register: functional
    - copy: {content: "{{ {'spool': spool, 'probe': probe, 'functional': functional} | to_json }}", dest: "{{ out }}"}
      delegate_to: localhost
      become: false
      vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
"""


class World:
    """A controller's folder, and a host's."""

    def __init__(self, folder: Path, **variables: object) -> None:
        self.folder, self.home, self.artifacts = folder, folder / "home", folder / "artifacts"
        self.home.mkdir()
        self.artifacts.mkdir()
        files = {
            "conn/elsewhere.py": CONNECTION,
            "become/pretended.py": BECOME,
            "library/archon_probe.py": PROBE,
            "library/archon_functional.py": PROBE,
            "play.yml": PLAY,
        }
        for name, text in files.items():
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
            **variables,
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
            "ANSIBLE_BECOME_PLUGINS": str(self.folder / "become"),
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
    note = world.there / f"{DEAD}.spool" / DEAD / "restore-points/pid"
    last = time.monotonic() + 300
    while not note.exists():
        assert playbook.poll() is None, world.log(DEAD)
        assert time.monotonic() < last
        time.sleep(0.05)
    module = psutil.Process(int(note.read_text()))
    for process in (*psutil.Process(playbook.pid).children(recursive=True), psutil.Process(playbook.pid)):
        if process != module:
            process.kill()  # SIGKILL
    playbook.wait()

    # The module outlives its playbook, and is seen to.
    assert spool.is_held(world.there / f"{DEAD}.spool")
    module.kill()
    psutil.wait_procs([module], timeout=300)
    assert not spool.is_held(world.there / f"{DEAD}.spool")

    foreign = world.there / "20260131-070000-cc10bc.spool"  # of a run that this controller does not know
    (foreign / foreign.stem).mkdir(parents=True)
    (foreign / foreign.stem / "theirs").write_text("theirs")
    spool.note(foreign, "prod")

    told = world.finish(NEXT)
    assert told["spool"]["collected"] == [DEAD]
    assert (world.artifacts / DEAD / "restore-points/probe.jsonl").read_text() == "before"
    assert told["probe"]["home"] == str(world.home)
    assert (world.artifacts / NEXT / "restore-points/probe.jsonl").read_text() == "before"
    assert [one.name for one in world.there.iterdir()] == [foreign.name]
    assert (foreign / foreign.stem / "theirs").exists()


def test_with_become_the_hosts_modules_run_as_that_user_and_the_controllers_as_before(
    tmp_path: Path,
) -> None:
    spool_dir = tmp_path / "spool"
    become = {"ansible_become": True, "ansible_become_method": "pretended", "ansible_become_user": "archon"}
    world = World(tmp_path, ansible_connection="local", archon_spool_dir=str(spool_dir), **become)
    told = world.finish(NEXT)
    assert told["probe"]["user"] == "archon"
    assert told["functional"]["user"] == ""
    assert told["functional"]["home"] == os.environ["HOME"]
    # Both wrote to the run's folder: the one by way of the host's, the other there.
    run = world.artifacts / NEXT
    assert told["functional"]["there"] == told["probe"]["there"] == str(run / "restore-points")
    brought = run / "restore-points/probe.jsonl"
    assert (brought.stat().st_uid, stat.S_IMODE(brought.stat().st_mode)) == (os.getuid(), 0o600)
    assert list(spool_dir.iterdir()) == []
    assert stat.S_IMODE(spool_dir.stat().st_mode) == 0o700
