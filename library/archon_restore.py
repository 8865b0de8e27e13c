#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restore a backup into an empty database."""

DOCUMENTATION = r"""
module: archon_restore
short_description: Restore a verified backup into an empty database and prove it there
description:
  - Takes a backup of a run of archon-align whose manifest says that it was proved, checks the size and SHA-256 of every file, decrypts
    them where they are encrypted, and restores them with C(pg_restore) into a database in whose schemas nothing is.
  - Then compares the rows of every table and every object, column, comment and grant with what the backup's own proof expected.
  - Refuses, with nothing changed, a backup that is not as it was written, a target that is not empty, is PROD or DEV, is on an older
    server or stores text otherwise, and a target that lacks roles, extensions or objects outside of the schemas.
  - Makes the missing roles (C(NOLOGIN)), extensions and functions of other schemas where the role of O(dsn) may.
  - Needs neither PROD nor DEV to be up. A dump of one file is restored in one transaction, so that a failure leaves nothing; one of a
    folder by several connections, and a failure drops again what they had made.
attributes:
  check_mode:
    description: Checks the backup and the target, and says what a run would restore; writes nothing.
    support: full
  diff_mode:
    description: Shows the tables with their rows.
    support: full
  idempotent:
    description: A target that already holds exactly the backup (proved) is left alone; any other that is not empty is refused.
    support: full
options:
  backup:
    description: A run's id below O(artifacts_root), or the path of the run's folder or of its C(backup) folder.
    type: str
    required: true
  dsn:
    description:
      - libpq URI or key=value string of the empty database. The role must own the database or be able to create objects there.
      - Never shown. A C(passfile) in it keeps the password out of every variable.
    type: str
    required: true
  artifacts_root:
    description: Where the artifacts folders of all runs lie.
    type: path
    required: true
  identity:
    description: File with the private key of an encrypted backup, an age identity or an OpenSSH key without passphrase.
    type: path
  what:
    description: Everything, or C(critical) for the protected tables alone, which need nothing else to be restored.
    type: str
    choices: [all, critical]
    default: all
  live_dsns:
    description: DSNs of the databases that must not be the target, by the names they are known by.
    type: dict
    default: {}
  allow_live:
    description: The target may be one of O(live_dsns), or the database that the backup is of. It has to be empty all the same.
    type: bool
    default: false
  pg_dump:
    description: Path of a C(pg_dump) beside which C(pg_restore) and C(psql) are. Empty means the bundled ones (PostgreSQL 18).
    type: str
    default: ""
  timeout:
    description: Seconds that C(pg_restore) may take, and each statement of the proof.
    type: float
    default: 3600.0
  connect_timeout:
    description: Seconds to wait for a database connection.
    type: float
    default: 10.0
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: Restore a backup into an empty database
  archon_restore:
    backup: 20260131-094500-3f9a1c
    dsn: postgresql://archon@127.0.0.1:5432/archon_restored?passfile=/secure/pgpass
    artifacts_root: artifacts
    live_dsns:
      archon-prod: postgresql://archon@db.example:5432/postgres?passfile=/secure/pgpass

- name: Only look whether the protected tables of an encrypted backup could be restored
  archon_restore:
    backup: artifacts/20260131-094500-3f9a1c/backup
    dsn: "{{ lookup('ansible.builtin.env', 'ARCHON_RESTORE_DSN') }}"
    artifacts_root: artifacts
    identity: /secure/backup-key.txt
    what: critical
  check_mode: true
"""

RETURN = r"""
status:
  description: C(changed), C(aligned) (the target already held exactly the backup), or C(drift) (check mode, a run would restore).
  returned: always
  type: str
  sample: changed
seconds:
  description: Time taken, in seconds, checksums and proof included.
  returned: success
  type: float
  sample: 1.912
statements:
  description: What was made in the target before the restore, the same in both modes.
  returned: success
  type: list
  elements: str
  sample:
    - CREATE EXTENSION "vector" SCHEMA "public"
findings:
  description: What a person should know, each with code, severity, object, message and remedy.
  returned: success
  type: list
  elements: dict
  sample:
    - code: restored
      severity: info
      object: 127.0.0.1:5432/archon_restored
      message: >-
        Restored the backup of run 20260131-094500-3f9a1c: 885 rows in 10 tables in 0.4 s, proved equal to the database that was dumped.
      remedy: Run ANALYZE there before it is used, or let autovacuum do it.
details:
  description:
    - C(restore) with the run of the C(backup), its C(snapshot_at), C(what) was restored, the C(target), C(tables), C(rows), and the
      C(seconds) of C(restore) and C(proof).
  returned: success
  type: dict
  sample:
    restore:
      backup: 20260131-094500-3f9a1c
      snapshot_at: "2026-01-31T09:45:01.770+00:00"
      what: all
      target: 127.0.0.1:5432/archon_restored
      tables: 10
      rows: 885
      seconds: {restore: 0.412, proof: 0.093}
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: target_not_empty
    what: The target of the restore is not empty.
    object: TARGET 127.0.0.1:5432/archon_restored
    expected: nothing in public, or exactly what the backup of run 20260131-094500-3f9a1c holds
    found: "1 objects (table public.notes); other than in the backup: table public.archon_projects: missing"
    remedy: Make an empty database and pass its DSN as restore_dsn; nothing here was changed.
"""

from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.backup import restore
    from ansible.module_utils.archon_align.context import Context, Run
    from ansible.module_utils.archon_align.database.target import Target
    from ansible.module_utils.archon_align.keeper.start import new_run_id
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import finish, require_libraries


def main():
    module = AnsibleModule(
        argument_spec={
            "backup": {"type": "str", "required": True},
            "dsn": {"type": "str", "required": True, "no_log": True},
            "artifacts_root": {"type": "path", "required": True},
            "identity": {"type": "path"},
            "what": {"type": "str", "choices": ["all", "critical"], "default": "all"},
            "live_dsns": {"type": "dict", "default": {}, "no_log": True},
            "allow_live": {"type": "bool", "default": False},
            "pg_dump": {"type": "str", "default": ""},
            "timeout": {"type": "float", "default": 3600.0},
            "connect_timeout": {"type": "float", "default": 10.0},
        },
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)
    given = module.params

    def work():
        root = Path(given["artifacts_root"])
        run_id = new_run_id(datetime.now(UTC), check=module.check_mode)
        context = Context(
            run=Run(run_id, root / run_id),
            prod=Target("TARGET", given["dsn"], "restore_dsn"),
            dev=Target("DEV", ""),
            phase="restore",
            # What is protected are databases in use: a restore that fails must be able to drop what it has made.
            protected_names=(),
            connect_timeout=given["connect_timeout"],
        )
        options = restore.Options(
            backup=given["backup"],
            artifacts_root=root,
            identity=Path(given["identity"]) if given["identity"] else None,
            what=given["what"],
            live={name: str(dsn or "") for name, dsn in given["live_dsns"].items()},
            allow_live=given["allow_live"],
            pg_dump=given["pg_dump"],
            timeout=given["timeout"],
        )
        return restore.run(context, options).as_result()

    finish(module, work)


if __name__ == "__main__":
    main()
