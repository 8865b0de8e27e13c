"""The client of Portainer against the lab's: log-in, trust, old versions, stacks, paging, and what check mode sends."""

from __future__ import annotations

import pytest
from archon_align.docker.probes import HEALTH
from archon_align.errors import AlignError
from archon_align.portainer import client as client_module
from archon_align.portainer.client import Access, Portainer
from archon_align.web.trust import Trust
from archon_align.web.wire import BadAnswer, NotAllowed, Unreachable

from tests.support.portainer import StandIn

STACK_SECRET = "secret-of-the-stack"


def asked(lab: StandIn) -> list[str]:
    return [f"{one['method']} {one['path'].removeprefix('/api')}" for one in lab.requests()]


def test_with_an_api_key_there_is_no_log_in(lab: StandIn, portainer: Portainer) -> None:
    assert portainer.status().version.startswith("2.")
    assert [one.name for one in portainer.environments()] == ["lab-swarm", "lab-standby"]
    assert "POST /auth" not in asked(lab)
    assert {one["by"] for one in lab.requests() if one["path"] != "/api/system/status"} == {"api_key"}


def test_a_log_in_serves_many_requests_and_changes_without_a_cookie(lab: StandIn, by_password: Portainer) -> None:
    service = by_password.engine(1).service("demo_web")
    # With the auth cookie of the log-in this would need a CSRF token.
    by_password.force_update(1, service.id)
    by_password.stacks()
    assert asked(lab).count("POST /auth") == 1
    assert {one["by"] for one in lab.requests() if one["path"] != "/api/auth"} == {"bearer"}
    assert all(one["status"] == 200 for one in lab.requests())


def test_a_session_that_ended_is_begun_again_once(lab: StandIn, by_password: Portainer) -> None:
    by_password.stacks()
    by_password._token = "ended.long.ago"
    assert [one.name for one in by_password.stacks()] == ["demo"]
    assert asked(lab).count("POST /auth") == 2
    lab.faults(token_expired=True)
    with pytest.raises(AlignError) as told:
        by_password.stacks()
    assert told.value.code == "not_logged_in"
    assert asked(lab).count("POST /auth") == 3


def test_a_wrong_password_or_key_is_told_without_them(lab: StandIn, trust: Trust) -> None:
    for access, words in (
        (Access(lab.record.url, username="admin", password="wrong-word", trust=trust), "wrong user or password"),
        (Access(lab.record.url, api_key="ptr_wrong-word", trust=trust), "does not accept the API key"),
    ):
        with Portainer(access, check=False) as client, pytest.raises(AlignError, match=words) as told:
            client.stacks()
        assert "wrong-word" not in str(told.value)
    # A refused key is not tried again, since that may lock somebody out.
    assert asked(lab) == ["POST /auth", "GET /stacks"]


def test_a_revoked_key_is_an_error_at_once(lab: StandIn, portainer: Portainer) -> None:
    lab.faults(api_key_revoked=True)
    with pytest.raises(AlignError) as told:
        portainer.environments()
    assert (told.value.code, len(lab.requests())) == ("not_logged_in", 1)


@pytest.mark.parametrize("version", ["2.16.2", "2.19.4", "2.33.2", "3.1.0"])
def test_versions_old_and_new(lab: StandIn, portainer: Portainer, by_password: Portainer, version: str) -> None:
    lab.faults(version=version)
    assert portainer.status().version == version
    assert [one.name for one in portainer.stacks()] == [one.name for one in by_password.stacks()] == ["demo"]


def test_whom_tls_trusts(lab: StandIn) -> None:
    record = lab.record
    for trust in (Trust(ca_file=record.ca_file), Trust(fingerprint=record.fingerprint), Trust(insecure=True)):
        with Portainer(Access(record.url, api_key=lab.api_key, trust=trust, timeout=30), check=True) as client:
            assert client.stacks()
    lab.forget_requests()
    for trust in (Trust(), Trust(fingerprint="0" * 64)):
        with Portainer(Access(record.url, api_key=lab.api_key, trust=trust, timeout=30), check=True) as client:
            with pytest.raises(Unreachable) as told:
                client.stacks()
            assert told.value.code == "tls_untrusted"
            assert lab.api_key not in str(told.value)
    assert lab.requests() == []


def test_environments_are_read_page_by_page(
    lab: StandIn, portainer: Portainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_PAGE", 1)
    found = portainer.environments()
    assert [(one.id, one.up, one.swarm) for one in found] == [(1, True, True), (2, False, False)]
    assert [one["query"] for one in lab.requests()] == ["start=1&limit=1", "start=2&limit=1"]


def test_a_stack_is_found_by_its_name_or_there_is_a_clear_error(lab: StandIn, portainer: Portainer) -> None:
    assert portainer.find_stack("demo").environment["PASSWORD"] == STACK_SECRET
    for name, environment, code, told in (
        ("nope", "", "stack_missing", "demo"),
        ("demo", "lab-standby", "stack_missing", "no stack at all"),
        ("demo", "nope", "environment_missing", "lab-swarm, lab-standby"),
    ):
        with pytest.raises(AlignError) as error:
            portainer.find_stack(name, environment)
        assert error.value.code == code
        assert told in error.value.found
    lab.faults(stack_twice="demo")
    with pytest.raises(AlignError) as error:
        portainer.find_stack("demo")
    assert error.value.code == "stack_not_unique"
    assert "lab-swarm" in error.value.found
    assert "lab-standby" in error.value.found
    assert portainer.find_stack("demo", "lab-swarm").environment_id == 1
    lab.faults(stack_missing="demo")
    with pytest.raises(AlignError, match="no stack of that name"):
        portainer.find_stack("demo")


def test_a_stack_is_updated_with_all_that_it_has(lab: StandIn, portainer: Portainer) -> None:
    before = portainer.find_stack("demo")
    file = portainer.stack_file(before.id)
    after = portainer.update_stack(before, {**before.environment, "WORD": "changed"}, file)
    assert after.environment == {**before.environment, "WORD": "changed"}
    assert portainer.engine(1).service("demo_web").environment["WORD"] == "changed"
    portainer.update_stack(after, before.environment, file)
    assert portainer.stack(before.id).environment == before.environment
    assert portainer.stack_file(before.id) == file


def test_what_would_empty_a_stack_is_not_sent(lab: StandIn, portainer: Portainer) -> None:
    stack = portainer.find_stack("demo")
    file = portainer.stack_file(stack.id)
    lab.forget_requests()
    for environment, content in (({}, file), (stack.environment, " \n")):
        with pytest.raises(AlignError) as told:
            portainer.update_stack(stack, environment, content)
        assert told.value.code == "stack_incomplete"
    assert lab.requests() == []


def test_a_deployment_that_fails_does_not_tell_the_stacks_secrets(lab: StandIn, portainer: Portainer) -> None:
    stack = portainer.find_stack("demo")
    file = portainer.stack_file(stack.id)
    with pytest.raises(AlignError) as told:
        portainer.update_stack(stack, stack.environment, file.replace("${WEB_PORT}:${WEB_PORT}", "${PASSWORD}:x"))
    assert "invalid port specification" in told.value.found
    assert STACK_SECRET not in str(told.value)
    assert portainer.stack_file(stack.id) == file


def test_a_stack_from_git_is_redeployed_and_never_put(lab: StandIn, portainer: Portainer) -> None:
    lab.client.post("/_lab/git/demo").raise_for_status()
    stack = portainer.find_stack("demo")
    file = portainer.stack_file(stack.id)
    lab.forget_requests()
    with pytest.raises(AlignError) as told:
        portainer.update_stack(stack, stack.environment, file)
    assert told.value.code == "stack_from_git"
    assert lab.requests() == []
    after = portainer.redeploy_git(stack, {**stack.environment, "WORD": "from-git"})
    assert (after.from_git, after.auto_update, after.environment["WORD"]) == (True, True, "from-git")
    lab.begin()


def test_check_mode_reads_probes_and_sends_nothing_else(lab: StandIn, trust: Trust) -> None:
    with Portainer(
        Access(lab.record.url, username="admin", password=lab.password(), trust=trust, timeout=30), check=True
    ) as client:
        client.status()
        stack = client.find_stack("demo", "lab-swarm")
        file = client.stack_file(stack.id)
        engine = client.engine(1)
        service = engine.services("demo")[0]
        container = lab.wait(lambda: next((one.container_id for one in engine.tasks(service.id) if one.running), ""))
        for refused in (
            lambda: client.force_update(1, service.id),
            lambda: client.update_stack(stack, stack.environment, file),
            lambda: client.redeploy_git(stack, stack.environment),
            lambda: engine.force_update(service),
            lambda: engine.roll_back(service),
            lambda: engine.restart_container(container),
            lambda: engine.execute(container, ["touch", "x"]),
        ):
            with pytest.raises(NotAllowed):
                refused()
        engine.execute(container, ["python", "-c", HEALTH, "1"], 60)
    changing = [one for one in asked(lab) if not one.startswith("GET ")]
    assert [one.rpartition("/")[2] for one in changing] == ["auth", "exec", "start"]


def test_a_burst_of_errors_is_survived_and_a_lasting_one_told(lab: StandIn, portainer: Portainer) -> None:
    lab.faults(status=502, first=2)
    assert portainer.stacks()
    lab.faults(status=503)
    with pytest.raises(AlignError) as told:
        portainer.stacks()
    assert "503" in told.value.found


def test_answers_that_are_none(lab: StandIn, trust: Trust) -> None:
    lab.faults(malformed=True)
    slow = Access(lab.record.url, api_key="k", trust=trust, timeout=30)
    with Portainer(slow, check=True) as client, pytest.raises(BadAnswer):
        client.stacks()
    with Portainer(Access(lab.record.url, api_key="k", trust=trust, timeout=1), check=True) as client:
        for fault in ("hang", "drip"):
            lab.faults(**{fault: True})
            with pytest.raises(Unreachable) as told:
                client.status()
            assert told.value.code == "timeout"
    with Portainer(Access(f"{lab.record.url}/elsewhere", api_key="k", trust=trust, timeout=30), check=True) as client:
        lab.faults()
        with pytest.raises(BadAnswer):
            client.status()
    with Portainer(Access("http://127.0.0.1:1", api_key="k"), check=True) as client, pytest.raises(Unreachable):
        client.status()
