#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Phase 6: what PROD's running Archon does."""

from __future__ import annotations

DOCUMENTATION = r"""
module: archon_functional
short_description: See whether PROD's running Archon does what its users need
description:
  - Uploads a small document through Archon's API and follows it in the table until its vectors are there and a paraphrase finds
    it. Asks C(/api/rag/query) and the code examples, with the evidence that vectors were used and not keywords. Compares projects
    and tasks over HTTP, and the MCP tools that read, with what SQL says. Creates a task in a throw-away project and reads whether
    its template was expanded.
  - Each check has a verdict. C(works); C(broken_by_data), what PROD holds or Archon has not been restarted for; C(broken_in_archon),
    a defect of Archon's own, which is named; or C(not_reachable), which says what to set. No verdict fails this module.
    M(archon_validate) judges the plan's criteria by them.
  - The document, the project and the task need O(write). They carry a marker that is in C(canary.jsonl) of the artifacts folder before
    anything is created. Exactly they are removed at the end, also when the run is interrupted, in one transaction that proves
    every other row of the protected tables untouched. What a killed run has left is found by its marker and removed at the start.
  - Never calls an MCP tool that writes, deletes or runs commands.
attributes:
  check_mode:
    description: Sends only requests that read, and creates nothing. Predicts what would be removed of a killed run.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
  idempotent:
    description: What it creates it removes; it changes something only where a killed run has left rows.
    support: full
options:
  url:
    description: PROD's archon-server, like C(http://archon.example:8181), with a path prefix if it has one. Empty if unknown.
    type: str
    default: ""
  mcp_url:
    description: PROD's MCP server with its path, like C(http://archon.example:8051/mcp). Empty if unknown.
    type: str
    default: ""
  ca_file:
    description: A file of PEM certificates that the certificates of both are checked by.
    type: str
    default: ""
  provider:
    description: Archon's name of the embedding provider, in lower case, as phase 3 was given it.
    type: str
    default: ollama
  write:
    description: The consent to create a document, a project and tasks in PROD for about a minute.
    type: bool
    default: false
  queries_file:
    description: The file of search queries of phase 4, whose first ones are asked through Archon, too. Empty for none.
    type: str
    default: ""
  ready_timeout:
    description: Seconds that Archon may take until it is ready.
    type: float
    default: 20.0
  upload_timeout:
    description: Seconds that the uploaded document may take until it is in the table.
    type: float
    default: 90.0
extends_documentation_fragment: [archon_phase, archon_service]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: See what the running Archon does
  archon_functional:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    url: http://archon.example:8181
    mcp_url: http://archon.example:8051/mcp
    base_url: http://ollama.example:11434/v1
    model: nomic-embed-text
    dimensions: 768
    write: false
  register: validate_functional_result
"""

RETURN = r"""
status:
  description: C(aligned), C(changed) (rows that a killed run had left were removed), or C(drift) (check mode, they would be).
  returned: success
  type: str
  sample: aligned
seconds:
  description: Time taken, in seconds.
  returned: success
  type: float
  sample: 7.31
statements:
  description: The statements that remove what a killed run has left, the same in both modes.
  returned: success
  type: list
  elements: str
  sample: []
findings:
  description: What a person should know, each with code, severity, object, message and remedy.
  returned: success
  type: list
  elements: dict
  sample:
    - code: functional_not_reachable
      severity: info
      object: mcp
      message: "No address is known: set archon_prod_mcp_url."
      remedy: See docs/phases/6-validate.md.
proofs:
  description: One proof per protected table for each transaction that removed rows.
  returned: success
  type: list
  elements: dict
  sample:
    - table: public.archon_tasks
      rows_before: 120
      rows_after: 120
      preserved: true
details:
  description: >-
    C(functional) with C(checks), each with C(name), C(verdict), C(evidence), C(defect), C(mendable) (a run could have mended it)
    and C(seconds); and how many rows were C(created) and C(removed).
  returned: success
  type: dict
  sample:
    functional:
      checks:
        - name: upload
          verdict: works
          evidence: 1 page with a vector of 768 numbers after 1.4 s; a paraphrase finds it as number 1 of 5 (similarity 0.343).
          defect: ""
          mendable: false
          seconds: 1.803
      created: 4
      removed: 4
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: bad_variable
    what: The address of archon-server cannot be used.
"""

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.embedding.endpoint import Endpoint
    from ansible.module_utils.archon_align.validate.functional import phase
    from ansible.module_utils.archon_align.validate.functional.model import Options
    from ansible.module_utils.archon_align.web.trust import Trust
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error

from ansible.module_utils.archon_align.ansible_edge import (
    PHASE_OPTIONS,
    SERVICE_OPTIONS,
    finish,
    require_libraries,
    run_phase,
)


def main():
    module = AnsibleModule(
        argument_spec={
            **PHASE_OPTIONS,
            **SERVICE_OPTIONS,
            "url": {"type": "str", "default": ""},
            "mcp_url": {"type": "str", "default": ""},
            "ca_file": {"type": "str", "default": ""},
            "provider": {"type": "str", "default": "ollama"},
            "write": {"type": "bool", "default": False},
            "queries_file": {"type": "str", "default": ""},
            "ready_timeout": {"type": "float", "default": 20.0},
            "upload_timeout": {"type": "float", "default": 90.0},
        },
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)
    given = module.params

    def work(context):
        service = {name: given[name] for name in SERVICE_OPTIONS}
        own = ("url", "mcp_url", "write", "queries_file", "ready_timeout", "upload_timeout")
        options = Options(
            endpoint=Endpoint.of(service.pop("base_url"), service.pop("model"), service.pop("dimensions"), **service),
            trust=Trust(ca_file=given["ca_file"]),
            **{name: given[name] for name in own},
        )
        return phase.run(context, options, given["provider"])

    finish(module, lambda: run_phase(module, "validate", work, exempt=True))


if __name__ == "__main__":
    main()
