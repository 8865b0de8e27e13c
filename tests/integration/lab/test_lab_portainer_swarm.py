"""The lab's Portainer: environments, stacks and the Docker engine behind it, as far as they differ from what one would hope."""

from __future__ import annotations

import email.utils
import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import psutil
import pytest

from lab import portainer_process
from tests.support.portainer import IMAGE, WEB_FILE, WEB_STACK, StandIn, stand_in


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    idle = {"name": "monitoring", "file": "services: {}", "type": 2, "status": 2}
    with stand_in(tmp_path_factory.mktemp("portainer"), stacks=(WEB_STACK, idle)) as made:
        yield made


@pytest.fixture
def portainer(running: StandIn) -> StandIn:
    """Everything as at first, and its service running."""
    running.begin()
    return running


def states(portainer: StandIn) -> list[tuple[str, str]]:
    return [(task["Status"]["State"], task["DesiredState"]) for task in portainer.tasks()]


def settled(portainer: StandIn) -> str:
    """The state that an update came to."""

    def state() -> str:
        found = portainer.service().get("UpdateStatus", {}).get("State", "")
        return found if found not in ("", "updating", "rollback_started") else ""

    return str(portainer.wait(state))


def container(portainer: StandIn) -> str:
    return str(portainer.docker("GET", "/containers/json").json()[0]["Id"])


def variable(portainer: StandIn, name: str) -> str:
    return httpx.get(f"{portainer.url}/env/{name}", trust_env=False).text


def put(portainer: StandIn, **changes: Any) -> httpx.Response:
    """Read, modify and write the stack, with `changes` to the body."""
    stack = portainer.client.get("/api/stacks/1").json()
    body = {"StackFileContent": portainer.client.get("/api/stacks/1/file").json()["StackFileContent"], "Env": stack["Env"]}  # fmt: skip
    return portainer.client.put("/api/stacks/1", params={"endpointId": 1}, json={**body, **changes})


def with_word(portainer: StandIn, word: str) -> list[dict[str, str]]:
    pairs = portainer.client.get("/api/stacks/1").json()["Env"]
    return [{**pair, "value": word} if pair["name"] == "WORD" else pair for pair in pairs]


# -- environments and stacks


def test_environments_come_in_pages_and_one_is_down(portainer: StandIn) -> None:
    everything = portainer.client.get("/api/endpoints")
    assert [(one["Id"], one["Status"], len(one["Snapshots"])) for one in everything.json()] == [(1, 1, 1), (2, 2, 0)]
    assert everything.json()[0]["Snapshots"][0]["Swarm"] is True
    for start, limit, found in ((0, 1, [1]), (1, 1, [1]), (2, 1, [2]), (3, 1, []), (1, 5, [1, 2])):
        page = portainer.client.get("/api/endpoints", params={"start": start, "limit": limit})
        assert [one["Id"] for one in page.json()] == found
        assert (page.headers["X-Total-Count"], page.headers["X-Total-Available"]) == ("2", "2")
    for query, found in (
        ({"search": "STANDBY"}, [2]),
        ({"name": "lab-swarm"}, [1]),
        ({"name": "lab"}, []),
        ({"status[]": "2"}, [2]),
    ):
        assert [one["Id"] for one in portainer.client.get("/api/endpoints", params=query).json()] == found
    assert portainer.client.get("/api/endpoints/7").status_code == 404
    assert portainer.client.get("/api/endpoints/7/docker/info").status_code == 404
    down = portainer.client.get("/api/endpoints/2/docker/info")
    assert (down.status_code, down.content) == (502, b"")


def test_swarm_stacks_are_found_by_their_swarm_alone(portainer: StandIn) -> None:
    swarm = portainer.docker("GET", "/swarm").json()["ID"]
    for filters, found in (
        ({}, [1, 2]),
        ({"EndpointID": 1}, [2]),
        ({"SwarmID": swarm}, [1]),
        ({"SwarmID": swarm, "EndpointID": 1}, [1, 2]),
    ):
        listed = portainer.client.get("/api/stacks", params={"filters": json.dumps(filters)}).json()
        assert [stack["Id"] for stack in listed] == found
    assert portainer.client.get("/api/stacks", params={"filters": "{"}).status_code == 400
    stack = portainer.client.get("/api/stacks/1").json()
    assert {"name": "PASSWORD", "value": "secret-of-the-stack"} in stack["Env"]
    assert (stack["Type"], stack["Status"], stack["GitConfig"]) == (1, 1, None)
    assert portainer.client.get("/api/stacks/1/file").json() == {"StackFileContent": WEB_FILE}
    missing = portainer.client.get("/api/stacks/9")
    assert (missing.status_code, set(missing.json())) == (404, {"message", "details"})


def test_a_stack_is_missing_or_there_twice(portainer: StandIn) -> None:
    portainer.faults(stack_missing="demo")
    assert [stack["Name"] for stack in portainer.client.get("/api/stacks").json()] == ["monitoring"]
    assert portainer.client.get("/api/stacks/1").status_code == 404
    assert portainer.service()["Spec"]["Name"] == "demo_web"
    portainer.faults(stack_twice="demo")
    twins = [stack for stack in portainer.client.get("/api/stacks").json() if stack["Name"] == "demo"]
    assert [stack["EndpointId"] for stack in twins] == [1, 2]
    assert len({stack["SwarmId"] for stack in twins}) == 2


def test_a_changed_variable_takes_effect(portainer: StandIn) -> None:
    assert variable(portainer, "WORD") == "hello"
    reply = put(portainer, Env=with_word(portainer, "bye"))
    assert (reply.status_code, reply.json()["UpdatedBy"]) == (200, "admin")
    assert settled(portainer) == "completed"
    assert variable(portainer, "WORD") == "bye"
    assert states(portainer) == [("shutdown", "shutdown"), ("running", "running")]
    # What the file does not refer to changes nothing.
    put(portainer, Env=[*with_word(portainer, "bye"), {"name": "ANOTHER", "value": "1"}])
    assert states(portainer) == [("shutdown", "shutdown"), ("running", "running")]


def test_env_replaces_the_whole_list(portainer: StandIn) -> None:
    port = portainer.client.get("/_lab/ports").json()["web"]
    assert put(portainer, Env=[{"name": "WEB_PORT", "value": str(port)}]).json()["Env"] == [{"name": "WEB_PORT", "value": str(port)}]  # fmt: skip
    settled(portainer)
    assert variable(portainer, "WORD") == ""
    # Without a list all variables are lost, and here the deployment fails on it.
    body = {"StackFileContent": WEB_FILE.replace("${WORD}", "still")}
    lost = portainer.client.put("/api/stacks/1", params={"endpointId": 1}, json=body)
    assert lost.status_code == 500
    assert "invalid port specification" in lost.json()["message"]


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ({}, {"StackFileContent": WEB_FILE}, 400),
        ({"endpointId": "x"}, {"StackFileContent": WEB_FILE}, 400),
        ({"endpointId": "7"}, {"StackFileContent": WEB_FILE}, 404),
        ({"endpointId": "2"}, {"StackFileContent": WEB_FILE}, 500),
        ({"endpointId": "1"}, {}, 400),
        ({"endpointId": "1"}, {"StackFileContent": ""}, 400),
        ({"endpointId": "1"}, {"StackFileContent": WEB_FILE, "Env": "WORD=x"}, 400),
        ({"endpointId": "1"}, {"StackFileContent": "services: ["}, 500),
        ({"endpointId": "1"}, {"StackFileContent": "services: {web: {}}"}, 500),
    ],
)
def test_what_cannot_be_deployed_changes_nothing(portainer: StandIn, query: dict[str, str], body: dict[str, str], status: int) -> None:  # fmt: skip
    before = portainer.client.get("/api/stacks/1").json()
    reply = portainer.client.put("/api/stacks/1", params=query, json=body)
    assert (reply.status_code, set(reply.json())) == (status, {"message", "details"})
    assert portainer.client.get("/api/stacks/1").json() == before
    assert portainer.client.get("/api/stacks/1/file").json() == {"StackFileContent": WEB_FILE}
    assert states(portainer) == [("running", "running")]


def test_a_put_detaches_a_stack_from_git(portainer: StandIn) -> None:
    client = portainer.client
    assert client.put("/api/stacks/1/git/redeploy", params={"endpointId": 1}, json={}).status_code == 400
    client.post("/_lab/git/demo")
    stack = client.get("/api/stacks/1").json()
    assert stack["GitConfig"]["ReferenceName"] == "refs/heads/main"
    word = with_word(portainer, "by git")
    redeployed = client.put("/api/stacks/1/git/redeploy", params={"endpointId": 1}, json={"Env": word, "RepositoryReferenceName": "refs/heads/main"})  # fmt: skip
    assert redeployed.json()["GitConfig"]["URL"] == stack["GitConfig"]["URL"]
    settled(portainer)
    assert variable(portainer, "WORD") == "by git"
    unknown = client.put("/api/stacks/1/git/redeploy", params={"endpointId": 1}, json={"Env": word, "RepositoryReferenceName": "refs/heads/x"})  # fmt: skip
    assert (unknown.status_code, unknown.json()["message"]) == (500, "Unable to clone git repository")
    settings = client.post("/api/stacks/1/git", params={"endpointId": 1}, json={"Env": word, "AutoUpdate": {"Webhook": "a-hook"}})  # fmt: skip
    assert settings.json()["AutoUpdate"] == {"Webhook": "a-hook"}
    with portainer.nobody() as nobody:
        assert nobody.post("/api/stacks/webhooks/a-hook").status_code == 204
        assert nobody.post("/api/stacks/webhooks/other").status_code == 404
    assert put(portainer).json()["GitConfig"] is None
    assert client.get("/api/stacks/1").json()["AutoUpdate"] is None


def test_a_stack_is_stopped_and_started(portainer: StandIn) -> None:
    stopped = portainer.client.post("/api/stacks/1/stop", params={"endpointId": 1})
    assert stopped.json()["Status"] == 2
    assert portainer.docker("GET", "/services").json() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(portainer.url, trust_env=False)
    assert portainer.client.post("/api/stacks/1/stop", params={"endpointId": 1}).status_code == 400
    assert portainer.client.post("/api/stacks/1/start", params={"endpointId": 1}).json()["Status"] == 1
    portainer.wait(lambda: states(portainer) == [("running", "running")])


# -- services


def test_a_forced_update_gives_a_new_task(portainer: StandIn) -> None:
    service, before = portainer.service(), portainer.tasks()[0]
    reply = portainer.client.put("/api/endpoints/1/forceupdateservice", json={"serviceid": service["ID"]})
    assert (reply.status_code, reply.json()) == (200, {"Warnings": None})
    assert settled(portainer) == "completed"
    after = portainer.service()
    assert after["Spec"]["TaskTemplate"]["ForceUpdate"] == 1
    assert after["PreviousSpec"]["TaskTemplate"]["ForceUpdate"] == 0
    assert after["Version"]["Index"] > service["Version"]["Index"]
    new = portainer.tasks()[-1]
    assert new["Status"]["ContainerStatus"]["ContainerID"] != before["Status"]["ContainerStatus"]["ContainerID"]
    for body in ({"ServiceID": "unknown"}, {}):
        unknown = portainer.client.put("/api/endpoints/1/forceupdateservice", json=body)
        assert (unknown.status_code, unknown.json()["message"]) == (500, "Error looking up service")
    assert portainer.client.post("/api/endpoints/1/forceupdateservice", json={"ServiceID": service["ID"]}).status_code == 404  # fmt: skip


def test_a_stale_version_is_refused_and_the_end_of_an_update_makes_it_stale(portainer: StandIn) -> None:
    service = portainer.service()
    spec = service["Spec"]
    spec["TaskTemplate"]["ForceUpdate"] = 1
    index = service["Version"]["Index"]
    assert portainer.docker("POST", "/services/demo_web/update", json=spec).status_code == 400
    path = f"/services/{service['ID']}/update"
    assert portainer.docker("POST", path, params={"version": index}, json=spec).json() == {"Warnings": None}
    stale = portainer.docker("POST", path, params={"version": index}, json=spec)
    assert (stale.status_code, stale.json()) == (500, {"message": "rpc error: code = Unknown desc = update out of sequence"})  # fmt: skip
    between = portainer.service()["Version"]["Index"]
    settled(portainer)
    assert portainer.docker("POST", path, params={"version": between}, json=spec).status_code == 500


def test_a_spec_is_replaced_as_a_whole(portainer: StandIn) -> None:
    def update(spec: dict[str, Any]) -> httpx.Response:
        index = portainer.service()["Version"]["Index"]
        return portainer.docker("POST", "/services/demo_web/update", params={"version": index}, json=spec)

    spec = portainer.service()["Spec"]
    assert update({"TaskTemplate": {"ForceUpdate": 1}}).status_code == 400
    assert update({**spec, "Name": "other"}).status_code == 501
    spec["TaskTemplate"]["ContainerSpec"]["Env"] = ["WORD=direct"]
    assert update(spec).status_code == 200
    settled(portainer)
    assert (variable(portainer, "WORD"), variable(portainer, "KEY")) == ("direct", "")
    # Portainer knows nothing of it.
    assert {"name": "WORD", "value": "hello"} in portainer.client.get("/api/stacks/1").json()["Env"]


def test_a_start_that_fails_is_tried_again_pauses_the_update_and_is_rolled_back(portainer: StandIn) -> None:
    put(portainer, Env=[*with_word(portainer, "new"), {"name": "KEY", "value": "wrong"}])
    assert settled(portainer) == "paused"
    portainer.wait(lambda: [task["DesiredState"] for task in portainer.tasks()] == ["shutdown"] * 5)
    failed = portainer.tasks()[1:]
    assert [task["Status"]["State"] for task in failed] == ["failed"] * 4
    assert {task["Status"]["Err"] for task in failed} == {"task: non-zero exit (3)"}
    logs = portainer.docker("GET", f"/containers/{failed[0]['Status']['ContainerStatus']['ContainerID']}/logs", params={"stderr": "1"})  # fmt: skip
    assert b"Invalid API key" in logs.content
    with pytest.raises(httpx.ConnectError):
        httpx.get(portainer.url, trust_env=False)
    service = portainer.service()
    back = {"version": service["Version"]["Index"], "rollback": "previous"}
    assert portainer.docker("POST", "/services/demo_web/update", params=back, json=service["Spec"]).status_code == 200
    portainer.wait(lambda: portainer.tasks()[-1]["Status"]["State"] == "running")
    assert settled(portainer) == "rollback_completed"
    assert variable(portainer, "WORD") == "hello"


def test_without_a_previous_spec_nothing_is_rolled_back(portainer: StandIn) -> None:
    service = portainer.service()
    back = {"version": service["Version"]["Index"], "rollback": "previous"}
    refused = portainer.docker("POST", "/services/demo_web/update", params=back, json=service["Spec"])
    assert refused.status_code == 400
    assert "does not have a previous spec" in refused.json()["message"]


def test_an_image_that_cannot_be_pulled(portainer: StandIn) -> None:
    portainer.faults(not_pulled=["registry.example/web"])
    force = {"ServiceID": portainer.service()["ID"]}
    portainer.client.put("/api/endpoints/1/forceupdateservice", json=force)
    assert settled(portainer) == "completed"
    assert "@sha256:" in portainer.service()["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
    reply = portainer.client.put("/api/endpoints/1/forceupdateservice", json={**force, "PullImage": True})
    assert "unable to pin image" in reply.json()["Warnings"][0]
    assert settled(portainer) == "paused"
    assert portainer.tasks()[-1]["Status"]["Err"] == f"No such image: {IMAGE}"
    assert portainer.tasks()[2]["Status"]["State"] == "rejected"


def test_a_process_that_never_gets_ready(portainer: StandIn) -> None:
    portainer.faults(never_ready=["web"])
    portainer.client.put("/api/endpoints/1/forceupdateservice", json={"ServiceID": "demo_web"})
    portainer.wait(lambda: states(portainer)[-1] == ("starting", "running"))
    with pytest.raises(httpx.ConnectError):
        httpx.get(portainer.url, trust_env=False)
    assert portainer.docker("GET", "/containers/json").json()[0]["Status"].endswith("(health: starting)")
    impatient = WEB_FILE.replace("start_period: 60s", "start_period: 0s")
    put(portainer, StackFileContent=impatient)
    portainer.wait(lambda: any(task["Status"].get("Err") for task in portainer.tasks()))
    error = next(task["Status"]["Err"] for task in portainer.tasks() if task["Status"].get("Err"))
    assert error == "task: non-zero exit (137): dockerexec: unhealthy container"


def test_a_service_without_a_running_task(portainer: StandIn) -> None:
    service = portainer.service()
    service["Spec"]["Mode"]["Replicated"]["Replicas"] = 0
    portainer.docker("POST", "/services/demo_web/update", params={"version": service["Version"]["Index"]}, json=service["Spec"])  # fmt: skip
    portainer.wait(lambda: portainer.tasks(**{"desired-state": ["running"]}) == [])
    portainer.wait(lambda: portainer.docker("GET", "/containers/json").json() == [])
    with_status = portainer.docker("GET", "/services", params={"status": "true"}).json()[0]
    assert with_status["ServiceStatus"] == {"RunningTasks": 0, "DesiredTasks": 0, "CompletedTasks": 0}


def test_a_webhook_restarts_a_service(portainer: StandIn) -> None:
    body = {"ResourceID": portainer.service()["ID"], "EndpointID": 1, "WebhookType": 1}
    made = portainer.client.post("/api/webhooks", json=body).json()
    assert portainer.client.post("/api/webhooks", json=body).status_code == 409
    with portainer.nobody() as nobody:
        assert nobody.post(f"/api/webhooks/{made['Token']}").status_code == 204
    assert settled(portainer) == "completed"


# -- the engine


def test_the_engine_speaks_in_its_own_form(portainer: StandIn) -> None:
    for path, status, message in (
        ("/services/none", 404, "service none not found"),
        ("/containers/none/json", 404, "No such container: none"),
        ("/exec/none/json", 404, "No such exec instance: none"),
        ("/nothing", 404, "page not found"),
        ("/v1.99/info", 400, "client version 1.99 is too new. Maximum supported API version is 1.47"),
        ("/v1.10/info", 400, "client version 1.10 is too old. Minimum supported API version is 1.24"),
        ('/tasks?filters={"service":["none"]}', 404, "service none not found"),
        ('/services?filters={"sideways":["x"]}', 400, "invalid filter 'sideways'"),
    ):
        reply = portainer.docker("GET", path)
        assert (reply.status_code, reply.json()) == (status, {"message": message})
    assert portainer.docker("GET", "/v1.41/info").json()["Swarm"]["ControlAvailable"] is True
    assert portainer.docker("GET", "/version").json()["ApiVersion"] == "1.47"
    ping = portainer.docker("GET", "/_ping")
    assert (ping.text, ping.headers["Api-Version"]) == ("OK", "1.47")
    told = email.utils.parsedate_to_datetime(ping.headers["Date"])
    assert abs((datetime.now(UTC) - told).total_seconds()) < 60
    assert [node["Status"]["State"] for node in portainer.docker("GET", "/nodes").json()] == ["ready"]


def test_filters_in_both_forms(portainer: StandIn) -> None:
    label = "com.docker.stack.namespace"
    for path in ("/services", "/containers/json"):
        for wanted in (
            {"label": [f"{label}=demo"]},
            {"label": {f"{label}=demo": True}},
            {"label": [label]},
            {"name": ["demo"]},
        ):
            assert len(portainer.docker("GET", path, params={"filters": json.dumps(wanted)}).json()) == 1, (
                path,
                wanted,
            )
        for wanted in ({"label": [f"{label}=other"]}, {"name": ["other"]}):
            assert portainer.docker("GET", path, params={"filters": json.dumps(wanted)}).json() == []
    portainer.client.put("/api/endpoints/1/forceupdateservice", json={"ServiceID": "demo_web"})
    settled(portainer)
    assert len(portainer.docker("GET", "/containers/json").json()) == 1
    everything = portainer.docker("GET", "/containers/json", params={"all": "1"}).json()
    assert [found["State"] for found in everything] == ["running", "exited"]
    assert everything[0]["Labels"]["com.docker.swarm.service.name"] == "demo_web"
    assert everything[0]["Status"].endswith("(healthy)")
    # Published at Swarm's ingress: the service tells the port, the container does not.
    assert "PublicPort" not in everything[0]["Ports"][0]
    assert portainer.service()["Endpoint"]["Ports"][0]["PublishedPort"] == everything[0]["Ports"][0]["PrivatePort"]
    inspected = portainer.docker("GET", f"/containers/{everything[0]['Id'][:12]}/json").json()
    assert "WORD=hello" in inspected["Config"]["Env"]
    assert inspected["State"]["Health"]["Status"] == "healthy"


def frames(stream: bytes) -> dict[int, bytes]:
    """What came on each stream; where a frame ends is chance."""
    found: dict[int, bytes] = {}
    while stream:
        size = int.from_bytes(stream[4:8], "big")
        assert stream[1:4] == b"\0\0\0"
        found[stream[0]] = found.get(stream[0], b"") + stream[8 : 8 + size]
        stream = stream[8 + size :]
    return found


def run(portainer: StandIn, argv: list[str], **options: Any) -> tuple[bytes, dict[str, Any]]:
    body = {"Cmd": argv, "AttachStdout": True, "AttachStderr": True, **options}
    made = portainer.docker("POST", f"/containers/{container(portainer)}/exec", json=body)
    assert made.status_code == 201
    path = f"/exec/{made.json()['Id']}"
    started = portainer.docker("POST", f"{path}/start", json={"Detach": False, "Tty": bool(options.get("Tty"))})
    assert started.status_code == 200
    again = portainer.docker("POST", f"{path}/start", json={})
    assert again.status_code == 409
    return started.content, portainer.docker("GET", f"{path}/json").json()


def test_exec_runs_inside(portainer: StandIn) -> None:
    code = "import os, sys; print(os.environ['WORD']); print('oh', file=sys.stderr); sys.exit(4)"
    output, inspected = run(portainer, ["python3", "-c", code])
    assert frames(output) == {1: b"hello\n", 2: b"oh\n"}
    assert (inspected["ExitCode"], inspected["Running"]) == (4, False)
    assert run(portainer, ["python", "-c", "print('raw')"], Tty=True)[0] == b"raw\n"
    assert frames(run(portainer, ["python", "-c", code], AttachStderr=False)[0]) == {1: b"hello\n"}
    big, _ = run(portainer, ["python", "-c", "print('x' * 200_000)"])
    assert frames(big) == {1: b"x" * 200_000 + b"\n"}
    missing, inspected = run(portainer, ["no-such-program"])
    assert inspected["ExitCode"] == 127
    assert b"executable file not found in $PATH" in frames(missing)[1]
    shell, _ = run(portainer, ["sh", "-c", "echo $WORD && env | grep -c ^PYTEST"])
    assert frames(shell) == {1: b"hello\n0\n"}


def test_exec_is_refused(portainer: StandIn) -> None:
    here = container(portainer)
    assert portainer.docker("POST", f"/containers/{here}/exec", json={"Cmd": []}).status_code == 400
    assert portainer.docker("POST", "/containers/none/exec", json={"Cmd": ["true"]}).status_code == 404
    portainer.client.put("/api/endpoints/1/forceupdateservice", json={"ServiceID": "demo_web"})
    settled(portainer)
    gone = portainer.docker("POST", f"/containers/{here}/exec", json={"Cmd": ["true"]})
    assert (gone.status_code, gone.json()) == (409, {"message": f"container {here} is not running"})


def test_restarting_a_container_looks_like_a_failure_to_swarm_and_applies_no_new_environment(
    portainer: StandIn,
) -> None:
    assert portainer.docker("POST", f"/containers/{container(portainer)}/restart").status_code == 204
    portainer.wait(lambda: states(portainer) == [("failed", "shutdown"), ("running", "running")])
    assert portainer.tasks()[0]["Status"]["Err"] == "task: non-zero exit (143)"
    assert portainer.docker("POST", "/containers/none/restart").status_code == 404


def test_a_container_that_ends_well_is_restarted_in_its_place(portainer: StandIn) -> None:
    put(portainer, Env=[*with_word(portainer, "hello"), {"name": "POLITE", "value": "yes"}])
    settled(portainer)
    here = container(portainer)
    before = portainer.docker("GET", f"/containers/{here}/json").json()["State"]
    assert portainer.docker("POST", f"/containers/{here}/restart").status_code == 204
    portainer.wait(lambda: states(portainer) == [("shutdown", "shutdown"), ("running", "running")])
    portainer.wait(
        lambda: portainer.docker("GET", f"/containers/{here}/json").json()["State"]["Pid"] not in (0, before["Pid"])
    )
    portainer.wait(
        lambda: portainer.docker("GET", f"/containers/{here}/json").json()["State"]["Health"]["Status"] == "healthy"
    )


# -- the processes behind it


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_stand_in_and_its_stacks_come_back(portainer: StandIn, number: signal.Signals) -> None:
    put(portainer, Env=with_word(portainer, "kept"))
    settled(portainer)
    made = portainer.docker("POST", f"/containers/{container(portainer)}/exec", json={"Cmd": ["sleep", "600"]}).json()[
        "Id"
    ]
    portainer.docker("POST", f"/exec/{made}/start", json={"Detach": True})
    parent = psutil.Process(portainer.record.pid)
    portainer.wait(lambda: len(parent.children(recursive=True)) == 2)
    children = parent.children(recursive=True)
    url = portainer.url
    os.kill(portainer.record.pid, number)
    psutil.wait_procs([parent], 30)
    _, alive = psutil.wait_procs(children, 30)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)
    again = portainer_process.start(portainer.folder, portainer.record)
    assert (again.url, again.fingerprint) == (portainer.record.url, portainer.record.fingerprint)
    object.__setattr__(portainer, "record", again)
    portainer_process.tell(again, "POST", "up")
    portainer.wait(lambda: states(portainer) == [("running", "running")])
    assert (portainer.url, variable(portainer, "WORD")) == (url, "kept")
