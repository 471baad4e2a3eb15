"""Pods of two containers: the job's own image, and staging beside it."""

from __future__ import annotations

from typing import Any

import pytest
from byok8s.batch import Cause, Limits, PodRequest, Update
from byok8s.batch.book import Book
from byok8s.batch.ends import end_of
from byok8s.batch.waits import stuck_of

IMAGE = "localhost/samtools:1"
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
PULLING = {"waiting": {"reason": "ContainerCreating"}}


def over(code: int, reason: str = "", message: str = "") -> dict[str, Any]:
    reason = reason or ("Error" if code else "Completed")
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def pod(job: dict[str, Any], staging: dict[str, Any], phase: str = "Running") -> dict[str, Any]:
    limits = {"limits": {"memory": "64M"}}
    return {
        "metadata": {"name": "p", "resourceVersion": "1"},
        "spec": {
            "nodeName": "node-1",
            "containers": [
                {"name": "staging", "image": "worker"},
                {"name": "job", "image": IMAGE, "resources": limits},
            ],
        },
        "status": {
            "phase": phase,
            "containerStatuses": [
                {"name": "job", "image": IMAGE, "state": job},
                {"name": "staging", "image": "worker", "state": staging},
            ],
        },
    }


@pytest.mark.parametrize(
    ("job", "staging", "phase"),
    [
        (PULLING, RUNNING, "Pending"),
        (RUNNING, RUNNING, "Running"),
        (over(0), RUNNING, "Running"),  # outputs are being stored
        (over(3), RUNNING, "Running"),  # the log is being kept
        (RUNNING, over(113), "Running"),
    ],
)
def test_a_pod_goes_on_while_a_container_does(
    job: dict[str, Any], staging: dict[str, Any], phase: str
) -> None:
    assert end_of(pod(job, staging, phase)) is None


def test_success_is_that_the_outputs_are_stored() -> None:
    end = end_of(pod(over(0), over(0, message="stored")))
    assert end and (end.cause, end.exit_code, end.result) == (None, 0, "stored")
    end = end_of(pod(over(0), over(113, message="full"), "Failed"))
    assert end and (end.cause, end.exit_code) == (Cause.COMMAND_FAILED, 113)
    assert end.result == "full"


OOM = over(137, "OOMKilled")


@pytest.mark.parametrize(
    ("job", "staging", "cause", "code", "disruption", "says"),
    [
        (over(3), over(3, message="r"), Cause.COMMAND_FAILED, 3, False, "exit code 3."),
        (over(139), over(139, message="r"), Cause.COMMAND_FAILED, 139, False, "SIGSEGV"),
        (OOM, over(137, message="r"), Cause.OUT_OF_MEMORY, 137, False, "limit of 64MB"),
        # staging was killed: the job's own container is told to end, or was killed with it
        (over(0), OOM, Cause.UNKNOWN, 137, True, "'staging', beside the job's own, ran out"),
        (over(0), over(2), Cause.UNKNOWN, 2, True, "ended with exit code 2."),
        (over(0), over(128, "StartError", "no python"), Cause.UNKNOWN, 128, True, "no python."),
    ],
)
def test_the_jobs_own_failure_is_told_apart_from_stagings(
    job: dict[str, Any],
    staging: dict[str, Any],
    cause: Cause,
    code: int,
    disruption: bool,
    says: str,
) -> None:
    end = end_of(pod(job, staging, "Failed"))
    assert end and (end.cause, end.exit_code, end.disruption) == (cause, code, disruption)
    assert says in end.message


@pytest.fixture
def book() -> Book:
    return Book("run", Limits(invalid=0.0, staging=0.0))


def told(book: Book, *pods: dict[str, Any]) -> list[Update]:
    job = book.add(PodRequest("job", image=IMAGE, command=("true",)))
    assert job
    for seen in pods:
        seen["metadata"]["name"] = job.pod
        book.on_event("MODIFIED", seen)
    book.expire()
    return [book.updates.get() for _ in range(book.updates.qsize())]


def test_an_image_without_a_shell_is_told_at_once(book: Book) -> None:
    said = 'unable to start container process: exec: "/bin/sh": stat /bin/sh: no such file'
    start_error = over(128, "StartError", said)
    (update,) = told(book, pod(start_error, RUNNING))
    assert (update.state, update.cause) == ("failed", Cause.INVALID_IMAGE)
    assert f"'{IMAGE}' has no /bin/sh" in update.message


def test_an_image_that_cannot_be_pulled_is_told_though_staging_runs(book: Book) -> None:
    pulling = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
    (update,) = told(book, pod(pulling, RUNNING, "Pending"))
    assert (update.state, update.cause) == ("waiting", Cause.IMAGE_PULL)
    assert IMAGE in update.message


def test_a_job_does_not_wait_for_ever_for_staging_that_was_killed(book: Book) -> None:
    running, failed = told(book, pod(RUNNING, RUNNING), pod(RUNNING, OOM))
    assert (running.state, failed.state) == ("running", "failed")
    assert (failed.cause, failed.disruption) == (Cause.UNKNOWN, True)


def test_staging_does_not_wait_for_ever_for_a_job_that_was_killed(book: Book) -> None:
    _, failed = told(book, pod(RUNNING, RUNNING), pod(OOM, RUNNING))
    assert (failed.state, failed.cause) == ("failed", Cause.OUT_OF_MEMORY)


def test_what_goes_well_is_no_wait() -> None:
    for job, staging in ((RUNNING, RUNNING), (over(0), RUNNING), (RUNNING, over(0))):
        assert stuck_of(pod(job, staging)) is None
