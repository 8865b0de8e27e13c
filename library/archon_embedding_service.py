#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Phase 4, the probe of the embedding service."""

DOCUMENTATION = r"""
module: archon_embedding_service
short_description: Prove that the embedding service answers with the right model and dimension
description:
  - Sends the plan's real call (input C(test)) to every endpoint at once, from the host that the task runs on.
  - Fails, naming the remedy, when no endpoint answers, has the model and answers rightly. As long as one does, the others
    are findings.
  - Fails as well when two endpoints give different vectors for the same sentence.
  - With O(prod_dsn) the model's dimension is compared with the C(embedding) columns of PROD, or of DEV where the schema phase
    has yet to bring PROD's into line. Without, it connects to nothing but the service and needs no run.
attributes:
  check_mode:
    description: Runs in full, because embedding requests change nothing; a model that O(pull) allows is not pulled, only told.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Changes nothing but a service that lacks the model, where O(pull) allows it.
    support: full
options:
  endpoints:
    description:
      - The addresses to use together. Where the list is empty, O(base_url) is the only one.
      - Each is written like O(base_url); one that comes twice is used once and is a finding.
    type: list
    elements: str
    default: []
  pull:
    description: Whether an Ollama that lacks the model may be told to pull it.
    type: bool
    default: false
  run_id:
    description: The run, as the module archon_run returned it. Needed with O(prod_dsn).
    type: str
    required: false
  artifacts_dir:
    description: The run's folder for artifacts. Needed with O(prod_dsn).
    type: path
    required: false
  prod_dsn:
    description: libpq URI or key=value string of PROD, to compare dimensions.
    type: str
    required: false
  dev_dsn:
    description: libpq URI or key=value string of DEV. Needed with O(prod_dsn).
    type: str
    required: false
extends_documentation_fragment: [archon_phase, archon_service]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: The embedding service answers from production's side
  archon_embedding_service:
    base_url: http://ollama.example:11434/v1
    model: nomic-embed-text
    dimensions: 768

- name: Two embedding services have the same model, pulled where it is missing
  archon_embedding_service:
    base_url: http://ollama-1.example:11434/v1
    endpoints: ["http://ollama-1.example:11434/v1", "http://ollama-2.example:11434/v1"]
    model: nomic-embed-text
    dimensions: 768
    pull: true
"""

RETURN = r"""
status:
  description: C(aligned); C(changed) where a model was pulled, C(drift) where check mode found that a run would.
  returned: success
  type: str
  sample: aligned
findings:
  description: What a person should know, each with code, severity, object, message and remedy.
  returned: success
  type: list
  elements: dict
  sample: []
details:
  description:
    - What answered first, and each endpoint for itself. C(version) and C(digest) are empty for services other than Ollama.
    - C(context_length) is the number of tokens the model reads at once, null where that is not told.
  returned: success
  type: dict
  sample:
    embedding_service:
      url: http://ollama.example:11434/v1/embeddings
      model: nomic-embed-text
      dimension: 768
      latency_ms: 21.3
      version: 0.12.6
      digest: 0a109f422b47
      context_length: 2048
      endpoints:
        - url: http://ollama.example:11434/v1/embeddings
          usable: true
          latency_ms: 21.3
          version: 0.12.6
          digest: 0a109f422b47
          context_length: 2048
          error: ""
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: embedding_model_missing
    what: The embedding service cannot be used.
    object: http://ollama.example:11434/api/show
    expected: model nomic-embed-text present
    found: "HTTP 404: model 'nomic-embed-text' not found"
    remedy: "On the service's host run: ollama pull nomic-embed-text; or set archon_embedding_pull: true."
"""

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.embedding import service
    from ansible.module_utils.archon_align.embedding.endpoint import endpoints_of
except ImportError as error:  # httpx and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import (
    PHASE_OPTIONS,
    SERVICE_OPTIONS,
    context_of,
    finish,
    require_libraries,
)

OWN = {
    "endpoints": {"type": "list", "elements": "str", "default": []},
    "pull": {"type": "bool", "default": False},
}
DATABASE_OPTIONS = ("run_id", "artifacts_dir", "prod_dsn", "dev_dsn")


def main():
    shared = {name: {**option, "required": False} for name, option in PHASE_OPTIONS.items()}
    module = AnsibleModule(
        argument_spec={
            **shared,
            **SERVICE_OPTIONS,
            **OWN,
        },
        required_by={"prod_dsn": [name for name in DATABASE_OPTIONS if name != "prod_dsn"]},
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)
    options = module.params

    def work():
        given = {name: options[name] for name in SERVICE_OPTIONS}
        endpoints, findings = endpoints_of(given.pop("base_url"), options["endpoints"], **given)
        context = context_of(module, "embeddings") if options["prod_dsn"] else None
        return service.probe(
            endpoints, context, pull=options["pull"], check=module.check_mode, findings=findings
        ).as_result()

    finish(module, work)


if __name__ == "__main__":
    main()
