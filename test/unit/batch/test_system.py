"""What the library offers beside issuing and telling: variables, checks, what is waited for."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from byok8s.batch import (
    BatchSystem,
    Cause,
    KubeClient,
    Limits,
    NeverFits,
    PodRequest,
    RunIdentity,
    RunIsLed,
    Update,
    lease,
)
from byok8s.batch.pods import LONGEST_WORD
from byok8s.exceptions import ClusterError
from support.fakeapi import Api, Asked, Says, refusal
from support.fakestore import Store

IDENTITY = RunIdentity("flow-1", "ada")
UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient cpu.",
        }
    ],
}

MISFIT = (
    "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. "
    "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful."
)


@pytest.fixture
def store(api: Api) -> Store:
    store = Store.behind(api)
    allocatable = {"cpu": "2", "memory": "8Gi", "ephemeral-storage": "50Gi"}
    store.items["nodes", "n"] = {
        "metadata": {"name": "n"},
        "spec": {},
        "status": {"allocatable": allocatable},
    }

    def answer(asked: Asked) -> Says:
        if asked.path.endswith("/cluster-autoscaler-status"):
            return refusal(404, "NotFound", "there is none")
        return store.answer(asked)

    api.answer = answer
    return store


@pytest.fixture
def batch(store: Store, client: KubeClient) -> BatchSystem:
    return BatchSystem(client, IDENTITY, rate=0)


def request(job_id: str, **more: Any) -> PodRequest:
    return PodRequest(job_id, image="x", command=("true",), **more)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def environments(store: Store) -> dict[str, dict[str, str]]:
    """The variables of each job's container."""
    return {
        pod["metadata"]["annotations"]["byok8s.io/id"]: {
            entry["name"]: entry["value"] for entry in pod["spec"]["containers"][0]["env"]
        }
        for (kind, _), pod in store.items.items()
        if kind == "pods"
    }


def test_case_2_and_case_3_variables_of_all_jobs_and_of_one(store: Store, batch: BatchSystem):
    with batch:
        batch.issue(request("before"))
        batch.set_env("FOO", "bar")
        batch.issue(request("all"))
        batch.issue(request("own", env={"FOO": "mine", "X": "1"}))
        batch.issue(request("after"))
        batch.set_env("FOO", None)
        batch.set_env("FOO", None)  # what is not set can be unset
        batch.issue(request("unset"))
        until(lambda: len(store.names("pods")) == 5)
        made = environments(store)
    assert {name: variables.get("FOO") for name, variables in made.items()} == {
        "before": None,
        "all": "bar",
        "own": "mine",
        "after": "bar",
        "unset": None,
    }
    assert made["own"]["X"] == "1" and "X" not in made["after"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"cpu": 2000}, "it asks for 2000 CPUs and the largest node has 2"),
        ({"memory_mb": 5_000_000}, "it asks for 5000000 MB of memory"),
        ({"disk_mb": 60_000}, "it asks for 60000 MB of disk"),
    ],
)
def test_case_4_what_never_fits_is_told_before_it_is_issued(
    store: Store, batch: BatchSystem, asked: dict[str, int], words: str
):
    with pytest.raises(NeverFits, match=words):
        batch.check(request("large", **asked))
    batch.check(request("small", cpu=2, memory_mb=8000, disk_mb=50_000))
    assert store.names("pods") == []


def test_what_jobs_wait_for_is_told_with_their_number(store: Store, batch: BatchSystem):
    with batch:
        assert batch.status_message() is None and batch.waiting() == {}
        for name in ("one", "two", "three"):
            batch.issue(request(name))
        until(lambda: len(store.names("pods")) == 3)
        pods = [pod for (kind, _), pod in list(store.items.items()) if kind == "pods"]
        for pod in pods[:2]:
            store.put("pods", {**pod, "status": UNSCHEDULABLE})
        until(lambda: len(batch.waiting()) == 2)
        said = (
            "No node has room for the pod now; it starts when others end, or sooner if it asks for "
            "less: 0/1 nodes are available: 1 Insufficient cpu."
        )
        assert set(batch.waiting().values()) == {said}
        assert batch.status_message() == f"Jobs that wait: 2 of 3. {said}"
        state = {"waiting": {"reason": "InvalidImageName", "message": "x"}}
        broken = {"phase": "Pending", "containerStatuses": [{"name": "job", "state": state}]}
        store.put("pods", {**pods[2], "status": broken})
        until(lambda: (batch.status_message() or "").startswith("Jobs that wait: 3 of 3, 2 of "))
        batch.kill(batch.issued())
        assert batch.waiting() == {} and batch.status_message() is None


@pytest.mark.parametrize("can_grow", [False, True])
def test_a_job_that_no_node_may_take_fails_where_none_can_come(
    store: Store, client: KubeClient, can_grow: bool
):
    if can_grow:
        store.items["nodes", "n"]["spec"]["providerID"] = "aws:///eu-west-1a/i-1"
    batch = BatchSystem(client, IDENTITY, rate=0, limits=Limits(no_node=0.1))
    with batch:
        batch.issue(request("picky"))
        batch.issue(request("patient"))
        until(lambda: len(store.names("pods")) == 2)
        for (kind, _), pod in list(store.items.items()):
            if kind == "pods":
                status = copy.deepcopy(UNSCHEDULABLE)
                if "picky" in pod["metadata"]["name"]:
                    status["conditions"][0]["message"] = MISFIT  # type: ignore[index]
                store.put("pods", {**pod, "status": status})
        told = []
        while (news := batch.updates(2.5)) is not None:
            told.append((news.id, news.state, news.for_room))
    waits = [("picky", "waiting", False), ("patient", "waiting", True)]
    assert sorted(told) == sorted([*waits, *([] if can_grow else [("picky", "failed", False)])])


def test_every_list_is_asked_for_in_pages(store: Store, batch: BatchSystem, api: Api):
    with batch:
        batch.issue(request("one"))
        until(lambda: len(store.names("pods")) == 1)
        batch.check(request("two"))
    lists = [
        asked
        for asked in api.asked
        if asked.method == "GET" and asked.path.endswith(("/pods", "/nodes"))
    ]
    assert {asked.path.rpartition("/")[2] for asked in lists} == {"pods", "nodes"}
    assert all(a.query.get("limit") == "500" for a in lists if "watch" not in a.query)


def test_how_long_a_job_ran():
    made = Update("a", 1, "succeeded", "p", started=10.0, finished=12.5)
    assert made.wall_seconds == 2.5
    assert Update("a", 1, "failed", "p", started=10.0, finished=9.0).wall_seconds == 0.0
    assert Update("a", 1, "running", "p", started=10.0).wall_seconds is None
    assert Update("a", 1, "failed", "p", cause=Cause.CREATE_REFUSED).wall_seconds is None


def test_a_batch_that_is_left_leaves_nothing(store: Store, batch: BatchSystem):
    def work() -> None:
        with batch:
            batch.issue(request("a"))
            until(lambda: store.names("pods"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert store.names("pods") == store.names("configmaps") == []


def test_who_does_not_get_the_lead_touches_nothing(
    store: Store, batch: BatchSystem, client: KubeClient
):
    with batch:
        batch.issue(request("a"))
        until(lambda: store.names("pods"))
        second = BatchSystem(client, IDENTITY)
        with pytest.raises(RunIsLed), second:
            pass
        assert second.shutdown() == []
        assert len(store.names("pods")) == len(store.names("configmaps")) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"command": ("echo", 5)},
        {"env": {"A": 5}},
        {"env": {"A": None}},
        {"env": {"A": "x" * (LONGEST_WORD - 2)}},
        {"command": ("sh", "-c", "x" * LONGEST_WORD)},
        {"cpu": float("nan")},
        {"cpu": float("inf")},
        {"cpu": -1},
    ],
)
def test_a_request_that_can_be_of_no_pod_is_refused_when_it_is_issued(
    store: Store, batch: BatchSystem, more: dict[str, Any]
):
    with batch:
        with pytest.raises(ValueError, match="'a'") as caught:
            batch.issue(replace(request("a"), **more))
        assert len(str(caught.value)) < 200
        assert batch.issued() == []


def test_the_longest_words_that_linux_takes(store: Store, batch: BatchSystem):
    longest = "x" * (LONGEST_WORD - 1)
    with batch:
        batch.issue(replace(request("a"), command=("true", longest), env={"A": longest[2:]}))
        until(lambda: store.names("pods"))


def test_no_time_at_all_is_not_seven_days(store: Store, batch: BatchSystem):
    with batch:
        batch.issue(request("a", deadline_seconds=0))
        batch.issue(request("b"))
        until(lambda: len(store.names("pods")) == 2)
        times = [
            store.items["pods", n]["spec"]["activeDeadlineSeconds"] for n in store.names("pods")
        ]
    assert sorted(times) == [0, 604_800]


@pytest.mark.parametrize("way", ["shutdown", "leave", "abandon"])
def test_who_waits_for_news_is_told_that_none_will_come(store: Store, batch: BatchSystem, way: str):
    batch.start()
    told: list[Any] = []
    waiting = [
        threading.Thread(target=lambda: told.append(batch.updates()), daemon=True) for _ in range(2)
    ]
    for thread in waiting:
        thread.start()
    getattr(batch, way)()
    for thread in waiting:
        thread.join(2)
    assert told == [None, None]
    assert batch.updates(-1) is None
    if way != "shutdown":
        store.items.clear()


def test_a_kill_keeps_to_its_deadline_where_the_api_is_silent(
    store: Store, batch: BatchSystem, api: Api
):
    answer, let_go = api.answer, threading.Event()

    def silent(asked: Asked) -> Says:
        if asked.method == "DELETE":
            let_go.wait(10)
        return answer(asked)

    with batch:
        for number in range(30):
            batch.issue(request(f"j{number}"))
        until(lambda: len(store.names("pods")) == 30)
        until(lambda: all(job.acknowledged for job in batch._book._pods.values()))
        api.answer = silent
        began = time.monotonic()
        left = batch.kill(batch.issued(), deadline=1.0)
        assert time.monotonic() - began < 3
        assert len(left) == 30
        let_go.set()


def test_who_lost_the_run_says_so_and_leaves_it_to_its_new_leader(
    store: Store, batch: BatchSystem, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    with batch:
        batch.issue(request("a"))
        until(lambda: store.names("pods"))
        take_over(store)
        with pytest.raises(ClusterError, match="taken over by eve on mars"):
            list(iter(batch.updates, None))
        assert batch.shutdown() == []
    assert len(store.names("pods")) == len(store.names("configmaps")) == 1


def test_a_run_that_somebody_cancels_ends_with_an_error_and_leaves_nothing(
    store: Store, batch: BatchSystem, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    with batch:
        batch.issue(request("a"))
        until(lambda: store.names("pods"))
        record = store.items["configmaps", IDENTITY.name]
        store.put("configmaps", {**record, "data": {**record["data"], lease.CANCEL: "eve"}})
        with pytest.raises(ClusterError, match="eve cancels the run"):
            list(iter(batch.updates, None))
    assert store.names("pods") == store.names("configmaps") == []


def test_who_slept_and_is_stopped_before_it_learns_of_it_removes_nothing(
    store: Store, batch: BatchSystem, monkeypatch: pytest.MonkeyPatch
):
    """As after SIGSTOP: the run was taken over, and the next renewal is yet to come."""
    with batch:
        batch.issue(request("a"))
        until(lambda: store.names("pods"))
        take_over(store)
        awake = time.time()
        monkeypatch.setattr(lease.time, "time", lambda: awake + 40)
    assert len(store.names("pods")) == len(store.names("configmaps")) == 1


def test_a_pod_that_lost_its_labels_is_deleted_before_its_end_is_told(
    store: Store, batch: BatchSystem
):
    with batch:
        batch.issue(request("a"))
        until(lambda: store.names("pods"))
        until(lambda: all(job.acknowledged for job in batch._book._pods.values()))
        (name,) = store.names("pods")
        pod = store.items["pods", name]
        bare = {**pod, "metadata": {**pod["metadata"], "labels": {}}}
        store.items["pods", name] = bare
        store._tell("pods", "DELETED", bare)  # as the API tells a watch that has a label selector
        news = batch.updates(5)
        assert store.names("pods") == []
    assert news
    assert (news.state, news.cause, news.disruption) == ("failed", Cause.DELETED, True)


def take_over(store: Store) -> None:
    now = time.time()
    eve = {"token": "e", "user": "eve", "host": "mars", "pid": 7, "since": now, "renewed": now}
    record = store.items["configmaps", IDENTITY.name]
    data = {**record["data"], lease.LEADER: json.dumps({**eve, "released": False})}
    store.put("configmaps", {**record, "data": data})
