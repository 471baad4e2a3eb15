"""Whether a failed job runs again: the batch system's policy, asked for Snakemake's jobs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace

from byok8s.batch import Cause, Decision, History, PodRequest, RetryPolicy, Update
from byok8s.workflow.tasks import Outcome, Task


class Retries:
    """Remembers by job what it has used up. Used from one thread at a time.

    `most_memory_mb` tells what a pod can get on the largest node, None when that is not known;
    it is asked only when a job has run out of memory.
    """

    def __init__(self, policy: RetryPolicy, most_memory_mb: Callable[[], int | None]) -> None:
        self._policy = policy
        self._most_memory_mb = most_memory_mb
        self._histories: dict[str, History] = defaultdict(History)
        self._memory_mb: dict[str, int] = {}

    def decide(self, task: Task, outcome: Outcome, retries: int) -> Decision:
        """What becomes of a job that failed; `retries` is what its rule or --retries allows."""
        update = _as_update(task, outcome)
        most = self._most_memory_mb() if update.cause == Cause.OUT_OF_MEMORY else None
        decision = self._policy.decide(
            update, task.request, self._histories[task.id], retries=retries, most_memory_mb=most
        )
        self._histories[task.id] = decision.history
        if decision.memory_mb is not None:
            self._memory_mb[task.id] = decision.memory_mb
        return decision

    def grown(self, request: PodRequest) -> PodRequest:
        """A job's request with no less memory than the job has grown to, and a note of its past."""
        if request.id not in self._histories:
            return request
        request = replace(request, note=self._note(request.id))
        least = self._memory_mb.get(request.id, 0)
        if request.memory_mb is None or request.memory_mb >= least:
            return request
        return replace(request, memory_mb=least)

    def _note(self, id: str) -> str:
        """What a later leader has to know of a job's tries."""
        past = {**asdict(self._histories[id]), "memory_mb": self._memory_mb.get(id)}
        return json.dumps({name: value for name, value in past.items() if value})

    def tries(self, id: str) -> int:
        """Which try of a job comes next in Snakemake's count, which is that of its own failures."""
        return 1 + self._histories[id].failures

    def recall(self, id: str, note: str) -> None:
        """Go on from where the leader was that left the note with a job's pod."""
        past: dict[str, int] = json.loads(note or "{}")
        memory = past.pop("memory_mb", None)
        self._histories[id] = History(**past)
        if memory is not None:
            self._memory_mb[id] = memory


def _as_update(task: Task, outcome: Outcome) -> Update:
    """A failure in the batch system's words, also one that a shared pod outlived."""
    result, update = outcome.result, outcome.update
    if update is None or update.state != "failed":
        update = Update(task.id, 1, "failed", "", cause=Cause.COMMAND_FAILED)
    if result is not None and result.out_of_memory and update.cause == Cause.COMMAND_FAILED:
        update = replace(update, cause=Cause.OUT_OF_MEMORY)
    if result is not None and result.storage_away:
        update = replace(update, disruption=True)
    return update
