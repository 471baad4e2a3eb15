"""What a run tells the one who watches it, free of Snakemake's and Kubernetes's own types."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from byok8s.worker.process import command_exit


@dataclass(frozen=True)
class JobName:
    """A Snakemake job as a person knows it."""

    rule: str
    wildcards: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.wildcards:
            return self.rule
        return f"{self.rule} ({', '.join(f'{k}={v}' for k, v in self.wildcards.items())})"


@dataclass(frozen=True)
class JobFailure:
    """Why a job failed, and where to read more."""

    job: JobName
    reason: str  # one sentence
    tail: str = ""  # last lines of its log
    log: str = ""  # where the whole log is
    hint: str = ""  # what may help, in a sentence
    will_retry: bool = False


class Listener(Protocol):
    """Receives a run's events, from several threads."""

    def planned(self, counts: Mapping[str, int]) -> None:
        """Jobs to run by rule, before the first is submitted."""

    def submitted(self, job: JobName) -> None: ...
    def started(self, job: JobName) -> None:
        """The job's pod runs."""

    def waiting(self, job: JobName, reason: str, *, busy: bool) -> None:
        """The job's pod cannot start yet; one sentence why. `busy`: for lack of room only."""

    def retried(self, job: JobName, why: str) -> None:
        """The job's pod failed and it runs again, charged no retry; one line why."""

    def withdrawn(self, job: JobName) -> None:
        """The job, submitted before, will not run after all, since another one failed."""

    def ended(self, job: JobName, failure: JobFailure | None) -> None: ...
    def progress(self, done: int, total: int) -> None: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


class EventHandler(logging.Handler):
    """Turns Snakemake's log records into a listener's events; keeps error texts."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(logging.INFO)
        self._listener = listener
        self.errors: list[str] = []
        self.jobs_started = False
        self._here: dict[int, JobName] = {}  # jobs that run on this machine, by Snakemake's id

    def emit(self, record: logging.LogRecord) -> None:
        event = str(getattr(record, "event", None) or "")
        if event == "run_info":
            counts = dict(record.__dict__["stats"])
            counts.pop("total", None)
            self._listener.planned(counts)
        elif event == "progress":
            self._listener.progress(record.__dict__["done"], record.__dict__["total"])
        elif event == "job_started":
            self.jobs_started = True
        elif event == "job_info" and record.__dict__["local"]:
            fields = record.__dict__
            name = JobName(fields["rule_name"], dict(fields["wildcards"] or {}))
            self._here[fields["jobid"]] = name
            self._listener.submitted(name)
            self._listener.started(name)
        elif event == "job_finished":
            if ended := self._here.pop(record.__dict__["job_id"], None):
                self._listener.ended(ended, None)
        elif event in ("job_error", "group_error"):
            self._job_error(record.__dict__)
        elif record.levelno >= logging.ERROR:
            self.errors.append(record.getMessage())
        elif record.levelno == logging.WARNING and not event:
            self._listener.warn(record.getMessage())

    def _job_error(self, fields: Mapping[str, Any]) -> None:
        """Jobs of the cluster are told by the executor, which knows more; these ran here."""
        job = self._here.pop(fields.get("jobid", -1), None)
        if job is None:
            return
        # several may fail at a time: what was said of this one quotes its command
        command = fields.get("shellcmd")
        own = [text for text in self.errors if command and command in text] or self.errors
        said = " ".join(own).split("Command '", 1)[0] if own else ""
        code = command_exit(" ".join(own))
        reason = f"the command exited with code {code}" if code else said or "it failed"
        log = " ".join(fields.get("log") or [])
        self._listener.ended(job, JobFailure(job, f"{reason} (on this machine)", log=log))
