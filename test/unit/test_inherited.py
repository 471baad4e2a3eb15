"""What a dead leader's pods do, and have done, as the next leader finds it out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from byok8s.batch import KubeClient, PodRequest, RunIdentity
from byok8s.batch.pods import manifest
from byok8s.worker.names import BUNDLE_VARIABLE
from byok8s.worker.spec import NEWS, BundleJob, BundleSpec, JobSpec, Result
from byok8s.workflow.events import JobName
from byok8s.workflow.inherited import Inheritance, Left, Stock, take_stock
from byok8s.workflow.tasks import Task
from support.fakeapi import Api
from support.fakestore import Store
from support.memory import MemoryBucket

RUN = RunIdentity("flow-1", "ada")
RUNNING = {"phase": "Running", "containerStatuses": [{"name": "job", "state": {"running": {}}}]}
WAITING = {"phase": "Pending"}
ALONE = PodRequest("sum-1", image="x", command=("true",), fingerprint="f", note="{}")
SPEC = JobSpec("s", "h", ".", (), "log", "result")


def ended(code: int, message: str = "") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "message": message}}
    phase = "Failed" if code else "Succeeded"
    return {"phase": phase, "containerStatuses": [{"name": "job", "state": state}]}


def job(id: str, fingerprint: str = "same") -> BundleJob:
    return BundleJob(id, id, SPEC, None, fingerprint, "note")


def told(**fields: Any) -> str:
    return f"{NEWS.decode()}{json.dumps(fields)}\n"


def done(id: str, code: int = 0) -> str:
    return told(done=id, result=vars(Result(code)))


class Leftovers:
    """A run whose leader is dead."""

    def __init__(self, store: Store, client: KubeClient) -> None:
        self.store = store
        self.client = client
        self.bucket = MemoryBucket()

    def pod(self, request: PodRequest, status: dict[str, Any]) -> str:
        options = {"secret": None, "secret_mount": "", "pull_policy": "Never", "grace_seconds": 1}
        made = manifest(RUN, request, owner={"uid": "u"}, **options)  # type: ignore[arg-type]
        self.store.put("pods", {**made, "status": status})
        return str(made["metadata"]["name"])

    def bundle(
        self,
        id: str,
        jobs: str,
        status: dict[str, Any] = RUNNING,
        log: str = "",
        *,
        big: bool = False,
    ) -> None:
        text = BundleSpec(f"mail/{id}/", "report", tuple(map(job, jobs))).dumps()
        if big:
            self.bucket.objects.put_bytes(f"specs/{id}", text.encode())
            text = f"key:specs/{id}"
        request = PodRequest(id, "x", ("true",), bundle=True, env={BUNDLE_VARIABLE: text})
        self.store.logs[self.pod(request, status)] = log

    def mail(self, id: str, number: int, jobs: str) -> None:
        text = json.dumps([job(id) for id in jobs], default=vars)
        self.bucket.objects.put_bytes(f"mail/{id}/{number}", text.encode())

    def stock(self) -> Stock:
        return take_stock(self.client, "flow-1", self.bucket.objects, "mail/")


@pytest.fixture
def left(api: Api, client: KubeClient) -> Leftovers:
    return Leftovers(Store.behind(api), client)


def test_of_a_jobs_own_pods_the_last_good_one_counts(left: Leftovers) -> None:
    left.pod(ALONE, ended(1))
    left.pod(replace(ALONE, attempt=2, note='{"failures": 1}'), RUNNING)
    left.pod(replace(ALONE, id="failed-1"), ended(1))
    left.pod(replace(ALONE, id="done-1"), ended(0))
    stock = left.stock()
    assert stock.alone == {
        "sum-1": Left("", "f", '{"failures": 1}', 2),
        "done-1": Left("", "f", "{}", 1),
    }
    assert (stock.ids(), stock.bundles) == ({"sum-1", "done-1"}, [])


@pytest.mark.parametrize("big", [False, True])
def test_a_bundle_is_known_by_its_jobs_its_mail_and_its_log(left: Leftovers, big: bool) -> None:
    log = told(started="a") + "[a] hello\n" + done("a") + told(started="b") + told(returned=["c"])
    left.bundle("bundle-1", "abc", log=log, big=big)
    left.mail("bundle-1", 1, "d")
    left.mail("bundle-1", 2, "e")
    stock = left.stock()
    assert set(stock.shared) == set("abde")
    assert stock.shared["a"].succeeded
    assert stock.shared["b"] == Left("bundle-1", "same", "note", running=True)
    assert stock.shared["e"] == Left("bundle-1", "same", "note")
    assert (stock.bundles, stock.mails, stock.heard) == (
        ["bundle-1"],
        {"bundle-1": 2},
        {"bundle-1": 4},
    )


def test_a_job_that_came_back_and_was_sent_again_is_there(left: Leftovers) -> None:
    left.bundle("bundle-1", "ab", log=told(started="a") + told(returned=["b"]) + done("a"))
    left.mail("bundle-1", 1, "b")
    assert not left.stock().shared["b"].succeeded
    left.mail("bundle-1", 2, "a")
    assert left.stock().shared["a"].result is None


def test_a_job_that_failed_or_went_elsewhere_is_where_it_went(left: Leftovers) -> None:
    left.bundle("bundle-1", "abc", log=done("a", 1) + told(returned=["b"]) + done("c"))
    left.bundle("bundle-2", "ab", WAITING)
    shared = left.stock().shared
    assert {id: found.pod for id, found in shared.items()} == {
        "a": "bundle-2",
        "b": "bundle-2",
        "c": "bundle-1",
    }


@pytest.mark.parametrize("inline", [True, False])
def test_of_a_bundle_that_has_ended_the_successes_count(left: Leftovers, inline: bool) -> None:
    results = {"a": vars(Result(0)), "b": vars(Result(1))}
    report = json.dumps({"results": results})
    if not inline:
        left.bucket.objects.put_bytes("r", report.encode())
    left.bundle("bundle-1", "abc", ended(0, report if inline else "key:r"))
    stock = left.stock()
    assert (set(stock.shared), stock.bundles) == ({"a"}, [])
    assert stock.shared["a"].succeeded


def test_a_bundle_of_another_version_is_not_adopted(left: Leftovers) -> None:
    request = PodRequest("bundle-1", "x", ("true",), bundle=True, env={BUNDLE_VARIABLE: "{}"})
    left.pod(request, RUNNING)
    assert left.stock() == Stock()


def test_a_log_that_cannot_be_read_leaves_everything_to_the_end(left: Leftovers, api: Api) -> None:
    left.bundle("bundle-1", "ab", WAITING)
    assert set(left.stock().shared) == set("ab")


def task(id: str, fingerprint: str = "same", still_there: Callable[[], bool] | None = None) -> Task:
    request = PodRequest(id, "x", ("true",), fingerprint=fingerprint)
    return Task(JobName("rule"), request, SPEC, True, still_there)


def inheritance(**jobs: Left) -> Inheritance:
    return Inheritance(jobs)


GOOD = vars(Result(0))


def test_what_a_bundle_does_is_claimed_once() -> None:
    inherited = inheritance(a=Left("pod", "same"))
    assert inherited.claim(task("b")) is None
    claimed = inherited.claim(task("a"))
    assert claimed is not None and claimed.serves and claimed.result is None
    assert inherited.claim(task("a")) is None


@pytest.mark.parametrize(
    ("left", "fingerprint", "there", "served"),
    [
        pytest.param(Left("pod", "same", result=GOOD), "same", True, True, id="done"),
        pytest.param(Left("pod", "same", result=GOOD), "same", False, False, id="removed since"),
        pytest.param(Left("pod", "same", result=GOOD), "other", True, False, id="other work"),
        pytest.param(Left("pod", "same", result=vars(Result(1))), "same", True, False, id="failed"),
    ],
)
def test_what_a_bundle_has_done_serves_while_it_is_there(
    left: Left, fingerprint: str, there: bool, served: bool
) -> None:
    claimed = inheritance(a=left).claim(task("a", fingerprint, lambda: there))
    assert (claimed is not None) == served


def test_what_ends_before_it_is_claimed_is_remembered() -> None:
    inherited = inheritance(**{id: Left("pod", "same") for id in "abcd"}, e=Left("other", "same"))
    assert not list(inherited.hear("pod", {"started": "b"}))
    assert not list(inherited.hear("pod", {"done": "a", "result": GOOD}))
    assert not list(inherited.hear("pod", {"returned": ["c"]}))
    running = inherited.claim(task("b"))
    assert running is not None and running.running
    assert not list(inherited.over("pod", {"d": GOOD}))
    for id, succeeded in {"a": True, "c": None, "d": True, "e": False}.items():
        claimed = inherited.claim(task(id))
        assert (claimed and claimed.succeeded) is succeeded, id


@pytest.mark.parametrize("end", ["done", "returned", "over", "withdrawn"])
def test_other_work_of_the_same_name_is_waited_for(end: str) -> None:
    inherited = inheritance(a=Left("pod", "old"), b=Left("pod", "same"))
    waiting = task("a", "new")
    claimed = inherited.claim(waiting)
    assert claimed is not None and not claimed.serves
    mate = inherited.claim(task("b"))
    assert mate is not None and mate.serves
    assert not list(inherited.hear("pod", {"done": "b", "result": GOOD}))
    freed = {
        "done": lambda: inherited.hear("pod", {"done": "a", "result": GOOD}),
        "returned": lambda: inherited.hear("pod", {"returned": ["a"]}),
        "over": lambda: inherited.over("pod", {}),
        "withdrawn": inherited.withdraw,
    }
    assert list(freed[end]()) == [waiting]
    assert not list(inherited.over("pod", {}))
