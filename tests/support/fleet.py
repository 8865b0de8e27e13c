"""A fleet in one lab: databases of its PROD server as many PRODs, the lab's DEV, and an inventory that names them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml
from archon_align.embedded.server import EmbeddedServer
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from lab import databases
from lab.world import Lab
from tests.support.world import ROOT, TIMEOUT, World

PLAYBOOK = "playbooks/fleet.yml"
# What a PROD is like at first: as DEV is, as the plan found it, or such that only a person can decide.
HEALTHY, BROKEN, HOPELESS = "healthy", "broken", "hopeless"
_BUILT = {HEALTHY: ("dev", "standard"), BROKEN: ("prod", "standard"), HOPELESS: ("prod", "two-shapes")}


@dataclass
class Fleet:
    """PRODs by inventory name, each a database of its own; `number` is the first database's, where there are two fleets."""

    lab: Lab
    folder: Path
    artifacts: Path
    number: int = 0
    databases: dict[str, str] = field(default_factory=dict)

    @property
    def inventory(self) -> Path:
        return self.artifacts.with_name(f"{self.artifacts.name}-inventory") / "hosts.yml"

    @property
    def superuser(self) -> str:
        port = conninfo_to_dict(self.lab.dsn("prod"))["port"]
        return f"{EmbeddedServer(self.folder / 'prod').dsn()} port={port}"

    def dsn(self, name: str) -> str:
        return make_conninfo(self.lab.dsn("prod"), dbname=self.databases[name])

    def build(self, prods: Mapping[str, str]) -> None:
        """Make the PRODs' databases anew."""
        for name, state in prods.items():
            self.databases.setdefault(name, f"fleet_{self.number + len(self.databases)}")
            world, variant = _BUILT[state]
            url = self.lab.embedding_base_url
            databases.rebuild(self.superuser, world, url, variant, self.databases[name])

    def write_inventory(
        self,
        *,
        workers: Mapping[str, Mapping[str, Any]] | None = None,
        variables: Mapping[str, Mapping[str, Any]] | None = None,
        common: Mapping[str, Any] | None = None,
    ) -> None:
        """Name DEV and every PROD that was built; `variables` are those of single PRODs, `common` everybody's."""
        prods = {name: {"archon_dsn": self.dsn(name), **(variables or {}).get(name, {})} for name in self.databases}
        content: dict[str, Any] = {
            "all": {
                "vars": {
                    "ansible_connection": "local",
                    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                    "archon_artifacts_root": str(self.artifacts),
                    "archon_prod_dsn": "{{ archon_dsn }}",
                    "archon_dev_dsn": "{{ hostvars[groups['archon_dev'] | first].archon_dsn }}",
                    "archon_embedding_base_url": self.lab.embedding_base_url,
                    "archon_search_queries_file": "",
                    "archon_templates_words": {"_archon-dev": "_archon-prod"},
                    **(common or {}),
                }
            },
            "archon_dev": {"hosts": {"dev": {"archon_dsn": self.lab.dsn("dev")}}},
            "archon_prod": {"hosts": prods},
        }
        if workers:
            content["embedding_workers"] = {"hosts": {name: dict(own) for name, own in workers.items()}}
        self.inventory.parent.mkdir(exist_ok=True)
        self.inventory.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False))

    def command(self, *arguments: str) -> list[str]:
        return ["ansible-playbook", "-i", str(self.inventory), PLAYBOOK, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return World(self.lab, self.folder, self.artifacts).environment

    def play(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A fleet under way; `output` has its words. A pipe that nobody reads would stop it."""
        self.inventory.with_name("output").unlink(missing_ok=True)
        with self.inventory.with_name("output").open("wb") as output:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.inventory.with_name("output").read_text()

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.artifacts / "latest-fleet" / "fleet.json").read_text())

    def value(self, name: str, query: str) -> Any:
        return _value(self.dsn(name), query)

    def dev(self, query: str) -> Any:
        return _value(self.lab.dsn("dev"), query)

    def remove(self) -> None:
        with psycopg.connect(self.superuser, autocommit=True) as admin:
            for name in self.databases.values():
                admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _value(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None
