"""Takes jobs, has them share pods or gives them their own, and tells what becomes of them.

Who gets what is decided in sharing.py. All state belongs to one thread, which reads events from an
inbox.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from byok8s.storage.objects import BucketAway
from byok8s.worker.spec import Result
from byok8s.workflow.durations import Durations
from byok8s.workflow.early import EarlyReport, EarlyReports
from byok8s.workflow.follow import Deaf, Follower, Heard, News
from byok8s.workflow.inherited import Inheritance
from byok8s.workflow.sharing import TROUBLES, Sharing
from byok8s.workflow.tasks import (
    BundlePod,
    Outcome,
    Task,
    read_report,
    read_result,
    sharing_key,
)

if TYPE_CHECKING:
    from byok8s.batch import Update
    from byok8s.workflow.session import Session

TICK_SECONDS = 0.2
# Each try lasts as long as the store's own retries, 46 s in half of all cases: ten minutes in all
AGAIN_SECONDS = 5.0
MOST_TRIES = 12


@dataclass(frozen=True)
class _Delayed:
    """An event that could not be taken in yet."""

    event: Any
    tries: int


class Dispatcher:
    """Takes tasks, tells what becomes of them; both from any thread.

    `limit` is how many pods may live at once; `share`: whether jobs may share a pod at all.
    `on_started(task)`, `on_waiting(task, sentence, busy)` and `on_ended(task, outcome)` are called
    on the dispatcher's thread, as is `on_broken(error)` when it cannot go on.
    """

    def __init__(
        self,
        session: Session,
        *,
        limit: int,
        share: bool,
        durations: Durations,
        on_started: Callable[[Task], None],
        on_waiting: Callable[[Task, str, bool], None],
        on_ended: Callable[[Task, Outcome], None],
        on_broken: Callable[[Exception], None],
    ) -> None:
        self._session = session
        self._batch = session.batch
        self._on_started = on_started
        self._on_waiting = on_waiting
        self._on_ended = on_ended
        self._on_broken = on_broken
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._stopping = threading.Event()
        self._follower = Follower(session.batch, self._inbox.put, self._stopping)
        self._early = EarlyReports(session, self._inbox.put, self._stopping)
        self._sharing = Sharing(session, durations, self._early, limit=limit, share=share)
        self._pods, self._single = self._sharing.pods, self._sharing.single
        self._stock = session.stock
        self._inheritance = Inheritance(session.stock.shared)
        self._pump_tries, self._pump_again = 0, 0.0
        self._threads = [
            threading.Thread(target=loop, name="byok8s-dispatch", daemon=True)
            for loop in (self._loop, self._forward)
        ]

    def start(self) -> None:
        for id in self._stock.bundles:
            self._adopt(id)
        for thread in self._threads:
            thread.start()

    @property
    def durations(self) -> Durations:
        return self._sharing.durations

    def submit(self, task: Task) -> None:
        self._inbox.put(task)

    def stop(self) -> None:
        """Nothing is told after this."""
        self._stopping.set()
        self._inbox.put(None)  # not to wait for the next tick
        loop = self._threads[0]  # the other one tells only this one
        if loop.is_alive() and loop is not threading.current_thread():
            loop.join(timeout=5)
        self._early.remove()

    def withdraw(self) -> list[Task]:
        """Forget the tasks that no pod has yet, and return them; from a callback only."""
        return [*self._sharing.withdraw(), *self._inheritance.withdraw()]

    def _adopt(self, id: str) -> None:
        """Go on with a bundle of a dead leader."""
        self._sharing.take_on(id, self._stock.mails[id])
        if not self._batch.adopt(id):
            del self._pods[id]
            self._inheritance.over(id, {})

    # --- the loop

    def _forward(self) -> None:
        while not self._stopping.is_set():
            update = self._batch.updates(timeout=0.5)
            if update is not None:
                self._inbox.put(update)

    def _loop(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._take_or_delay(self._inbox.get(timeout=TICK_SECONDS))
                    while not self._stopping.is_set():
                        self._take_or_delay(self._inbox.get_nowait())
                except Empty:
                    self._pump()
        except Exception as error:  # without it the run would wait for ever
            self._on_broken(error)

    def _take_or_delay(self, event: Any, tries: int = 0) -> None:
        """Take an event in; where the bucket is away and is needed for it, later."""
        if isinstance(event, _Delayed):
            event, tries = event.event, event.tries
        try:
            self._take(event)
        except BucketAway as error:
            self._bear(error, tries + 1)
            delayed = _Delayed(event, tries + 1)
            timer = threading.Timer(AGAIN_SECONDS, self._inbox.put, [delayed])
            timer.daemon = True
            timer.start()

    def _pump(self) -> None:
        if time.monotonic() < self._pump_again:
            return
        try:
            self._sharing.pump()
            self._pump_tries = 0
        except BucketAway as error:
            self._pump_tries += 1
            self._bear(error, self._pump_tries)
            self._pump_again = time.monotonic() + AGAIN_SECONDS

    def _bear(self, error: BucketAway, tries: int) -> None:
        """Say that the bucket is away; after many tries, give up."""
        if tries >= MOST_TRIES:
            raise error
        if tries == 1:
            self._session.listener.warn(f"{error} The run waits for it.")

    def _take(self, event: Any) -> None:
        if event is None:
            return
        if isinstance(event, Task):
            if not self._claim(event):
                self._sharing.enqueue(event)
        elif isinstance(event, News):
            self._on_news(event)
        elif isinstance(event, EarlyReport):
            self._on_early_report(event)
        elif isinstance(event, (Heard, Deaf)):
            self._sharing.deaf = deaf = isinstance(event, Deaf)  # perhaps for a while only
            if pod := self._pods.get(event.pod):
                pod.heard, pod.closing = not deaf, pod.closing or deaf
        elif event.id in self._pods:
            self._on_bundle(self._pods[event.id], event)
        elif event.id in self._single:
            self._on_single(self._single[event.id], event)

    def _claim(self, task: Task) -> bool:
        """Whether a bundle of a dead leader has the task, or what it has must be ended first."""
        left = self._inheritance.claim(task)
        if left is None:
            return False
        if left.result is not None:
            self._end(task, Outcome(Result.of(left.result)))
        elif not left.serves:
            self._sharing.give_up(self._pods[left.pod])
        else:
            pod = self._pods[left.pod]
            pod.key, pod.tasks[task.id] = sharing_key(task.request), task
            if left.running:
                pod.begin(task.id)
                self._on_started(task)
        return True

    # --- what pods tell

    def _on_single(self, task: Task, update: Update) -> None:
        if update.attempt != self._sharing.attempts[task.id]:
            return
        task.stuck = update.state == "waiting" and update.for_room
        task.placed = task.placed or update.state in ("placed", "running")
        if update.state == "running":
            self._on_started(task)
        elif update.state == "waiting":
            self._on_waiting(task, update.message, update.for_room)
        elif update.state in ("succeeded", "failed"):
            result = read_result(self._session.report(update.result))
            del self._single[task.id]
            if update.cause == "create_refused" and task.is_special:
                self._sharing.make_plain([task])
                return
            self._end(task, Outcome(result, update))
        self._sharing.expect_last()

    def _on_early_report(self, event: EarlyReport) -> None:
        """A job is done, which the cluster tells a second later."""
        task = self._single.get(event.pod)
        if task is None or event.attempt != self._sharing.attempts[task.id]:
            return
        if event.result.exit_code == 0:
            del self._single[task.id]
            self._end(task, Outcome(event.result))
            self._sharing.expect_last()

    def _on_news(self, event: News) -> None:
        pod = self._pods.get(event.pod)
        if pod is None:
            return
        news = event.fields
        for freed in self._inheritance.hear(pod.id, news):
            self._sharing.enqueue(freed, first=True)
        if task := pod.tasks.get(news.get("started", "")):
            pod.begin(task.id)
            self._on_started(task)
        elif news.get("done") in pod.tasks:
            self._finish(pod, news["done"], news["result"])
        for id in news.get("returned", ()):
            self._take_back(pod, id)
        if "closing" in news:
            pod.closing = True

    def _finish(self, pod: BundlePod, id: str, told: dict[str, Any]) -> None:
        task = pod.tasks.pop(id)
        pod.started.pop(id, None)
        result = Result.of(told)
        if result.out_of_memory:  # alone, only its own use counts, and its pod tells the limit
            task.troubles = TROUBLES
            self._sharing.enqueue(task, first=True)
            return
        self._end(task, Outcome(result))

    def _end(self, task: Task, outcome: Outcome) -> None:
        if outcome.success and outcome.result is not None:
            self._sharing.durations.learn(task.rule, outcome.result.seconds)
        self._on_ended(task, outcome)

    def _take_back(self, pod: BundlePod, id: str) -> None:
        """A pod gives a job back that has waited behind others for long."""
        now = time.monotonic()
        for other, at in pod.started.items():
            self._sharing.durations.takes_longer(pod.tasks[other].rule, now - at)
        if task := pod.tasks.pop(id, None):
            self._sharing.enqueue(task, first=True)

    def _on_bundle(self, pod: BundlePod, update: Update) -> None:
        if update.state in ("placed", "running"):
            pod.stuck = False
            if not pod.followed:
                pod.followed = True
                heard = self._stock.heard.get(pod.id, 0)
                self._follower.follow(pod.id, heard)
        elif update.state == "waiting":
            pod.stuck = update.cause == "unschedulable"
            for task in pod.tasks.values():
                self._on_waiting(task, update.message, update.for_room)
        elif update.state in ("succeeded", "failed"):
            self._on_bundle_end(pod, update)

    def _on_bundle_end(self, pod: BundlePod, update: Update) -> None:
        """What a bundle has not finished goes elsewhere, and is charged with nothing.

        Where the pod never ran, for a cause that another one would meet too, its jobs fail; and
        what was at work in a pod that the cluster ended is told to have been disrupted.
        """
        report = read_report(self._session.report(update.result))
        for id, told in report.items():
            if id in pod.tasks:
                self._finish(pod, id, told)
        for task in self._inheritance.over(pod.id, report):
            self._sharing.enqueue(task, first=True)
        del self._pods[pod.id]
        if update.cause == "create_refused" and pod.light:
            self._sharing.make_plain([*pod.tasks.values()])
            return
        never_ran = update.state == "failed" and update.started is None and not update.disruption
        # those at work; where the pod came to none, all of them, or it might go on for ever
        hit: set[str] = set()
        if update.disruption and not pod.given_up:
            hit = {*(pod.started if pod.used else pod.tasks)}
        for task in reversed(pod.tasks.values()):
            if never_ran or task.id in hit:
                self._on_ended(task, Outcome(None, update))
                continue
            if update.cause == "out_of_memory" and task.id in pod.started:
                task.troubles = TROUBLES  # it may be the one; by itself it is told
            elif update.state == "failed" and not update.disruption:
                task.troubles += 1
            self._sharing.enqueue(task, first=True)
