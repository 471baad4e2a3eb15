"""What a dead leader has left: adopted where it does what is asked for, replaced where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from byok8s.batch import BatchSystem, KubeClient, PodRequest, RunIdentity, Update
from byok8s.batch import system as module
from byok8s.batch.ends import epoch
from byok8s.batch.pods import BUNDLE, FINGERPRINT, ID, RUN, fingerprint, pod_name
from byok8s.exceptions import ClusterError
from support.fakeapi import Api
from support.fakestore import Store

REQUEST = PodRequest("align-1", image="x", command=("true",), rule="align")
IDENTITY = RunIdentity("flow-1", "ada")
RUNNING = {"containerStatuses": [{"name": "job", "state": {"running": {}}}], "phase": "Running"}


def ended(code: int) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "message": '{"exit_code": 0}'}}
    phase = "Failed" if code else "Succeeded"
    return {"phase": phase, "containerStatuses": [{"name": "job", "state": state}]}


@pytest.fixture
def store(api: Api) -> Store:
    store = Store.behind(api)
    store.put("configmaps", {"metadata": {"name": "flow-1", "uid": "u-1"}})
    return store


@pytest.fixture
def start(store: Store, client: KubeClient) -> Iterator[Callable[[], BatchSystem]]:
    made: list[BatchSystem] = []

    def start() -> BatchSystem:
        made.append(BatchSystem(client, IDENTITY, rate=0))
        made[-1].start()
        return made[-1]

    yield start
    for batch in made:
        batch.abandon()


def stray(
    status: dict[str, Any], request: PodRequest = REQUEST, uid: str = "u-1", **labels: str
) -> dict[str, Any]:
    """A pod of the request, as an earlier leader has left it."""
    return {
        "metadata": {
            "name": pod_name("flow-1", request),
            "labels": {RUN: "flow-1", **labels},
            "annotations": {ID: request.id, FINGERPRINT: fingerprint(request)},
            "ownerReferences": [{"uid": uid}],
        },
        "spec": {"containers": [{"name": "job"}], "nodeName": "n-1"},
        "status": status,
    }


def news(batch: BatchSystem) -> Update:
    told = batch.updates(5)
    assert told
    return told


def created(api: Api) -> list[str]:
    return [a.body["metadata"]["name"] for a in api.asked if (a.method, a.path[-4:]) == POST]


def deleted(api: Api) -> list[str]:
    return [a.path.rpartition("/")[2] for a in api.asked if a.method == "DELETE"]


POST = ("POST", "pods")


def test_for_how_long_a_pod_runs_is_told_by_the_clusters_clock(
    store: Store, start: Callable[[], BatchSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"running": {"startedAt": "2031-05-06T07:08:09Z"}}
    store.put("pods", stray({**RUNNING, "containerStatuses": [{"name": "job", "state": state}]}))
    batch = start()
    batch.issue(REQUEST)
    assert news(batch).state == "running"
    later = epoch("2031-05-06T07:09:39Z")
    monkeypatch.setattr(KubeClient, "server_time", lambda client: later)
    assert batch.running() == {"align-1": 90.0}


def test_a_running_pod_is_adopted(store: Store, api: Api, start: Callable[[], BatchSystem]) -> None:
    store.put("pods", stray(RUNNING))
    batch = start()
    batch.issue(REQUEST)
    assert news(batch).state == "running"
    assert batch.issued() == list(batch.running()) == ["align-1"]
    store.put("pods", stray(ended(0)))
    assert news(batch).state == "succeeded"
    assert created(api) == [] and deleted(api) == []


def test_a_pod_that_succeeded_is_collected(
    store: Store, api: Api, start: Callable[[], BatchSystem]
) -> None:
    store.put("pods", stray(ended(0)))
    batch = start()
    asked: list[bool] = []
    batch.issue(REQUEST, lambda: asked.append(True) or True)
    told = news(batch)
    assert (told.state, told.result) == ("succeeded", '{"exit_code": 0}')
    assert asked == [True] and created(api) == []


OTHER = [
    pytest.param(stray(RUNNING, replace(REQUEST, command=("false",))), id="other work"),
    pytest.param(stray(RUNNING, replace(REQUEST, attempt=2)), id="another attempt"),
    pytest.param(stray(RUNNING, uid="u-0"), id="of a run that was removed"),
    pytest.param(stray(ended(1)), id="failed"),
]


@pytest.mark.parametrize("left", OTHER)
def test_a_pod_that_cannot_be_adopted_is_gone_before_its_job_runs(
    store: Store, api: Api, start: Callable[[], BatchSystem], left: dict[str, Any]
) -> None:
    name = left["metadata"]["name"]
    store.stuck.add(name)
    store.put("pods", left)
    batch = start()
    batch.issue(REQUEST)
    until = time.monotonic() + 5
    while name not in deleted(api):
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.1)
    assert created(api) == []  # two pods would write the same files
    assert batch.issued() == ["align-1"]
    store.remove("pods", name)
    while not created(api):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert created(api) == [pod_name("flow-1", REQUEST)]
    store.put("pods", {**stray(ended(0)), "metadata": store_metadata(store)})
    assert news(batch).state == "succeeded"


def store_metadata(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = store.items["pods", pod_name("flow-1", REQUEST)]["metadata"]
    return found


def test_results_that_are_gone_are_made_again(
    store: Store, api: Api, start: Callable[[], BatchSystem]
) -> None:
    store.put("pods", stray(ended(0)))
    batch = start()
    batch.issue(REQUEST, lambda: False)
    until = time.monotonic() + 5
    while not created(api):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert deleted(api) == [pod_name("flow-1", REQUEST)]


def test_a_job_that_is_killed_while_it_waits_for_an_old_pod_is_never_made(
    store: Store, api: Api, start: Callable[[], BatchSystem]
) -> None:
    left = stray(ended(1))
    store.stuck.add(left["metadata"]["name"])
    store.put("pods", left)
    batch = start()
    batch.issue(REQUEST)
    time.sleep(0.1)
    assert batch.kill(["align-1"], deadline=1) == []
    store.remove("pods", left["metadata"]["name"])
    time.sleep(0.1)
    assert created(api) == [] and batch.issued() == []


BUNDLES = [replace(REQUEST, id=f"bundle-{i}", attempt=i) for i in (1, 2)]


def test_bundles_that_nobody_adopts_are_deleted_at_the_start(
    store: Store, api: Api, client: KubeClient
) -> None:
    for bundle in BUNDLES:
        store.put("pods", stray(RUNNING, bundle, **{BUNDLE: "1"}))
    store.put("pods", stray(RUNNING))
    batch = BatchSystem(client, IDENTITY, rate=0)
    batch.start(adopting=["bundle-2"])
    assert deleted(api) == [pod_name("flow-1", BUNDLES[0])]
    assert batch.adopt("bundle-2") and not batch.adopt("bundle-1")
    assert (news(batch).id, batch.issued()) == ("bundle-2", ["bundle-2"])
    store.put("pods", stray(ended(0), BUNDLES[1], **{BUNDLE: "1"}))
    told = news(batch)
    assert (told.state, told.result) == ("succeeded", '{"exit_code": 0}')
    batch.abandon()


def test_an_adopted_pod_that_goes_is_told(store: Store, start: Callable[[], BatchSystem]) -> None:
    store.put("pods", stray(RUNNING))
    batch = start()
    assert batch.adopt("align-1")
    assert news(batch).state == "running"
    store.remove("pods", pod_name("flow-1", REQUEST))
    told = news(batch)
    assert (told.state, told.cause, told.disruption) == ("failed", "deleted", True)


def test_a_bundle_that_does_not_end_stops_the_start(
    store: Store, start: Callable[[], BatchSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUNDLES_SECONDS", 0.1)
    left = stray(RUNNING, BUNDLES[0], **{BUNDLE: "1"})
    store.stuck.add(left["metadata"]["name"])
    store.put("pods", left)
    with pytest.raises(ClusterError, match="of an earlier leader were deleted and have not ended"):
        start()


def test_leave_keeps_the_pods_and_frees_the_run(
    store: Store, api: Api, start: Callable[[], BatchSystem]
) -> None:
    batch = start()
    batch.issue(REQUEST)
    until = time.monotonic() + 5
    while not created(api):
        assert time.monotonic() < until
        time.sleep(0.01)
    batch.leave()
    assert store.names("pods") and store.names("configmaps") == ["flow-1"]
    second = start()
    second.issue(REQUEST)
    store.put("pods", {**store.items["pods", pod_name("flow-1", REQUEST)], "status": RUNNING})
    assert news(second).state == "running"
    assert len(created(api)) == 1


def test_case_20_shutdown_names_pods_that_hang_and_what_on(
    store: Store, start: Callable[[], BatchSystem]
) -> None:
    lost, held = stray(RUNNING), stray(RUNNING, replace(REQUEST, id="held"))
    held["metadata"]["finalizers"] = ["lab.example/keep"]
    for pod in (lost, held):
        store.stuck.add(pod["metadata"]["name"])
        store.put("pods", pod)
    batch = start()
    began = time.monotonic()
    remains = batch.shutdown(deadline=1)
    assert time.monotonic() - began < 3
    assert sorted(remains) == sorted(
        [
            f"pod/{lost['metadata']['name']} (deleted; its node n-1 has not confirmed it)",
            f"pod/{held['metadata']['name']} (deleted; held by the finalizer lab.example/keep)",
        ]
    )
    assert store.names("configmaps") == []
