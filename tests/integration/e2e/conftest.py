"""The whole thing as a user runs it: ansible-playbook against a lab of the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.world import Lab
from tests.support.world import World


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def shared_lab(lab_folder: Path) -> Iterator[Lab]:
    lab = Lab(lab_folder, archon=False)
    lab.up()
    yield lab
    lab.remove()


@pytest.fixture(scope="module")
def world(shared_lab: Lab, lab_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A freshly broken lab for the tests of one module."""
    shared_lab.reset()
    return World(shared_lab, lab_folder, tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def broken_world(shared_lab: Lab, lab_folder: Path, tmp_path: Path) -> Callable[[], World]:
    """Call for a freshly broken lab within one test."""

    def make() -> World:
        shared_lab.reset()
        return World(shared_lab, lab_folder, tmp_path / "artifacts")

    return make
