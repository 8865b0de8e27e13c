"""The inventory plugin as people use it: ansible-inventory against the lab's Portainer, and playbooks that leave it alone."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.portainer import StandIn

ROOT = Path(__file__).parents[3]
STACK_SECRET = "secret-of-the-stack"


def run(command: str, *arguments: str | Path, environment: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ARCHON_PORTAINER")}
    return subprocess.run(
        [ROOT / ".venv/bin" / command, *arguments],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def source(folder: Path, lab: StandIn, **options: Any) -> Path:
    """An inventory file in `folder`."""
    folder.mkdir(exist_ok=True)
    file = folder / "portainer.yml"
    file.write_text(yaml.safe_dump({"plugin": "portainer", "url": lab.record.url, **options}))
    return file


def test_containers_as_hosts_with_groups_and_variables(lab: StandIn, tmp_path: Path) -> None:
    lab.wait(lambda: lab.tasks()[-1]["Status"]["State"] == "running")
    folder = tmp_path / "inventory"
    source(
        folder,
        lab,
        api_key="{{ lookup('ansible.builtin.env', 'KEY_OF_TEST') }}",
        ca_file="certificate.pem",
        prod_stack="demo",
        dev_label="com.docker.swarm.service.name=demo_web",
        compose={"first_port": "container_ports[0].published"},
        groups={"web": "portainer_service == 'demo_web'"},
        keyed_groups=[{"key": "container_node", "prefix": "node"}],
        cache=True,
        cache_plugin="ansible.builtin.jsonfile",
        cache_connection=str(tmp_path / "cache"),
    )
    (folder / "certificate.pem").write_text(Path(lab.record.ca_file).read_text())
    # A database's host that is named as a container is must stay what it is.
    (folder / "hosts.yml").write_text(yaml.safe_dump({"archon_prod": {"hosts": {"demo_web.1": {"archon_dsn": "x"}}}}))
    lab.forget_requests()
    listed = run("ansible-inventory", "-i", folder, "--list", environment={"KEY_OF_TEST": lab.api_key})
    assert listed.returncode == 0, listed.stderr
    assert "lab-standby is not in the inventory" in listed.stderr
    assert not any(secret in listed.stdout + listed.stderr for secret in (STACK_SECRET, lab.api_key))
    found = json.loads(listed.stdout)
    groups = {name: set(group.get("hosts", ())) for name, group in found.items() if name != "_meta"}
    (host,) = groups["portainer_lab_swarm_demo_web"]
    assert host.startswith("demo_web.1.lab-swarm.")
    for group in ("archon_prod_containers", "archon_dev_containers", "container_state_running", "web", "node_lab_node"):
        assert groups[group] == {host}, group
    assert groups["archon_prod"] == {"demo_web.1"}
    assert found["portainer"]["children"] == ["portainer_lab_swarm"]
    variables = found["_meta"]["hostvars"][host]
    port = int(lab.url.rpartition(":")[2])
    assert variables["first_port"] == port
    assert variables["container_ports"][0]["published"] == port
    assert {"container_id", "container_image", "container_state", "container_health", "container_node"} <= set(
        variables
    )
    assert lab.requests()
    assert not any("/endpoints/2/" in one["path"] for one in lab.requests())
    assert all(one["method"] == "GET" for one in lab.requests())

    # The second time the cache answers; and what it keeps on disk holds no secret.
    lab.forget_requests()
    again = run("ansible-inventory", "-i", folder, "--graph", environment={"KEY_OF_TEST": lab.api_key})
    assert lab.requests() == []
    assert host in again.stdout
    kept = "".join(file.read_text() for file in (tmp_path / "cache").iterdir())
    assert "demo_web" in kept
    assert not any(secret in kept for secret in (STACK_SECRET, lab.api_key))


def test_a_required_portainer_that_is_away_ends_the_command(lab: StandIn, tmp_path: Path) -> None:
    file = source(tmp_path, lab, url="https://127.0.0.1:1", api_key="ptr_of_this_test")
    ended = run("ansible-inventory", "-i", file, "--graph")
    assert ended.returncode != 0
    assert "Portainer does not answer." in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "ptr_of_this_test" not in ended.stderr


def test_those_that_are_not_required_are_warnings(lab: StandIn, tmp_path: Path) -> None:
    pinned = {"fingerprint": lab.record.fingerprint}
    wrong: dict[str, dict[str, Any]] = {
        "wrong user or password": {"username": "admin", "password": "wrong-word", **pinned},
        "does not accept the API key": {"api_key": "ptr_wrong-word", **pinned},
        "certificate fingerprint is": {"api_key": "ptr_wrong-word", "fingerprint": "0" * 64},
        "self-signed certificate": {"api_key": "ptr_wrong-word"},
        "Only one way to trust": {"api_key": "ptr_wrong-word", "insecure": True, **pinned},
        "nothing to log in": pinned,
        "cannot be read": {"api_key_file": "not/there", **pinned},
        "no environment of that name": {"api_key": lab.api_key, "environments": ["nope"], **pinned},
        "An environment is down": {"api_key": lab.api_key, "environments": ["lab-standby"], **pinned},
    }
    sources: list[str | Path] = []
    for number, options in enumerate(wrong.values()):
        sources += ["-i", source(tmp_path / str(number), lab, required=False, **options)]
    ended = run("ansible-inventory", *sources, "--graph")
    assert ended.returncode == 0, ended.stderr
    assert "@portainer:" in ended.stdout
    for words in wrong:
        assert words in " ".join(ended.stderr.split())
    assert "wrong-word" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_user_and_password_from_the_environment_and_a_fingerprint(lab: StandIn, tmp_path: Path) -> None:
    lab.wait(lambda: lab.tasks()[-1]["Status"]["State"] == "running")
    lab.faults(version="2.19.4")
    ended = run(
        "ansible-inventory", "-i", source(tmp_path, lab, environments=["lab-swarm"], labels={"com.docker.stack.namespace": ""}), "--graph",
        environment={
            "ARCHON_PORTAINER_USERNAME": "admin",
            "ARCHON_PORTAINER_PASSWORD": lab.password(),
            "ARCHON_PORTAINER_FINGERPRINT": lab.record.fingerprint,
        },
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "demo_web.1" in ended.stdout


@pytest.mark.parametrize("containers", [{}, {"portainer": {"hosts": {"container-1": None}}}], ids=["none", "some"])
def test_containers_take_no_part_in_plays(tmp_path: Path, containers: dict[str, Any]) -> None:
    databases = {"archon_dev": {"hosts": {"archon-dev": None}}, "archon_prod": {"hosts": {"archon-prod": None}}}
    file = tmp_path / "hosts.yml"
    file.write_text(yaml.safe_dump({**databases, **containers}))
    playbooks = ["align.yml", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "playbooks").glob("*.yml"))]
    ended = run("ansible-playbook", "-i", file, *playbooks, "--list-hosts")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "archon-prod" in ended.stdout
    assert "container-1" not in ended.stdout


def test_productions_inventory_can_be_used_without_a_portainer() -> None:
    address = {"ARCHON_PORTAINER_URL": "http://127.0.0.1:1"}
    message = "msg={{ [archon_portainer_url, archon_portainer_api_key, archon_portainer_password] | to_json }}"
    command = ("-i", "inventory/production", "archon-prod", "-m", "ansible.builtin.debug", "-a", message)
    without = run("ansible", *command, environment=address)
    assert without.returncode == 0, without.stderr
    assert "nothing to log in" in " ".join(without.stderr.split())
    assert '["", "", ""]' in without.stdout.replace('\\"', '"')
    given = run("ansible", *command, environment={**address, "ARCHON_PORTAINER_API_KEY": "ptr_of_this_test"})
    assert given.returncode == 0, given.stderr
    assert "does not answer" in " ".join(given.stderr.split())
    assert "http://127.0.0.1:1" in given.stdout
