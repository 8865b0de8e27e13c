#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Phase 4, the vector index and the proof of search."""

DOCUMENTATION = r"""
module: archon_search
short_description: Build a vector index that finds, and prove vector search
description:
  - Measures recall@10 of PROD's vector index against an exact scan, with the settings that Archon's sessions have (those stored
    for the database, for C(authenticator) and, as far as PostgREST hands them on, for C(service_role)). An index that is missing,
    has more lists than rows, or finds less than O(index_min_recall) is replaced by an hnsw index for cosine search. An hnsw index
    that finds less is made once more with C(m = 32, ef_construction = 128), and never again. A good index is left alone, and so
    are partial indexes, those of expressions and of other distances.
  - Then proves search through C(match_archon_crawled_pages) and C(match_archon_code_examples), as C(service_role) where the
    session's user may become that role (else the role's privileges are read from the catalogue), with vectors of known queries.
    No result may lack its similarity. Without a query file a sentence from the middle of a page must find its page.
  - Where vectors of another dimension were rebuilt beside the old ones, first puts them in their place, in one transaction. The
    new vectors get indexes of the same method and parameters before, the old ones are copied to schema C(archon_quarantine), and
    no other value changes. Rows that came in meanwhile are embedded first.
  - Nothing is undone when the proof of search fails.
attributes:
  check_mode:
    description: Predicts the index statements. Search is proved where embeddings exist, because asking changes nothing.
    support: full
  diff_mode:
    description: Shows the index statements, and those by which new vectors take the place of old ones.
    support: full
  idempotent:
    description: A good index is left alone; a second run changes nothing.
    support: full
options:
  queries_file:
    description:
      - A JSON file on the host that the task runs on. It holds an object with the lists C(pages) and C(code_examples) of
        objects with C(query), C(url) and C(chunk_number), the row that the query must find (any chunk where it is absent).
      - When empty, queries are sampled from the pages themselves.
    type: str
    default: ""
  min_recall:
    description:
      - The least recall@5. Below it the module fails with a file's queries.
      - With sampled ones it warns, but fails below 0.2, or when fewer than 0.9 of the pages are found by their own text.
    type: float
    default: 0.9
  index_min_recall:
    description: The least recall@10 of an index that is left alone.
    type: float
    default: 0.95
  concurrently_rows:
    description: With more vectors than this an index is built by C(CREATE INDEX CONCURRENTLY), without blocking writers.
    type: int
    default: 50000
  index_timeout:
    description: Seconds that a concurrent build may take, or a statement of the change from old vectors to new ones.
    type: float
    default: 3600.0
  maintenance_work_mem:
    description:
      - The server's C(maintenance_work_mem) while an index is built, as PostgreSQL writes sizes (C(512MB), C(2GB)). Empty for the
        server's own. A finding tells what an index needs when that is more.
      - A server in a container builds in C(/dev/shm), which must be as large.
    type: str
    default: ""
  max_quarantined:
    description: New vectors do not take the old ones' place when more rows than this cannot be embedded.
    type: int
    default: 100
extends_documentation_fragment: [archon_phase, archon_service]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: See to the vector index and prove search
  archon_search:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    base_url: http://ollama.example:11434/v1
    model: nomic-embed-text
    dimensions: 768
    queries_file: "{{ playbook_dir }}/files/queries.json"
    maintenance_work_mem: 2GB
"""

RETURN = r"""
status:
  description: C(aligned), C(changed), C(drift) (check mode, an index would change) or C(failed).
  returned: always
  type: str
  sample: changed
seconds:
  description: Time taken, in seconds.
  returned: success
  type: float
  sample: 0.412
statements:
  description: The statements, the same in both modes.
  returned: success
  type: list
  elements: str
  sample:
    - CREATE INDEX "idx_archon_crawled_pages_embedding" ON "public"."archon_crawled_pages" USING "hnsw" ("embedding" "public"."vector_cosine_ops")
findings:
  description: What a person should know, each with code, severity, object, message and remedy.
  returned: success
  type: list
  elements: dict
  sample: []
proofs:
  description: One proof per protected table for each transaction that built an index.
  returned: success
  type: list
  elements: dict
  sample: []
details:
  description:
    - The phase's part of the report. C(source) is C(file), C(sampled) or C(none); C(passages) of the sampled queries are no
      sentences, because their pages have none. C(settings) are those that Archon's sessions have and that were measured with.
    - Recall is measured over C(samples) vectors, by the index itself and by what Archon's function returns. It is null where that
      takes longer than the statement timeout.
  returned: always
  type: dict
  sample:
    search:
      queries: 75
      recall_at_5: 0.96
      source: file
      null_similarities: 0
      missed: []
      passages: 0
      role: service_role
      role_reason: ""
      settings:
        hnsw.ef_search: "100"
      index:
        public.archon_crawled_pages:
          method: hnsw
          recall_at_10: 0.998
          recall_at_10_through_function: 0.998
          samples: 50
          build_seconds: 0.21
          action: replaced
          reason: idx_archon_crawled_pages_embedding has 100 lists for 93 rows, so that most searches look into empty lists
      kept:
        - of: public.archon_crawled_pages
          table: archon_quarantine.archon_crawled_pages__embedding_1536
          rows: 93
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: search_broken
    what: Vector search does not work as it must.
    object: recall@5 of queries.json
    expected: at least 0.90
    found: 0.41 (31 of 75)
    remedy: Check that the vectors come from archon_embedding_model and the queries fit PROD's content.
"""

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.embedding import search_phase
    from ansible.module_utils.archon_align.embedding.endpoint import Endpoint
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
    "queries_file": {"type": "str", "default": ""},
    "min_recall": {"type": "float", "default": 0.9},
    "index_min_recall": {"type": "float", "default": 0.95},
    "concurrently_rows": {"type": "int", "default": 50_000},
    "index_timeout": {"type": "float", "default": 3600.0},
    "maintenance_work_mem": {"type": "str", "default": ""},
    "max_quarantined": {"type": "int", "default": 100},
}


def main():
    module = AnsibleModule(
        argument_spec={
            **PHASE_OPTIONS,
            **SERVICE_OPTIONS,
            **OWN,
        },
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)
    options = module.params

    def work():
        endpoint = Endpoint.of(**{name: options[name] for name in SERVICE_OPTIONS})
        chosen = search_phase.Options(endpoint, **{name: options[name] for name in OWN})
        return run_phase(
            module,
            "embeddings",
            lambda context: search_phase.run(context, chosen),
            ledger="search",
            resumable=True,
        )

    finish(module, work)


if __name__ == "__main__":
    main()
