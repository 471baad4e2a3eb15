"""What a person sees of a run."""

from __future__ import annotations

import io
import logging
import threading
import time

import pytest
from byok8s.run import display as module
from byok8s.run.display import Display
from byok8s.workflow.events import EventHandler, JobFailure, JobName

A, B = JobName("align", {"sample": "A"}), JobName("align", {"sample": "B"})


@pytest.fixture
def shown() -> tuple[Display, io.StringIO]:
    stream = io.StringIO()
    return Display(stream), stream


def test_a_pipe_gets_plain_lines(shown: tuple[Display, io.StringIO]) -> None:
    display, stream = shown
    with display.shown():
        display.planned({"align": 2, "all": 1})
        display.submitted(A)
        display.started(A)
        display.ended(A, None)
        display.progress(1, 3)
    assert stream.getvalue().splitlines() == [
        "3 jobs to run: align 2, all",
        "[1/3] align (sample=A) done in 0.0 s",
    ]


def test_a_failure_shows_reason_tail_and_log(shown: tuple[Display, io.StringIO]) -> None:
    display, stream = shown
    display.ended(A, JobFailure(A, "the command exited with code 3.", "one\ntwo\n", "s3://b/log"))
    assert stream.getvalue().splitlines() == [
        "Failed: align (sample=A): the command exited with code 3",
        "  the end of its log:",
        "    one",
        "    two",
        "  the whole log: s3://b/log",
    ]
    assert [failure.job for failure in display.failures] == [A]


def test_a_failure_shows_what_may_help(shown: tuple[Display, io.StringIO]) -> None:
    display, stream = shown
    display.ended(A, JobFailure(A, "gone", hint="Beside its inputs there is more."))
    assert stream.getvalue().splitlines()[-1] == "  Beside its inputs there is more."


def test_other_lines_do_not_come_between_those_of_a_failure(
    shown: tuple[Display, io.StringIO],
) -> None:
    display, stream = shown
    over = threading.Event()

    def talk() -> None:
        while not over.is_set():
            display.note("[1/2] b done in 0.1 s")

    other = threading.Thread(target=talk)
    other.start()
    for _ in range(50):
        display.ended(A, JobFailure(A, "gone", "one\ntwo\n", "s3://b/log"))
    over.set()
    other.join()
    lines = stream.getvalue().splitlines()
    starts = [n for n, line in enumerate(lines) if line.startswith("Failed: ")]
    assert len(starts) == 50
    for start in starts:
        assert lines[start + 1 : start + 5] == [
            "  the end of its log:",
            "    one",
            "    two",
            "  the whole log: s3://b/log",
        ]


def test_a_failure_that_is_tried_again_is_no_failed_job(
    shown: tuple[Display, io.StringIO],
) -> None:
    display, stream = shown
    display.ended(A, JobFailure(A, "gone", will_retry=True))
    assert display.failures == []
    assert "gone; it is tried again" in stream.getvalue()


def test_the_same_waiting_reason_is_one_line(shown: tuple[Display, io.StringIO]) -> None:
    display, stream = shown
    for job in (A, B):
        display.submitted(job)
        display.waiting(job, "The image cannot be pulled.", busy=False)
    assert stream.getvalue().count("cannot be pulled") == 1


def test_a_full_cluster_is_told_only_when_nothing_of_ours_fills_it(
    shown: tuple[Display, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    display, stream = shown
    monkeypatch.setattr(module, "_STUCK_SECONDS", 0.02)
    with display.shown():
        display.submitted(A)
        display.submitted(B)
        display.started(A)
        display.waiting(B, "No node has room.", busy=True)
        time.sleep(0.1)
        assert "No node has room" not in stream.getvalue()
        display.ended(A, None)
        time.sleep(0.2)
    assert stream.getvalue().count("No node has room") == 1


def test_thousands_of_jobs_do_not_bury_the_failures(shown: tuple[Display, io.StringIO]) -> None:
    display, stream = shown
    display.planned({"many": 5000})
    for number in range(1000):
        job = JobName("many", {"n": str(number)})
        display.submitted(job)
        display.ended(job, None)
        display.progress(number + 1, 5000)
    assert len(stream.getvalue().splitlines()) <= 3


def test_snakemakes_records_become_events(shown: tuple[Display, io.StringIO]) -> None:
    display, stream = shown
    handler = EventHandler(display)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.info("", extra={"event": "run_info", "stats": {"a": 2, "total": 2}})
    logger.info("", extra={"event": "job_started", "jobs": [1]})
    local = {"event": "job_info", "local": True, "rule_name": "a", "wildcards": {}, "jobid": 1}
    logger.info("", extra=local)
    logger.info("", extra={"event": "job_finished", "job_id": 1})
    logger.info("", extra={"event": "progress", "done": 1, "total": 2})
    logger.info("", extra={**local, "jobid": 2})
    logger.error("Command 'x' returned non-zero exit status 7.")
    logger.error("", extra={"event": "job_error", "jobid": 2, "log": ["a.log"]})
    logger.error("", extra={"event": "job_error", "jobid": 3})  # told by the executor
    assert handler.jobs_started
    assert stream.getvalue().splitlines() == [
        "2 jobs to run: a 2",
        "[1/2] a done in 0.0 s",
        "Failed: a: the command exited with code 7 (on this machine)",
        "  the whole log: a.log",
    ]


def test_of_jobs_that_fail_at_once_each_is_told_its_own_exit_code(
    shown: tuple[Display, io.StringIO],
) -> None:
    display, _ = shown
    logger = logging.getLogger("events-at-once")
    logger.setLevel(logging.INFO)
    handler = EventHandler(display)
    logger.addHandler(handler)
    for number, rule in ((1, "a"), (2, "b")):
        fields = {"event": "job_info", "jobid": number, "rule_name": rule, "local": True}
        logger.info("", extra={**fields, "wildcards": {}})
    for command, code in (("false a", 1), ("false b", 7)):
        text = f"Command 'set -euo pipefail;  {command}' returned non-zero exit status {code}."
        logger.error(f"CalledProcessError in file Snakefile:\n{text}")
    for number, command in ((1, "false a"), (2, "false b")):
        logger.error("", extra={"event": "job_error", "jobid": number, "shellcmd": command})
    reasons = [failure.reason for failure in display.failures]
    assert reasons == [
        "the command exited with code 1 (on this machine)",
        "the command exited with code 7 (on this machine)",
    ]
