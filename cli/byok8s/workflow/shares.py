"""How much CPU a pod of its own asks for, and how many there are at once.

A pod holds its place for some two seconds around its command. One whose command takes a moment
needs no whole core for that time, but what it will use on average. As many are made as the nodes
have room for by that measure; the others wait here, since one that waits in the cluster costs the
scheduler and the API server a look and two writes. What it uses at most is not limited, so that a
wrong guess costs nothing where a CPU is free.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from byok8s.workflow.durations import Durations
from byok8s.workflow.issuer import LONG_SECONDS
from byok8s.workflow.tasks import Task

if TYPE_CHECKING:
    from byok8s.batch import BatchSystem

# A node keeps a little CPU for its own pods; whole cores would leave one core in each node idle.
CPU_PER_THREAD = 0.95
LEAST_CPU = 0.1
# Of what it uses, what a pod asks for: as many as are made at once fit beside others' pods, and
# beside the one before in their place, whose end the scheduler has not heard of
ASKED_SHARE = 0.25
# What a pod costs beside its command: CPU of the worker, and time from being placed until the
# scheduler gives the place on (docs/decisions/0014-shares.md)
WORKER_CPU_SECONDS = 0.2
PLACE_SECONDS = 2.0
HOLD_SECONDS = 10.0  # a rule that is not known by then is not short, or its pods do not start


class Shares:
    """What is asked for, and the jobs that wait until that is known for their rule.

    `batch.places(request)` is how many such pods the cluster could hold, None where it may grow.
    Without a place a pod would wait in the cluster as long as here, but with its large request.
    """

    def __init__(self, durations: Durations, batch: BatchSystem) -> None:
        self._durations = durations
        self._batch = batch
        self._held: dict[str, deque[Task]] = defaultdict(deque)
        self._since: dict[str, float] = {}  # by rule: when one was held first; monotonic
        self._whole = False  # the API server refuses small requests

    def cpu(self, task: Task) -> float:
        """The CPUs that a pod of its own asks for."""
        if self._may_share(task) and self._durations.longest(task.rule) is None:
            return self._batch.least_cpu(task.request)
        return ASKED_SHARE * self.used(task) or task.request.cpu

    def has_room(self, task: Task, taken: float) -> bool:
        """Whether the nodes have room for its pod, where those of short jobs use `taken` CPUs."""
        used = self.used(task)
        if not (used and taken):
            return True
        places = self._batch.places(replace(task.request, cpu=used))
        return places is None or taken + used <= used * max(1, places) + 1e-6

    def used(self, task: Task) -> float:
        """The CPUs of a pod, on average of the time it holds its place; 0: not a short job's."""
        seconds = self._durations.longest(task.rule)
        if seconds is None or seconds >= LONG_SECONDS or not self._may_share(task):
            return 0.0
        used = task.request.cpu * (seconds + WORKER_CPU_SECONDS) / (seconds + PLACE_SECONDS)
        return min(task.request.cpu, max(LEAST_CPU, used))

    def hold(self, task: Task, now: float) -> bool:
        """Keep a job for later, if it may turn out to be a short one."""
        if not (task.sharable or self._may_share(task)) or self._durations.is_sure(task.rule):
            return False
        since = self._since.setdefault(task.rule, now)
        waits = task.rule in self._held or now - since < HOLD_SECONDS
        if not waits or (task.rule not in self._held and self._batch.places(task.request) is None):
            return False
        self._held[task.rule].append(task)
        return True

    def freed(self, live: Iterable[Task], now: float) -> Iterator[Task]:
        """The jobs that need not wait any more, while these have pods of their own.

        Of a rule that is not known for sure, as many as there are places: when one of them ends,
        more is known a second before its place is free.
        """
        if not self._held:
            return
        counts = Counter(task.rule for task in live)
        for rule, held in list(self._held.items()):
            places = self._batch.places(held[0].request)
            sure = self._durations.is_sure(rule)
            if sure or places is None or now - self._since[rule] >= HOLD_SECONDS:
                count = len(held)
            else:
                count = max(0, min(len(held), places - counts[rule]))
            for _ in range(count):
                yield held.popleft()
            if not held:
                del self._held[rule]
            if sure:
                del self._since[rule]

    def withdraw(self) -> list[Task]:
        """Forget the jobs that wait, and return them."""
        held = [task for tasks in self._held.values() for task in tasks]
        self._held.clear()
        return held

    def ask_for_all(self) -> None:
        """From now on each pod asks for its whole request."""
        self._whole = True

    def _may_share(self, task: Task) -> bool:
        """Whether a job's use of CPU follows from its time: no Snakemake in its pod, one thread."""
        one = task.request.cpu <= CPU_PER_THREAD
        return one and task.spec.command is not None and not self._whole
