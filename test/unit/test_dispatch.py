"""Which jobs share a pod, what pods are sent, and what becomes of jobs whose pod is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from byok8s.batch import ApiError, PodRequest, Update
from byok8s.batch.placement import Placement, Volume
from byok8s.storage.objects import Objects
from byok8s.worker.spec import NEWS, BundleJob, BundleSpec, Command, JobSpec, Result
from byok8s.workflow import dispatch, early, sharing
from byok8s.workflow.dispatch import Dispatcher
from byok8s.workflow.durations import Durations
from byok8s.workflow.events import JobName
from byok8s.workflow.inherited import Left, Stock
from byok8s.workflow.sharing import TROUBLES
from byok8s.workflow.tasks import Outcome, Task
from support.memory import MemoryBucket

COMMAND = Command("true", 1, (), (), ())


class Log:
    """A pod's log that is being followed."""

    def __init__(self) -> None:
        self.lines: SimpleQueue[bytes | None] = SimpleQueue()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __iter__(self) -> Iterator[bytes]:
        while (line := self.lines.get()) is not None:
            yield line


class Batch:
    """Takes requests; the test tells how their pods fare."""

    def __init__(self, places: int | None = 2) -> None:
        self.issued: list[PodRequest] = []
        self.deleted: list[str] = []
        self.adopted: list[str] = []
        self.vanished: set[str] = set()
        self.queue: SimpleQueue[Update] = SimpleQueue()
        self.logs: dict[str, Log] = {}
        self.refuses: ApiError | None = None
        self._places = places

    def issue(self, request: PodRequest, still_there: object = None) -> None:
        self.issued.append(request)

    def adopt(self, id: str) -> bool:
        self.adopted.append(id)
        return id not in self.vanished

    def delete(self, id: str) -> None:
        self.deleted.append(id)

    def places(self, request: PodRequest) -> int | None:
        return None if self._places is None else int(self._places / request.cpu)

    def least_cpu(self, request: PodRequest) -> float:
        return min(request.cpu, 0.67)

    def updates(self, timeout: float) -> Update | None:
        try:
            return self.queue.get(timeout=0.02)
        except Empty:
            return None

    def follow(self, id: str, silence: float) -> Log:
        if self.refuses:
            raise self.refuses
        return self.logs.setdefault(id, Log())


class Run:
    """A dispatcher with what it told."""

    def __init__(self, batch: Batch, **options: Any) -> None:
        self.batch = batch
        self.bucket = MemoryBucket()
        self.ended: dict[str, Outcome] = {}
        self.started: list[str] = []
        self.waiting: list[str] = []
        self.broken: list[Exception] = []
        objects = self.bucket.objects
        stock = options.pop("stock", Stock())
        self.warnings: list[str] = []
        self.session = session = SimpleNamespace(
            batch=batch,
            listener=SimpleNamespace(warn=self.warnings.append),
            stock=stock,
            secret=SimpleNamespace(variable={"FILES": "all"}),
            objects=objects,
            run_key=lambda path: f"run/{path}",
            result_key=lambda id, attempt: f"results/{id}",
            report=lambda text: (
                (objects.get_bytes(text[4:]) or b"").decode() if text.startswith("key:") else text
            ),
            keep_spec=lambda name, text: (
                objects.put_bytes(f"jobs/{name}", text.encode()) or f"jobs/{name}"
            ),
        )
        given = {"limit": 100, "share": True, "durations": Durations(), **options}
        self.dispatcher = Dispatcher(
            session,  # type: ignore[arg-type]
            on_started=lambda task: self.started.append(task.id),
            on_waiting=lambda task, why, busy: self.waiting.append(task.id),
            on_ended=lambda task, outcome: self.ended.update({task.id: outcome}),
            on_broken=self.broken.append,
            **given,
        )

    def submit(
        self, ids: Iterable[str], rule: str = "small", bytes_in: int = 0, **fields: Any
    ) -> None:
        for id in ids:
            command = None if rule == "script" else COMMAND
            spec = JobSpec("s", "h", ".", (), f"log/{id}", f"r/{id}", command=command)
            request = PodRequest(id, "image", ("worker",), rule=rule, job=id, **fields)
            task = Task(JobName(rule), request, spec, command is not None, bytes_in=bytes_in)
            self.dispatcher.submit(task)

    def bundles(self) -> list[PodRequest]:
        return [request for request in self.batch.issued if request.bundle]

    def jobs_of(self, request: PodRequest) -> set[str]:
        text = request.env["BYOK8S_BUNDLE"]
        if text.startswith("key:"):
            text = self.bucket.content()[text[4:]].decode()
        return {job.id for job in BundleSpec.loads(text).jobs}

    def mail(self, request: PodRequest, number: int = 1) -> set[str]:
        text = self.bucket.content().get(f"run/bundles/{request.id}/{number}", b"[]")
        return {BundleJob.of(fields).id for fields in json.loads(text)}

    def update(self, request: PodRequest, state: str, **fields: Any) -> None:
        self.batch.queue.put(Update(request.id, request.attempt, state, "pod", **fields))  # type: ignore[arg-type]

    def place(self, request: PodRequest) -> None:
        """Let a bundle's pod run."""
        self.update(request, "placed")
        self.update(request, "running")
        until(lambda: request.id in self.batch.logs)

    def tell(self, request: PodRequest, **news: Any) -> None:
        self.batch.logs[request.id].lines.put(NEWS + json.dumps(news).encode())

    def finish(
        self, request: PodRequest, ids: Iterable[str], seconds: float = 0.1, code: int = 0
    ) -> None:
        for id in ids:
            self.tell(request, started=id)
            result = json.loads(Result(code, seconds=seconds).dumps())
            self.tell(request, done=id, result=result)


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for something; the test fails when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@pytest.fixture
def run() -> Iterator[Run]:
    made = Run(Batch())
    made.dispatcher.start()
    yield made
    made.dispatcher.stop()
    assert not made.broken


def started(**options: Any) -> Run:
    run = Run(options.pop("batch", None) or Batch(), **options)
    run.dispatcher.start()
    return run


def test_jobs_nothing_is_known_of_fill_the_nodes_once(run: Run) -> None:
    run.submit("abcdefgh", cpu=0.95, memory_mb=300, disk_mb=50)
    until(lambda: len(run.bundles()) == 2)
    first, second = run.bundles()
    assert (first.cpu, first.memory_mb, first.disk_mb) == (0.95, 300, 50), "those of one job"
    assert run.jobs_of(first) | run.jobs_of(second) == set("abcdefgh")
    assert len(run.jobs_of(first)) == 4
    assert (first.deadline_seconds, first.bundle) == (None, True)


def test_the_end_of_each_job_is_told_at_once(run: Run) -> None:
    run.submit("ab")
    until(run.bundles)
    pod = run.bundles()[0]
    run.place(pod)
    run.finish(pod, "a")
    until(lambda: run.ended)
    assert set(run.ended) == {"a"}
    assert run.started == ["a"]
    assert run.ended["a"].success


def test_a_pod_that_has_nothing_left_is_sent_more(run: Run) -> None:
    run.submit("a")
    until(run.bundles)
    [pod] = run.bundles()
    run.place(pod)
    run.finish(pod, "a")
    until(lambda: "a" in run.ended)
    run.submit("bcd")
    until(lambda: run.mail(pod) == set("bcd"))
    run.finish(pod, "bcd")
    until(lambda: len(run.ended) == 4)
    assert len(run.batch.issued) == 1


@pytest.mark.parametrize(("seconds", "sent"), [(0.05, 29), (0.2, 16), (1.0, 4)])
def test_a_pod_is_sent_many_at_a_time_while_there_are_many(seconds: float, sent: int) -> None:
    known = Durations(json.dumps({"small": seconds}))
    run = started(batch=Batch(places=1), durations=known)
    run.submit([f"job-{n}" for n in range(100)])
    until(run.bundles)
    [pod] = run.bundles()
    run.place(pod)
    first = run.jobs_of(pod)
    until(lambda: len(run.batch.logs) == 1)
    run.finish(pod, sorted(first), seconds=seconds)
    until(lambda: run.mail(pod))
    assert len(run.mail(pod)) in (sent, sent + 1)
    run.dispatcher.stop()


def test_what_comes_back_behind_a_long_job_gets_pods_of_its_own(run: Run) -> None:
    run.submit("abc")
    until(run.bundles)
    pod = run.bundles()[0]
    mine = sorted(run.jobs_of(pod))
    run.place(pod)
    run.tell(pod, started=mine[0])
    until(lambda: run.started)
    time.sleep(2.1)
    run.tell(pod, returned=mine[1:])
    until(lambda: {r.id for r in run.batch.issued if not r.bundle} >= set(mine[1:]))
    single = next(r for r in run.batch.issued if not r.bundle)
    run.update(single, "succeeded", result=Result(0, seconds=3.0).dumps())
    until(lambda: single.id in run.ended)
    assert run.ended[single.id].success


def test_one_long_job_of_a_rule_of_short_ones_does_not_give_all_a_pod_of_their_own(
    run: Run,
) -> None:
    run.submit("abcdefghijkl")
    until(lambda: len(run.bundles()) == 2)
    long, short = run.bundles()
    first, *rest = sorted(run.jobs_of(long))
    run.place(long)
    run.place(short)
    run.finish(short, "".join(sorted(run.jobs_of(short))))
    run.tell(long, started=first)
    until(lambda: len(run.ended) == 6 and len(run.started) == 7)
    time.sleep(2.1)
    run.update(short, "succeeded")
    run.tell(long, returned=rest)
    until(lambda: [r for r in run.batch.issued if not r.bundle])
    time.sleep(0.5)
    singles = [r for r in run.batch.issued if not r.bundle]
    assert len(singles) == 2, "as many as there are places"
    for single in singles:
        run.update(single, "succeeded", result=Result(0, seconds=0.1).dumps())
    until(lambda: len(run.bundles()) == 3)
    assert run.jobs_of(run.bundles()[2]) == {*rest} - {single.id for single in singles}
    assert len([r for r in run.batch.issued if not r.bundle]) == 2


def test_a_rule_known_to_take_long_is_not_bundled() -> None:
    run = started(durations=Durations('{"small": 60}'))
    run.submit("abc")
    until(lambda: len(run.batch.issued) == 3)
    assert not run.bundles()
    run.dispatcher.stop()


@pytest.mark.parametrize(
    "options", [{"share": False}, {"rule": "script"}], ids=["off", "needs Snakemake"]
)
def test_jobs_that_may_not_share_a_pod_get_their_own(options: dict[str, Any]) -> None:
    run = started(share=options.get("share", True), batch=Batch(places=3))
    run.submit("abc", options.get("rule", "small"))
    until(lambda: len(run.batch.issued) == 3)
    assert not run.bundles()
    assert {request.id for request in run.batch.issued} == set("abc")
    run.dispatcher.stop()


def test_jobs_of_other_resources_do_not_share_a_pod(run: Run) -> None:
    run.submit("ab", memory_mb=100)
    run.submit("cd", memory_mb=900)
    until(lambda: len(run.bundles()) >= 2)
    assert {frozenset(run.jobs_of(pod)) for pod in run.bundles()} == {
        frozenset("ab"),
        frozenset("cd"),
    }


def test_no_more_pods_live_than_allowed() -> None:
    run = started(limit=2, share=False)
    run.submit("abcd")
    until(lambda: len(run.batch.issued) == 2)
    time.sleep(0.5)
    assert len(run.batch.issued) == 2
    run.update(run.batch.issued[0], "succeeded", result=Result(0).dumps())
    until(lambda: len(run.batch.issued) == 3)
    run.dispatcher.stop()


def test_jobs_of_a_lost_pod_run_again_and_finished_ones_do_not(run: Run) -> None:
    run.submit("ab")
    until(run.bundles)
    [pod] = run.bundles()
    run.place(pod)
    run.finish(pod, "a")
    until(lambda: "a" in run.ended)
    run.update(pod, "failed", cause="node_lost", disruption=True, started=1.0)
    until(lambda: len(run.bundles()) == 2)
    assert run.jobs_of(run.bundles()[1]) == {"b"}
    assert "b" not in run.ended


def test_a_job_at_work_in_a_pod_that_the_cluster_ended_is_told_so(run: Run) -> None:
    run.submit("ab")
    until(run.bundles)
    [pod] = run.bundles()
    run.place(pod)
    run.tell(pod, started="a")
    until(lambda: run.started)
    run.update(pod, "failed", cause="evicted", message="Evicted.", disruption=True, started=1.0)
    until(lambda: "a" in run.ended)
    outcome = run.ended["a"]
    assert outcome.update is not None and outcome.update.cause == "evicted"
    until(lambda: len(run.bundles()) == 2)
    assert run.jobs_of(run.bundles()[1]) == {"b"} and "b" not in run.ended


def test_a_pod_that_is_always_ended_before_it_does_anything_is_told_of(run: Run) -> None:
    run.submit("ab")
    until(run.bundles)
    run.update(run.bundles()[0], "failed", cause="node_lost", disruption=True)
    until(lambda: len(run.ended) == 2)
    assert not any(outcome.success for outcome in run.ended.values())


def test_after_its_pod_ran_out_of_memory_a_job_gets_its_own(run: Run) -> None:
    run.submit("ab")
    until(run.bundles)
    [pod] = run.bundles()
    run.place(pod)
    run.tell(pod, started="a")
    until(lambda: run.started)
    run.update(pod, "failed", cause="out_of_memory", started=1.0)
    until(lambda: len(run.batch.issued) == 3)
    assert {(r.bundle, r.id) for r in run.batch.issued[1:] if not r.bundle} == {(False, "a")}
    assert run.jobs_of(run.bundles()[1]) == {"b"}
    assert not run.ended


def test_a_job_whose_process_ran_out_of_memory_gets_its_own_pod(run: Run) -> None:
    run.submit("a")
    until(run.bundles)
    [pod] = run.bundles()
    run.place(pod)
    result = json.loads(Result(137, out_of_memory=True).dumps())
    run.tell(pod, done="a", result=result)
    until(lambda: len(run.batch.issued) == 2)
    assert (run.batch.issued[1].id, run.batch.issued[1].bundle) == ("a", False)
    assert not run.ended


def test_a_job_whose_pods_keep_failing_is_at_last_alone_and_told(run: Run) -> None:
    run.submit("a")
    for number in range(TROUBLES):
        until(lambda number=number: len(run.bundles()) == number + 1)  # type: ignore[misc]
        run.update(run.bundles()[-1], "failed", cause="command_failed", started=1.0)
    until(lambda: len(run.batch.issued) == TROUBLES + 1)
    alone = run.batch.issued[-1]
    assert not alone.bundle
    run.update(alone, "failed", cause="command_failed", message="It failed.", started=1.0)
    until(lambda: run.ended)
    assert not run.ended["a"].success


def test_what_every_pod_would_meet_fails_the_jobs(run: Run) -> None:
    run.submit("ab")
    until(run.bundles)
    run.update(run.bundles()[0], "waiting", cause="image_pull", message="No such image.")
    until(lambda: run.waiting)
    run.update(run.bundles()[0], "failed", cause="image_pull", message="No such image.")
    until(lambda: set(run.ended) == set("ab"))
    assert run.ended["a"].update is not None
    assert run.ended["a"].update.message == "No such image."


def test_lines_that_were_missed_come_with_the_bundles_report(run: Run) -> None:
    run.submit("ab")
    until(run.bundles)
    [pod] = run.bundles()
    results = {id: json.loads(Result(0).dumps()) for id in "ab"}
    run.bucket.objects.put_bytes("results/x", json.dumps({"results": results}).encode())
    run.update(pod, "succeeded", result="key:results/x", started=1.0)
    until(lambda: set(run.ended) == set("ab"))
    assert len(run.batch.issued) == 1


def test_where_logs_cannot_be_read_pods_are_sent_nothing(run: Run) -> None:
    run.batch.refuses = ApiError(403, "Forbidden", "no")
    run.submit("a")
    until(run.bundles)
    run.update(run.bundles()[0], "placed")
    until(lambda: run.dispatcher._sharing.deaf)
    run.submit("b")
    until(lambda: len(run.bundles()) == 2)
    assert not run.mail(run.bundles()[0])
    assert BundleSpec.loads(run.bundles()[1].env["BYOK8S_BUNDLE"]).linger == 0.0


def test_when_logs_can_be_read_again_pods_are_sent_more(run: Run) -> None:
    run.batch.refuses = ApiError(403, "Forbidden", "no")
    run.submit("a")
    until(run.bundles)
    run.update(run.bundles()[0], "placed")
    until(lambda: run.dispatcher._sharing.deaf)
    run.submit("b")
    until(lambda: len(run.bundles()) == 2)
    run.batch.refuses = None
    second = run.bundles()[1]
    run.place(second)
    run.finish(second, "b")
    until(lambda: "b" in run.ended)
    run.submit("c")
    until(lambda: run.mail(second) == {"c"})
    assert len(run.bundles()) == 2 and not run.mail(run.bundles()[0])


def test_what_no_node_has_room_for_goes_to_a_pod_that_has_time() -> None:
    run = started(batch=Batch(places=None))
    run.submit("abcd")
    until(lambda: len(run.bundles()) == 2)
    first, second = run.bundles()
    run.place(first)
    run.update(second, "waiting", cause="unschedulable", message="No room.", for_room=True)
    run.finish(first, "".join(run.jobs_of(first)))
    until(lambda: run.batch.deleted == [second.id])
    run.update(second, "failed", cause="deleted", disruption=True)
    until(lambda: run.mail(first) == run.jobs_of(second))
    run.dispatcher.stop()


def test_a_pod_that_has_nothing_to_do_makes_room_for_one_that_finds_none() -> None:
    run = started(share=True)
    run.submit("a")
    until(run.bundles)
    [bundle] = run.bundles()
    run.place(bundle)
    run.submit("b", rule="script")
    until(lambda: len(run.batch.issued) == 2)
    single = run.batch.issued[1]
    run.update(single, "waiting", cause="unschedulable", for_room=True)
    until(lambda: run.waiting)
    time.sleep(0.5)
    assert not run.batch.deleted, "it has a job"
    run.finish(bundle, "a")
    until(lambda: run.batch.deleted == [bundle.id])
    run.update(bundle, "failed", cause="killed", disruption=True, started=1.0)
    run.update(single, "placed")
    run.update(single, "succeeded", result=Result(0).dumps())
    until(lambda: set(run.ended) == {"a", "b"})
    assert all(outcome.success for outcome in run.ended.values())
    assert len(run.batch.issued) == 2
    run.dispatcher.stop()


def test_a_failed_job_is_told_and_the_rest_can_be_withdrawn(run: Run) -> None:
    run.submit("abc")
    until(run.bundles)
    pod = run.bundles()[0]
    run.place(pod)
    run.finish(pod, "a", code=3)
    until(lambda: "a" in run.ended)
    assert not run.ended["a"].success
    run.dispatcher._sharing._alone.append(run.dispatcher._pods[pod.id].tasks["b"])  # one that waits
    assert [task.id for task in run.dispatcher.withdraw()] == ["b"]


def test_durations_are_learnt_and_kept() -> None:
    durations = Durations("no JSON")
    assert durations.dumps() is None
    assert durations.expected("a") is None
    durations.takes_longer("a", 3.0)
    assert durations.expected("a") == 3.0
    durations.learn("a", 1.0)
    durations.learn("a", 2.0)
    assert durations.expected("a") == pytest.approx(1.2)
    kept = Durations(durations.dumps() or "")
    assert kept.expected("a") == pytest.approx(1.2)
    assert Durations('{"a": "x"}').expected("a") is None
    assert Durations("[1]").expected("a") is None


# --- what a dead leader has left


def heir(heard: int = 0, batch: Batch | None = None, **jobs: Left) -> tuple[Run, PodRequest]:
    """A dispatcher that takes over one bundle, and that bundle."""
    stock = Stock(
        shared=jobs, bundles=["bundle-0"], mails={"bundle-0": 3}, heard={"bundle-0": heard}
    )
    return started(stock=stock, batch=batch), PodRequest("bundle-0", "", ())


def test_a_dead_leaders_bundle_is_adopted_with_its_jobs() -> None:
    run, pod = heir(a=Left("bundle-0", ""), b=Left("bundle-0", "", running=True))
    assert run.batch.adopted == ["bundle-0"]
    run.submit("ab")
    until(lambda: run.started == ["b"])
    run.update(pod, "running")
    until(lambda: "bundle-0" in run.batch.logs)
    run.finish(pod, "ba")
    until(lambda: len(run.ended) == 2)
    assert all(outcome.success for outcome in run.ended.values())
    assert not run.batch.issued
    # it takes more, as any other
    run.submit("c")
    until(lambda: run.mail(pod, 4) == {"c"})
    assert not run.batch.issued
    run.dispatcher.stop()


def test_what_a_dead_leaders_bundle_has_done_is_not_done_again() -> None:
    result = json.loads(Result(0, seconds=0.5).dumps())
    run, _ = heir(a=Left("bundle-0", "", result=result), b=Left("bundle-0", "other", result=result))
    run.submit("ab")
    until(run.bundles)
    assert set(run.ended) == {"a"} and run.ended["a"].success
    assert run.jobs_of(run.bundles()[0]) == {"b"}
    run.dispatcher.stop()


def test_news_that_the_dead_leader_heard_are_not_told_again() -> None:
    run, pod = heir(2, a=Left("bundle-0", ""))
    run.submit("a")
    run.update(pod, "placed")
    until(lambda: "bundle-0" in run.batch.logs)
    # it had come back, and was sent again
    for told in ({"started": "b"}, {"returned": ["a"]}, {"started": "a"}):
        run.tell(pod, **told)
    until(lambda: run.started == ["a"])
    assert not run.batch.issued
    run.dispatcher.stop()


def test_other_work_of_a_dead_leaders_bundle_is_ended_first() -> None:
    run, pod = heir(a=Left("bundle-0", "old"), b=Left("bundle-0", ""))
    run.submit("ab")
    until(lambda: run.batch.deleted == ["bundle-0"])
    time.sleep(0.3)
    assert not run.batch.issued
    run.update(pod, "failed", cause="deleted", disruption=True, started=1.0)
    until(lambda: {id for pod in run.bundles() for id in run.jobs_of(pod)} == {"a", "b"})
    assert not run.ended
    run.dispatcher.stop()


def test_a_bundle_that_is_gone_by_now_leaves_its_jobs_to_others() -> None:
    batch = Batch()
    batch.vanished.add("bundle-0")
    run, _ = heir(batch=batch, a=Left("bundle-0", ""))
    run.submit("a")
    until(run.bundles)
    assert run.jobs_of(run.bundles()[0]) == {"a"}
    run.dispatcher.stop()


def test_the_attempt_of_a_dead_leaders_pod_is_the_one_that_is_asked_for() -> None:
    run = started(stock=Stock(alone={"a": Left("", "", attempt=3)}), share=False)
    run.submit("ab")
    until(lambda: len(run.batch.issued) == 2)
    assert {request.id: request.attempt for request in run.batch.issued} == {"a": 3, "b": 1}
    run.dispatcher.stop()


def test_after_a_break_a_log_is_told_from_where_it_was(run: Run) -> None:
    run.submit("ab")
    until(run.bundles)
    pod = run.bundles()[0]
    run.place(pod)
    first, second = sorted(run.jobs_of(pod)) if len(run.jobs_of(pod)) == 2 else ("a", "")
    run.finish(pod, first)
    until(lambda: first in run.ended)
    log = run.batch.logs.pop(pod.id)
    log.lines.put(None)  # the connection breaks
    until(lambda: pod.id in run.batch.logs)
    run.finish(pod, first)
    if second:
        run.finish(pod, second)
        until(lambda: second in run.ended)
    assert run.started == [name for name in (first, second) if name]


# --- what pods of their own ask for


def alone(places: int | None = 2, **options: Any) -> Run:
    return started(batch=Batch(places), share=False, **options)


def test_a_rule_nothing_is_known_of_fills_the_nodes_and_the_rest_asks_for_less() -> None:
    run = alone()
    run.submit("abcdefgh", cpu=0.95)
    until(lambda: len(run.batch.issued) == 2)
    assert {request.cpu for request in run.batch.issued} == {0.67}  # and no third one fits
    run.update(run.batch.issued[0], "succeeded", result=Result(0, seconds=0.1).dumps())
    until(lambda: len(run.batch.issued) == 8)
    assert {round(request.cpu, 3) for request in run.batch.issued[2:]} == {0.034}
    run.dispatcher.stop()


def test_where_nodes_may_come_nothing_waits() -> None:
    run = alone(places=None)
    run.submit("abcdefgh", cpu=0.95)
    until(lambda: len(run.batch.issued) == 8)
    run.dispatcher.stop()


def test_what_earlier_runs_have_told_is_asked_for_at_once() -> None:
    run = alone(durations=Durations('{"small": 1.0, "moment": 0.01, "long": 3.0}'))
    run.submit("ab", cpu=0.95)
    run.submit("cd", rule="moment", cpu=0.95)
    run.submit("ef", rule="long", cpu=0.95)
    run.submit("gh", rule="moment", cpu=1.9)  # two threads
    until(lambda: len(run.batch.issued) == 8)
    assert {r.id: round(r.cpu, 2) for r in run.batch.issued} == {
        **dict.fromkeys("ab", 0.09),
        **dict.fromkeys("cd", 0.03),
        **dict.fromkeys("ef", 0.95),
        **dict.fromkeys("gh", 1.9),
    }
    run.dispatcher.stop()


def test_short_jobs_get_no_more_pods_than_the_nodes_have_room_for_what_they_use() -> None:
    run = alone(durations=Durations('{"small": 0.1, "long": 60}'))
    ids = [f"s{number}" for number in range(30)]
    run.submit(ids, cpu=0.95)
    until(lambda: len(run.batch.issued) == 14)  # 2 CPUs, of which each uses 0.136
    run.submit("l", rule="long", cpu=0.95)
    time.sleep(0.4)
    assert len(run.batch.issued) == 14
    for request in run.batch.issued[:3]:
        run.update(request, "succeeded", result=Result(0, seconds=0.1).dumps())
    until(lambda: len(run.batch.issued) == 17)
    done = 3
    while done < 31:
        for request in run.batch.issued[done:]:
            run.update(request, "succeeded", result=Result(0, seconds=0.1).dumps())
            done += 1
        until(lambda: len(run.batch.issued) > done or done == 31)  # noqa: B023
    assert {request.id for request in run.batch.issued} == {*ids, "l"}
    assert asked_early(run) == set(ids[-7:])  # the long one was the last
    run.dispatcher.stop()


def test_short_jobs_that_find_no_node_do_not_keep_others_from_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharing, "HOLD_SECONDS", 0.6)
    run = alone(places=0, durations=Durations('{"small": 0.1, "other": 0.1}'))
    run.submit("a", cpu=0.95)
    until(lambda: run.batch.issued)
    run.update(run.batch.issued[0], "waiting", cause="unschedulable")
    run.submit("bc", rule="other", cpu=0.95)
    time.sleep(0.3)
    assert len(run.batch.issued) == 1
    until(lambda: len(run.batch.issued) == 2)
    run.update(run.batch.issued[1], "placed")
    time.sleep(1.0)
    assert len(run.batch.issued) == 2
    run.dispatcher.stop()


def test_a_pod_larger_than_any_room_is_made_where_no_other_is() -> None:
    run = alone(places=0, durations=Durations('{"small": 0.1}'))
    run.submit("ab", cpu=0.95)
    until(lambda: run.batch.issued)
    time.sleep(0.3)
    assert len(run.batch.issued) == 1
    run.update(run.batch.issued[0], "succeeded", result=Result(0, seconds=0.1).dumps())
    until(lambda: len(run.batch.issued) == 2)
    run.dispatcher.stop()


def test_one_that_took_long_counts_for_all_of_its_rule() -> None:
    run = alone(durations=Durations('{"small": 0.1}'))
    run.submit("a", cpu=0.95)
    until(lambda: run.batch.issued)
    run.update(run.batch.issued[0], "succeeded", result=Result(0, seconds=3.0).dumps())
    until(lambda: run.ended)
    run.submit("b", cpu=0.95)
    until(lambda: len(run.batch.issued) == 2)
    assert run.batch.issued[1].cpu == 0.95
    run.dispatcher.stop()


def test_snakemake_in_the_pod_asks_for_all_and_waits_for_nothing() -> None:
    run = alone(durations=Durations('{"script": 0.1}'))
    run.submit("abcdefgh", rule="script", cpu=0.95)
    until(lambda: len(run.batch.issued) == 8)
    assert {request.cpu for request in run.batch.issued} == {0.95}
    run.dispatcher.stop()


def test_where_little_is_refused_all_is_asked_for() -> None:
    run = alone(durations=Durations('{"small": 0.1}'))
    run.submit("ab", cpu=0.95)
    until(lambda: len(run.batch.issued) == 2)
    for request in list(run.batch.issued):
        run.update(request, "failed", cause="create_refused", message="minimum cpu is 500m")
    until(lambda: len(run.batch.issued) == 4)
    assert {request.cpu for request in run.batch.issued[2:]} == {0.95}
    assert not run.ended
    run.update(run.batch.issued[2], "failed", cause="create_refused", message="no")
    until(lambda: run.ended)
    run.dispatcher.stop()


def test_pods_have_no_volumes_where_they_can_do_without() -> None:
    run = alone(durations=Durations('{"small": 0.1, "long": 9}'))
    shared = Placement(volumes=(Volume("pvc", "claim", "/data"),))
    template = Placement(template="{}")
    run.submit("a")
    run.submit("b", rule="long")
    run.submit("c", rule="script")
    run.submit("d", disk_mb=50)
    run.submit("e", placement=shared)
    run.submit("f", placement=template)
    run.submit("g", bytes_in=65_000_000)
    run.submit("h", placement=Placement(runtime_class="gvisor"))
    until(lambda: len(run.batch.issued) == 8)
    light = {request.id: request.secret_env for request in run.batch.issued if not request.volumes}
    assert light == {"a": {"FILES": "all"}}
    assert not any(request.secret_env for request in run.batch.issued if request.volumes)
    run.dispatcher.stop()


def test_keys_that_expire_are_mounted() -> None:
    run = alone(durations=Durations('{"small": 0.1}'))
    run.session.secret.variable = {}
    run.submit("a")
    until(lambda: run.batch.issued)
    assert run.batch.issued[0].volumes and not run.batch.issued[0].secret_env
    run.dispatcher.stop()


def test_bundles_that_a_policy_refuses_come_again_with_volumes(run: Run) -> None:
    run.submit("abcd", cpu=0.95)
    until(lambda: len(run.bundles()) == 2)
    refused = run.bundles()
    assert not any(request.volumes for request in refused)
    for request in refused:
        run.update(request, "failed", cause="create_refused", message="no variables from Secrets")
    until(lambda: len(run.bundles()) == 4)
    again = run.bundles()[2:]
    assert all(request.volumes and not request.secret_env for request in again)
    assert set().union(*map(run.jobs_of, again)) == set("abcd") and not run.ended
    for request in again:
        run.update(request, "failed", cause="create_refused", message="no")
    until(lambda: len(run.ended) == 4)


def test_a_rule_that_stays_unknown_is_not_held_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("byok8s.workflow.shares.HOLD_SECONDS", 0.3)
    run = alone()
    run.submit("abcdefgh", cpu=0.95)
    until(lambda: len(run.batch.issued) == 8)
    assert {request.cpu for request in run.batch.issued} == {0.67}
    run.dispatcher.stop()


def test_what_is_held_can_be_withdrawn() -> None:
    run = alone()
    run.submit("abcdefgh", cpu=0.95)
    until(lambda: len(run.batch.issued) == 2)
    run.dispatcher.stop()
    assert {task.id for task in run.dispatcher.withdraw()} == set("cdefgh")


# --- early reports of pods with one job


def awaited(state: str = "placed") -> Run:
    """One job, `a`, whose report is looked for in the bucket."""
    run = alone()
    run.submit("a")
    until(lambda: run.batch.issued)
    run.update(run.batch.issued[0], state)
    return run


def put_report(run: Run, request: PodRequest, text: str | None = None) -> str:
    """What the pod puts into the bucket, where it was told to."""
    key = JobSpec.loads(request.env["BYOK8S_JOB"]).early_key
    report = Result(0, seconds=0.1).dumps() if text is None else text
    run.bucket.objects.put_bytes(key, report.encode())
    return key


def asked_early(run: Run) -> set[str]:
    return {r.id for r in run.batch.issued if JobSpec.loads(r.env["BYOK8S_JOB"]).early_key}


def test_a_report_in_the_bucket_comes_before_the_clusters_word() -> None:
    run = alone()
    run.submit("ab")
    until(lambda: len(run.batch.issued) == 2)
    first, second = run.batch.issued
    run.update(first, "placed")
    run.update(second, "placed")
    keys = [put_report(run, first)]
    until(lambda: "a" in run.ended)
    assert run.ended["a"].success and run.ended["a"].update is None
    run.update(first, "failed", cause="deleted")  # as when the pod is removed at that moment
    keys.append(put_report(run, second))
    until(lambda: "b" in run.ended)
    assert run.ended["a"].success
    until(lambda: not set(keys) & set(run.bucket.content()))
    run.dispatcher.stop()


def test_a_report_that_comes_too_late_is_removed_all_the_same() -> None:
    run = alone()
    run.submit("a")
    until(lambda: run.batch.issued)
    run.update(run.batch.issued[0], "succeeded", result=Result(0).dumps())
    until(lambda: run.ended)
    key = put_report(run, run.batch.issued[0])
    time.sleep(0.3)
    assert key in run.bucket.content()
    run.dispatcher.stop()
    assert key not in run.bucket.content()


def test_nobody_waits_at_the_end_for_a_bucket_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(early, "_REMOVE_SECONDS", 0.05)
    monkeypatch.setattr(Objects, "delete", lambda *_: time.sleep(5.0))
    run = alone()
    run.submit("a")
    until(lambda: run.batch.issued)
    began = time.monotonic()
    run.dispatcher.stop()
    assert time.monotonic() - began < 4.0


def test_the_report_of_an_attempt_that_is_over_is_no_news() -> None:
    run = awaited()
    run.update(run.batch.issued[0], "failed", cause="node_lost", disruption=True)
    until(lambda: run.ended)
    run.submit("a")
    until(lambda: len(run.batch.issued) == 2)
    assert run.batch.issued[1].attempt == 2
    run.ended.clear()
    put_report(run, run.batch.issued[0])
    time.sleep(0.4)
    assert not run.ended
    run.update(run.batch.issued[1], "placed")
    put_report(run, run.batch.issued[1])
    until(lambda: run.ended)
    assert run.ended["a"].success
    run.dispatcher.stop()


def test_of_a_failure_the_cluster_tells() -> None:
    run = awaited("running")
    put_report(run, run.batch.issued[0], Result(1).dumps())
    time.sleep(0.4)
    assert not run.ended
    told = Result(1, out_of_memory=True).dumps()
    run.update(run.batch.issued[0], "failed", cause="out_of_memory", result=told)
    until(lambda: run.ended)
    assert run.ended["a"].update is not None
    run.dispatcher.stop()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"x"', "3", '{"x": 1}', "\ud800"])
def test_what_is_no_report_is_left_to_the_cluster(text: str) -> None:
    run = alone()
    run.submit("a")
    until(lambda: run.batch.issued)
    key = JobSpec.loads(run.batch.issued[0].env["BYOK8S_JOB"]).early_key
    run.bucket.objects.put_bytes(key, text.encode(errors="surrogatepass"))
    run.bucket.objects.put_bytes(f"{key}.other", b"somebody else's")
    run.update(run.batch.issued[0], "placed")
    until(lambda: key not in run.bucket.content())
    assert not run.ended
    run.update(run.batch.issued[0], "succeeded", result=Result(0).dumps())
    until(lambda: run.ended)
    assert run.ended["a"].success and not run.broken
    assert run.bucket.content()[f"{key}.other"] == b"somebody else's"
    run.dispatcher.stop()


def test_only_the_last_few_of_many_are_asked_for_a_report_and_looked_for() -> None:
    run = alone(durations=Durations('{"small": 0.1, "long": 60}'))
    run.submit("abcdefghijkl")
    until(lambda: len(run.batch.issued) == 12)
    run.submit("xyz", rule="long")
    until(lambda: len(run.batch.issued) == 15)
    assert asked_early(run) == set("efghijkl")
    for request in run.batch.issued:
        run.update(request, "placed")
        if request.id in asked_early(run):
            put_report(run, request)
    time.sleep(0.5)
    assert not run.ended
    for request in run.batch.issued[:6]:
        run.update(request, "succeeded", result=Result(0).dumps())
    time.sleep(0.5)
    assert set(run.ended) == set("abcdef")
    run.update(run.batch.issued[6], "succeeded", result=Result(0).dumps())
    until(lambda: set(run.ended) == set("abcdefghijkl"))
    run.dispatcher.stop()


def test_one_after_the_other_beside_many_is_asked_for_none() -> None:
    run = alone(durations=Durations('{"small": 0.1}'))
    for number, id in enumerate("abcdefghij"):
        run.submit(id)
        until(lambda number=number: len(run.batch.issued) > number)  # type: ignore[misc]
    assert asked_early(run) == set("abcdefgh")
    run.dispatcher.stop()


def test_while_the_bucket_is_away_the_cluster_tells() -> None:
    run = awaited()
    put_report(run, run.batch.issued[0])
    run.bucket.away = 1000
    time.sleep(0.4)
    run.update(run.batch.issued[0], "succeeded", result=Result(0).dumps())
    until(lambda: run.ended)
    assert run.ended["a"].success and not run.broken and not run.warnings
    run.dispatcher.stop()


@pytest.mark.parametrize("shared", [True, False])
def test_a_bucket_that_is_away_is_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    monkeypatch.setattr(dispatch, "AGAIN_SECONDS", 0.05)
    run.bucket.away = 2
    long = JobSpec("s", "h", ".", (), "log", "r", command=Command("x" * 100_001, 1, (), (), ()))
    request = PodRequest("a", "image", ("worker",), rule="small", job="a")
    run.dispatcher.submit(Task(JobName("small"), request, long, shared))
    until(lambda: run.batch.issued)
    assert not run.bucket.away and len(run.batch.issued) == 1
    (made,) = run.batch.issued
    assert made.attempt == 1 and made.bundle is shared
    report = {"results": {"a": {"exit_code": 0}}} if shared else {"exit_code": 0}
    run.bucket.objects.put_bytes("report", json.dumps(report).encode())
    run.bucket.away = 2
    run.update(made, "succeeded", result="key:report")
    until(lambda: run.ended)
    assert run.ended["a"].success and not run.bucket.away
    assert len(run.warnings) == 2 and run.warnings[1].startswith("Could not read s3://memory/rep")


def test_a_bucket_that_stays_away_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "AGAIN_SECONDS", 0.01)
    run = started()
    run.submit("a", "script")
    until(lambda: run.batch.issued)
    run.bucket.away = 1000
    run.update(run.batch.issued[0], "succeeded", result="key:report")
    until(lambda: run.broken)
    assert "cannot be reached" in str(run.broken[0]) and len(run.warnings) == 1
    assert run.bucket.away == 1000 - dispatch.MOST_TRIES
    run.dispatcher.stop()
