"""The lab's Portainer with two small services, shared by the tests of what talks to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from archon_align.portainer.client import Access, Portainer
from archon_align.web.trust import Trust

from tests.support.portainer import StandIn, stand_in


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with stand_in(tmp_path_factory.mktemp("portainer")) as made:
        made.wait(lambda: made.tasks()[-1]["Status"]["State"] == "running")
        yield made


@pytest.fixture
def lab(running: StandIn) -> Iterator[StandIn]:
    """Healthy, and asked nothing yet."""
    running.faults()
    running.forget_requests()
    yield running
    running.faults()


@pytest.fixture
def trust(running: StandIn) -> Trust:
    return Trust(ca_file=running.record.ca_file)


@pytest.fixture
def portainer(lab: StandIn, trust: Trust) -> Iterator[Portainer]:
    """A client with the administrator's API key."""
    with Portainer(Access(lab.record.url, api_key=lab.api_key, trust=trust, timeout=30), check=False) as client:
        yield client


@pytest.fixture
def by_password(lab: StandIn, trust: Trust) -> Iterator[Portainer]:
    access = Access(lab.record.url, username="admin", password=lab.password(), trust=trust, timeout=30)
    with Portainer(access, check=False) as client:
        yield client
