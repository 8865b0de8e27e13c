#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at everything a run needs before anything is touched."""

from __future__ import annotations

DOCUMENTATION = r"""
module: archon_preflight
short_description: Check everything that a run of archon-align needs
description:
  - Looks at both databases (reachable, really different, version, pgvector, ownership, privileges, row-level security,
    writable, no transaction-mode pooler), at pg_dump, at the disk and at the embedding service, and changes nothing.
  - All problems are told together in one failure, each with object, expectation, finding and remedy.
options:
  min_version:
    description: The oldest PostgreSQL major version that is accepted.
    type: int
    default: 14
  min_free_mb:
    description: MiB that must be free in the artifacts folder beyond the estimate for the backup and its verification.
    type: int
    default: 200
  pg_dump:
    description: Path of the pg_dump to use. The bundled one when empty.
    type: str
    default: ""
  embedding_base_url:
    description: The embedding service's OpenAI-compatible base URL, such as C(http://host:11434/v1). Not looked at when empty.
    type: str
    default: ""
  embedding_model:
    description: The model the service must have.
    type: str
    default: ""
  embedding_dimensions:
    description: The number of dimensions of the model's vectors.
    type: int
    default: 768
  run_findings:
    description: What archon_run found when it started the run, to be told with preflight's own findings.
    type: list
    elements: dict
    default: []
  dead_run:
    description:
      - What becomes of what a run that died without a word had committed on this PROD. It is told in either case.
      - With V(continue) this run goes on from there, with V(rollback) it is undone before the phases (M(archon_rollback)).
    type: str
    choices: [continue, rollback]
    default: continue
extends_documentation_fragment: [archon_phase]
attributes:
  check_mode:
    support: full
    description: The same in check mode, as it only reads.
  diff_mode:
    support: none
    description: Nothing is changed.
  idempotent:
    support: full
    description: It only reads.
author: archon-align contributors
"""

EXAMPLES = r"""
- name: Check what the run needs
  archon_preflight:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    embedding_base_url: http://127.0.0.1:11434/v1
    embedding_model: nomic-embed-text
  delegate_to: localhost
  register: preflight_result
"""

RETURN = r"""
phase:
  description: Always V(preflight).
  returned: always
  type: str
  sample: preflight
status:
  description: V(aligned) when nothing stands against a run, V(failed) otherwise.
  returned: always
  type: str
  sample: aligned
seconds:
  description: How long it took.
  returned: always
  type: float
  sample: 0.214
findings:
  description: What should be known but does not stop a run; each with code, severity, object, message and remedy.
  returned: always
  type: list
  elements: dict
  sample: []
details:
  description:
    - What was read, under the key C(preflight), by C(prod), C(dev), C(pg_dump), C(disk) and C(embedding_service).
    - C(dead_runs) lists the runs on this PROD that died and were not dealt with since, oldest first. Each has C(run_id),
      C(last_seen), C(phase), C(progress), C(committed) and C(restore_point).
    - C(problems) lists everything that must be put right, causes first; each with code, what, object, expected, found, remedy.
  returned: always
  type: dict
  sample:
    preflight:
      problems:
        - code: no_pgvector
          what: pgvector is missing on PROD.
          object: "PROD: extension vector"
          expected: version 0.5.0 or newer, installed in database archon
          found: not installed
          remedy: As a superuser run CREATE EXTENSION vector.
      prod: {version: "18.4", database: archon, role: archon_owner, size_bytes: 12345678, connections_free: 90,
             track_counts: true, pgvector: 0.8.5, pgvector_schema: public}
      pg_dump: {path: /usr/bin/pg_dump, version: "18.4"}
      disk: {free_bytes: 50000000000, needed_bytes: 234567890}
      embedding_service: {base_url: "http://127.0.0.1:11434/v1", reachable: true, model: nomic-embed-text, model_present: true}
error:
  description: The first problem in parts (code, what, object, expected, found, remedy); the message tells all of them.
  returned: failure
  type: dict
  sample: {code: no_pgvector, what: pgvector is missing on PROD.}
"""

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.preflight import phase
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import PHASE_OPTIONS, context_of, finish, require_libraries


def main():
    module = AnsibleModule(
        argument_spec={
            **PHASE_OPTIONS,
            "min_version": {"type": "int", "default": 14},
            "min_free_mb": {"type": "int", "default": 200},
            "pg_dump": {"type": "str", "default": ""},
            "embedding_base_url": {"type": "str", "default": ""},
            "embedding_model": {"type": "str", "default": ""},
            "embedding_dimensions": {"type": "int", "default": 768},
            "run_findings": {"type": "list", "elements": "dict", "default": []},
            "dead_run": {"type": "str", "choices": ["continue", "rollback"], "default": "continue"},
        },
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)
    own = (
        "min_version",
        "min_free_mb",
        "pg_dump",
        "embedding_base_url",
        "embedding_model",
        "embedding_dimensions",
        "run_findings",
        "dead_run",
    )
    finish(
        module,
        lambda: phase.run(
            context_of(module, "preflight"), phase.Options(**{name: module.params[name] for name in own})
        ).as_result(),
    )


if __name__ == "__main__":
    main()
