#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Phase 4, the rebuild of missing embeddings."""

DOCUMENTATION = r"""
module: archon_embeddings
short_description: Rebuild missing embeddings in place
description:
  - Embeds every row of PROD's C(archon_crawled_pages) and C(archon_code_examples) whose C(embedding) is NULL, from the text that
    Archon itself embeds. Nothing else of a row changes, and no row is deleted or moved.
  - Several endpoints are used side by side, in proportion to their speed. One that fails is paused and tried again; the
    others carry on.
  - Every vector is checked before it is stored (order, count, dimension, finite, not zero, length), and a sample of the stored ones
    is embedded again afterwards.
  - A row that the service refuses for itself, or whose content is blank, is quarantined as a finding; the rest goes on.
  - When the service gives out, the module fails with status C(resumable). What was written stays and the next run continues.
  - No transaction is open while the service is waited for. Rows are written by one session, under the run lock of PROD.
  - Several hosts may run it at the same time against one PROD, each with a O(worker) of its own. They share the tables by advisory
    locks on ranges of ids; nothing is written for that. A call without O(worker) comes after theirs and does what they have left.
attributes:
  check_mode:
    description: Counts the rows and shows the statement's shape. Nothing is embedded, and no model is pulled.
    support: full
  diff_mode:
    description: Shows the rows without embedding per table, before and after.
    support: full
  idempotent:
    description: Rows that have the embedding that is wanted are never touched; a second run changes nothing.
    support: full
options:
  endpoints:
    description: Addresses of embedding services, all of which have the model. Empty means O(base_url) alone.
    type: list
    elements: str
    default: []
  prefix:
    description:
      - What is put before every text, like C(search_document:) and a blank. Used only where PROD has no embedded rows; else these
        tell with which prefix they were made.
    type: str
    default: ""
  scope:
    description: >-
      With V(stale) also the rows are embedded anew whose vectors come from another model or dimension. The old vector stays until the
      new one is in its place.
    type: str
    choices: [missing, stale]
    default: missing
  overlong:
    description: Whether a text that is longer than the model takes is cut, or its row quarantined.
    type: str
    choices: [truncate, quarantine]
    default: truncate
  pull:
    description: Whether a model that an Ollama lacks is pulled there.
    type: bool
    default: false
  batch_texts:
    description: Texts in one request, at most.
    type: int
    default: 64
  batch_characters:
    description: Characters in one request, at most. A longer text travels alone.
    type: int
    default: 100000
  rows_per_commit:
    description: Rows written in one transaction, at most about.
    type: int
    default: 512
  max_in_flight:
    description: Requests under way at one endpoint, at most. How many it gets is found out by its speed.
    type: int
    default: 16
  max_quarantined:
    description: The module fails when more rows than this cannot be embedded.
    type: int
    default: 100
  stall_timeout:
    description: Seconds without a finished batch after which the module gives up, resumable.
    type: float
    default: 120.0
  min_free_mb:
    description: The module gives up, resumable, when less than this many MiB are free for the artifacts.
    type: int
    default: 0
  worker:
    description:
      - The name of this worker, where several hosts share the rebuild. Up to 32 letters, digits, dots, dashes and underscores.
      - Its restore point is C(restore-points/embeddings-<worker>.jsonl) below O(artifacts_dir), which may be a folder of the
        worker's own and is made when missing.
    type: str
    default: ""
extends_documentation_fragment: [archon_phase, archon_service]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: Rebuild missing embeddings
  archon_embeddings:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    base_url: http://ollama.example:11434/v1
    model: nomic-embed-text
    dimensions: 768

- name: The same with two services, and rows of another model anew
  archon_embeddings:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    base_url: http://ollama.example:11434/v1
    endpoints:
      - http://ollama.example:11434/v1
      - http://gpu.example:8080/v1
    model: nomic-embed-text
    dimensions: 768
    scope: stale
"""

RETURN = r"""
status:
  description: C(aligned), C(changed), C(drift) (check mode, rows would be embedded), C(resumable) or C(failed).
  returned: always
  type: str
  sample: changed
worker:
  description: O(worker), where one was named.
  returned: when a worker was named
  type: str
  sample: gpu-1
seconds:
  description: Time taken, in seconds.
  returned: success
  type: float
  sample: 1.214
statements:
  description: The shape of the writing statement per table with missing rows; its arrays are known only when the service has answered.
  returned: success
  type: list
  elements: str
  sample:
    - UPDATE "public"."archon_crawled_pages" AS page SET embedding = fresh.embedding FROM …
findings:
  description: What a person should know, each with code, severity, object, message and remedy.
  returned: success
  type: list
  elements: dict
  sample: []
details:
  description: >-
    The phase's part of the report. A call without O(worker) adds C(written_by_workers), the rows by worker that their restore
    points tell of, where there are any.
  returned: always
  type: dict
  sample:
    embeddings:
      missing_before: 105
      missing_after: 0
      rebuilt: 105
      quarantined: 0
      rows_per_second: 412.5
      model: nomic-embed-text
      digest: 0a109f422b47
      version: 0.12.6
      tables:
        public.archon_crawled_pages:
          missing_before: 93
          missing_after: 0
          rebuilt: 93
          quarantined: 0
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: embedding_unreachable
    what: The rebuild of embeddings stopped. The embedding service does not answer.
    object: http://ollama.example:11434/v1/embeddings
    expected: a service listening there
    found: "[Errno 111] Connection refused"
    remedy: Check that the service runs and is reachable from this host, then run again. The 64 embeddings written in this run are kept; the next run continues.
"""

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.embedding import phase, workers
    from ansible.module_utils.archon_align.embedding.endpoint import endpoints_of
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import (
    PHASE_OPTIONS,
    SERVICE_OPTIONS,
    finish,
    require_libraries,
    run_phase,
)

OWN = {
    "prefix": {"type": "str", "default": ""},
    "scope": {"type": "str", "choices": ["missing", "stale"], "default": "missing"},
    "overlong": {"type": "str", "choices": ["truncate", "quarantine"], "default": "truncate"},
    "pull": {"type": "bool", "default": False},
    "batch_texts": {"type": "int", "default": 64},
    "batch_characters": {"type": "int", "default": 100_000},
    "rows_per_commit": {"type": "int", "default": 512},
    "max_in_flight": {"type": "int", "default": 16},
    "max_quarantined": {"type": "int", "default": 100},
    "stall_timeout": {"type": "float", "default": 120.0},
    "min_free_mb": {"type": "int", "default": 0},
    "worker": {"type": "str", "default": ""},
}


def main():
    module = AnsibleModule(
        argument_spec={
            **PHASE_OPTIONS,
            **SERVICE_OPTIONS,
            "endpoints": {"type": "list", "elements": "str", "default": []},
            **OWN,
        },
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)
    given = module.params
    name = given["worker"]

    def rebuild(context):
        service = {option: given[option] for option in SERVICE_OPTIONS}
        endpoints, findings = endpoints_of(urls=given["endpoints"], **service)
        if name and not context.check:
            workers.private_folder(context.run.artifacts)
        outcome = phase.run(context, phase.Options(endpoints, **{option: given[option] for option in OWN}))
        outcome.findings = [*findings, *outcome.findings]
        return outcome if name else workers.with_workers(context, outcome)

    def work():
        workers.require_name(name)
        result = run_phase(module, "embeddings", rebuild, ledger=workers.ledger_name(name), exempt=True)
        return result | ({"worker": name} if name else {})

    finish(module, work)


if __name__ == "__main__":
    main()
