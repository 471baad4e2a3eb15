"""The run's housekeeping: finished pods, limits of waiting, pods that are slow to start."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from byok8s.batch.book import Book, Job
from byok8s.batch.client import ApiError, KubeClient
from byok8s.batch.create import PROBE_SECONDS, Creators
from byok8s.batch.ends import Cause, one_line
from byok8s.batch.nodes import Nodes
from byok8s.batch.pods import RunIdentity
from byok8s.batch.waits import Wait
from byok8s.batch.watch import PodWatch

TICK_SECONDS = 1.0
COLLECT_SECONDS = 10.0
# A pod that succeeded stays until a leader had the time to write down what it made: if that one
# is killed before, the next one finds the pod
SUCCEEDED_STAY_SECONDS = 8.0
FAILED_STAY_SECONDS = 60.0  # a failed pod's log can be read for as long
SLOW_SECONDS = 10.0  # a container that takes longer to start is looked into
LOOK_AGAIN_SECONDS = 30.0
SIZE_UP_SECONDS = 5.0  # thousands may wait for room
_log = logging.getLogger(__name__)


class Steward:
    """Looks after one run from a thread of its own, one tick a second."""

    def __init__(
        self,
        client: KubeClient,
        run: RunIdentity,
        book: Book,
        watch: PodWatch,
        creators: Creators,
        *,
        nodes: Nodes,
    ) -> None:
        self._client = client
        self._run = run
        self._book = book
        self._watch = watch
        self._creators = creators
        self._nodes = nodes
        self._pods = f"/api/v1/namespaces/{client.namespace}/pods"
        self._versions: deque[tuple[float, str]] = deque()  # what was delivered by when
        self._due: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="byok8s-steward", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _loop(self) -> None:
        steps = (
            self._remember_version,
            self._probe_quota,
            self._end_escaped,
            self._size_up,
            self._give_up,
            self._look_into_slow_starts,
            self._collect,
        )
        while not self._stop.wait(TICK_SECONDS):
            for step in steps:
                try:
                    step()
                except Exception as error:  # it is tried again; a thread that dies tells nobody
                    _log.debug("%s: %s", step.__name__.strip("_"), error)

    def _remember_version(self) -> None:
        now = time.monotonic()
        self._versions.append((now, self._watch.version))
        while len(self._versions) > 1 and self._versions[1][0] <= now - FAILED_STAY_SECONDS:
            self._versions.popleft()

    def _probe_quota(self) -> None:
        if self._is_due("probe", PROBE_SECONDS):
            self._creators.unpark()

    def _end_escaped(self) -> None:
        """A pod that nobody watches must not run beside the next try of its job."""
        for job in self._book.escaped():
            self._creators.delete(job, body={"gracePeriodSeconds": 0})
            self._book.gone(job)

    def _is_due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._due.get(what, 0.0) < seconds:
            return False
        self._due[what] = now
        return True

    def _collect(self) -> None:
        """Delete ended pods, none before its end was read.

        The collection is chosen as of a resourceVersion that our watch has passed, so that a pod
        which ends at this moment is not part of it, and as of a while ago.
        """
        if not self._is_due("collect", COLLECT_SECONDS):
            return
        for phase, stay in (("Succeeded", SUCCEEDED_STAY_SECONDS), ("Failed", FAILED_STAY_SECONDS)):
            version = self._version_of(stay)
            if version and self._book.leftover(phase == "Succeeded", stay):
                self._delete_ended(phase, version)

    def _version_of(self, age: float) -> str | None:
        """What our watch had delivered `age` seconds ago; None when that is not known."""
        before = time.monotonic() - age
        return next((version for at, version in reversed(self._versions) if at <= before), None)

    def _delete_ended(self, phase: str, version: str) -> None:
        try:
            self._client.call(
                "DELETE",
                self._pods,
                query={
                    "labelSelector": self._run.selector,
                    "fieldSelector": f"status.phase={phase}",
                    "resourceVersion": version,
                    "resourceVersionMatch": "Exact",
                },
                # without a body the query is read as DeleteOptions, and the resourceVersion as
                # a precondition that no pod meets
                body={"apiVersion": "v1", "kind": "DeleteOptions"},
            )
        except ApiError as error:
            if error.status != 410:  # the version was compacted away: the next one will do
                raise

    def _size_up(self) -> None:
        """Say of unschedulable jobs whether any node could ever have them."""
        if not self._is_due("sizes", SIZE_UP_SECONDS):
            return
        of_nodes = ("unschedulable", "no_node")
        jobs = [j for j in self._book.waiting() if j.wait and j.wait.limit in of_nodes]
        for job in jobs:
            lack = self._nodes.never_fits(job.request)
            if lack:
                self._book.await_something(job, Wait(Cause.UNSCHEDULABLE, lack, "too_large"))

    def _give_up(self) -> None:
        if not self._watch.connected:  # what we know may be old
            return
        # a node that takes the pod may be on its way
        spared = {"no_node"} if self._nodes.can_grow else set()
        for job in self._book.expire(spared):
            if job.acknowledged:
                self._creators.delete(job)

    def _look_into_slow_starts(self) -> None:
        """Where containers take long to start, ask the events why; one call for all of them."""
        now = time.monotonic()
        slow = {
            job.pod: job
            for job in self._book.waiting()
            if job.placed is not None and now - job.placed > SLOW_SECONDS and not job.wait
        }
        if not slow or not self._is_due("events", LOOK_AGAIN_SECONDS):
            return
        answer = self._client.call(
            "GET",
            f"/api/v1/namespaces/{self._client.namespace}/events",
            query={"fieldSelector": _TELLING, "limit": 500},
            patience=0.0,
        )
        for event in answer.get("items") or ():
            job = slow.get(event.get("involvedObject", {}).get("name", ""))
            wait = job and _from_event(event, job)
            if job and wait:
                self._book.await_something(job, wait)


# Warnings about pods save those that a pod's status tells as well
_TELLING = (
    "involvedObject.kind=Pod,type=Warning,reason!=FailedScheduling,reason!=Failed,reason!=BackOff"
)


def _from_event(event: Mapping[str, Any], job: Job) -> Wait | None:
    said = one_line(event.get("message", ""))
    if event.get("reason") in ("FailedMount", "FailedAttachVolume"):
        message = "A volume of the pod cannot be mounted; correct what is named, or make it there: "
        return Wait(Cause.VOLUME, message + said, "volume")
    if event.get("reason") == "FailedCreatePodSandBox":
        message = (
            f"The node {job.node} cannot set the pod up; if that stays, have its network and its "
            f"container runtime looked at: {said}"
        )
        return Wait(Cause.VOLUME, message, "volume")
    return None
