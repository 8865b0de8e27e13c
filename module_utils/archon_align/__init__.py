"""archon-align: bring one Archon database into line with another and prove that nothing was lost.

The packages below are the core: typed, free of Ansible (but for `ansible_edge`), usable from a Python prompt.
"""

__version__ = "0.1.0"
