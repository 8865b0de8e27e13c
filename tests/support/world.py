"""A lab with ansible-playbook pointed at it, for tests that run the whole thing as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from archon_align.embedded.server import EmbeddedServer
from psycopg.conninfo import conninfo_to_dict

from lab.world import Lab

ROOT = Path(__file__).resolve().parents[2]
# Only what hangs shall meet these limits, also on a slow machine with other work.
TIMEOUT = 900
TIDY_SECONDS = 90.0


@dataclass(frozen=True)
class World:
    """A lab with an artifacts folder of its own, and ansible-playbook pointed at both."""

    lab: Lab
    folder: Path
    artifacts: Path

    @property
    def environment(self) -> dict[str, str]:
        # As `make` and an activated environment do.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return os.environ | {
            "PATH": path,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ARCHON_LAB_FOLDER": str(self.folder),
            "ANSIBLE_FORCE_COLOR": "0",
        }

    def command(self, *arguments: str, playbook: str = "align.yml") -> list[str]:
        return [
            "ansible-playbook",
            "-i",
            "inventory/lab",
            playbook,
            "-e",
            f"archon_artifacts_root={self.artifacts}",
            *arguments,
        ]

    def play(self, *arguments: str, playbook: str = "align.yml") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, playbook=playbook),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def start(self, *arguments: str, playbook: str = "align.yml") -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments, playbook=playbook),
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.artifacts / "latest" / "report.json").read_text())

    def dsn(self, side: str) -> str:
        return self.lab.dsn(side)

    def value(self, side: str, query: str) -> Any:
        with psycopg.connect(self.dsn(side), autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
            return row[0] if row else None

    def photograph(self) -> dict[str, Any]:
        """Everything in both databases, by pg_dump and by the servers' own write counters: an oracle that shares no code with the core."""
        picture: dict[str, Any] = {}
        for side in ("dev", "prod"):
            with psycopg.connect(self.dsn(side), autocommit=True) as connection:
                # Counters of sessions that ended are flushed when the next one asks.
                connection.execute("SELECT pg_stat_force_next_flush()")
                counters = connection.execute(
                    "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del, n_live_tup FROM pg_stat_user_tables ORDER BY relname"
                ).fetchall()
                databases = connection.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()
            dump = subprocess.run(
                [str(EmbeddedServer(self.folder).bin / "pg_dump"), "--restrict-key=oracle", self.dsn(side)],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=True,
            )
            picture[side] = (dump.stdout, counters, databases)
        return picture

    def leftovers(self) -> list[tuple[Any, ...]]:
        """Sessions and advisory locks of archon-align that are still there."""
        with psycopg.connect(self.dsn("prod"), autocommit=True) as connection:
            return connection.execute(
                "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'align %'"
                " UNION ALL SELECT 'lock ' || objid FROM pg_locks WHERE locktype = 'advisory'"
            ).fetchall()

    def wait_until_tidy(self) -> None:
        """Wait until the keeper has ended what the run left and released the lock."""
        deadline = time.monotonic() + TIDY_SECONDS
        while left := self.leftovers():
            assert time.monotonic() < deadline, left
            time.sleep(0.1)


def clients(dsn: str, phase: str) -> set[int]:
    """The processes on this machine that have a session of this phase in this database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        sessions = connection.execute(
            "SELECT client_port FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE %s AND client_port > 0",
            (f"align {phase} %",),
        ).fetchall()
    ports = {port for (port,) in sessions}
    # The same port may be another process's towards another server.
    server = int(conninfo_to_dict(dsn)["port"])
    return {
        one.pid
        for one in psutil.net_connections("tcp")
        if one.pid and one.laddr and one.laddr.port in ports and one.raddr and one.raddr.port == server
    }
