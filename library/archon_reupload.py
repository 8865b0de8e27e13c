#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Phase 4 by the plan's own way: documents uploaded again."""

DOCUMENTATION = r"""
module: archon_reupload
short_description: Upload documents to Archon again, and remove their old pages when the new ones are proved
description:
  - For each source that has pages without a vector, was made by an upload (all its pages have one url C(file://name)) and whose
    original is in O(documents_dir), one after the other, saves the source's rows in the artifacts folder, gives its pages a
    marked url, uploads the document and waits until the table is at rest.
  - The new pages are proved to be of one new source, each with a vector of O(dimensions), to hold what the old ones hold, and to
    be found by search. Only then, in one transaction, projects are linked to the new source as they are to the old one, and the
    old pages are removed by their ids. Old links and the old source's row stay.
  - Whatever fails before leaves the source as it was. What a killed run has left is put in order first.
  - The mark is there because Archon deletes all pages of a document's url before it embeds the new ones.
  - Sources that were crawled, whose file is missing, or whose pages belong to two sources say so; M(archon_embeddings) rebuilds
    them in place.
attributes:
  check_mode:
    description: Says which sources would be uploaded again; Archon is only asked whether it is ready.
    support: full
  diff_mode:
    description: Shows nothing, because what Archon makes of a document is not known before.
    support: none
  idempotent:
    description: A source whose pages all have vectors is left alone.
    support: full
options:
  archon_url:
    description: PROD's archon-server.
    type: str
    default: ""
  archon_ca_file:
    description: PEM certificates that its certificate is checked by.
    type: str
    default: ""
  documents_dir:
    description: The folder with the original documents, by the names under which they were uploaded.
    type: str
    default: ""
  dimensions:
    description: The length of the vectors that uploads must get.
    type: int
    required: true
  upload_timeout:
    description: Seconds that one document may take.
    type: float
    default: 600.0
  upload:
    description: Whether documents are uploaded; otherwise only what a killed run has left is put in order.
    type: bool
    default: true
extends_documentation_fragment: [archon_phase]
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
- name: Upload documents again
  archon_reupload:
    run_id: "{{ archon_run_id }}"
    artifacts_dir: "{{ archon_artifacts_dir }}"
    prod_dsn: "{{ archon_prod_dsn }}"
    dev_dsn: "{{ archon_dev_dsn }}"
    archon_url: http://archon.example:8181
    documents_dir: /srv/documents
    dimensions: 768
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
  sample: 12.7
statements:
  description: The statements by which old pages step aside, or come back.
  returned: success
  type: list
  elements: str
  sample:
    - UPDATE "public"."archon_crawled_pages" SET url = 'archon-align-aside:20260101-000000-abcdef:1767225600:file://notes.txt'
      WHERE url = 'file://notes.txt' AND id IN (17, 18)
findings:
  description: What a person should know, each with code, severity, object, message and remedy.
  returned: success
  type: list
  elements: dict
  sample:
    - code: not_uploaded_again
      severity: info
      object: docs.example.org
      message: "1 source cannot be uploaded again and are rebuilt in place. docs.example.org: it was crawled."
      remedy: Put the original documents into archon_reupload_documents_dir if they shall be uploaded.
proofs:
  description: One proof per protected table and transaction.
  returned: success
  type: list
  elements: dict
  sample:
    - table: public.archon_project_sources
      rows_before: 9
      rows_after: 9
      rows_added: 1
      preserved: true
details:
  description: The phase's part of the report.
  returned: success
  type: dict
  sample:
    reupload:
      uploaded:
        - source: file_notes_txt_1752652800
          new_source: file_notes_txt_1767225601
          pages_before: 2
          pages_after: 2
          links: 1
      skipped:
        - source: docs.example.org
          reason: "it was crawled: there is no document to upload"
      put_back: 0
error:
  description: On failure, what failed with C(code), C(what), C(object), C(expected), C(found) and C(remedy).
  returned: failure
  type: dict
  sample:
    code: archon_not_ready
    what: archon-server is not ready.
    object: archon-server http://archon.example:8181
    expected: ready true from /health
    found: "not listening: Connection refused"
    remedy: See that it runs and that the address is archon-server's; it listens only when its start is complete.
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

MISSING = None
try:
    from ansible.module_utils.archon_align.reupload import phase
    from ansible.module_utils.archon_align.web.trust import Trust
except ImportError as error:  # psycopg and friends may be missing on the host that runs this
    MISSING = error
from ansible.module_utils.archon_align.ansible_edge import PHASE_OPTIONS, finish, require_libraries, run_phase

OWN = {
    "archon_url": {"type": "str", "default": ""},
    "archon_ca_file": {"type": "str", "default": ""},
    "documents_dir": {"type": "str", "default": ""},
    "dimensions": {"type": "int", "required": True},
    "upload_timeout": {"type": "float", "default": 600.0},
    "upload": {"type": "bool", "default": True},
}


def main():
    module = AnsibleModule(argument_spec={**PHASE_OPTIONS, **OWN}, supports_check_mode=True)
    require_libraries(module, MISSING)
    given = module.params

    def work(context):
        folder = given["documents_dir"]
        options = phase.Options(
            archon_url=given["archon_url"],
            dimensions=given["dimensions"],
            documents=Path(folder).expanduser() if folder else None,
            trust=Trust(ca_file=given["archon_ca_file"]),
            upload_timeout=given["upload_timeout"],
            again=given["upload"],
        )
        return phase.run(context, options)

    # Sources that are replaced are proved, and stay when a later one fails.
    finish(module, lambda: run_phase(module, "reupload", work, exempt=True))


if __name__ == "__main__":
    main()
