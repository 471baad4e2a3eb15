"""What is told of a pod: real event streams, recorded on a real cluster, are played back.

`statuses/NAME.json` holds the watch events of one pod on Kubernetes 1.35 with containerd.
"""

from __future__ import annotations

import copy
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from byok8s.batch import Cause, Limits, PodRequest, Update
from byok8s.batch.book import Book
from byok8s.batch.ends import end_of
from byok8s.batch.pods import FINGERPRINT, ID, RUN, fingerprint
from byok8s.batch.waits import Wait

STATUSES = Path(__file__).parent / "statuses"
REQUEST = PodRequest("job", image="x", command=("true",))

# Name of the recording: the states told (waits for a node left out), cause, exit code,
# disruption, and a part of the sentence
RECORDED: dict[str, tuple[str, Cause | None, int | None, bool, str]] = {
    "ok": ("succeeded", None, 0, False, ""),
    "fail": ("running failed", Cause.COMMAND_FAILED, 23, False, "exit code 23"),
    "segv": ("failed", Cause.COMMAND_FAILED, 139, False, "SIGSEGV"),
    "no-command": ("failed", Cause.COMMAND_FAILED, 128, False, '"no-such-program": executable'),
    "oom": ("failed", Cause.OUT_OF_MEMORY, 137, False, r"limit of 64MB; give it more \(mem_mb\)"),
    "oom-child": ("running failed", Cause.OUT_OF_MEMORY, 137, False, "limit of 64MB"),
    "oom-child-exit1": ("running failed", Cause.OUT_OF_MEMORY, 1, False, "limit of 64MB"),
    "oom-swallowed": ("running succeeded", None, 0, False, "but the command reported success"),
    "deadline": ("running failed", Cause.DEADLINE, 137, False, "deadline of 2 s"),
    "disk": ("running failed", Cause.EVICTED, 137, False, r'"work" exceeds.*\(disk_mb\)'),
    "evicted": ("running failed", Cause.EVICTED, 1, True, "drained"),
    "deleted": ("running failed", Cause.DELETED, 137, True, "deleted by somebody else"),
    "deleted-trap": ("running failed", Cause.DELETED, 7, True, "deleted by somebody else"),
    "deleted-pending": ("failed", Cause.DELETED, None, True, "deleted by somebody else"),
    "huge": ("failed", Cause.DELETED, None, True, "deleted by somebody else"),
    "image-absent": ("waiting", Cause.IMAGE_PULL, None, False, "'localhost/no-such-image:1'"),
    "image-invalid": ("waiting failed", Cause.DELETED, None, True, "deleted by somebody else"),
    "missing-key": ("waiting failed", Cause.DELETED, None, True, "deleted by somebody else"),
    "missing-volume": ("", None, None, False, ""),
}


def recording(name: str, pod: str) -> list[tuple[str, dict[str, Any]]]:
    events = json.loads((STATUSES / f"{name}.json").read_text())
    for event in events:
        event["object"]["metadata"]["name"] = pod
        annotations = {ID: REQUEST.id, FINGERPRINT: fingerprint(REQUEST)}
        event["object"]["metadata"] |= {"annotations": annotations, "labels": {RUN: "run"}}
    return [(event["event"], event["object"]) for event in events]


def news(book: Book) -> list[Update]:
    found = []
    while not book.updates.empty():
        found.append(book.updates.get())
    return found


MISFIT = "1 node(s) didn't match Pod's node affinity/selector"


@pytest.fixture
def book() -> Book:
    return Book("run", Limits())


@pytest.mark.parametrize("name", sorted(path.stem for path in STATUSES.glob("*.json")))
def test_a_recorded_pod(book: Book, name: str):
    states, cause, exit_code, disruption, message = RECORDED[name]
    job = book.add(REQUEST)
    assert job
    for kind, pod in recording(name, job.pod):
        book.on_event(kind, pod)
    told = [u for u in news(book) if u.state != "waiting" or u.cause != Cause.UNSCHEDULABLE]
    assert " ".join(u.state for u in told) == states
    if told:
        last = told[-1]
        assert (last.cause, last.exit_code, last.disruption) == (cause, exit_code, disruption)
        assert re.search(message, last.message)
        assert last.message == "" or last.message.endswith(".")
        assert "\n" not in last.message


@pytest.mark.parametrize(
    ("name", "cause", "limit", "says"),
    [
        ("image-absent", Cause.IMAGE_PULL, "image_absent", "localhost/no-such-image:1"),
        ("image-invalid", Cause.INVALID_IMAGE, "invalid", "'Bad//Name' is not a valid"),
        ("missing-key", Cause.CONFIG_ERROR, "config", "find key absent in Secret default/cases2"),
        ("huge", Cause.UNSCHEDULABLE, "unschedulable", "Insufficient cpu"),
    ],
)
def test_what_a_recorded_pod_waits_for(book: Book, name: str, cause: Cause, limit: str, says: str):
    job = book.add(REQUEST)
    assert job
    for kind, pod in recording(name, job.pod):
        if "deletionTimestamp" in pod["metadata"]:
            break
        book.on_event(kind, pod)
    waiting = news(book)
    assert [u.state for u in waiting] == ["waiting"]  # said once
    assert says in waiting[0].message
    assert job.wait and (job.wait.cause, job.wait.limit) == (cause, limit)


def test_a_success_is_told_with_the_container_and_its_result(book: Book):
    job = book.add(REQUEST)
    assert job
    events = recording("ok", job.pod)
    for kind, pod in events[:4]:  # the phase is still Pending
        book.on_event(kind, pod)
    (update,) = news(book)
    assert (update.state, update.result, update.exit_code) == ("succeeded", "result\n", 0)
    assert update.started and update.finished and update.node == "byok8s-dev"
    for kind, pod in events[4:]:
        book.on_event(kind, pod)
    assert news(book) == []
    assert book.leftover(True) == 0  # gone


def of_status(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", **metadata},
        "spec": {"nodeName": "node-1", "containers": [{"name": "job"}]},
        "status": status,
    }


def ended(reason: str = "Error", code: int = 137, **more: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": reason, **more}}
    return {"containerStatuses": [{"name": "job", "state": state}]}


def disrupted(reason: str) -> dict[str, Any]:
    return {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]}


@pytest.mark.parametrize(
    ("status", "cause"),
    [  # as documented, not recorded: they need a second node, or one that may be broken
        ({"reason": "Preempting", **disrupted("TerminationByKubelet")}, Cause.PREEMPTED),
        ({**ended(), **disrupted("PreemptionByScheduler")}, Cause.PREEMPTED),
        ({**ended(), **disrupted("DeletionByTaintManager")}, Cause.NODE_LOST),
        ({**ended(), **disrupted("DeletionByPodGC")}, Cause.NODE_LOST),
        ({"reason": "NodeLost"}, Cause.NODE_LOST),
        (ended("ContainerStatusUnknown"), Cause.NODE_LOST),
        (
            {"reason": "Terminated", **ended(), **disrupted("TerminationByKubelet")},
            Cause.NODE_SHUTDOWN,
        ),
        ({"reason": "OutOfcpu", "message": "Node didn't have enough cpu"}, Cause.NODE_REFUSED),
        ({"reason": "NodeAffinity"}, Cause.NODE_REFUSED),
        (
            {
                "reason": "Evicted",
                "message": "Pod was rejected: The node had condition: [DiskPressure]. ",
            },
            Cause.NODE_REFUSED,
        ),
        (
            {"reason": "Evicted", "message": "The node was low on resource: memory. "},
            Cause.EVICTED,
        ),
        (
            {
                "reason": "Evicted",
                "message": "The node was low on resource: memory.",
                **disrupted("TerminationByKubelet"),
            },
            Cause.EVICTED,
        ),
    ],
)
def test_what_the_infrastructure_ends_is_no_failure_of_the_job(
    status: dict[str, Any], cause: Cause
):
    end = end_of(of_status({"phase": "Failed", **status}))
    assert end and (end.cause, end.disruption) == (cause, True)
    assert "node-1" in end.message and end.message.endswith(".")


def test_a_pod_that_failed_without_a_word(book: Book):
    end = end_of(of_status({"phase": "Failed"}))
    assert end and (end.cause, end.disruption) == (Cause.UNKNOWN, False)


def test_a_failure_before_the_deletion_is_the_jobs_own():
    status = {"phase": "Failed", **ended(code=3, finishedAt="2026-01-01T00:00:00Z")}
    pod = of_status(status, deletionTimestamp="2026-01-01T00:00:40Z", deletionGracePeriodSeconds=30)
    end = end_of(pod, gone=True)
    assert end and (end.cause, end.exit_code) == (Cause.COMMAND_FAILED, 3)


def test_an_injected_sidecar_does_not_hide_the_end():
    statuses = [
        {"name": "istio-proxy", "state": {"running": {}}},
        *ended("Completed", 0)["containerStatuses"],
    ]
    end = end_of(of_status({"phase": "Running", "containerStatuses": statuses}))
    assert end and end.cause is None


def test_nothing_is_told_of_a_killed_job(book: Book):
    job = book.add(REQUEST)
    assert job
    book.acknowledge(job)
    events = recording("deleted", job.pod)
    book.on_event(*events[0])
    assert book.kill(["job", "unknown"]) == [job]
    for kind, pod in events[1:]:
        book.on_event(kind, pod)
    assert news(book) == [] and book.issued() == [] and book.running(0.0) == {}
    assert not book.exists(job)


def test_a_pod_missing_from_a_list_was_deleted(book: Book):
    job = book.add(REQUEST)
    assert job
    book.acknowledge(job)
    book.on_list([], asked=time.monotonic() + 1)
    (update,) = news(book)
    assert (update.state, update.cause) == ("failed", Cause.DELETED)


def test_a_pod_made_after_the_list_was_asked_for_is_not_missing(book: Book):
    job = book.add(REQUEST)
    assert job
    asked = time.monotonic()
    book.on_list([], asked)  # not made yet
    time.sleep(0.01)
    book.acknowledge(job)
    book.on_list([], asked)
    assert news(book) == [] and book.issued() == ["job"]


def test_an_ended_pod_of_an_earlier_leader_is_claimed_and_not_made_again(book: Book):
    name = Book("run", Limits()).add(REQUEST)
    assert name
    events = recording("ok", name.pod)
    book.on_list([events[4][1]], asked=time.monotonic())
    book.on_event("DELETED", events[6][1])  # its end was read: it can still be claimed
    assert book.add(REQUEST) is None
    assert [u.state for u in news(book)] == ["succeeded"]


def test_a_live_job_is_not_issued_twice(book: Book):
    book.add(REQUEST)
    with pytest.raises(ValueError, match="already issued"):
        book.add(REQUEST)


def test_a_wait_past_its_limit_is_a_failure():
    book = Book("run", Limits(config=0.1))
    job = book.add(REQUEST)
    assert job
    for kind, pod in recording("missing-key", job.pod)[:4]:
        book.on_event(kind, pod)
    assert book.expire() == []
    time.sleep(0.15)
    assert book.expire() == [job]
    assert [(u.state, u.cause) for u in news(book)] == [
        ("waiting", Cause.CONFIG_ERROR),
        ("failed", Cause.CONFIG_ERROR),
    ]


def test_a_plainer_error_shortens_the_wait(book: Book):
    job = book.add(REQUEST)
    assert job
    events = recording("image-absent", job.pod)
    first = copy.deepcopy(events[3][1])
    container = first["status"]["containerStatuses"][0]
    container["image"] = "registry.example.org/a:1"
    container["state"]["waiting"]["message"] = "i/o timeout"
    book.on_event("MODIFIED", first)
    assert job.wait and job.wait.limit == "image"
    second = copy.deepcopy(first)
    second["status"]["containerStatuses"][0]["state"]["waiting"]["message"] = "a:1: not found"
    book.on_event("MODIFIED", second)
    assert job.wait and job.wait.limit == "image_absent"
    book.on_event("MODIFIED", first)  # a back-off says less than the error before it
    assert job.wait.limit == "image_absent"


def test_who_asks_for_it_is_told_when_a_node_has_a_pod():
    book = Book("run", Limits(), tell_placed=True)
    job = book.add(REQUEST)
    assert job
    pod = {"metadata": {"name": job.pod}, "spec": {"nodeName": "n"}, "status": {"phase": "Pending"}}
    book.on_event("ADDED", {**pod, "spec": {}})
    assert news(book) == []
    book.on_event("MODIFIED", pod)
    book.on_event("MODIFIED", pod)
    (update,) = news(book)
    assert (update.state, update.node) == ("placed", "n")


def test_case_11_a_slow_pull_is_no_failure():
    """While a node pulls, the container is being created, and nothing is known to be wrong."""
    book = Book("run", Limits(image=0.0, image_absent=0.0, config=0.0, volume=0.0, too_large=0.0))
    job = book.add(REQUEST)
    assert job
    waiting = {"waiting": {"reason": "ContainerCreating"}}
    status = {"phase": "Pending", "containerStatuses": [{"name": "job", "state": waiting}]}
    pod = {"metadata": {"name": job.pod}, "spec": {"nodeName": "n"}, "status": status}
    book.on_event("MODIFIED", pod)
    assert job.wait is None and job.placed is not None
    assert book.expire() == [] and news(book) == []


def test_a_deleted_pod_whose_node_never_confirms_is_lost():
    book = Book("run", Limits(terminating=0.1))
    job = book.add(REQUEST)
    assert job
    for kind, pod in recording("deleted", job.pod)[:5]:
        book.on_event(kind, pod)
    assert [u.state for u in news(book)] == ["running"]
    time.sleep(0.15)
    assert book.expire() == [job]
    (told,) = news(book)
    assert (told.state, told.cause, told.disruption) == ("failed", Cause.NODE_LOST, True)


def test_what_is_known_of_the_nodes_is_not_forgotten(book: Book):
    job = book.add(REQUEST)
    assert job
    events = recording("huge", job.pod)
    for kind, pod in events[:2]:
        book.on_event(kind, pod)
    book.await_something(job, Wait(Cause.UNSCHEDULABLE, "No node is large enough.", "too_large"))
    book.on_event(*events[1])  # the scheduler tried again
    assert job.wait and job.wait.limit == "too_large"
    assert len(news(book)) == 2


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("0/1 nodes are available: 1 Insufficient cpu.", "unschedulable"),
        ("0/1 nodes are available: 1 Too many pods.", "unschedulable"),
        (
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            "no_node",
        ),
        ("0/1 nodes are available: 1 node(s) had untolerated taint {own: x}.", "no_node"),
        ('0/1 nodes are available: persistentvolumeclaim "a" not found. not found', "no_node"),
        # what passes by itself: a node that is cordoned, or not ready
        ("0/1 nodes are available: 1 node(s) were unschedulable.", "unschedulable"),
        (
            "0/1 nodes are available: 1 node(s) had untolerated taint "
            "{node.kubernetes.io/not-ready: }.",
            "unschedulable",
        ),
        (
            "0/2 nodes are available: 1 Insufficient memory, 1 node(s) didn't match Pod's node "
            "affinity/selector. preemption: 0/2 nodes are available.",
            "unschedulable",
        ),
        ("no nodes available to schedule pods", "unschedulable"),
    ],
)
def test_what_waiting_does_not_mend_is_told_from_a_busy_cluster(
    book: Book, message: str, limit: str
):
    job = book.add(REQUEST)
    assert job
    book.on_event("MODIFIED", unscheduled(job.pod, message))
    assert job.wait and job.wait.limit == limit
    assert job.wait.for_room is (limit == "unschedulable")
    fix = "it starts when others end" if job.wait.for_room else "correct the node selector"
    assert fix in job.wait.message


def test_the_time_of_a_wait_begins_anew_with_what_is_waited_for():
    """Who has waited for room for long has not waited for a node with a label."""
    book = Book("run", Limits(no_node=0.2))
    job = book.add(REQUEST)
    assert job
    book.on_event("MODIFIED", unscheduled(job.pod, "0/1 nodes are available: 1 Too many pods."))
    time.sleep(0.25)
    book.on_event("MODIFIED", unscheduled(job.pod, f"0/1 nodes are available: {MISFIT}."))
    assert book.expire() == []
    time.sleep(0.25)
    assert book.expire({"no_node"}) == []
    assert book.expire() == [job]


def unscheduled(name: str, message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    status = {"phase": "Pending", "conditions": [{**condition, "message": message}]}
    return {"metadata": {"name": name}, "spec": {}, "status": status}
