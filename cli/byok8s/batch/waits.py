"""Reads what a pod that does not run yet is waiting for, and how long that may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from byok8s.batch.ends import (
    NOT_STARTED,
    Cause,
    End,
    Pod,
    is_staged,
    one_line,
    outcome,
    state_of,
)
from byok8s.batch.pods import CONTAINER, STAGING

_PULL = ("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
# What registries say of an image that will not appear by waiting
_ABSENT = re.compile(
    r"not found|manifest unknown|does not exist|access denied|unauthorized|forbidden|"
    r"no such host|name unknown",
    re.IGNORECASE,
)

# What the scheduler says of nodes that will not take a pod when others end either; labels and
# volumes may change, but nobody does that by itself. Taints of Kubernetes itself pass.
_MISFIT = re.compile(
    r"didn't match|didn't satisfy|volume node affinity conflict|persistentvolumeclaim .*not found|"
    r"untolerated taint\(?s?\)? \{(?!node\.kubernetes\.io/)"
)


@dataclass(frozen=True)
class Limits:
    """How long, in seconds, a job may wait for each thing before it fails; None: for ever."""

    invalid: float | None = 0.0  # an image name that can never be right
    image: float | None = 600.0
    image_absent: float | None = 30.0  # the registry says that there is no such image
    config: float | None = 60.0
    volume: float | None = 300.0
    unschedulable: float | None = None  # a busy cluster is no failure
    no_node: float | None = 600.0  # none may take it, however idle, and none can be added
    too_large: float | None = 60.0  # larger than any node, where no node can be added
    staging: float | None = 120.0  # one of a pod's two containers, after the other one failed
    terminating: float | None = 120.0  # a deleted pod whose node does not confirm its end
    queue: float | None = None  # Kueue or a ResourceQuota holds it back
    api: float | None = 600.0  # the API server does not answer, or fails, when it is to be made


@dataclass(frozen=True)
class Wait:
    """What a pod waits for: one sentence with the fix, and which field of `Limits` holds.

    `end` is how the job ends when that limit is over, where more is known of it.
    """

    cause: Cause
    message: str
    limit: str
    end: End | None = None

    @property
    def for_room(self) -> bool:
        """Whether it may be over as soon as another pod ends."""
        return self.limit == "unschedulable"


def wait_of(pod: Pod) -> Wait | None:
    """What a pending pod is known to wait for; None when nothing is known to be wrong."""
    status = pod.get("status", {})
    if status.get("phase") not in (None, "Pending"):
        return None
    statuses = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    for container in statuses:
        waiting = container.get("state", {}).get("waiting")
        found = waiting and _of_container(container, waiting)
        if found:
            return found
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _unscheduled(condition)
    return None


def stuck_of(pod: Pod) -> Wait | None:
    """For a pod of two containers: one has failed, and the other may wait for it for ever.

    As a rule the other one ends soon, after it has kept the log; but who is killed tells nobody.
    """
    if not is_staged(pod):
        return None
    job, staging = (state_of(pod, name).get("terminated") for name in (CONTAINER, STAGING))
    if job and not staging and job.get("exitCode"):
        limit = "invalid" if job.get("reason") in NOT_STARTED else "staging"
    elif staging and not job and staging.get("exitCode"):
        limit = "staging"
    else:
        return None
    end = outcome(pod)
    return Wait(end.cause or Cause.UNKNOWN, end.message, limit, end)


def _of_container(container: Mapping[str, Any], waiting: Mapping[str, Any]) -> Wait | None:
    reason, said = waiting.get("reason", ""), one_line(waiting.get("message", ""))
    image = container.get("image", "?")
    if reason == "InvalidImageName":
        return Wait(
            Cause.INVALID_IMAGE,
            f"'{image}' is not a valid image name; correct it (--image, or the rule's container).",
            "invalid",
        )
    if reason == "ErrImageNeverPull":
        return Wait(
            Cause.IMAGE_PULL,
            f"The image '{image}' is not on the node and may not be pulled; load it into the "
            "cluster first.",
            "invalid",
        )
    if reason in _PULL:
        # "localhost/" is how images are named that no registry has
        absent = image.startswith("localhost/") or _ABSENT.search(said)
        return Wait(
            Cause.IMAGE_PULL,
            f"The image '{image}' cannot be pulled; check its name and the registry's "
            f"credentials: {said}",
            "image_absent" if absent else "image",
        )
    if reason in _CONFIG:
        return Wait(
            Cause.CONFIG_ERROR,
            f"The container cannot be made ({reason}); correct what it names: {said}",
            "config",
        )
    return None


def _unscheduled(condition: Mapping[str, Any]) -> Wait:
    # what follows is about preemption, and helps nobody
    said = one_line(re.split(r" no new claims| preemption:", condition.get("message", ""))[0])
    if condition.get("reason") == "SchedulingGated":
        return Wait(
            Cause.UNSCHEDULABLE,
            "The pod waits for its queue to admit it; kubectl describe localqueues shows what the "
            f"queue has left: {said}",
            "queue",
        )
    reasons = [part for part in _reasons(said) if not re.fullmatch(r"\W*", part)]
    if reasons and all(map(_MISFIT.search, reasons)):
        return Wait(
            Cause.UNSCHEDULABLE,
            "No node may take the pod, however idle it is; correct the node selector, the "
            f"toleration or the volume, or add such a node: {said}",
            "no_node",
        )
    return Wait(
        Cause.UNSCHEDULABLE,
        "No node has room for the pod now; it starts when others end, or sooner if it asks for "
        f"less: {said}",
        "unschedulable",
    )


def _reasons(said: str) -> list[str]:
    """Why each group of nodes does not take a pod, from the scheduler's sentence."""
    return said.partition(" nodes are available: ")[2].rstrip(". ").split(", ")


def terminating(node: str | None) -> Wait:
    """The wait for the end of a pod that was deleted."""
    return Wait(
        Cause.NODE_LOST,
        f"The pod was deleted, but its node {node or '?'} does not confirm that it ended; "
        "if the node is lost, have it mended or removed (kubectl delete node).",
        "terminating",
    )


def left_over(pod: str) -> Wait:
    """The wait of a job for the end of a pod that an earlier leader has left."""
    return Wait(
        Cause.NODE_LOST,
        f"The pod {pod} of an earlier leader was deleted, but its node does not confirm that it "
        "ended; if the node is lost, have it mended or removed (kubectl delete node).",
        "terminating",
    )


def remaining(pod: Pod) -> str:
    """The name of a pod that could not be removed yet, and what it hangs on, if that is known."""
    name = f"pod/{pod['metadata']['name']}"
    if "deletionTimestamp" not in pod["metadata"]:
        return name
    if finalizers := pod["metadata"].get("finalizers"):
        return f"{name} (deleted; held by the finalizer {', '.join(finalizers)})"
    return f"{name} (deleted; its node {pod['spec'].get('nodeName', '?')} has not confirmed it)"
