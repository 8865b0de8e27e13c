#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Phase 6: what is true now, and the plan's success criteria."""

from __future__ import annotations

DOCUMENTATION = r"""
module: archon_validate
short_description: Judge the plan's success criteria by what PROD holds now
description:
  - Counts what the plan's section 6.2 counts, fingerprints the protected tables over the columns they had before the run,
    looks for missing embeddings and vectors of a wrong dimension, and asks each search function with a stored vector.
  - Compares the two catalogues, and rehearses the phases data and templates in check mode. What they would still do is what
    is not aligned.
  - Judges the plan's five critical success criteria, each with its evidence. What only a running Archon can tell is C(null).
  - Judges on read-only sessions, on which the execution gate refuses what mutates. Writes C(snapshot-after.json) to the artifacts
    folder.
  - When every criterion is met, removes the old vectors that a change of dimensions has kept in schema C(archon_quarantine), if all
    of their rows have new ones. That is all that it changes.
attributes:
  check_mode:
    description: Judges the present state in the same way, and never fails for an unmet criterion. Predicts what would be removed.
    support: full
  diff_mode:
    description: There is nothing to compare, as nothing is changed.
    support: none
  idempotent:
    description: What was removed is not there any more; a second run changes nothing.
    support: full
options:
  embedding_provider:
    description: Archon's name of the provider, in lower case, as phase 3 was given it.
    type: str
    required: true
  embedding_base_url:
    description: The service's OpenAI-compatible address with C(/v1), as phase 3 was given it. It is compared, not called.
    type: str
    required: true
  embedding_model:
    description: The model's name, as phase 3 was given it.
    type: str
    required: true
  embedding_dimensions:
    description: Length of the model's vectors, 1 to 16000.
    type: int
    required: true
  credentials_extra:
    description: The further keys that phase 3 was given.
    type: dict
    default: {}
  results:
    description:
      - The registered results of earlier phases in the order in which they ran. Their proofs, the measured recall and the
        quarantined rows are used. Results of skipped tasks are ignored.
    type: list
    elements: dict
    default: []
  enforce:
    description: Fail when a criterion is unmet that a run could have met. When false, the state is only told and nothing is removed.
    type: bool
    default: true
extends_documentation_fragment: [archon_phase, archon_templates]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: Judge the success criteria by what PROD holds now
  archon_validate:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    embedding_provider: ollama
    embedding_base_url: http://ollama.example:11434/v1
    embedding_model: nomic-embed-text
    embedding_dimensions: 768
    enforce: false
  register: validate_result
"""

RETURN = r"""
status:
  description: >-
    C(aligned), C(changed) (vectors that new ones have replaced were removed), C(drift) (a criterion is unmet and that is not
    enforced; or check mode, something would be removed), or C(failed).
  returned: always
  type: str
  sample: aligned
seconds:
  description: Time taken, in seconds.
  returned: always
  type: float
  sample: 0.412
statements:
  description: The statements that remove vectors which new ones have replaced, the same in both modes.
  returned: success
  type: list
  elements: str
  sample:
    - DROP TABLE "archon_quarantine"."archon_crawled_pages__embedding_1536"
findings:
  description: What a person should know, each with code, severity, object, message and remedy.
  returned: always
  type: list
  elements: dict
  sample:
    - code: restart_archon_server
      severity: warning
      object: archon-server
      message: archon-server must be restarted.
      remedy: Restart the service archon-server in production.
details:
  description:
    - C(criteria) with name, met and evidence; C(counts) by the plan's names; C(probes) of the search functions; and
      C(left_to_do), the statements that these phases would still execute (null where that could not be examined).
    - Outside check mode also C(embeddings.missing_after) and C(schema.differences_after).
  returned: always
  type: dict
  sample:
    criteria:
      - name: Schema consistency between DEV and PROD
        met: true
        evidence: The catalogues are the same; only PROD has 3 objects besides.
    counts:
      projects: 6
      tasks: 120
      pages_with_embeddings: 93
      template_components: 9
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: criteria_unmet
    what: PROD does not meet the plan's success criteria.
"""

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.settings.phase import Options as Settings
    from ansible.module_utils.archon_align.settings.phase import is_secret
    from ansible.module_utils.archon_align.validate import phase
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error

from ansible.module_utils.archon_align.ansible_edge import (
    PHASE_OPTIONS,
    TEMPLATE_OPTIONS,
    finish,
    require_libraries,
    run_phase,
    template_options,
)


def main():
    module = AnsibleModule(
        argument_spec={
            **PHASE_OPTIONS,
            "embedding_provider": {"type": "str", "required": True},
            "embedding_base_url": {"type": "str", "required": True},
            "embedding_model": {"type": "str", "required": True},
            "embedding_dimensions": {"type": "int", "required": True},
            "credentials_extra": {"type": "dict", "default": {}, "no_log": True},
            **TEMPLATE_OPTIONS,
            "results": {"type": "list", "elements": "dict", "default": []},
            "enforce": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    require_libraries(module, MISSING)
    options = module.params
    extra = options["credentials_extra"]
    # no_log keeps all of them out of the system log; in results it would also mask harmless words such as "true".
    module.no_log_values -= {str(value) for key, value in extra.items() if not is_secret(key, str(value))}
    own = ("embedding_provider", "embedding_base_url", "embedding_model", "embedding_dimensions")
    settings = {name: options[name] for name in own}
    finish(
        module,
        lambda: run_phase(
            module,
            "validate",
            lambda context: phase.run(
                context,
                phase.Options(
                    Settings(**settings, extra=extra), options["results"], options["enforce"], template_options(module)
                ),
            ),
            exempt=True,
        ),
    )


if __name__ == "__main__":
    main()
