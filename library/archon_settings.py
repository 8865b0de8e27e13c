#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Phase 3: the embedding configuration."""

DOCUMENTATION = r"""
module: archon_settings
short_description: Store the embedding configuration where the plan wants it and where Archon reads it
description:
  - Writes the four embedding keys, and any O(credentials_extra), into PROD's C(archon_credentials) (category C(embedding)).
  - Writes the same into PROD's C(archon_settings) (category C(rag_strategy)) under the names that Archon reads. With Ollama
    that includes C(LLM_BASE_URL), where Archon's search embeds its queries. C(LLM_PROVIDER) and the chat keys stay as they are
    unless O(credentials_extra) names them.
  - Adds to DEV's C(archon_credentials) the keys it lacks. DEV's existing values and its C(archon_settings) are never written.
  - Rows that Archon stores encrypted are never read, copied, shown or overwritten. One that is wanted becomes a finding.
  - A key whose name holds KEY, TOKEN, SECRET, PASSW or CREDENTIAL is secret. It goes to C(archon_credentials) only, and its
    value appears in no statement, diff, result or log.
  - All changes of a database are made in one transaction, under the run lock of PROD.
attributes:
  check_mode:
    description: Predicts exactly the statements of a run, also while C(archon_credentials) does not exist yet.
    support: full
  diff_mode:
    description: Shows the keys that change with their values, secret ones excepted.
    support: full
  idempotent:
    description: Only what differs is written; a second run changes nothing.
    support: full
options:
  embedding_provider:
    description: Archon's name of the provider, in lower case.
    type: str
    required: true
  embedding_base_url:
    description: The service's OpenAI-compatible address, with scheme and C(/v1), as PROD's archon-server reaches it.
    type: str
    required: true
  embedding_model:
    description: The model's name as the service knows it.
    type: str
    required: true
  embedding_dimensions:
    description: Length of the model's vectors, 1 to 16000.
    type: int
    required: true
  credentials_extra:
    description: Further keys with text, number or boolean values (booleans are stored as C(true) and C(false)).
    type: dict
    default: {}
extends_documentation_fragment: [archon_phase]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: Store the embedding configuration
  archon_settings:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    embedding_provider: ollama
    embedding_base_url: http://ollama.example:11434/v1
    embedding_model: nomic-embed-text
    embedding_dimensions: 768
    credentials_extra:
      EMBEDDING_FALLBACK_PROVIDERS: ollama
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
  sample: 0.112
statements:
  description: The statements, the same in both modes. A secret value is read from a setting of the transaction instead.
  returned: success
  type: list
  elements: str
  sample:
    - UPDATE "public"."archon_settings" SET "value" = '768' WHERE key = 'EMBEDDING_DIMENSIONS'
findings:
  description: What a person should know, each with code, severity, object, message and remedy.
  returned: success
  type: list
  elements: dict
  sample:
    - code: chat_shares_base_url
      severity: warning
      object: "PROD public.archon_settings: LLM_BASE_URL"
      message: Search embeds its query at LLM_BASE_URL, so this is the Ollama address.
      remedy: Test a chat after the restart.
proofs:
  description: One proof per protected table of PROD when PROD was written.
  returned: success
  type: list
  elements: dict
  sample:
    - table: public.archon_tasks
      rows_before: 120
      rows_after: 120
      preserved: true
details:
  description: The phase's part of the report. Keys are named C(<database>:<table>:<category>/<key>); values never.
  returned: success
  type: dict
  sample:
    credentials:
      changed_keys:
        - prod:archon_settings:rag_strategy/EMBEDDING_DIMENSIONS
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: missing_table
    what: A configuration table is missing.
    object: PROD public.archon_credentials
    expected: the table that the schema phase creates
    found: no such table
    remedy: Run the schema phase first (--tags schema).
"""

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.settings import phase
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import PHASE_OPTIONS, finish, require_libraries, run_phase


def main():
    module = AnsibleModule(
        argument_spec={
            **PHASE_OPTIONS,
            "embedding_provider": {"type": "str", "required": True},
            "embedding_base_url": {"type": "str", "required": True},
            "embedding_model": {"type": "str", "required": True},
            "embedding_dimensions": {"type": "int", "required": True},
            "credentials_extra": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)
    extra = module.params["credentials_extra"]
    # no_log keeps all of them out of the system log; in results it would also mask harmless words such as "true".
    module.no_log_values -= {str(value) for key, value in extra.items() if not phase.is_secret(key, str(value))}
    own = ("embedding_provider", "embedding_base_url", "embedding_model", "embedding_dimensions")
    options = {name: module.params[name] for name in own}
    finish(
        module,
        lambda: run_phase(module, "data", lambda context: phase.run(context, phase.Options(**options, extra=extra))),
    )


if __name__ == "__main__":
    main()
