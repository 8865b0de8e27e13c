#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The running Archon services."""

DOCUMENTATION = r"""
module: archon_services
short_description: See what PROD's Archon services really use, restart what has not seen what is stored, and test what they reach
description:
  - Reads PROD's settings and the environment of its archon-server, and compares what uploads and what searches will really use
    with what they should. Every difference is a finding with its consequence.
  - Restarts an archon-server that was started before the newest change of what it keeps in memory, one at a time, and waits until
    C(/health) says C(ready). One that does not come up is brought back to its former state, and the module fails.
  - With O(mode=update) also changes the variables of PROD's stack in Portainer (Swarm's or compose's) that decide the embedding,
    and no others.
  - Tests from inside the server's container, and from here, whether the embedding service answers.
  - Secrets in environments are never shown. Services of DEV are never changed.
attributes:
  check_mode:
    description: Sends only requests that read (and the test of the embedding service); predicts restarts and variables.
    support: full
  diff_mode:
    description: Shows restarts with their reason, and variables with their values, secret ones hidden.
    support: full
  idempotent:
    description: A server that has seen what is stored is not restarted.
    support: full
options:
  task:
    description:
      - V(align) does everything above. V(look) only sees whether the services can be reached, before a run changes anything.
      - V(reachability) only tests the embedding service, and fails when neither the container nor this machine reaches it.
    type: str
    choices: [look, align, reachability]
    default: align
  mode:
    description: V(restart) restarts what has to be; V(update) also changes the stack's variables; V(report) changes nothing.
    type: str
    choices: [restart, update, report]
    default: restart
  ready_timeout:
    description: Seconds that a service may take to become ready, and again to be brought back.
    type: float
    default: 180.0
  environment:
    description: Further environment variables that archon-server shall have, for O(mode=update).
    type: dict
    default: {}
  changed_phases:
    description: The phases of this run that changed something that archon-server keeps in memory.
    type: list
    elements: str
    choices: [data, templates]
    default: []
  earlier:
    description: What an earlier task of this run returned in C(details.services.services), so that the report keeps it.
    type: list
    elements: dict
    default: []
  wait:
    description: With O(backend=none), whether to wait for the restart that a person makes.
    type: bool
    default: false
  probe_timeout:
    description: Seconds that one test of the embedding service may take.
    type: float
    default: 20.0
  embedding_provider:
    description: Archon's name of the provider that is wanted.
    type: str
    required: true
  embedding_base_url:
    description: The embedding service's address that is wanted, with C(/v1).
    type: str
    required: true
  embedding_model:
    description: The model that is wanted.
    type: str
    required: true
  embedding_dimensions:
    description: The length of its vectors.
    type: int
    required: true
  credentials_extra:
    description: Further settings that the data phase stores; check mode foresees them.
    type: dict
    default: {}
extends_documentation_fragment: [archon_phase, archon_services]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: Restart what has not seen what is stored
  archon_services:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    portainer_url: https://portainer.example:9443
    portainer_api_key: "{{ archon_portainer_api_key }}"
    portainer_ca_file: /etc/ssl/portainer.pem
    stack: archon-prod
    prod_url: http://archon.example:8181
    embedding_provider: ollama
    embedding_base_url: http://ollama.example:11434/v1
    embedding_model: nomic-embed-text
    embedding_dimensions: 768
"""

RETURN = r"""
status:
  description: C(aligned), C(changed), or C(drift) (check mode, something would change).
  returned: always
  type: str
  sample: changed
seconds:
  description: Time taken, in seconds.
  returned: success
  type: float
  sample: 8.4
statements:
  description: Empty; nothing is written to a database.
  returned: success
  type: list
  elements: str
  sample: []
proofs:
  description: Empty; nothing is written to a database.
  returned: success
  type: list
  elements: dict
  sample: []
findings:
  description: What a person should know, each with code, severity, object, message and remedy.
  returned: success
  type: list
  elements: dict
  sample:
    - code: effective_differs
      severity: error
      object: "archon-prod_archon-server: LLM_BASE_URL"
      message: Search will ask http://localhost:11434/v1 for the query's vector.
      remedy: Run the data phase (--tags data).
details:
  description: The phase's part of the report, C(services); of environments the names only.
  returned: success
  type: dict
  sample:
    services:
      backend: portainer
      stack: archon-prod
      services:
        - name: archon-prod_archon-server
          role: server
          image: registry.example/archon/archon-server:latest
          running: true
          started_at: "2026-01-01T12:00:00+00:00"
          restarted: true
          ready: true
          environment_changed: []
      effective: {}
      reachability: []
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: service_not_ready
    what: A service did not become ready after its restart.
    object: archon-prod_archon-server
    expected: its new task running and /health ready within 180 s
    found: "task: non-zero exit (3); its former state was restored and is ready"
    remedy: Look at the service's log and correct the cause, then run again.
"""

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.services import arguments, phase
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import (
    PHASE_OPTIONS,
    SERVICES_OPTIONS,
    finish,
    require_libraries,
    run_phase,
)

OWN = {
    "task": {"type": "str", "choices": ["look", "align", "reachability"], "default": "align"},
    "mode": {"type": "str", "choices": ["restart", "update", "report"], "default": "restart"},
    "ready_timeout": {"type": "float", "default": 180.0},
    "environment": {"type": "dict", "default": {}, "no_log": True},
    "changed_phases": {"type": "list", "elements": "str", "choices": ["data", "templates"], "default": []},
    "earlier": {"type": "list", "elements": "dict", "default": []},
    "wait": {"type": "bool", "default": False},
    "probe_timeout": {"type": "float", "default": 20.0},
    "embedding_provider": {"type": "str", "required": True},
    "embedding_base_url": {"type": "str", "required": True},
    "embedding_model": {"type": "str", "required": True},
    "embedding_dimensions": {"type": "int", "required": True},
    "credentials_extra": {"type": "dict", "default": {}, "no_log": True},
}


def main():
    module = AnsibleModule(argument_spec={**PHASE_OPTIONS, **SERVICES_OPTIONS, **OWN}, supports_check_mode=True)
    require_libraries(module, MISSING)
    # no_log keeps all of them out of the system log; in results it would also mask harmless words such as "true".
    for name in ("environment", "credentials_extra"):
        module.no_log_values -= arguments.harmless(module.params[name])
    finish(
        module,
        lambda: run_phase(module, phase.PHASE, lambda context: phase.run(context, arguments.options(module.params))),
    )


if __name__ == "__main__":
    main()
