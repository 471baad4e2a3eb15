"""What the dispatcher keeps of jobs and of the pods that run several of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from byok8s.worker.spec import BundleJob, JobSpec, Result

if TYPE_CHECKING:
    from byok8s.batch import PodRequest, Update
    from byok8s.workflow.events import JobName

BUSY_SECONDS = 1.0  # a pod whose command runs for longer gets nothing more


@dataclass(eq=False)
class Task:
    """A Snakemake job on its way. `request` is that of a pod of its own."""

    name: JobName
    request: PodRequest
    spec: JobSpec
    sharable: bool
    still_there: Callable[[], bool] | None = None  # whether what it made, if it ran already, is
    bytes_in: int = 0  # of its inputs, where its pod runs no Snakemake and no other image
    troubles: int = 0
    is_special: bool = False  # its pod: asks for less than `request` does, or has no volumes
    uses: float = 0.0  # CPUs of its own pod on average; 0: it is not known to be short
    made: float = 0.0  # when its own pod was; monotonic
    placed: bool = False  # that has a node
    early: bool = False  # that pod was asked for an early report, which is not expected yet
    stuck: bool = False  # no node has room for its own pod

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def rule(self) -> str:
        return self.request.rule

    def in_bundle(self) -> BundleJob:
        """The job as a bundle gets it."""
        request = self.request
        seconds, note = request.deadline_seconds, request.note
        return BundleJob(self.id, str(self.name), self.spec, seconds, request.fingerprint, note)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: by the worker's report, by its pod's end, or both."""

    result: Result | None
    update: Update | None = None

    @property
    def success(self) -> bool:
        if self.update is not None and self.update.state != "succeeded":
            return False
        return self.result is None or self.result.exit_code == 0


@dataclass(eq=False)
class BundlePod:
    """A pod that runs several jobs; `tasks` are those it has not finished. Monotonic times.

    What jobs of it have in common, `key`, is None as long as that is not known: of a pod that an
    earlier leader has left.
    """

    id: str
    key: Any
    tasks: dict[str, Task]
    made: float
    mail: str  # key prefix
    mails: int = 0
    followed: bool = False  # its log is, or will be, read
    heard: bool = False  # its log can be read: it can be told more
    closing: bool = False
    given_up: bool = False  # and deleted, by us
    stuck: bool = False  # no node has room
    light: bool = False  # has no volumes
    used: bool = False  # whether a command of it has begun
    started: dict[str, float] = field(default_factory=dict)

    def begin(self, id: str) -> None:
        """A job's command has begun."""
        self.used, self.started[id] = True, time.monotonic()

    def is_busy(self, now: float) -> bool:
        """Whether a command of it has run for so long that what comes next would wait."""
        return any(now - at > BUSY_SECONDS for at in self.started.values())


def sharing_key(request: PodRequest) -> Any:
    """What jobs of one pod have in common."""
    own = {"id", "rule", "job", "attempt", "env", "command", "deadline_seconds", "bundle"}
    own |= {"fingerprint", "note", "volumes", "secret_env"}
    return tuple(getattr(request, field.name) for field in fields(request) if field.name not in own)


def read_result(text: str) -> Result | None:
    """The worker's own report of a job; None when it left none."""
    try:
        return Result.loads(text)
    except (ValueError, TypeError, KeyError):
        return None


def read_report(text: str) -> dict[str, dict[str, Any]]:
    """A bundle's report: the results by job."""
    try:
        results: dict[str, dict[str, Any]] = json.loads(text)["results"]
    except (ValueError, TypeError, KeyError):
        return {}
    return results
