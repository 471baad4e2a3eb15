"""Who gets which pod: one each, or several short jobs one that takes more while it lives.

What a rule's jobs take is learnt as they run. Jobs of unknown or short duration go to bundles
(byok8s.worker.bundle); those that take longer than it takes to start a pod get pods of their own.
Used from one thread, the dispatcher's.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from byok8s.exceptions import Byok8sError, StorageError
from byok8s.workflow.durations import Durations
from byok8s.workflow.issuer import LONG_SECONDS, Issuer
from byok8s.workflow.shares import HOLD_SECONDS, Shares
from byok8s.workflow.tasks import BUSY_SECONDS, BundlePod, Task, sharing_key

if TYPE_CHECKING:
    from byok8s.workflow.early import EarlyReports
    from byok8s.workflow.session import Session

# What a pod is given ahead, so that it need not wait for the leader. Each time costs a request:
# while there is much to do it is given at least so many jobs, unless they are work for too long.
AHEAD_SECONDS = 1.5
LEAST_JOBS = 16
MOST_AHEAD_SECONDS = 4.0
POD_SECONDS = 2.0  # of work that is worth one more pod
MOST_UNKNOWN = 32  # jobs of unknown duration that a pod starts with
RAMP = 8  # pods at first for a rule nothing is known of, on a cluster of unknown size
FEW = 8  # pods of one job, of which it is worth a request to know a second sooner that they end
STEAL_SECONDS = 1.0  # a pod that has not begun by then, while others have nothing to do
TROUBLES = 2  # lost bundles after which a job gets a pod of its own
_log = logging.getLogger(__name__)


class Sharing:
    """Jobs that wait for a pod, and the pods that there are.

    `limit` is how many pods may live at once; `share`: whether jobs may share a pod at all.
    """

    def __init__(
        self,
        session: Session,
        durations: Durations,
        early: EarlyReports,
        *,
        limit: int,
        share: bool,
    ) -> None:
        self._batch = session.batch
        self._issuer = Issuer(session)
        self._early = early
        self._limit = limit
        self._share = share
        self.durations = durations
        self._queues: dict[Any, deque[Task]] = defaultdict(deque)
        self._alone: deque[Task] = deque()
        self._drains = False  # that one had many
        self._shares = Shares(durations, self._batch)
        self.single: dict[str, Task] = {}  # that have pods of their own
        self.pods: dict[str, BundlePod] = {}
        self.attempts = {id: left.attempt - 1 for id, left in session.stock.alone.items()}
        self.deaf = False  # logs cannot be read here
        self._token = secrets.token_hex(2)  # another leader of this run has other bundles
        self._bundles = 0

    def enqueue(self, task: Task, *, first: bool = False) -> None:
        """Have a job wait for a pod, behind or before the others."""
        alone = not self._may_share(task)
        if alone and self._hold(task):
            return
        queue = self._alone if alone else self._queues[sharing_key(task.request)]
        if first:
            queue.appendleft(task)
        else:
            queue.append(task)

    def _may_share(self, task: Task) -> bool:
        return self._share and task.sharable and task.troubles < TROUBLES

    def _hold(self, task: Task) -> bool:
        had_pod = task.id in self.attempts  # of a dead leader's, it may still run
        return not had_pod and self._shares.hold(task, time.monotonic())

    def withdraw(self) -> list[Task]:
        """Forget the jobs that wait, and return them."""
        dropped = [*self._alone, *self._shares.withdraw()]
        dropped += [task for queue in self._queues.values() for task in queue]
        self._alone.clear()
        self._queues.clear()
        return dropped

    def take_on(self, id: str, mails: int) -> None:
        """A bundle of a dead leader, which was sent jobs so often."""
        self.pods[id] = BundlePod(id, None, {}, time.monotonic(), self._issuer.mail(id), mails)

    def pump(self) -> None:
        """Give what waits to pods, as far as there is room.

        Raises StorageError when what a pod is to do cannot be written; then that still waits.
        """
        now = time.monotonic()
        self._issue_alone()
        for key, queue in list(self._queues.items()):
            self._set_long_ones_apart(queue)
            pods = self._open_pods(key, now)
            share = len(queue) // max(1, len(pods))
            for pod in pods:
                self._feed(pod, queue, share)
            if queue:
                self._add_pods(key, queue, now)
        if not any(self._queues.values()):
            self._steal(now)
        self._make_room()

    def _room(self) -> int:
        return self._limit - len(self.pods) - len(self.single)

    def _issue_alone(self) -> None:
        for task in self._shares.freed(self.single.values(), time.monotonic()):
            known_short = (self.durations.expected(task.rule) or LONG_SECONDS) < LONG_SECONDS
            if self._may_share(task) and known_short:
                self._queues[sharing_key(task.request)].append(task)
            else:
                self._alone.append(task)
        self._drains = (self._drains and bool(self._alone)) or len(self._alone) > FEW
        # what ends last of many, or of few: what follows waits for it
        are_last = self._drains or len(self.single) < FEW
        taken = self._taken()
        while self._alone and self._room() > 0 and self._shares.has_room(self._alone[0], taken):
            task = self._alone[0]
            early = are_last and len(self._alone) <= FEW and self._is_short(task)
            self._issue(task, early=early)
            taken += task.uses
            self._alone.popleft()

    def _taken(self) -> float:
        """The CPUs of the short jobs that have pods, but for those that find no node for long."""
        late = time.monotonic() - HOLD_SECONDS
        return sum(task.uses for task in self.single.values() if task.placed or task.made > late)

    def _set_long_ones_apart(self, queue: deque[Task]) -> None:
        expected = self.durations.expected
        slow = {rule for rule in {t.rule for t in queue} if (expected(rule) or 0) >= LONG_SECONDS}
        if slow:
            apart = [task for task in queue if task.rule in slow]
            self._alone.extend(task for task in apart if not self._hold(task))
            kept = [task for task in queue if task.rule not in slow]
            queue.clear()
            queue.extend(kept)
            self._issue_alone()

    def _load(self, pod: BundlePod) -> float:
        return self.durations.work(task.rule for task in pod.tasks.values())

    def _open_pods(self, key: Any, now: float) -> list[BundlePod]:
        """Pods that take more, those with the least to do first."""
        pods = [
            pod
            for pod in self.pods.values()
            if pod.key == key and pod.heard and not pod.closing and not pod.is_busy(now)
        ]
        return sorted(pods, key=self._load)

    def _feed(self, pod: BundlePod, queue: deque[Task], share: int) -> None:
        """Send a pod more jobs when it will soon have none; `share` is its part of the queue."""
        load = self._load(pod)
        if not queue or load >= AHEAD_SECONDS / 2:
            return
        taken: list[Task] = []
        least = min(LEAST_JOBS, share)
        while queue and (
            not taken or load < AHEAD_SECONDS or (len(taken) < least and load < MOST_AHEAD_SECONDS)
        ):
            taken.append(queue.popleft())
            load += self.durations.work([taken[-1].rule])
        pod.mails += 1
        pod.tasks.update((task.id, task) for task in taken)
        try:
            self._issuer.send(pod, taken)
        except Byok8sError as error:  # what it did not get comes back when it ends
            _log.debug("mail to %s: %s", pod.id, error)
            pod.closing = True

    def _add_pods(self, key: Any, queue: deque[Task], now: float) -> None:
        """Make the pods that are worth their start."""
        pods = [p for p in self.pods.values() if p.key == key and not (p.closing or self.deaf)]
        if any(pod.stuck for pod in pods) or (pods and self._is_probed(queue[0].rule, pods, now)):
            return
        free = [pod for pod in pods if not pod.is_busy(now)]
        work = self.durations.work(task.rule for task in queue)
        count = min(math.ceil(work / POD_SECONDS), len(queue)) - len(free)
        places = self._batch.places(queue[0].request)
        if places is not None:
            count = min(count, max(places - len(self.pods) - len(self.single), not pods))
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
        work = 0.0
        while queue and len(taken) < min(most, MOST_UNKNOWN):
            taken.append(queue.popleft())
            work += self.durations.work([taken[-1].rule])
            if work > POD_SECONDS and self.durations.expected(taken[-1].rule):
                break
        self._bundles += 1
        id = f"bundle-{self._token}-{self._bundles}"
        light, linger = all(map(self._issuer.may_be_light, taken)), 0.0 if self.deaf else 5.0
        try:
            self._issuer.issue_bundle(id, taken, light=light, linger=linger)
        except StorageError:
            queue.extendleft(reversed(taken))
            raise
        tasks = {task.id: task for task in taken}
        mail = self._issuer.mail(id)
        self.pods[id] = BundlePod(id, key, tasks, time.monotonic(), mail, light=light)

    def _issue(self, task: Task, *, early: bool) -> None:
        attempt, cpu = self.attempts.get(task.id, 0) + 1, self._shares.cpu(task)
        # to write much takes long
        light = self._is_short(task) and self._issuer.may_be_light(task)
        task.is_special, task.uses = light or cpu < task.request.cpu, self._shares.used(task)
        task.made, task.placed, task.early = time.monotonic(), False, early
        key = self._early.ask(task.id, attempt) if early else ""
        self._issuer.issue(task, attempt, cpu, light=light, early_key=key)
        self.attempts[task.id], self.single[task.id] = attempt, task

    def _is_short(self, task: Task) -> bool:
        """As far as is known."""
        return (self.durations.expected(task.rule) or 0.0) < LONG_SECONDS

    def expect_last(self) -> None:
        """Look for the early reports of the last jobs that have pods of their own."""
        if len(self.single) <= FEW:
            for task in self.single.values():
                if task.early and task.placed and self._is_short(task):
                    task.early = False
                    self._early.expect(task.id, self.attempts[task.id])

    def make_plain(self, tasks: Sequence[Task]) -> None:
        """Give tasks other pods, as the API server refuses theirs; from now on all are plain.

        A LimitRange may want them to ask for more, and a policy no variable from a Secret.
        """
        self._shares.ask_for_all()
        self._issuer.always_with_volumes()
        for task in reversed(tasks):
            self.enqueue(task, first=True)

    def _steal(self, now: float) -> None:
        """Where pods have nothing to do, give them what waits in one that no node has room for."""
        idle = {p.key for p in self.pods.values() if p.heard and not p.closing and not p.tasks}
        for pod in self.pods.values():
            late = pod.stuck and not pod.closing and now - pod.made > STEAL_SECONDS
            if late and pod.key in idle:
                self.give_up(pod)

    def _make_room(self) -> None:
        """Where no node has room for a job's own pod, end bundles that have nothing to do."""
        wanting = sum(task.stuck for task in self.single.values())
        wanting -= sum(pod.given_up for pod in self.pods.values())
        if wanting <= 0:
            return
        idle = [p for p in self.pods.values() if p.heard and not (p.closing or p.tasks)]
        for pod in idle[:wanting]:
            self.give_up(pod)

    def give_up(self, pod: BundlePod) -> None:
        """Delete a bundle; its end, which comes as an update, frees its jobs."""
        pod.closing = pod.given_up = True
        self._batch.delete(pod.id)
