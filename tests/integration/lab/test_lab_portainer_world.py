"""The lab with Portainer and the Archons: brought up, reset and taken down as one, with nothing left running."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from lab.__main__ import main
from lab.world import Lab
from tests.support.world import World

WAIT_SECONDS = 90.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Path]]:
    folder = tmp_path_factory.mktemp("a lab") / "with %41 Archons"
    lab = Lab(folder)
    try:
        lab.up()
        yield lab, folder
    finally:
        lab.remove()


@pytest.fixture
def lab(running: tuple[Lab, Path]) -> Lab:
    running[0].up()
    return running[0]


@pytest.fixture
def folder(running: tuple[Lab, Path]) -> Path:
    return running[1]


def state(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "state.json").read_text()))


def client(folder: Path) -> httpx.Client:
    known = state(folder)["portainer"]
    key = {"X-API-Key": Path(known["api_key_file"]).read_text().strip()}
    context = ssl.create_default_context(cafile=known["ca_file"])
    return httpx.Client(base_url=known["url"], verify=context, headers=key, timeout=30, trust_env=False)


def ask(folder: Path, path: str) -> Any:
    with client(folder) as portainer:
        reply = portainer.get(f"/api{path}")
        reply.raise_for_status()
        return reply.json()


def set_variable(folder: Path, name: str, value: str, *, attempts: int = 3) -> None:
    """In PROD's stack, as a person does it; a start that fails is tried so often again."""
    stack = next(stack for stack in ask(folder, "/stacks") if stack["Name"] == "archon-prod")
    file = ask(folder, f"/stacks/{stack['Id']}/file")["StackFileContent"]
    pairs = [pair for pair in stack["Env"] if pair["name"] != name]
    with client(folder) as portainer:
        content = re.sub(r"max_attempts: \d", f"max_attempts: {attempts}", file)
        body = {"StackFileContent": content, "Env": [*pairs, {"name": name, "value": value}]}
        portainer.put(f"/api/stacks/{stack['Id']}", params={"endpointId": 1}, json=body).raise_for_status()


def variables(folder: Path) -> dict[str, str]:
    stack = next(stack for stack in ask(folder, "/stacks") if stack["Name"] == "archon-prod")
    return {pair["name"]: pair["value"] for pair in stack["Env"]}


def conditions(lab: Lab) -> dict[str, str]:
    return {archon.name: archon.condition for archon in lab.status().archons}


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def family(folder: Path) -> list[psutil.Process]:
    """Portainer and every process that it runs."""
    parent = psutil.Process(state(folder)["portainer"]["pid"])
    return [parent, *parent.children(recursive=True)]


def assert_ended(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, 30)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_everything_is_up_and_the_state_file_says_where(lab: Lab, folder: Path) -> None:
    assert conditions(lab) == {"dev": "ready", "prod": "ready"}
    known = state(folder)
    assert set(known["portainer"]) == {"url", "ca_file", "fingerprint", "api_key_file", "pid", "started"}
    assert set(known["archon"]) == {"dev", "prod"}
    for archon in known["archon"].values():
        assert httpx.get(f"{archon['url']}/health", trust_env=False).json()["ready"] is True
        assert archon["mcp_url"].endswith("/mcp")
    for name in ("portainer/api-key", "portainer/store.json", "archon-dev-secret", "archon-prod-secret", "state.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    text = (folder / "state.json").read_text()
    assert variables(folder)["SUPABASE_SERVICE_KEY"] not in text
    assert (folder / "portainer" / "api-key").read_text().strip() not in text
    assert len(family(folder)) == 5


def test_the_stacks_are_as_in_the_plan(lab: Lab, folder: Path) -> None:
    names = {service["Spec"]["Name"] for service in ask(folder, "/endpoints/1/docker/services")}
    assert names == {
        "archon-prod_archon-server",
        "archon-prod_archon-mcp",
        "archon-dev_dev-archon-server",
        "archon-dev_dev-archon-mcp",
    }
    found = variables(folder)
    assert (found["EMBEDDING_PROVIDER"], found["EMBEDDING_MODEL"], found["EMBEDDING_DIMENSIONS"]) == ("ollama", "nomic-embed-text", "768")  # fmt: skip
    assert found["EMBEDDING_BASE_URL"] == lab.embedding_base_url
    assert found["SUPABASE_URL"] == lab.dsn("prod")
    assert "TEMPLATE_INJECTION_ENABLED" not in found
    server = ask(folder, "/endpoints/1/docker/services/archon-prod_archon-server")
    assert f"SUPABASE_URL={lab.dsn('prod')}" in server["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"]


def test_the_inventory_finds_it(lab: Lab, folder: Path, tmp_path: Path) -> None:
    world = World(lab, folder, tmp_path)
    template = "{{ [archon_portainer_url, archon_portainer_api_key | length > 20, archon_portainer_ca_file, archon_prod_url, archon_prod_mcp_url, archon_dev_url] | to_json }}"

    def told(environment: dict[str, str]) -> list[Any]:
        command = ["ansible", "-i", "inventory/lab", "lab-prod", "-m", "debug", "-a", f"msg={template}"]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
        return list(json.loads(yaml.safe_load(ran.stdout.partition("=>")[2])["msg"]))

    known = state(folder)
    archon = known["archon"]
    assert told(world.environment) == [
        known["portainer"]["url"],
        True,
        known["portainer"]["ca_file"],
        archon["prod"]["url"],
        archon["prod"]["mcp_url"],
        archon["dev"]["url"],
    ]
    assert told({**world.environment, "ARCHON_LAB_FOLDER": str(tmp_path)}) == ["", False, "", "", "", ""]


def test_a_wrong_key_ends_the_start_and_is_told(lab: Lab, folder: Path) -> None:
    right = variables(folder)["SUPABASE_SERVICE_KEY"]
    set_variable(folder, "SUPABASE_SERVICE_KEY", right[:-2] + "xx", attempts=1)
    wait(lambda: "non-zero exit (3)" in conditions(lab)["prod"])
    lab.up()  # tries again, in vain, and does not wait for ever
    assert "non-zero exit (3)" in conditions(lab)["prod"]
    assert "Invalid API key" in conditions(lab)["prod"]
    assert conditions(lab)["dev"] == "ready"
    set_variable(folder, "SUPABASE_SERVICE_KEY", right)
    wait(lambda: conditions(lab)["prod"] == "ready")


def forget_port_of_prod(folder: Path) -> None:
    """PROD's server gets another port at the next start."""
    file = folder / "last-state.json"
    content = json.loads(file.read_text())
    content["prod"]["port"] = 0
    file.write_text(json.dumps(content))


def test_down_leaves_nothing_and_up_brings_everything_back_also_to_a_database_that_moved(
    lab: Lab, folder: Path
) -> None:
    set_variable(folder, "LOG_LEVEL", "ERROR")
    before, processes = state(folder), family(folder)
    lab.down()
    assert_ended(processes)
    for archon in before["archon"].values():
        with pytest.raises(httpx.ConnectError):
            httpx.get(archon["url"], trust_env=False)
    assert lab.status().archons == ()
    forget_port_of_prod(folder)
    lab.up()
    after = state(folder)
    assert after["archon"] == before["archon"]
    assert {name: after["portainer"][name] for name in ("url", "fingerprint")} == {
        name: before["portainer"][name] for name in ("url", "fingerprint")
    }
    assert variables(folder)["LOG_LEVEL"] == "ERROR"
    assert after["prod"]["port"] != before["prod"]["port"]
    assert variables(folder)["SUPABASE_URL"] == lab.dsn("prod")
    assert conditions(lab) == {"dev": "ready", "prod": "ready"}


def test_reset_brings_the_stacks_and_fresh_archons_back(lab: Lab, folder: Path) -> None:
    set_variable(folder, "LOG_LEVEL", "ERROR")
    before = family(folder)
    lab.reset()
    after = family(folder)
    assert before[0] == after[0]
    assert_ended(before[1:])
    assert not set(before[1:]) & set(after[1:])
    assert variables(folder)["LOG_LEVEL"] == "INFO"
    assert conditions(lab) == {"dev": "ready", "prod": "ready"}
    with client(folder) as portainer:
        assert not [seen for seen in portainer.get("/_lab/requests").json() if seen["method"] == "PUT"]


def test_a_killed_portainer_takes_its_archons_along_and_comes_back(lab: Lab, folder: Path) -> None:
    before, processes = state(folder), family(folder)
    os.kill(before["portainer"]["pid"], signal.SIGKILL)
    assert_ended(processes)
    status = lab.status()
    assert status.portainer is None
    assert all(archon.condition.startswith("not ready") for archon in status.archons)
    lab.up()
    assert state(folder)["archon"] == before["archon"]
    assert conditions(lab) == {"dev": "ready", "prod": "ready"}


def test_up_leaves_what_runs_alone_also_when_asked_without_archon(lab: Lab, folder: Path) -> None:
    before = {process.pid for process in family(folder)}, state(folder)
    lab.up()
    Lab(folder, archon=False).up()
    assert ({process.pid for process in family(folder)}, state(folder)) == before


def test_the_commands_show_them(lab: Lab, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--folder", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert state(folder)["portainer"]["url"] in shown
    for world in ("dev", "prod"):
        assert f"ARCHON    {world}: ready" in shown
        assert state(folder)["archon"][world]["mcp_url"] in shown
    assert (folder / "portainer" / "api-key").read_text().strip() not in shown


def test_remove_leaves_no_file_and_no_process(lab: Lab, folder: Path) -> None:
    processes = family(folder)
    lab.remove()
    assert_ended(processes)
    left = {path.name for path in folder.iterdir()}
    assert not {name for name in left if "portainer" in name or "secret" in name}, left
