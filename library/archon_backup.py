#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Phase 1: the verified backup."""

DOCUMENTATION = r"""
module: archon_backup
short_description: Back up PROD's schemas and prove the backup by restoring it
description:
  - Dumps the schemas with C(pg_dump) in the very snapshot in which every table is counted and fingerprinted.
  - Restores the dump into a private PostgreSQL server of its own, never on PROD, and compares the rows of every table and every
    object, column, comment and grant. A backup that cannot be proved fails.
  - Extensions, roles and what the schemas need from other schemas are supplied for the proof. What cannot be (a foreign key to
    C(auth.users), an index by an operator class of an extension that is not bundled) is left out of it and reported.
  - The protected tables also restore alone, from C(backup/critical.sql), which is proved as well, and are readable as JSON Lines in
    C(backup/critical/).
  - Leaves C(backup/), which C(backup/manifest.json) lists, and C(snapshot-before.json) in the run's folder, readable by its owner only.
  - Refuses when the role cannot see every row, when C(pg_dump) is older than the server or cannot keep the connection's TLS, and
    when a disk would get too full. Stops, leaving nothing, when one runs full meanwhile.
  - Removes what backups that were killed left on this machine, scratch servers included.
  - Encrypts the files to O(recipients), and removes backups that need not be kept (O(keep_last), O(keep_days)).
  - No password is ever in arguments or environment of C(pg_dump).
attributes:
  check_mode:
    description: Takes no dump. Makes every test that needs none, and records protected tables and row counts.
    support: full
  diff_mode:
    description: There is nothing to show, because nothing is changed.
    support: none
  idempotent:
    description: A backup never changes a database, so C(changed) is always false. Every run takes its own.
    support: full
options:
  pg_dump:
    description: Path of the C(pg_dump) to use, not older than the server. Empty means the bundled one (PostgreSQL 18).
    type: str
    default: ""
  timeout:
    description: Seconds that the dump may take, and each step of its proof.
    type: float
    default: 3600.0
  min_free_mb:
    description: MiB to leave free on the disks of the artifacts and of temporary files, before and during the backup.
    type: int
    default: 200
  parallel_mb:
    description: Tables of more than this many MiB together are dumped by up to four processes into a folder, less by one into a file.
    type: int
    default: 64
  recipients:
    description:
      - Public keys (C(age1...), C(ssh-ed25519 ...), C(ssh-rsa ...)) to each of which every file of the backup but its manifest is
        encrypted once it was proved. None leaves the files plain. A bad one is refused before anything is dumped.
    type: list
    elements: str
    default: []
  keep_last:
    description:
      - So many of the newest verified backups of this database stay; 0 sets no limit. Those younger than O(keep_days) stay, too.
      - With both 0 nothing is ever removed. The newest verified backup never is.
    type: int
    default: 0
  keep_days:
    description: Backups younger than so many days stay; 0 sets no limit.
    type: int
    default: 0
  scratch_dsn:
    description:
      - A PostgreSQL server (17 or newer, not PROD's or DEV's) on which the proof is made instead of the embedded one, as a superuser.
      - Databases of random names and missing roles are made there and dropped again. Never shown.
    type: str
    default: ""
extends_documentation_fragment: [archon_phase]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: Back up PROD and prove the backup
  archon_backup:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    schema_names: [public]
    timeout: 7200
  register: backup_result
"""

RETURN = r"""
status:
  description: C(aligned); a backup that is not proved is a failure.
  returned: success
  type: str
  sample: aligned
seconds:
  description: Time taken, in seconds.
  returned: success
  type: float
  sample: 1.429
findings:
  description: What the proof left out, protected tables that do not exist; in check mode what a run would do.
  returned: success
  type: list
  elements: dict
  sample:
    - code: left_out_of_proof
      severity: info
      object: archon_projects_owner_fkey on public.archon_projects
      message: >-
        The backup holds this table constraint; its proof left it out: refers to auth.users, which is outside the dumped schemas.
      remedy: "Nothing to do: a restore into the same database brings it back."
details:
  description:
    - C(backup) with C(path) and C(format) of the dump (relative to the artifacts folder; custom or directory), its C(bytes),
      C(manifest_sha256), C(seconds) of the dump, of the restore in its proof and of the rest of the proof, C(predicted) (what the last
      backup let expect), C(tables), C(rows), C(objects) by kind, C(critical) and C(verified). In check mode C(planned) and
      C(estimated_bytes) instead.
    - C(restore_points) with the backup, and C(protected_before) with rows and fingerprint of every protected table.
  returned: success
  type: dict
  sample:
    backup:
      path: backup/public.dump
      format: custom
      bytes: 1205248
      manifest_sha256: 03190e0f71c4c24bee21b2059f1b21b5eeada2268a0ff0eba84f0c7968086912
      seconds: {dump: 0.26, proof: 0.81, restore: 0.49}
      predicted: {by: 20251231-000000-abcdef, bytes: 1199872, seconds: 1.1}
      tables: 8
      rows: 885
      objects: {table: 10, index: 11}
      critical: {path: backup/critical.sql, tables: 4, left_out: 1, verified: true}
      verified: true
    restore_points:
      - name: 20260101-000000-abcdef:backup
        kind: backup
        path: backup/public.dump
        verified: true
        created_at: "2026-01-01T00:00:01.770+00:00"
    protected_before:
      public.archon_projects:
        rows: 6
        fingerprint: 1d47d914924bba6bf13af40d7bf28937
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: pg_dump_too_old
    what: pg_dump is older than the server.
    object: /usr/bin/pg_dump
    expected: pg_dump 17 or newer, as the server is PostgreSQL 17.2
    found: pg_dump 15.18
    remedy: Install the client tools of PostgreSQL 17 or newer and set backup_pg_dump to their pg_dump.
"""

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.backup import phase
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import PHASE_OPTIONS, context_of, finish, require_libraries

OWN = {
    "pg_dump": {"type": "str", "default": ""},
    "timeout": {"type": "float", "default": 3600.0},
    "min_free_mb": {"type": "int", "default": 200},
    "parallel_mb": {"type": "int", "default": 64},
    "recipients": {"type": "list", "elements": "str", "default": []},
    "keep_last": {"type": "int", "default": 0},
    "keep_days": {"type": "int", "default": 0},
    "scratch_dsn": {"type": "str", "default": "", "no_log": True},
}


def main():
    module = AnsibleModule(argument_spec={**PHASE_OPTIONS, **OWN}, supports_check_mode=True)
    require_libraries(module, MISSING)
    given = {name: module.params[name] for name in OWN}

    def work():
        keep = phase.Keep(given.pop("keep_last"), given.pop("keep_days"))
        options = phase.Options(**given | {"keep": keep, "recipients": tuple(given["recipients"])})
        return phase.run(context_of(module, "backup"), options).as_result()

    finish(module, work)


if __name__ == "__main__":
    main()
