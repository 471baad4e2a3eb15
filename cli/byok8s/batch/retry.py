"""Decides by its cause whether a failed job runs again. Pure: no clock, no cluster.

history = History()
while (news := batch.updates()) and news.state != "succeeded":
    if news.state == "failed":
        decision = policy.decide(news, request, history)
        if not decision.retry:
            break
        time.sleep(decision.wait_seconds)
        history, request = decision.history, decision.next_request(request)
        batch.issue(request)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum, auto

from byok8s.batch.ends import Cause, Update
from byok8s.batch.pods import PodRequest

# What was waited for within its limit already, or can never come right
_FINAL = frozenset(
    {
        Cause.IMAGE_PULL,
        Cause.INVALID_IMAGE,
        Cause.CONFIG_ERROR,
        Cause.VOLUME,
        Cause.UNSCHEDULABLE,
        Cause.CREATE_REFUSED,
        Cause.KILLED,
    }
)


class Budget(StrEnum):
    """What pays for a try."""

    RETRIES = auto()  # the job's own failures
    DISRUPTIONS = auto()  # the infrastructure's
    MEMORY = auto()  # one more try with more memory


@dataclass(frozen=True)
class History:
    """How often a job has failed so far, by the budget that was charged."""

    failures: int = 0
    disruptions: int = 0
    growths: int = 0

    @property
    def attempt(self) -> int:
        """Which attempt comes next, counted from 1: a pod's, whatever the ones before ended."""
        return 1 + self.failures + self.disruptions + self.growths


@dataclass(frozen=True)
class Decision:
    """What becomes of a job that failed.

    `message` is what follows the failure's own sentence, or empty; `budget` is what was charged,
    None when no budget has anything to do with it; `history` includes this failure; `memory_mb`
    is the memory of the next try in MB, None: as before.
    """

    retry: bool
    message: str
    history: History
    budget: Budget | None = None
    wait_seconds: float = 0.0
    memory_mb: int | None = None

    @property
    def charged(self) -> bool:
        """Whether the failure was the job's own, and so counts against its retries."""
        return self.budget is Budget.RETRIES

    def next_request(self, request: PodRequest) -> PodRequest:
        """The request of the next attempt."""
        memory = request.memory_mb if self.memory_mb is None else self.memory_mb
        return replace(request, attempt=self.history.attempt, memory_mb=memory)


@dataclass(frozen=True)
class RetryPolicy:
    """How often a job may fail for which reason.

    `retries` pays for the job's own failures, `disruptions` for what the infrastructure did to
    it, `growths` for tries with `factor` times the memory after it ran out of that. The waits in
    between double from `first_wait` to `longest_wait` seconds; `jitter` gives numbers from 0 to
    1, which make them up to a half shorter, so that jobs that failed together do not come back
    together.
    """

    retries: int = 0
    disruptions: int = 10
    growths: int = 3
    factor: float = 2.0
    first_wait: float = 1.0
    longest_wait: float = 60.0
    jitter: Callable[[], float] = random.random

    def decide(
        self,
        update: Update,
        request: PodRequest,
        history: History,
        *,
        retries: int | None = None,
        most_memory_mb: int | None = None,
    ) -> Decision:
        """What becomes of the job of `request`, of which `update` tells the failure.

        `retries` replaces the policy's, for a job that has its own; `most_memory_mb` is what a
        pod can get on the largest node in MB, None when that is not known.
        """
        allowed = self.retries if retries is None else retries
        if update.disruption or update.cause == Cause.UNKNOWN:
            return self._disrupted(history)
        if update.cause in _FINAL:
            return Decision(False, "", history)
        if update.cause == Cause.OUT_OF_MEMORY:
            return self._out_of_memory(request, history, allowed, most_memory_mb)
        return self._failed(history, allowed)

    def _disrupted(self, history: History) -> Decision:
        count = history.disruptions + 1
        after = replace(history, disruptions=count)
        if count > self.disruptions:
            message = (
                f"{_times(count, 'disruption')} of this job are more than the {self.disruptions} "
                "that --max-disruptions allows."
            )
            return Decision(False, message, after)
        wait = self._wait(count)
        message = (
            f"It is run again{_in(wait)} and charged no retry "
            f"(disruption {count} of {self.disruptions})."
        )
        return Decision(True, message, after, Budget.DISRUPTIONS, wait)

    def _out_of_memory(
        self, request: PodRequest, history: History, allowed: int, most: int | None
    ) -> Decision:
        now, count = request.memory_mb, history.growths + 1
        if now is None or not request.limit_memory or count > self.growths:
            return self._failed(history, allowed)
        more = round(now * self.factor)
        if most is not None:
            more = min(more, most)
        if more <= now:
            hint = f"The largest node has no more than {most} MB for a pod."
            failed = self._failed(history, allowed)
            return replace(failed, message=f"{hint} {failed.message}".strip())
        message = (
            f"It is run again with {more} MB instead of {now} MB and charged no retry "
            f"(out of memory {count} of {self.growths})."
        )
        after = replace(history, growths=count)
        return Decision(True, message, after, Budget.MEMORY, memory_mb=more)

    def _failed(self, history: History, allowed: int) -> Decision:
        count = history.failures + 1
        after = replace(history, failures=count)
        if count > allowed:
            message = f"It has used up its {_times(allowed, 'retry')}." if allowed else ""
            return Decision(False, message, after, Budget.RETRIES)
        wait = self._wait(count)
        message = f"It is run again{_in(wait)} (retry {count} of {allowed})."
        return Decision(True, message, after, Budget.RETRIES, wait)

    def _wait(self, count: int) -> float:
        """Seconds before a budget's try number `count`."""
        # beyond this power the wait is the longest anyway, and a float would end
        wait = min(self.longest_wait, self.first_wait * 2.0 ** min(count - 1, 64))
        return wait * (1 - self.jitter() / 2)


def _in(seconds: float) -> str:
    return f" in {seconds:.0f} s" if seconds >= 0.5 else ""


def _times(count: int, what: str) -> str:
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"
