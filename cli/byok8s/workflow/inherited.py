"""What a dead leader has left: which jobs its pods do, and what has become of them.

A job's own pod says what it does by its annotations. A pod that runs several jobs, a bundle, was
told of them by its environment and by objects in the bucket, and tells of them in its log.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from byok8s.batch.pods import ATTEMPT, FINGERPRINT, NOTE, variable
from byok8s.batch.strays import is_bundle, is_good, job_of
from byok8s.worker.names import BUNDLE_VARIABLE
from byok8s.worker.spec import BundleJob, BundleSpec, Result, read_news
from byok8s.workflow.tasks import Task, read_report

if TYPE_CHECKING:
    from byok8s.batch import KubeClient
    from byok8s.batch.ends import Pod
    from byok8s.storage.objects import Objects


@dataclass
class Left:
    """A job that a pod of an earlier leader was given."""

    pod: str  # the bundle's id; "" for a pod of the job's own
    fingerprint: str
    note: str = ""  # what that leader knew of the job's earlier tries
    attempt: int = 1  # of a pod of the job's own
    running: bool = False
    serves: bool = True  # what is asked for
    result: dict[str, Any] | None = None  # once it has ended

    @property
    def succeeded(self) -> bool:
        return self.result is not None and Result.of(dict(self.result)).exit_code == 0


@dataclass
class Stock:
    """What there is of an earlier leader, by job id; `bundles` are those that have not ended.

    `mails` and `heard` say by bundle how often it was sent jobs, and how many lines of its log
    have been read.
    """

    alone: dict[str, Left] = field(default_factory=dict)
    shared: dict[str, Left] = field(default_factory=dict)
    bundles: list[str] = field(default_factory=list)
    mails: dict[str, int] = field(default_factory=dict)
    heard: dict[str, int] = field(default_factory=dict)

    def of(self, id: str) -> Left | None:
        """What is known of a job."""
        return self.alone.get(id) or self.shared.get(id)

    def add(self, id: str, left: Left) -> None:
        """A job that a bundle was given; of several bundles, the one that still has it counts."""
        known = self.shared.get(id)
        if left.result is None or (left.succeeded and not (known and known.result is None)):
            self.shared[id] = left

    def ids(self) -> frozenset[str]:
        """All jobs that pods do, or have done."""
        return frozenset(self.alone) | frozenset(self.shared)


def take_stock(client: KubeClient, run: str, objects: Objects, mail_folder: str) -> Stock:
    """Look at a dead leader's pods. `mail_folder` is the key prefix of what bundles were sent.

    Raises ApiError and StorageError.
    """
    from byok8s.batch.runs import left_pods

    stock = Stock()
    pods = left_pods(client, run)
    for pod in sorted(pods, key=_attempt):
        if not is_bundle(pod) and is_good(pod):
            notes = pod["metadata"].get("annotations") or {}
            left = Left("", notes.get(FINGERPRINT, ""), notes.get(NOTE, ""), _attempt(pod))
            stock.alone[job_of(pod)] = left
    for pod in (pod for pod in pods if is_bundle(pod)):
        with contextlib.suppress(ValueError, TypeError, KeyError):  # of another version: it ends
            _take_stock_of_bundle(stock, pod, client, objects, mail_folder)
    return stock


def _attempt(pod: Pod) -> int:
    return int((pod["metadata"].get("labels") or {}).get(ATTEMPT, "1"))


def _take_stock_of_bundle(
    stock: Stock, pod: Pod, client: KubeClient, objects: Objects, mail_folder: str
) -> None:
    from byok8s.batch.ends import end_of

    id, end = job_of(pod), end_of(pod)
    given, mails = _given(pod, objects, f"{mail_folder}{id}/")
    jobs = {job.id: job for job in given}
    if end is not None:
        for job_id, result in read_report(text_of(end.result, objects)).items():
            stock.add(job_id, _left(id, jobs[job_id], result=result))
        return
    news = _news(client, pod["metadata"]["name"])
    here, running = Counter(job.id for job in given), set()
    for fields in news:
        running.add(fields.get("started"))
        done = fields.get("done")
        here.subtract([*fields.get("returned", ()), *([done] if done else [])])
        if done:
            running.discard(done)
            stock.add(done, _left(id, jobs[done], result=fields["result"]))
    for job_id in +here:
        stock.add(job_id, _left(id, jobs[job_id], running=job_id in running))
    stock.bundles.append(id)
    stock.mails[id], stock.heard[id] = mails, len(news)


def _left(bundle: str, job: BundleJob, **known: Any) -> Left:
    return Left(bundle, job.fingerprint, job.note, **known)


def _given(pod: Pod, objects: Objects, mail: str) -> tuple[list[BundleJob], int]:
    """All jobs that a bundle was given, one that came back as often as it was, and in how many
    mails."""
    text = text_of(variable(pod, BUNDLE_VARIABLE) or "", objects)
    given = list(BundleSpec.loads(text).jobs)
    number = 0
    while (data := objects.get_bytes(f"{mail}{number + 1}")) is not None:
        number += 1
        given += map(BundleJob.of, json.loads(data))
    return given, number


def text_of(text: str, objects: Objects) -> str:
    """`text`, or what it points to in the bucket."""
    if not text.startswith("key:"):
        return text
    return (objects.get_bytes(text.removeprefix("key:")) or b"").decode()


def _news(client: KubeClient, pod: str) -> list[dict[str, Any]]:
    """What a bundle has told so far; nothing where its log cannot be read."""
    from byok8s.batch import ApiError
    from byok8s.batch.runs import pod_log

    text = b""
    with contextlib.suppress(ApiError):
        text = b"".join(pod_log(client, pod))
    lines = text.split(b"\n")[:-1]  # the last one may be half a line
    return [fields for line in lines if (fields := read_news(line)) is not None]


class Inheritance:
    """The jobs of a dead leader's bundles, until they are claimed. Used from one thread."""

    def __init__(self, shared: Mapping[str, Left]) -> None:
        self._left = dict(shared)
        self._behind: dict[str, dict[str, Task]] = {}  # by bundle: what waits until it lets go

    def claim(self, task: Task) -> Left | None:
        """What a bundle did or does of the task; None when the task has to run.

        Raises StorageError when it cannot be asked whether what was made is there.
        Where the bundle does something else under its name, which does not serve, the task is
        kept until that is over: the two would write the same files.
        """
        left = self._left.get(task.id)
        if left is None:
            return None
        left.serves = left.fingerprint == task.request.fingerprint
        good = left.result is not None and left.serves and left.succeeded
        there = not good or task.still_there is None or task.still_there()
        del self._left[task.id]
        if left.result is not None:
            return left if good and there else None
        if not left.serves:
            self._behind.setdefault(left.pod, {})[task.id] = task
        return left

    def hear(self, pod: str, news: Mapping[str, Any]) -> Iterable[Task]:
        """Take in a bundle's news; gives the tasks that need not wait for it any more."""
        started = self._left.get(news.get("started", ""))
        if started is not None and started.pod == pod:
            started.running = True
        ids = [*news.get("returned", ()), news.get("done", "")]
        for id in ids:
            left = self._left.get(id)
            if left is not None and left.pod == pod:
                left.result = news["result"] if id == news.get("done") else None
                if left.result is None:
                    del self._left[id]
        behind = self._behind.get(pod, {})
        return [behind.pop(id) for id in ids if id in behind]

    def over(self, pod: str, report: Mapping[str, dict[str, Any]]) -> Iterable[Task]:
        """A bundle has ended; gives the tasks that waited for that."""
        for id in [id for id, left in self._left.items() if left.pod == pod]:
            left = self._left[id]
            left.result = left.result or report.get(id)
            if left.result is None:
                del self._left[id]
        return self._behind.pop(pod, {}).values()

    def withdraw(self) -> Iterable[Task]:
        """Forget the tasks that wait; gives them."""
        waiting = [task for tasks in self._behind.values() for task in tasks.values()]
        self._behind.clear()
        return waiting
