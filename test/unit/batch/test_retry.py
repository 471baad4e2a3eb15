"""Which failure is charged to whom, and how the next try differs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from byok8s.batch import Cause, PodRequest, Update
from byok8s.batch.retry import Budget, Decision, History, RetryPolicy

POLICY = RetryPolicy(jitter=lambda: 0.0)
REQUEST = PodRequest("job", image="x", command=("true",), memory_mb=1000)


def failed(cause: Cause, *, disruption: bool = False) -> Update:
    return Update("job", 1, "failed", "pod", cause=cause, disruption=disruption)


def decide(
    cause: Cause,
    history: History = History(),  # noqa: B008 (frozen)
    *,
    policy: RetryPolicy = POLICY,
    request: PodRequest = REQUEST,
    disruption: bool = False,
    retries: int | None = None,
    most: int | None = None,
) -> Decision:
    update = failed(cause, disruption=disruption)
    return policy.decide(update, request, history, retries=retries, most_memory_mb=most)


@pytest.mark.parametrize("cause", [Cause.COMMAND_FAILED, Cause.DEADLINE, Cause.EVICTED])
def test_the_jobs_own_failures_are_charged_to_its_retries(cause: Cause):
    assert decide(cause) == Decision(False, "", History(failures=1), Budget.RETRIES)
    again = decide(cause, retries=2)
    assert again.retry and again.charged and again.history == History(failures=1)
    assert again.message == "It is run again in 1 s (retry 1 of 2)."
    last = decide(cause, History(failures=2), retries=2)
    assert not last.retry and last.charged
    assert last.message == "It has used up its 2 retries."


@pytest.mark.parametrize(
    "cause",
    [
        Cause.EVICTED,
        Cause.PREEMPTED,
        Cause.NODE_LOST,
        Cause.NODE_SHUTDOWN,
        Cause.NODE_REFUSED,
        Cause.DELETED,
    ],
)
def test_disruptions_are_never_charged_to_the_retries(cause: Cause):
    used_up = History(failures=3, disruptions=9)
    again = decide(cause, used_up, disruption=True, retries=3)
    assert again.retry and not again.charged
    assert again.history == History(failures=3, disruptions=10)
    assert again.message == "It is run again in 60 s and charged no retry (disruption 10 of 10)."
    last = decide(cause, again.history, disruption=True, retries=100)
    assert not last.retry and last.budget is None
    assert "11 disruptions of this job are more than the 10" in last.message


def test_an_end_that_nobody_can_explain_is_not_the_users():
    assert decide(Cause.UNKNOWN).budget is Budget.DISRUPTIONS


@pytest.mark.parametrize(
    "cause",
    [
        Cause.IMAGE_PULL,
        Cause.INVALID_IMAGE,
        Cause.CONFIG_ERROR,
        Cause.VOLUME,
        Cause.UNSCHEDULABLE,
        Cause.CREATE_REFUSED,
        Cause.KILLED,
    ],
)
def test_what_waiting_did_not_mend_is_not_tried_again(cause: Cause):
    assert decide(cause, retries=5) == Decision(False, "", History())


def test_a_lost_node_is_a_disruption_though_it_was_waited_for():
    assert decide(Cause.NODE_LOST, disruption=True).budget is Budget.DISRUPTIONS


def test_out_of_memory_doubles_the_memory_and_costs_no_retry():
    first = decide(Cause.OUT_OF_MEMORY)
    assert first.retry and first.budget is Budget.MEMORY and first.wait_seconds == 0
    assert first.message == (
        "It is run again with 2000 MB instead of 1000 MB and charged no retry "
        "(out of memory 1 of 3)."
    )
    following = first.next_request(REQUEST)
    assert (following.memory_mb, following.attempt) == (2000, 2)
    third = decide(Cause.OUT_OF_MEMORY, History(growths=2))
    assert third.retry
    fourth = decide(Cause.OUT_OF_MEMORY, History(growths=3))
    assert not fourth.retry and fourth.charged  # then it is the job's own failure
    assert decide(Cause.OUT_OF_MEMORY, History(growths=3), retries=1).retry


def test_memory_grows_up_to_the_largest_node():
    capped = decide(Cause.OUT_OF_MEMORY, most=1500)
    assert capped.memory_mb == 1500
    full = decide(Cause.OUT_OF_MEMORY, request=replace(REQUEST, memory_mb=1500), most=1500)
    assert not full.retry and full.charged
    assert full.message == "The largest node has no more than 1500 MB for a pod."
    paid = decide(
        Cause.OUT_OF_MEMORY, request=replace(REQUEST, memory_mb=1500), most=1500, retries=1
    )
    assert paid.retry and paid.memory_mb is None
    assert paid.message.endswith("for a pod. It is run again in 1 s (retry 1 of 1).")


@pytest.mark.parametrize("change", [{"limit_memory": False}, {"memory_mb": None}])
def test_without_a_limit_there_is_nothing_to_grow(change: dict[str, bool | None]):
    found = decide(Cause.OUT_OF_MEMORY, request=replace(REQUEST, **change))  # type: ignore[arg-type]
    assert not found.retry and found.charged


def test_waits_double_up_to_the_longest_and_have_jitter():
    def waits(policy: RetryPolicy) -> list[float]:
        histories = [History(failures=n) for n in (0, 1, 2, 6, 1000)]
        decisions = [
            decide(Cause.COMMAND_FAILED, h, policy=policy, retries=2000) for h in histories
        ]
        return [d.wait_seconds for d in decisions]

    assert waits(POLICY) == [1, 2, 4, 60, 60]
    assert waits(replace(POLICY, jitter=lambda: 1.0)) == [0.5, 1, 2, 30, 30]
    assert waits(replace(POLICY, first_wait=0.0)) == [0, 0, 0, 0, 0]


def test_each_budget_is_separate_and_every_try_is_an_attempt():
    history = History()
    for cause, disruption in (
        (Cause.EVICTED, True),
        (Cause.OUT_OF_MEMORY, False),
        (Cause.COMMAND_FAILED, False),
        (Cause.PREEMPTED, True),
    ):
        decision = decide(cause, history, disruption=disruption, retries=1)
        assert decision.retry
        history = decision.history
    assert history == History(failures=1, disruptions=2, growths=1)
    assert history.attempt == 5
    assert not decide(Cause.COMMAND_FAILED, history, retries=1).retry
