"""Gives jobs to pods: one each, or several short ones to a pod that takes more while it lives.

What a rule's jobs take is learnt as they run. Jobs of unknown or short duration go to bundles
(byok8s.worker.bundle); those that take longer than it takes to start a pod get pods of their own.
All state belongs to one thread, which reads events from an inbox.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from byok8s.exceptions import Byok8sError
from byok8s.worker.spec import Result
from byok8s.workflow.durations import Durations
from byok8s.workflow.follow import Deaf, Follower, Heard, News
from byok8s.workflow.inherited import Inheritance
from byok8s.workflow.issuer import LONG_SECONDS, Issuer
from byok8s.workflow.tasks import (
    BUSY_SECONDS,
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
# What a pod is given ahead, so that it need not wait for the leader
AHEAD_SECONDS = 1.0
POD_SECONDS = 2.0  # of work that is worth one more pod
UNKNOWN_SECONDS = 1.0
MOST_UNKNOWN = 32  # jobs of unknown duration that a pod starts with
RAMP = 8  # pods at first for a rule nothing is known of, on a cluster of unknown size
STEAL_SECONDS = 1.0  # a pod that has not begun by then, while others have nothing to do
TROUBLES = 2  # lost bundles after which a job gets a pod of its own
_log = logging.getLogger(__name__)


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
        self._issuer = Issuer(session)
        self._limit = limit
        self._share = share
        self.durations = durations
        self._on_started = on_started
        self._on_waiting = on_waiting
        self._on_ended = on_ended
        self._on_broken = on_broken
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._stopping = threading.Event()
        self._follower = Follower(session.batch, self._inbox.put, self._stopping)
        self._queues: dict[Any, deque[Task]] = defaultdict(deque)
        self._alone: deque[Task] = deque()
        self._single: dict[str, Task] = {}  # that have pods of their own
        self._pods: dict[str, BundlePod] = {}
        self._attempts = {id: left.attempt - 1 for id, left in session.stock.alone.items()}
        self._token = secrets.token_hex(2)  # another leader of this run has other bundles
        self._bundles = 0
        self._deaf = False  # logs cannot be read here
        self._stock = session.stock
        self._inheritance = Inheritance(session.stock.shared)
        self._threads = [
            threading.Thread(target=loop, name="byok8s-dispatch", daemon=True)
            for loop in (self._loop, self._forward)
        ]

    def start(self) -> None:
        for id in self._stock.bundles:
            self._adopt(id)
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task) -> None:
        self._inbox.put(task)

    def stop(self) -> None:
        """Nothing is told after this."""
        self._stopping.set()
        self._inbox.put(None)  # not to wait for the next tick
        loop = self._threads[0]  # the other one tells only this one
        if loop.is_alive() and loop is not threading.current_thread():
            loop.join(timeout=5)

    def withdraw(self) -> list[Task]:
        """Forget the tasks that no pod has yet, and return them; from a callback only."""
        dropped = [*self._alone, *(task for queue in self._queues.values() for task in queue)]
        dropped += self._inheritance.withdraw()
        self._alone.clear()
        self._queues.clear()
        return dropped

    def _adopt(self, id: str) -> None:
        """Go on with a bundle of a dead leader."""
        mail, sent = self._issuer.mail(id), self._stock.mails[id]
        self._pods[id] = BundlePod(id, None, {}, time.monotonic(), mail, sent)
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
                    self._take(self._inbox.get(timeout=TICK_SECONDS))
                    while not self._stopping.is_set():
                        self._take(self._inbox.get_nowait())
                except Empty:
                    self._pump()
        except Exception as error:  # without it the run would wait for ever
            self._on_broken(error)

    def _take(self, event: Any) -> None:
        if event is None:
            return
        if isinstance(event, Task):
            if not self._claim(event):
                self._enqueue(event)
        elif isinstance(event, News):
            self._on_news(event)
        elif isinstance(event, (Heard, Deaf)):
            self._deaf = isinstance(
                event, Deaf
            )  # as an outage of the API may make one, for a while
            if pod := self._pods.get(event.pod):
                pod.heard, pod.closing = not self._deaf, pod.closing or self._deaf
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
            self._batch.delete(left.pod)  # its end comes as an update
        else:
            pod = self._pods[left.pod]
            pod.key, pod.tasks[task.id] = sharing_key(task.request), task
            if left.running:
                pod.started[task.id] = time.monotonic()
                self._on_started(task)
        return True

    def _enqueue(self, task: Task, *, first: bool = False) -> None:
        alone = not (self._share and task.sharable) or task.troubles >= TROUBLES
        queue = self._alone if alone else self._queues[sharing_key(task.request)]
        if first:
            queue.appendleft(task)
        else:
            queue.append(task)

    # --- what pods tell

    def _on_single(self, task: Task, update: Update) -> None:
        if update.attempt != self._attempts[task.id]:
            return
        if update.state == "running":
            self._on_started(task)
        elif update.state == "waiting":
            self._on_waiting(task, update.message, update.cause == "unschedulable")
        elif update.state in ("succeeded", "failed"):
            del self._single[task.id]
            self._end(task, Outcome(read_result(self._session.report(update.result)), update))

    def _on_news(self, event: News) -> None:
        pod = self._pods.get(event.pod)
        if pod is None:
            return
        news = event.fields
        for freed in self._inheritance.hear(pod.id, news):
            self._enqueue(freed, first=True)
        if task := pod.tasks.get(news.get("started", "")):
            pod.started[task.id] = time.monotonic()
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
            self._enqueue(task, first=True)
            return
        self._end(task, Outcome(result))

    def _end(self, task: Task, outcome: Outcome) -> None:
        if outcome.success and outcome.result is not None:
            self.durations.learn(task.rule, outcome.result.seconds)
        self._on_ended(task, outcome)

    def _take_back(self, pod: BundlePod, id: str) -> None:
        """A pod gives a job back that has waited behind others for long."""
        now = time.monotonic()
        for other, at in pod.started.items():
            self.durations.takes_longer(pod.tasks[other].rule, now - at)
        if task := pod.tasks.pop(id, None):
            self._enqueue(task, first=True)

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
                self._on_waiting(task, update.message, pod.stuck)
        elif update.state in ("succeeded", "failed"):
            self._on_bundle_end(pod, update)

    def _on_bundle_end(self, pod: BundlePod, update: Update) -> None:
        """What a bundle has not finished goes elsewhere, and is charged with nothing.

        Only where the pod never ran, for a cause that another one would meet too, its jobs fail.
        """
        report = read_report(self._session.report(update.result))
        for id, told in report.items():
            if id in pod.tasks:
                self._finish(pod, id, told)
        for task in self._inheritance.over(pod.id, report):
            self._enqueue(task, first=True)
        del self._pods[pod.id]
        never_ran = update.state == "failed" and update.started is None and not update.disruption
        for task in reversed(pod.tasks.values()):
            if never_ran:
                self._on_ended(task, Outcome(None, update))
                continue
            if update.cause == "out_of_memory" and task.id in pod.started:
                task.troubles = TROUBLES  # it may be the one; by itself it is told
            elif update.state == "failed" and not update.disruption:
                task.troubles += 1
            self._enqueue(task, first=True)

    # --- who gets what

    def _pump(self) -> None:
        now = time.monotonic()
        self._issue_alone()
        for key, queue in self._queues.items():
            self._set_long_ones_apart(queue)
            for pod in self._open_pods(key, now):
                self._feed(pod, queue)
            if queue:
                self._add_pods(key, queue, now)
        if not any(self._queues.values()):
            self._steal(now)

    def _room(self) -> int:
        return self._limit - len(self._pods) - len(self._single)

    def _issue_alone(self) -> None:
        while self._alone and self._room() > 0:
            self._issue(self._alone.popleft())

    def _set_long_ones_apart(self, queue: deque[Task]) -> None:
        expected = self.durations.expected
        slow = {rule for rule in {t.rule for t in queue} if (expected(rule) or 0) >= LONG_SECONDS}
        if slow:
            self._alone.extend(task for task in queue if task.rule in slow)
            kept = [task for task in queue if task.rule not in slow]
            queue.clear()
            queue.extend(kept)
            self._issue_alone()

    def _open_pods(self, key: Any, now: float) -> list[BundlePod]:
        """Pods that take more, those with the least to do first."""
        pods = [
            pod
            for pod in self._pods.values()
            if pod.key == key and pod.heard and not pod.closing and not pod.is_busy(now)
        ]
        return sorted(pods, key=lambda pod: self._work(pod.tasks.values()))

    def _work(self, tasks: Iterable[Task]) -> float:
        """Seconds that tasks are likely to take, one after the other."""
        expected = self.durations.expected
        return sum(
            UNKNOWN_SECONDS if (seconds := expected(task.rule)) is None else max(0.01, seconds)
            for task in tasks
        )

    def _feed(self, pod: BundlePod, queue: deque[Task]) -> None:
        """Send a pod more jobs when it will soon have none."""
        load = self._work(pod.tasks.values())
        if not queue or load >= AHEAD_SECONDS / 2:
            return
        taken: list[Task] = []
        while queue and (not taken or load < AHEAD_SECONDS):
            taken.append(queue.popleft())
            load += self._work(taken[-1:])
        pod.mails += 1
        pod.tasks.update((task.id, task) for task in taken)
        try:
            self._issuer.send(pod, taken)
        except Byok8sError as error:  # what it did not get comes back when it ends
            _log.debug("mail to %s: %s", pod.id, error)
            pod.closing = True

    def _add_pods(self, key: Any, queue: deque[Task], now: float) -> None:
        """Make the pods that are worth their start."""
        pods = [p for p in self._pods.values() if p.key == key and not (p.closing or self._deaf)]
        if any(pod.stuck for pod in pods) or (pods and self._is_probed(queue[0].rule, pods, now)):
            return
        free = [pod for pod in pods if not pod.is_busy(now)]
        count = min(math.ceil(self._work(queue) / POD_SECONDS), len(queue)) - len(free)
        places = self._batch.places(queue[0].request)
        if places is not None:
            count = min(count, max(places - len(self._pods) - len(self._single), not pods))
        elif self.durations.expected(queue[0].rule) is None:
            count = min(count, max(RAMP - len(pods), 1))
        count = min(count, self._room())
        for left in range(count, 0, -1):
            self._start_bundle(key, queue, math.ceil(len(queue) / left))

    def _is_probed(self, rule: str, pods: list[BundlePod], now: float) -> bool:
        """Whether a rule nothing is known of will soon be known better."""
        if self.durations.expected(rule) is not None:
            return False
        return any(
            task.rule == rule and now - pod.started.get(task.id, now) < BUSY_SECONDS
            for pod in pods
            for task in pod.tasks.values()
        )

    def _start_bundle(self, key: Any, queue: deque[Task], most: int) -> None:
        taken: list[Task] = []
        while queue and len(taken) < min(most, MOST_UNKNOWN):
            taken.append(queue.popleft())
            if self._work(taken) > POD_SECONDS and self.durations.expected(taken[-1].rule):
                break
        self._bundles += 1
        id = f"bundle-{self._token}-{self._bundles}"
        tasks = {task.id: task for task in taken}
        self._pods[id] = BundlePod(id, key, tasks, time.monotonic(), self._issuer.mail(id))
        self._issuer.issue_bundle(id, taken, linger=0.0 if self._deaf else 5.0)

    def _issue(self, task: Task) -> None:
        self._attempts[task.id] = self._attempts.get(task.id, 0) + 1
        self._single[task.id] = task
        self._issuer.issue(task, self._attempts[task.id])

    def _steal(self, now: float) -> None:
        """Where pods have nothing to do, give them what waits in one that no node has room for."""
        idle = {p.key for p in self._pods.values() if p.heard and not p.closing and not p.tasks}
        for pod in self._pods.values():
            late = pod.stuck and not pod.closing and now - pod.made > STEAL_SECONDS
            if late and pod.key in idle:
                pod.closing = True
                self._batch.delete(pod.id)  # its end, which comes as an update, frees its jobs
