"""What a module's host has to have: told per module in docs/hosts.md, and named by a module where it is missing."""

from __future__ import annotations

import ast
import importlib.util
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# A process that has all packages but those named: it runs a module, or tells what each of the modules named loads.
LOADING = """
import importlib, importlib.abc, json, os, sys
import ansible.module_utils
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

core, library, names, lacking, arguments = json.loads(sys.argv[1])

class Lacking(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] in lacking:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

sys.meta_path.insert(0, Lacking())
ansible.module_utils.__path__.append(core)
sys.path.append(library)
if arguments is not None:
    with patch_module_args(arguments):
        importlib.import_module(names[0]).main()
for name in names:
    if os.fork():
        os.wait()
        continue
    module = importlib.import_module(name)
    # Loaded by the edge when the module gets to work.
    edge = {"context_of": "database.target", "run_phase": "rollback.failure"}
    for used in edge.keys() & vars(module).keys():
        importlib.import_module("ansible.module_utils.archon_align." + edge[used])
    print(json.dumps([name, sorted({one.split(".")[0] for one in sys.modules})]), flush=True)
    os._exit(0)
"""
PACKAGES = {
    "httpx": "httpx",
    "numpy": "numpy",
    "orjson": "orjson",
    "pglast": "pglast",
    "pgvector": "pgvector",
    "psutil": "psutil",
    "psycopg[binary]": "psycopg",
    "PyYAML": "yaml",
}


def load(names: list[str], lacking: list[str], arguments: dict[str, object] | None = None) -> str:
    given = json.dumps([str(ROOT / "module_utils"), str(ROOT / "library"), names, lacking, arguments])
    done = subprocess.run(
        [sys.executable, "-c", LOADING, given], capture_output=True, text=True, timeout=600, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def on_the_host() -> list[str]:
    """The modules that run on PROD's host where that is not the controller (plugins/action/archon.py)."""
    text = (ROOT / "plugins/action/archon.py").read_text()
    assigned = next(
        one for one in ast.parse(text).body if isinstance(one, ast.Assign) and "OF_THE_CON" in ast.unparse(one)
    )
    own = {ast.literal_eval(one) for one in ast.walk(assigned.value) if isinstance(one, ast.Constant)}
    names = sorted(path.stem for path in (ROOT / "library").glob("archon_*.py"))
    found = [name for name in names if name.removeprefix("archon_") not in own]
    assert len(found) < len(names)
    return found


def documented() -> dict[str, list[str]]:
    """The table of docs/hosts.md: packages by module."""
    found = {}
    for line in (ROOT / "docs/hosts.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 and cells[0].startswith("`archon_"):
            packages = re.findall(r"`([^`]+)`", cells[1])
            found.update(dict.fromkeys(re.findall(r"`(archon_\w+)`", cells[0]), packages))
    return found


def test_the_documentation_says_what_each_module_on_a_host_loads() -> None:
    told = [json.loads(line) for line in load(on_the_host(), []).splitlines()]
    loaded = {name: {package for package, imported in PACKAGES.items() if imported in tops} for name, tops in told}
    assert {name: set(packages) for name, packages in documented().items()} == loaded


def test_the_packages_are_those_that_are_required() -> None:
    required = (ROOT / "requirements/runtime.in").read_text()
    assert [one for one in PACKAGES if one not in required] == []
    assert [one for one in PACKAGES.values() if importlib.util.find_spec(one) is None] == []


SERVICE = {"base_url": "http://127.0.0.1:9/v1", "model": "any", "dimensions": 3}
DATABASES = {
    "run_id": "20260131-090000-aa10bc",
    "artifacts_dir": "/nonexistent",
    "prod_dsn": "host=127.0.0.1 port=9",
    "dev_dsn": "host=127.0.0.1 port=9",
}


@pytest.mark.parametrize(
    ("name", "lacking", "arguments", "package"),
    [
        ("archon_templates", "psycopg", DATABASES, "psycopg[binary]"),
        ("archon_schema", "pglast", DATABASES, "pglast"),
        ("archon_embedding_service", "httpx", SERVICE, "httpx"),
    ],
)
def test_a_missing_package_is_named(name: str, lacking: str, arguments: dict[str, object], package: str) -> None:
    told = json.loads(load([name], [lacking], arguments | {"_ansible_module_name": f"ansible.legacy.{name}"}))
    assert told["failed"]
    assert told["error"]["code"] == "package_missing"
    assert told["error"]["object"] == f"{name} on {platform.node()}"
    assert told["error"]["expected"] == f"{package} for {sys.executable}"
    assert f"{sys.executable} -m pip install -r runtime.txt" in told["error"]["remedy"]


def test_a_host_without_a_database_needs_none_of_its_packages_to_ask_the_service() -> None:
    lacking = ["psycopg", "pglast", "pgvector"]
    assert json.loads(load(["archon_embedding_service"], lacking, SERVICE))["error"]["code"] != "package_missing"
