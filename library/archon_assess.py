#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Phase 1: the state of both databases."""

DOCUMENTATION = r"""
module: archon_assess
short_description: Document the state of PROD and DEV, and the differences between their schemas
description:
  - Counts what the plan asks for in both databases, with embeddings, their type and index, search functions and settings.
  - Compares the schemas and plans PROD's alignment as the schema phase will do it, into C(plan.sql) and C(plan.json) in the run's
    folder.
  - Of settings, keys that begin with C(EMBEDDING_) or C(LLM_) are shown; encrypted and secret values never.
  - Changes nothing in either mode. Every session is read-only.
attributes:
  check_mode:
    description: The same as a run, which only reads.
    support: full
  diff_mode:
    description: Shows what the schema phase would change.
    support: full
  idempotent:
    description: Nothing is ever changed.
    support: full
options:
  templates_follow:
    description:
      - The run goes on to the templates phase. What that would refuse, such as a template that names a component nobody has,
        is refused here, before the phases between have changed anything.
    type: bool
    default: false
extends_documentation_fragment: [archon_phase, archon_schema]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: Document the state of both databases
  archon_assess:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
  register: assess_result
"""

RETURN = r"""
status:
  description: C(aligned), because nothing is changed. What is wrong is in RV(findings).
  returned: success
  type: str
  sample: aligned
seconds:
  description: Time taken, in seconds.
  returned: success
  type: float
  sample: 0.61
findings:
  description: What is missing or broken in PROD, in words.
  returned: success
  type: list
  elements: dict
  sample:
    - code: embeddings_missing
      severity: warning
      object: PROD public.archon_crawled_pages
      message: 93 of 93 pages have no embedding, so vector search cannot find them.
      remedy: The embeddings phase rebuilds them in place from their stored text (--tags embeddings).
details:
  description:
    - C(state) with C(prod) and C(dev), each with C(counts) (null where there is no table), C(embeddings), C(search_functions),
      C(settings), C(credentials), C(sources_without_pages), C(pgvector), C(server_version), C(size_bytes) and C(wal_bytes).
    - C(schema) with C(differences_before), C(only_in_prod) and C(statements).
  returned: success
  type: dict
  sample:
    state:
      prod:
        counts: {projects: 7, tasks: 120, pages: 93, components: null}
        embeddings:
          archon_crawled_pages:
            column: vector(1536)
            dimensions: 1536
            rows: 93
            with_embedding: 0
            missing: 93
            indexes: [{name: idx_archon_crawled_pages_embedding, method: ivfflat, lists: 100, valid: true}]
    schema:
      differences_before: 134
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: missing_privilege
    what: DEV refused while its state was read.
    object: DEV
    expected: the statement to succeed
    found: permission denied for table archon_settings
    remedy: Connect as the owner of the objects, or grant what is missing.
"""

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.assess import phase
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import (
    PHASE_OPTIONS,
    SCHEMA_OPTIONS,
    context_of,
    finish,
    require_libraries,
    schema_options,
)


def main():
    module = AnsibleModule(
        argument_spec={**PHASE_OPTIONS, **SCHEMA_OPTIONS, "templates_follow": {"type": "bool", "default": False}},
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)

    def work():
        options = phase.Options(schema_options(module), templates_follow=module.params["templates_follow"])
        return phase.run(context_of(module, "assess"), options).as_result()

    finish(module, work)


if __name__ == "__main__":
    main()
