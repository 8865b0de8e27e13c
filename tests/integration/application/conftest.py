"""The lab's two databases and its embedding service, as the tests of its Archon have them."""

from tests.integration.lab.conftest import copy_of, lab_server, vectors

__all__ = ["copy_of", "lab_server", "vectors"]
