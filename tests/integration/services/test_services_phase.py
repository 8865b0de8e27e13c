"""The services phase at the lab's Portainer: restarts, failures, the stack's variables, check mode, and silence about secrets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from archon_align.context import Context
from archon_align.errors import AlignError
from archon_align.outcome import PhaseOutcome
from archon_align.services import phase
from archon_align.services.installation import Found, SwarmStack
from archon_align.services.judging import Expected
from archon_align.services.opening import Where
from archon_align.services.phase import Options
from archon_align.services.readiness import Readiness
from archon_align.web.trust import Trust

from tests.support.archon_services import IMAGES, SERVICE, SETTINGS, STACK, STACK_SECRET, embedding_stub
from tests.support.portainer import StandIn, stand_in

READY = 90.0
Run = Callable[..., PhaseOutcome]


@pytest.fixture(scope="module")
def portainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with stand_in(tmp_path_factory.mktemp("lab"), (STACK,), IMAGES) as running:
        yield running


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with embedding_stub() as url:
        yield url


@pytest.fixture
def prod(new_database: Callable[[str], str], base_url: str, hold_run_lock: Callable[[str], object]) -> str:
    dsn = new_database(SETTINGS)
    change(dsn, f"INSERT INTO archon_settings (key, value, category, updated_at) SELECT k, '{base_url}', 'rag_strategy', "
                "'2020-01-01' FROM unnest(ARRAY['EMBEDDING_BASE_URL', 'LLM_BASE_URL']) AS k")  # fmt: skip
    hold_run_lock(dsn)
    return dsn


@pytest.fixture
def run(portainer: StandIn, prod: str, base_url: str, make_context: Callable[..., Context]) -> Iterator[Run]:
    portainer.faults()
    portainer.wait(lambda: running(portainer))

    def call(*, check: bool = False, key: str = "", **fields: Any) -> PhaseOutcome:
        where = Where(
            stack=fields.pop("stack", "archon-prod"),
            portainer_url=portainer.record.url,
            portainer_api_key=key or portainer.api_key,
            portainer_trust=Trust(ca_file=portainer.record.ca_file),
        )
        given: dict[str, Any] = {
            "task": "align",
            "mode": "restart",
            "where": where,
            "expected": Expected("ollama", base_url, "nomic-embed-text", 768),
            "readiness": Readiness(portainer.url),
            "ready_timeout": READY,
            **fields,
        }
        return phase.run(make_context(prod, check=check, phase="services"), Options(**given))

    yield call
    portainer.faults()


def change(dsn: str, query: str = "UPDATE archon_settings SET value = value WHERE key = 'LLM_BASE_URL'") -> None:
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(query.encode())


def running(portainer: StandIn) -> dict[str, Any] | None:
    tasks = portainer.tasks(SERVICE, **{"desired-state": ["running"]})
    return next((task for task in tasks if task["Status"]["State"] == "running"), None)


def codes(outcome: PhaseOutcome) -> set[str]:
    return {finding.code for finding in outcome.findings}


def server_of(outcome: PhaseOutcome) -> dict[str, Any]:
    return next(one for one in outcome.details["services"]["services"] if one["role"] == "server")


def written(portainer: StandIn) -> list[str]:
    """What was asked that does more than read."""
    return [
        f"{one['method']} {one['path']}"
        for one in portainer.requests()
        if one["method"] not in ("GET", "HEAD") and "/exec" not in str(one["path"])
    ]


def test_a_server_is_restarted_for_a_change_and_never_again_for_the_same(
    portainer: StandIn, run: Run, prod: str
) -> None:
    before = running(portainer)
    settled = run()
    assert (settled.status, settled.changed) == ("aligned", False)
    assert running(portainer) == before
    change(prod)  # by SQL, as a run does that is killed before it restarts anything
    portainer.forget_requests()
    done = run()
    assert (done.status, done.changed) == ("changed", True)
    assert server_of(done)["restarted"]
    assert server_of(done)["ready"]
    assert server_of(done)["running"]
    assert list(written(portainer)) == ["PUT /api/endpoints/1/forceupdateservice"]
    assert before
    assert running(portainer)["ID"] != before["ID"]
    again = run()
    assert (again.status, again.changed, server_of(again)["restarted"]) == ("aligned", False, False)
    used = again.details["services"]["effective"]
    assert used["ingest"]["provider"] == {
        "value": "openai",
        "source": "container environment EMBEDDING_PROVIDER",
        "running_process_knows_it": "now",
    }
    assert any(one.object.endswith("EMBEDDING_PROVIDER") for one in again.findings if one.code == "effective_differs")


def test_check_mode_foresees_it_and_sends_nothing_that_changes(portainer: StandIn, run: Run, prod: str) -> None:
    change(prod)
    before = running(portainer)
    portainer.forget_requests()
    for mode in ("restart", "update", "report"):
        found = run(check=True, mode=mode)
        assert found.status == ("aligned" if mode == "report" else "drift")
        assert found.changed is (mode != "report")
    assert written(portainer) == []
    assert running(portainer) == before
    # And what the data phase would have stored is judged as stored.
    assert "effective_differs" in codes(
        run(check=True, foreseen={"EMBEDDING_MODEL": "another-model"}, changed=("data",))
    )


def test_mode_report_says_what_to_do_and_does_nothing(portainer: StandIn, run: Run, prod: str) -> None:
    change(prod)
    portainer.forget_requests()
    found = run(mode="report")
    assert (found.status, found.changed) == ("aligned", False)
    assert "restart_archon_server" in codes(found)
    assert written(portainer) == []


def test_a_server_that_does_not_come_up_is_brought_back_and_tells_why(
    portainer: StandIn, run: Run, prod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(prod)
    portainer.faults(start_fails=["archon-server"])
    roll_back = SwarmStack.roll_back

    def mended(installation: SwarmStack, found: Found) -> None:
        """The cause is gone by the time that the former state is brought back."""
        portainer.faults()
        roll_back(installation, found)

    monkeypatch.setattr(SwarmStack, "roll_back", mended)
    with pytest.raises(AlignError) as caught:
        run()
    assert caught.value.code == "service_not_ready"
    assert "non-zero exit (3)" in caught.value.found
    assert "the lab lets this start fail" in caught.value.found
    assert "its former state was restored and is ready" in caught.value.found
    assert running(portainer)


def test_a_former_state_that_does_not_come_up_either_is_told(portainer: StandIn, run: Run, prod: str) -> None:
    change(prod)
    portainer.faults(start_fails=["archon-server"])
    with pytest.raises(AlignError) as caught:
        run()
    assert "its former state was restored, and is not ready either" in caught.value.found
    portainer.faults()
    assert "service_not_running" in codes(run(mode="report"))
    # A server whose last try is older than the change is due for a restart, and comes up now that the cause is gone.
    change(prod)
    assert server_of(run())["ready"]


def test_the_stack_gets_the_wanted_variables_and_keeps_everything_else(
    portainer: StandIn, run: Run, base_url: str
) -> None:
    stack = next(one for one in portainer.client.get("/api/stacks").json() if one["Name"] == "archon-prod")
    file = portainer.client.get(f"/api/stacks/{stack['Id']}/file").json()
    other = portainer.service("archon-prod_other")
    foreseen = run(check=True, mode="update", environment={"LOG_LEVEL": "DEBUG", "TEMPLATE_INJECTION_ENABLED": True})
    done = run(mode="update", environment={"LOG_LEVEL": "DEBUG", "TEMPLATE_INJECTION_ENABLED": True})
    assert foreseen.diff == done.diff
    assert done.changed
    assert server_of(done)["ready"]
    assert server_of(done)["environment_changed"] == ["EMBEDDING_BASE_URL", "EMBEDDING_PROVIDER"]
    told = {
        finding.object.rpartition(": ")[2]: finding.message
        for finding in done.findings
        if finding.code == "environment_not_passed"
    }
    assert "the file does not reference ${TEMPLATE_INJECTION_ENABLED}" in told["TEMPLATE_INJECTION_ENABLED"]
    assert "uses ${LOG_LEVEL} elsewhere" in told["LOG_LEVEL"]
    assert "EMBEDDING_DIMENSIONS" in told
    after = portainer.client.get(f"/api/stacks/{stack['Id']}").json()
    wanted = {"EMBEDDING_PROVIDER": "ollama", "EMBEDDING_BASE_URL": base_url}
    assert {one["name"]: one["value"] for one in after["Env"]} == {
        one["name"]: one["value"] for one in stack["Env"]
    } | wanted
    assert portainer.client.get(f"/api/stacks/{stack['Id']}/file").json() == file
    assert portainer.service("archon-prod_other")["Spec"] == other["Spec"]
    again = run(mode="update")
    assert (again.changed, again.status) == (False, "aligned")
    assert "effective_differs" not in codes(again)


def test_variables_that_the_server_does_not_survive_are_put_back(portainer: StandIn, run: Run) -> None:
    run(mode="update")
    before = portainer.client.get("/api/stacks").json()[0]["Env"]
    with pytest.raises(AlignError) as caught:
        run(mode="update", environment={"EXTRA_KEY": "a-wrong-key"})
    assert caught.value.code == "stack_not_changed"
    assert "the former variables were put back, and the service is ready with them" in caught.value.found
    assert "Invalid API key" in caught.value.found
    text = str(caught.value)
    assert STACK_SECRET not in text
    assert "a-wrong-key" not in text
    assert portainer.client.get("/api/stacks").json()[0]["Env"] == before
    assert running(portainer)


def test_a_stack_from_git_stays_bound_to_git(portainer: StandIn, run: Run) -> None:
    portainer.client.post("/_lab/git/archon-prod").raise_for_status()
    portainer.forget_requests()
    done = run(mode="update", environment={"EXTRA_KEY": "another"})
    assert server_of(done)["environment_changed"][-1] == "EXTRA_KEY"
    stack = portainer.client.get("/api/stacks").json()[0]
    assert stack["GitConfig"] is not None
    assert [line for line in written(portainer) if line.startswith("PUT")] == [
        f"PUT /api/stacks/{stack['Id']}/git/redeploy"
    ]


@pytest.mark.parametrize(
    ("faults", "fields", "code"),
    [
        ({"api_key_revoked": True}, {}, "not_logged_in"),
        ({}, {"key": "ptr_wrong"}, "not_logged_in"),
        ({"stack_twice": "archon-prod"}, {}, "stack_not_unique"),
        ({}, {"stack": "nobody"}, "stack_missing"),
        ({"malformed": True, "path": "/stacks$"}, {}, "bad_answer"),
    ],
)
def test_what_cannot_be_reached_is_said_before_anything_is_changed(
    portainer: StandIn, run: Run, prod: str, faults: dict[str, Any], fields: dict[str, Any], code: str
) -> None:
    portainer.faults(**faults)
    with pytest.raises(AlignError) as caught:
        run(task="look", **fields)
    assert caught.value.code == code
    assert "archon_services_backend: none" in caught.value.remedy
    assert f"services_{code}" in codes(run(task="look", check=True, **fields))
    # Nothing of this run waits for a restart: told. Something does: the run fails, and says so.
    assert f"services_{code}" in codes(run(**fields))
    with pytest.raises(AlignError, match="The settings were changed, but archon-server cannot be restarted"):
        run(changed=("data",), **fields)


def test_old_portainer_and_a_burst_of_errors_are_survived(portainer: StandIn, run: Run) -> None:
    portainer.faults(version="2.19.5")
    assert run(task="look").findings == []
    portainer.faults(status=502, first=2)
    assert run(task="look").findings == []


def test_a_stack_that_was_deployed_past_portainer_is_found_by_its_services(portainer: StandIn, run: Run) -> None:
    portainer.faults(stack_missing="archon-prod")
    assert server_of(run(task="look"))["running"]
    assert "environment_not_changed" in codes(run(mode="update", environment={"EXTRA_KEY": "yet another"}))


def test_reachability_is_tested_inside_and_here(portainer: StandIn, run: Run, prod: str) -> None:
    found = run(task="reachability").details["services"]["reachability"]
    assert [(one["use"], one["from_container"]["ok"], one["from_here"]["ok"]) for one in found] == [
        ("ingest", True, True),
        ("search", True, True),
    ]
    portainer.faults(status=403, path="/exec$")
    forbidden = run(task="reachability")
    assert forbidden.error is None
    assert "not_tested_inside" in codes(forbidden)
    portainer.faults()
    change(prod, "UPDATE archon_settings SET value = 'http://127.0.0.1:9/v1' WHERE key = 'LLM_BASE_URL'")
    nobody = run(task="reachability")
    assert nobody.error is not None
    assert (nobody.status, nobody.error.code) == ("failed", "embedding_not_reached")
    assert "searches return nothing" in next(one.message for one in nobody.findings if one.severity == "error")


def test_a_service_without_a_running_task_is_told(portainer: StandIn, run: Run, prod: str) -> None:
    service = portainer.service(SERVICE)
    spec = service["Spec"] | {"Mode": {"Replicated": {"Replicas": 0}}}
    update = f"/services/{service['ID']}/update"
    portainer.docker("POST", update, params={"version": service["Version"]["Index"]}, json=spec).raise_for_status()
    portainer.wait(lambda: running(portainer) is None)
    change(prod)
    stopped = run()
    assert "service_scaled_to_zero" in codes(stopped)
    assert not stopped.changed
    service = portainer.service(SERVICE)
    portainer.docker(
        "POST", update, params={"version": service["Version"]["Index"]}, json=service["PreviousSpec"]
    ).raise_for_status()
    portainer.wait(lambda: running(portainer))


def test_nothing_secret_is_ever_told(portainer: StandIn, run: Run, prod: str, tmp_path: Path) -> None:
    change(prod)
    outcomes = [
        run(mode="update", environment={"EXTRA_KEY": "hunter2-hunter2"}, check=check) for check in (True, False)
    ]
    text = json.dumps([outcome.as_result() for outcome in outcomes], default=str)
    text += "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (STACK_SECRET, portainer.api_key, "hunter2-hunter2", "sk-plain-text-secret-1234567890"):
        assert secret not in text
    assert "EXTRA_KEY=(secret, not shown)" in text
