"""What the executor makes of a failure: tells Snakemake, or runs the job again by itself."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from byok8s.batch import Cause, PodRequest, RetryPolicy, Update
from byok8s.worker.spec import JobSpec, Result
from byok8s.workflow.dispatch import Outcome, Task
from byok8s.workflow.events import JobFailure, JobName
from byok8s.workflow.executor import Executor
from byok8s.workflow.retries import Retries


class Listener:
    def __init__(self) -> None:
        self.again: list[str] = []
        self.failures: list[JobFailure] = []
        self.withdrawn: list[str] = []

    def retried(self, job: JobName, why: str) -> None:
        self.again.append(f"{job}: {why}")

    def ended(self, job: JobName, failure: JobFailure | None) -> None:
        assert failure
        self.failures.append(failure)


class Dispatcher:
    def __init__(self) -> None:
        self.submitted: list[Task] = []
        self.withdrawals = 0

    def submit(self, task: Task) -> None:
        self.submitted.append(task)

    def withdraw(self) -> list[Task]:
        self.withdrawals += 1
        return []


class Lab(Executor):
    """An executor without a workflow, for one job whose rule allows two retries."""

    def __init__(self, **policy: Any) -> None:
        self.job = SimpleNamespace(restart_times=2, attempt=1)
        self.told: list[int] = []
        self.cut_short: list[Any] = []
        self.listener = Listener()
        self.dispatcher = Dispatcher()
        self.workflow = SimpleNamespace(execution_settings=SimpleNamespace(keep_going=False))
        self.session = SimpleNamespace(  # type: ignore[assignment]
            listener=self.listener,
            batch=SimpleNamespace(logs=lambda id, tail_lines: "the last words"),
            log_url=lambda id, attempt: f"log-{attempt}",
            facts=lambda job, tried: {"tried": tried},
            cut_short=self.cut_short.append,
            hint=lambda job: "Beside its inputs there is more.",
        )
        self._dispatcher = self.dispatcher  # type: ignore[assignment]
        self._lock = threading.Lock()
        self._jobs = {}
        self._retries = Retries(RetryPolicy(first_wait=0.0, **policy), lambda: 700)

    def report_job_error(self, job_info: Any, msg: Any = None, **kwargs: Any) -> None:
        """As Snakemake's scheduler does."""
        self.told.append(self.job.attempt)
        self.job.attempt += 1

    def fail(self, cause: Cause | None = None, *, disruption: bool = False, **result: Any) -> None:
        """Let the job's present pod, or with a result alone its share of one, fail."""
        request = PodRequest("id", "image", ("worker",), rule="r", memory_mb=300)
        if self.dispatcher.submitted:
            request = self.dispatcher.submitted[-1].request
        spec = JobSpec("s", "h", ".", (), "log", "result")
        task = Task(JobName("r"), request, spec, True)
        update = cause and Update(
            "id", 1, "failed", "p", cause=cause, message=f"It was {cause}.", disruption=disruption
        )
        self._jobs["id"] = SimpleNamespace(job=self.job)
        self._ended(task, Outcome(Result(**result) if result else None, update))


def test_a_disruption_is_not_told_to_snakemake():
    lab = Lab(disruptions=1)
    lab.fail(Cause.PREEMPTED, disruption=True)
    assert lab.told == [] and lab.job.attempt == 1 and lab.listener.failures == []
    assert lab.listener.again == [
        "r: It was preempted. It is run again and charged no retry (disruption 1 of 1)."
    ]
    assert [task.id for task in lab.dispatcher.submitted] == list(lab._jobs) == ["id"]
    # which may have left half of its outputs
    assert lab.dispatcher.submitted[-1].spec.facts == {"tried": True}
    assert lab.cut_short == [lab.job]


def test_too_many_disruptions_are_the_end_though_retries_are_left():
    lab = Lab(disruptions=1)
    lab.fail(Cause.PREEMPTED, disruption=True)
    lab.fail(Cause.NODE_LOST, disruption=True)
    assert lab.told == [3] and lab.job.attempt > lab.job.restart_times + 1
    (failure,) = lab.listener.failures
    assert not failure.will_retry and failure.tail == "the last words"
    assert failure.reason == (
        "It was node_lost. 2 disruptions of this job are more than the 1 that --max-disruptions "
        "allows."
    )
    assert lab.dispatcher.withdrawals == 1


def test_a_failed_command_is_told_and_counts():
    lab = Lab()
    for _ in range(3):
        lab.fail(exit_code=3, command_exit=3)
    assert lab.told == [1, 2, 3]
    assert [failure.will_retry for failure in lab.listener.failures] == [True, True, False]
    assert lab.listener.failures[-1].reason == (
        "the command exited with code 3. It has used up its 2 retries."
    )
    assert lab.dispatcher.submitted == [] and lab.dispatcher.withdrawals == 1
    assert lab.listener.failures[-1].hint == "Beside its inputs there is more."
    lab.fail(Cause.COMMAND_FAILED)
    assert lab.listener.failures[-1].hint == "", "nothing is known of the command"


@pytest.mark.parametrize("shared", [True, False])
def test_out_of_memory_gives_more_up_to_what_a_node_has(shared: bool):
    lab = Lab()
    for _ in range(2):
        if shared:  # the pod lives on
            lab.fail(exit_code=137, out_of_memory=True)
        else:
            lab.fail(Cause.OUT_OF_MEMORY)
    assert [task.request.memory_mb for task in lab.dispatcher.submitted] == [600, 700]
    assert lab.told == []
    lab.fail(Cause.OUT_OF_MEMORY)
    assert lab.told == [1] and lab.listener.failures[0].will_retry
    rule_says = PodRequest("id", "image", (), memory_mb=400)
    assert lab._retries.grown(rule_says).memory_mb == 700  # also when Snakemake asks anew
    assert lab._retries.grown(PodRequest("other", "image", (), memory_mb=400)).memory_mb == 400


def test_what_can_never_run_is_not_tried_again():
    lab = Lab()
    lab.fail(Cause.INVALID_IMAGE)
    assert lab.job.attempt > lab.job.restart_times + 1
    assert lab.listener.failures[0].reason == "It was invalid_image."


def test_a_retry_waits_before_snakemake_hears_of_it():
    lab = Lab()
    lab._retries = Retries(RetryPolicy(first_wait=0.2, jitter=lambda: 0.0), lambda: None)
    lab.fail(exit_code=1)
    assert lab.told == [] == lab.cut_short
    threading.Event().wait(0.4)
    assert lab.told == [1]


@pytest.mark.parametrize("shared", [True, False])
def test_a_store_that_is_away_is_a_disruption(shared: bool):
    lab = Lab(disruptions=2)
    for _ in range(2):
        cause = None if shared else Cause.COMMAND_FAILED
        lab.fail(cause, exit_code=113, storage_away=True, error="Could not read s3://b/k.")
    assert lab.cut_short == [lab.job] * 2, "an upload could not be ended either"
    assert lab.told == [] and len(lab.dispatcher.submitted) == 2
    assert lab.listener.again[0] == (
        "r: Could not read s3://b/k. It is run again and charged no retry (disruption 1 of 2)."
    )
    lab.fail(exit_code=113, storage_away=True, error="Could not read s3://b/k.")
    assert "3 disruptions of this job are more than the 2" in lab.listener.failures[0].reason
