# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options that every phase's module has (PHASE_OPTIONS in archon_align.ansible_edge)."""


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  run_id:
    description: The run, as M(archon_run) returned it (C(YYYYMMDD-HHMMSS-xxxxxx), with C(-check) in check mode).
    type: str
    required: true
  artifacts_dir:
    description: The run's artifacts folder, as M(archon_run) returned it.
    type: path
    required: true
  prod_dsn:
    description:
      - libpq URI or key=value string of PROD. The role must own the objects that change.
      - Never shown. A C(passfile) in it keeps the password out of every variable.
    type: str
    required: true
  dev_dsn:
    description: libpq URI or key=value string of DEV, the model. Only C(archon_credentials) is ever written there.
    type: str
    required: true
  schema_names:
    description: The schemas that are compared and aligned. Archon's own tables are in the first that has them.
    type: list
    elements: str
    default: [public]
  protected_tables:
    description:
      - Tables to protect besides C(archon_projects), C(archon_tasks), C(archon_document_versions) and C(archon_project_sources).
      - A bare name means the first schema.
    type: list
    elements: str
    default: []
  connect_timeout:
    description: Seconds to wait for a database connection.
    type: float
    default: 10.0
  statement_timeout:
    description: Seconds one statement may run.
    type: float
    default: 300.0
  rollback_on_failure:
    description:
      - Whether a phase that fails puts back what it had committed, and ends C(rolled_back).
      - Verified embeddings stay in either case. What users changed meanwhile is left as they left it and told.
    type: bool
    default: true
"""
