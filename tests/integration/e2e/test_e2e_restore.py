"""A run's encrypted backup restored by the playbook into a fresh database, as on the day PROD is lost."""

from __future__ import annotations

import json
import subprocess

import psycopg
import pyrage
from archon_align.embedded.server import EmbeddedServer

from tests.support.world import World

NAME = "archon_restored"


def dump(world: World, dsn: str) -> str:
    command = [str(EmbeddedServer(world.folder).bin / "pg_dump"), "--restrict-key=oracle", "--schema=public", dsn]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout


def test_the_backup_restores_by_the_playbook(world: World) -> None:
    identity = pyrage.x25519.Identity.generate()
    key = world.folder / "backup-key"
    key.write_text(f"{identity}\n")
    recipients = json.dumps({"archon_backup_recipients": [str(identity.to_public())]})
    backup = world.play("-e", recipients, "--tags", "backup", playbook="playbooks/assess.yml")
    assert backup.returncode == 0, backup.stdout + backup.stderr
    run = (world.artifacts / "latest").resolve().name
    world.wait_until_tidy()

    server = EmbeddedServer(world.folder / "prod")
    prod = psycopg.conninfo.conninfo_to_dict(world.dsn("prod"))
    with psycopg.connect(f"{server.dsn()} port={prod['port']}", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {NAME} OWNER archon")
    with psycopg.connect(f"{server.dsn(NAME)} port={prod['port']}", autocommit=True) as admin:
        admin.execute("CREATE EXTENSION vector; ALTER SCHEMA public OWNER TO archon")
    target = psycopg.conninfo.make_conninfo(world.dsn("prod"), dbname=NAME)
    arguments = ["-e", f"restore_backup={run}", "-e", json.dumps({"restore_dsn": target})]
    opened = [*arguments, "-e", f"restore_identity={key}"]

    onto_prod = world.play(
        *opened, "-e", json.dumps({"restore_dsn": world.dsn("prod")}), playbook="playbooks/restore.yml"
    )
    assert "The target of the restore is a database in use." in onto_prod.stdout
    empty = dump(world, target)
    check = world.play(*opened, "--check", "--diff", playbook="playbooks/restore.yml")
    assert check.returncode == 0, check.stdout + check.stderr
    assert "changed=1" in check.stdout
    assert "+public.archon_tasks: 120 rows" in check.stdout
    assert dump(world, target) == empty

    done = world.play(*opened, playbook="playbooks/restore.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=1" in done.stdout
    assert f"Restored the backup of run {run}" in " ".join(done.stdout.split())
    assert dump(world, target) == dump(world, world.dsn("prod"))
    again = world.play(*opened, playbook="playbooks/restore.yml")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "changed=0" in again.stdout
