"""Reads a pod's status: how it ended, with the cause and one sentence. Pure functions."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum, auto
from typing import Any, Literal

from byok8s.batch.pods import CONTAINER, STAGING

Pod = Mapping[str, Any]


class Cause(StrEnum):
    """Why a job failed, or what it waits for."""

    COMMAND_FAILED = auto()
    OUT_OF_MEMORY = auto()
    DEADLINE = auto()
    EVICTED = auto()
    PREEMPTED = auto()
    NODE_LOST = auto()
    NODE_SHUTDOWN = auto()
    NODE_REFUSED = auto()
    IMAGE_PULL = auto()
    INVALID_IMAGE = auto()
    CONFIG_ERROR = auto()
    VOLUME = auto()
    UNSCHEDULABLE = auto()
    CREATE_REFUSED = auto()
    KILLED = auto()
    DELETED = auto()
    UNKNOWN = auto()


@dataclass(frozen=True)
class End:
    """How a pod ended. `disruption`: the infrastructure ended it, not the job itself.

    `started` and `finished` are epoch seconds of the job's container, `result` the termination
    message that the job wrote. Where files are staged beside it, the staging container's end and
    message count.
    """

    cause: Cause | None = None  # None: it succeeded
    message: str = ""
    exit_code: int | None = None
    disruption: bool = False
    result: str = ""
    started: float | None = None
    finished: float | None = None


def started_at(pod: Pod) -> float | None:
    """When the job's container started, in epoch seconds; None when it has not."""
    state = state_of(pod, CONTAINER)
    return epoch((state.get("running") or state.get("terminated") or {}).get("startedAt"))


def is_running(pod: Pod) -> bool:
    return "running" in state_of(pod, CONTAINER)


def is_staged(pod: Pod) -> bool:
    """Whether a container beside the job's own fetches and stores its files."""
    return bool(_named(pod.get("spec", {}).get("containers"), STAGING))


def end_of(pod: Pod, *, gone: bool = False) -> End | None:
    """How a pod ended; None when it has not. `gone`: it is no longer in the API.

    A container that succeeded is enough: the phase follows up to a second later, or never when
    something injected a sidecar. A failure waits for the phase, which brings the reason.
    """
    phase = pod.get("status", {}).get("phase")
    if not (_succeeded(pod) or phase == "Failed" or gone):
        return None
    return outcome(pod, gone=gone)


def outcome(pod: Pod, *, gone: bool = False) -> End:
    """What became of a pod that has ended, or that cannot come to a good end any more."""
    phase = pod.get("status", {}).get("phase")
    job, last = _terminated(pod, CONTAINER), _last(pod)
    cause, message, disruption = None, "", False
    if phase == "Failed" or not _succeeded(pod):
        cause, message, disruption = (
            _by_cluster(pod, last)
            or _by_deletion(pod, last, gone and phase != "Failed")
            or _by_container(pod, job, last)
        )
    elif job.get("reason") == "OOMKilled":
        message = "A process of the job ran out of memory, but the command reported success."
    told = job if job.get("exitCode") else last
    return End(
        cause,
        message,
        None if told.get("reason") == _UNKNOWN else told.get("exitCode"),
        disruption,
        # what the runtime writes when it cannot start a container is not the job's message
        "" if last.get("reason") in NOT_STARTED else last.get("message", ""),
        epoch(job.get("startedAt")),
        epoch(last.get("finishedAt")),
    )


def _succeeded(pod: Pod) -> bool:
    phase = pod.get("status", {}).get("phase")
    return phase == "Succeeded" or _last(pod).get("exitCode") == 0


Verdict = tuple[Cause, str, bool]
_UNKNOWN = "ContainerStatusUnknown"  # the kubelet knows nothing; it writes exit code 137
NOT_STARTED = ("StartError", "ContainerCannotRun")
_REFUSED = (Cause.NODE_REFUSED, "The node {node} did not accept the pod: {said}")
_SHUT_DOWN = (Cause.NODE_SHUTDOWN, "The node {node} shut down while the pod ran.")
_LOST = (Cause.NODE_LOST, "The node {node} was lost while the pod ran.")
# status.reason of a pod that the kubelet ended
_BY_REASON: dict[str, tuple[Cause, str]] = {
    "Evicted": (Cause.EVICTED, "The node {node} evicted the pod: {said}"),
    "Preempting": (Cause.PREEMPTED, "The node {node} preempted the pod: {said}"),
    "NodeAffinity": _REFUSED,
    "UnexpectedAdmissionError": _REFUSED,
    "TopologyAffinityError": _REFUSED,
    "NodeShutdown": _SHUT_DOWN,
    "Shutdown": _SHUT_DOWN,
    "Terminated": _SHUT_DOWN,
    "NodeLost": _LOST,
}
# reason of the condition DisruptionTarget
_BY_CONDITION: dict[str, tuple[Cause, str]] = {
    "PreemptionByScheduler": (Cause.PREEMPTED, "a pod of higher priority took its place"),
    "DeletionByTaintManager": (Cause.NODE_LOST, "its node became unreachable or was tainted"),
    "DeletionByPodGC": (Cause.NODE_LOST, "its node is gone"),
    "EvictionByEvictionAPI": (Cause.EVICTED, "it was evicted, as when a node is drained"),
}


def _by_cluster(pod: Pod, terminated: Mapping[str, Any]) -> Verdict | None:
    """Ends that the kubelet or the control plane decided."""
    status = pod.get("status", {})
    reason, said = status.get("reason", ""), one_line(status.get("message", ""))
    node = pod.get("spec", {}).get("nodeName") or "?"
    condition = _condition(pod, "DisruptionTarget")
    if reason == "DeadlineExceeded":
        limit = pod["spec"].get("activeDeadlineSeconds")
        message = f"The pod ran longer than its deadline of {limit} s; give it more (runtime)."
        return Cause.DEADLINE, message, False
    if reason == "Evicted" and not condition and "exceed" in said:  # its own limit
        return Cause.EVICTED, f"{said} Give the job more disk (disk_mb).", False
    # a node that is short of disk says so with the reason of an eviction
    refused = reason.startswith("OutOf") or said.startswith("Pod was rejected")
    known = _REFUSED if refused else _BY_REASON.get(reason)
    if terminated.get("reason") == _UNKNOWN and "deletionTimestamp" not in pod["metadata"]:
        known = known or _LOST
    if known:
        return known[0], known[1].format(node=node, said=said), True
    if condition:
        cause, why = _BY_CONDITION.get(
            condition.get("reason", ""), (Cause.EVICTED, condition.get("message", "no reason"))
        )
        return cause, f"The pod on node {node} was stopped: {why.rstrip('.')}.", True
    return None


def _by_deletion(pod: Pod, terminated: Mapping[str, Any], vanished: bool) -> Verdict | None:
    """Somebody deleted the pod, and that ended it."""
    metadata = pod["metadata"]
    deleted = epoch(metadata.get("deletionTimestamp"))
    finished = epoch(terminated.get("finishedAt"))
    if deleted is not None:  # the timestamp lies one grace period after the request
        deleted -= metadata.get("deletionGracePeriodSeconds") or 0
    ended_before = finished is not None and (deleted is None or finished < deleted)
    if vanished if deleted is None else not ended_before:
        return (
            Cause.DELETED,
            f"The pod {metadata['name']} was deleted by somebody else before it was done.",
            True,
        )
    return None


def _by_container(pod: Pod, job: Mapping[str, Any], last: Mapping[str, Any]) -> Verdict:
    """What the containers themselves say; the job's own failure comes before that of staging."""
    if not job.get("exitCode") and last is not job and last.get("exitCode"):
        return _by_staging(last)
    code, reason = job.get("exitCode"), job.get("reason", "")
    if reason == "OOMKilled":
        limit = _container_spec(pod).get("resources", {}).get("limits", {}).get("memory")
        more = f"its limit of {limit}B" if limit else "what the node has"
        return (
            Cause.OUT_OF_MEMORY,
            f"The job used more memory than {more}; give it more (mem_mb).",
            False,
        )
    if reason in NOT_STARTED:
        return _not_started(pod, one_line(job.get("message", "")))
    if code is None:
        status = pod.get("status", {})
        said = one_line(status.get("message") or status.get("reason") or "no reason is given")
        return Cause.UNKNOWN, f"The pod failed without an exit code: {said}", False
    if code > 128:
        return Cause.COMMAND_FAILED, _signalled(code), False
    return Cause.COMMAND_FAILED, f"The command failed with exit code {code}.", False


def _by_staging(last: Mapping[str, Any]) -> Verdict:
    code, reason = last["exitCode"], last.get("reason", "")
    if last.get("message") and reason not in NOT_STARTED:  # it ended in good order, with a result
        return Cause.COMMAND_FAILED, f"The job's files were not staged (exit code {code}).", False
    why = "ran out of memory" if reason == "OOMKilled" else f"ended with exit code {code}"
    if reason in NOT_STARTED:
        why = f"could not be started: {last.get('message', '')}"
    said = one_line(f"The container '{STAGING}', beside the job's own, {why}")
    return Cause.UNKNOWN, said, True


def _not_started(pod: Pod, said: str) -> Verdict:
    if is_staged(pod) and "/bin/sh" in said:
        image = _container_spec(pod).get("image", "?")
        return (
            Cause.INVALID_IMAGE,
            f"The image '{image}' has no /bin/sh to run the rule's command with; "
            f"take one that has: {said}",
            False,
        )
    return Cause.COMMAND_FAILED, f"The command could not be started: {said}", False


def _signalled(code: int) -> str:
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"The command failed with exit code {code}."
    hint = "; if nobody killed it, it may have run out of memory (mem_mb)"
    return (
        f"The command was ended by signal {name} (exit code {code}){hint if code == 137 else ''}."
    )


def epoch(timestamp: str | None) -> float | None:
    """Epoch seconds of an API timestamp."""
    if not timestamp:
        return None
    return (datetime.fromisoformat(timestamp) - _EPOCH) / timedelta(seconds=1)


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def state_of(pod: Pod, container: str) -> Mapping[str, Any]:
    """The state of a container; injected sidecars have other names than ours."""
    state: Mapping[str, Any] = _named(
        pod.get("status", {}).get("containerStatuses"), container
    ).get("state", {})
    return state


def _terminated(pod: Pod, container: str) -> Mapping[str, Any]:
    return state_of(pod, container).get("terminated") or {}


def _last(pod: Pod) -> Mapping[str, Any]:
    """The end of the container that ends last."""
    return _terminated(pod, STAGING if is_staged(pod) else CONTAINER)


def _container_spec(pod: Pod) -> Mapping[str, Any]:
    return _named(pod.get("spec", {}).get("containers"), CONTAINER)


def _named(items: list[Mapping[str, Any]] | None, name: str) -> Mapping[str, Any]:
    return next((item for item in items or () if item.get("name") == name), {})


def _condition(pod: Pod, kind: str) -> Mapping[str, Any]:
    conditions = pod.get("status", {}).get("conditions") or ()
    found: Mapping[str, Any] = next(
        (c for c in conditions if c.get("type") == kind and c.get("status") == "True"), {}
    )
    return found


def one_line(text: str, longest: int = 400) -> str:
    """One line that ends with a full stop, cut after `longest` characters."""
    line = " ".join(text.split())
    if len(line) > longest:
        return f"{line[: longest - 1]}…"
    return line if line.endswith((".", "!")) else f"{line}."


State = Literal["placed", "running", "waiting", "succeeded", "failed"]


@dataclass(frozen=True)
class Update:
    """News of one job, in the order it happened. "placed": a node has the pod.

    `message` is one sentence. `started` and `finished` are epoch seconds. `disruption` says that
    a failure was the infrastructure's, not the job's; `for_room` that a wait may be over as soon
    as another pod ends.
    """

    id: str
    attempt: int
    state: State
    pod: str
    cause: Cause | None = None
    message: str = ""
    exit_code: int | None = None
    result: str = ""
    node: str | None = None
    started: float | None = None
    finished: float | None = None
    disruption: bool = False
    for_room: bool = False

    @property
    def wall_seconds(self) -> float | None:
        """How long the job's container ran, to a second; None when it has not, or still does."""
        if self.started is None or self.finished is None:
            return None
        return max(0.0, self.finished - self.started)
