"""What is known of every job: fed by the watch and by the creators, read by everybody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from queue import SimpleQueue

from byok8s.batch.ends import Cause, End, Pod, Update, end_of, is_running, started_at
from byok8s.batch.pods import ID, RUN, PodRequest, pod_name
from byok8s.batch.strays import Strays, is_bundle
from byok8s.batch.waits import Limits, Wait, left_over, stuck_of, terminating, wait_of

# Limits of a known wait beside those of what is told later: a back-off says less than the error
# before it, the scheduler less than a look at the nodes
_SAYS_MORE = {
    ("image_absent", "image"),
    ("too_large", "unschedulable"),
    ("too_large", "no_node"),
}


@dataclass
class Job:
    """One attempt of one job. Times are monotonic seconds unless said otherwise."""

    request: PodRequest
    pod: str
    issued: float
    acknowledged: float | None = None  # when the API had the pod for certain
    killed: bool = False
    ended: bool = False
    expired: bool = False  # it was ended because it waited for too long
    running: bool = False
    started: float | None = None  # epoch seconds
    node: str | None = None
    placed: float | None = None  # when a node had the pod but its container did not run yet
    wait: Wait | None = None
    wait_began: float = 0.0


class Book:
    """Thread-safe. `changed` is notified whenever a pod ends or goes."""

    def __init__(self, run: str, limits: Limits, *, tell_placed: bool = False) -> None:
        self._run = run
        self._tell_placed = tell_placed
        self._limits = limits
        self._jobs: dict[str, Job] = {}  # by job id, the newest attempt
        self._pods: dict[str, Job] = {}  # by pod name, until the pod is gone
        self.strays = Strays()
        self._held: list[Job] = []  # until pods of an earlier leader are gone
        self._escaped: dict[str, Job] = {}  # pods that live on where the watch does not look
        self._live: set[str] = set()  # names of pods that exist and have not ended
        self._leftover: dict[str, tuple[bool, float]] = {}  # ended, still there: succeeded, when
        self.updates: SimpleQueue[Update | None] = SimpleQueue()  # None: no more are to come
        self.changed = threading.Condition(threading.RLock())
        self.on_room: Callable[[], None] = lambda: None
        self.on_free: Callable[[Job], None] = lambda job: None  # a held job may be made now

    # --- told by issue, kill and the creators

    def add(self, request: PodRequest) -> Job | None:
        """Enter a job; None when an earlier leader made its pod already.

        Raises ValueError when the id is that of a job that has not ended.
        """
        with self.changed:
            known = self._jobs.get(request.id)
            if known and not known.ended and not known.killed:
                raise ValueError(f"job '{request.id}' is already issued")
            job = Job(request, pod_name(self._run, request), time.monotonic())
            if job.pod in self._pods:
                raise ValueError(f"attempt {request.attempt} of '{request.id}' was issued before")
            self._jobs[request.id] = self._pods[job.pod] = job
            stray = self.strays.claim(job.pod, request)
            if stray is None:
                return job
            self.acknowledge(job)
            self._observe(job, stray, gone=False)
            return None

    def adopt(self, job_id: str) -> bool:
        """Enter a pod of an earlier leader as it is; False when there is none."""
        with self.changed:
            stray = self.strays.take(job_id)
            if stray is None:
                return False
            name = stray["metadata"]["name"]
            request = PodRequest(job_id, "", (), job=job_id, bundle=is_bundle(stray))
            job = Job(request, name, time.monotonic())
            self._jobs[job_id] = self._pods[name] = job
            self.acknowledge(job)
            self._observe(job, stray, gone=False)
            return True

    def acknowledge(self, job: Job) -> None:
        with self.changed:
            job.acknowledged = time.monotonic()
            if job.wait and job.wait.cause == Cause.CREATE_REFUSED:
                job.wait = None
            if self._pods.get(job.pod) is job and not job.ended:  # it may be over by now
                self._live.add(job.pod)

    def bundles(self, but: Collection[str]) -> set[str]:
        """Pods of an earlier leader that run several jobs, other than those with the ids `but`."""
        with self.changed:
            return self.strays.bundles(but)

    def in_the_way(self, job: Job) -> set[str]:
        """Pods of an earlier leader that have to go before the job's own is made."""
        with self.changed:
            return self.strays.in_the_way(job.request)

    def hold(self, job: Job) -> bool:
        """Keep a job until no such pod is left, then call `on_free`; False: none is left."""
        with self.changed:
            names = self.strays.in_the_way(job.request)
            if names:
                self._held.append(job)
                self._set_wait(job, left_over(min(names)), quiet=True)
            return bool(names)

    def kill(self, ids: Iterable[str]) -> list[Job]:
        """Mark jobs so that nothing is told of them any more; returns those that were live."""
        with self.changed:
            found = [self._jobs[i] for i in ids if i in self._jobs]
            live = [job for job in found if not job.ended and not job.killed]
            for job in live:
                job.killed = True
                job.wait = None
            return live

    def forget(self, job: Job) -> None:
        """The job's pod was never made, or is gone."""
        with self.changed:
            self._drop(job.pod)

    def fail(self, job: Job, cause: Cause, message: str) -> None:
        """End a job whose pod did not end by itself."""
        with self.changed:
            if not job.ended:
                self._finish(job, End(cause, message))

    def await_something(self, job: Job, wait: Wait | None) -> None:
        """Say what a job waits for, when that is news."""
        with self.changed:
            if not (job.ended or job.killed or job.running):
                self._set_wait(job, wait)

    # --- told by the watch

    def on_list(self, pods: list[Pod], asked: float) -> None:
        """Take in everything there is; who was there when it was asked for and is not now, went."""
        listed = {pod["metadata"]["name"] for pod in pods}
        with self.changed:
            for job in list(self._pods.values()):
                at = job.acknowledged
                unseen = job.pod not in listed and job.pod not in self._escaped
                if unseen and at is not None and at < asked:
                    self._observe(job, {"metadata": {"name": job.pod}}, gone=True)
            for name in self.strays.names() - listed:
                self._stray_gone(name)
        for pod in pods:
            self.on_event("MODIFIED", pod)

    def on_event(self, kind: str, pod: Pod) -> None:
        name = pod["metadata"]["name"]
        gone = kind == "DELETED"
        with self.changed:
            # a job of ours may wait for a pod of the same name to go
            job = None if self.strays.has(name) else self._pods.get(name)
            if job is not None and gone and self._lives_on(pod):
                self._escaped[name] = job
            elif job is not None:
                self._observe(job, pod, gone=gone)
            else:
                self.strays.put(pod)
                if gone:
                    self._stray_gone(name)

    def _lives_on(self, pod: Pod) -> bool:
        """Whether a pod has only lost our labels: for the watch, that is an end."""
        meta = pod["metadata"]
        return ID in meta.get("annotations", ()) and RUN not in meta.get("labels", ())

    def escaped(self) -> list[Job]:
        """Jobs whose pods live on unseen: they have to be deleted, and then are `gone`."""
        return list(self._escaped.values())

    def gone(self, job: Job) -> None:
        with self.changed:
            self._escaped.pop(job.pod, None)
            self._observe(job, {"metadata": {"name": job.pod}}, gone=True)

    def _observe(self, job: Job, pod: Pod, *, gone: bool) -> None:
        if not job.ended:
            job.node = pod.get("spec", {}).get("nodeName") or job.node
            end = end_of(pod, gone=gone)
            if end is not None:
                self._finish(job, end)
                self._leftover[job.pod] = (end.cause is None, time.monotonic())
            else:
                self._progress(job, pod)
        if gone:
            self._drop(job.pod)

    def _progress(self, job: Job, pod: Pod) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            # its end is told when the node confirms it; a node that is lost never does
            self._set_wait(job, terminating(job.node), quiet=True)
            return
        if stuck := stuck_of(pod):
            self._set_wait(job, stuck, quiet=True)
            return
        if is_running(pod):
            if not job.running:
                job.running, job.started, job.placed = True, started_at(pod), None
                self._set_wait(job, None)
                self._tell(job, "running")
            return
        if job.node and job.placed is None:
            job.placed = time.monotonic()
            if self._tell_placed:
                self._tell(job, "placed")
        wait = wait_of(pod)
        # trouble with volumes is known from events; it lasts until the container says more
        if wait is not None or not (job.wait and job.wait.cause == Cause.VOLUME):
            self._set_wait(job, wait)

    def _set_wait(self, job: Job, wait: Wait | None, *, quiet: bool = False) -> None:
        old, job.wait = job.wait, wait
        if wait is None:
            return
        if old is None or old.cause != wait.cause:
            job.wait_began = time.monotonic()
        elif wait.limit == old.limit or (old.limit, wait.limit) in _SAYS_MORE:
            job.wait = old
            return
        elif (wait.limit, old.limit) not in _SAYS_MORE:  # it waits for something else now
            job.wait_began = time.monotonic()
        if not quiet:
            self._tell(
                job, "waiting", cause=wait.cause, message=wait.message, for_room=wait.for_room
            )

    def _finish(self, job: Job, end: End) -> None:
        job.ended, job.running, job.wait, job.placed = True, False, None, None
        self._live.discard(job.pod)
        state = "succeeded" if end.cause is None else "failed"
        self._tell(job, state, end)
        self._room()

    def _tell(
        self,
        job: Job,
        state: str,
        end: End | None = None,
        *,
        cause: Cause | None = None,
        message: str = "",
        for_room: bool = False,
    ) -> None:
        if job.killed:
            return
        end = end or End(cause, message, started=job.started)
        self.updates.put(
            Update(
                id=job.request.id,
                attempt=job.request.attempt,
                state=state,  # type: ignore[arg-type]
                pod=job.pod,
                cause=end.cause,
                message=end.message,
                exit_code=end.exit_code,
                result=end.result,
                node=job.node,
                started=end.started or job.started,
                finished=end.finished,
                disruption=end.disruption,
                for_room=for_room,
            )
        )

    def _drop(self, name: str) -> None:
        job = self._pods.pop(name, None)
        self._leftover.pop(name, None)
        self._live.discard(name)
        if job and job.killed:
            job.ended = True
        self._room()

    def _stray_gone(self, name: str) -> None:
        self.strays.gone(name)
        free = [job for job in self._held if not self.strays.in_the_way(job.request)]
        for job in free:
            self._held.remove(job)
            job.wait = None
            if not job.ended:
                self.on_free(job)
        self.changed.notify_all()

    def _room(self) -> None:
        self.changed.notify_all()
        self.on_room()

    # --- asked by everybody

    def issued(self) -> list[str]:
        with self.changed:
            return [i for i, job in self._jobs.items() if not job.ended and not job.killed]

    def running(self, now: float) -> dict[str, float]:
        """Seconds that each running job has been running; `now` is by the cluster's clock."""
        with self.changed:
            return {
                i: max(0.0, now - (job.started or now))
                for i, job in self._jobs.items()
                if job.running and not job.killed
            }

    def find(self, job_id: str) -> Job | None:
        with self.changed:
            return self._jobs.get(job_id)

    def live_pods(self) -> int:
        with self.changed:
            return len(self._live)

    def exists(self, job: Job) -> bool:
        with self.changed:
            return self._pods.get(job.pod) is job

    def wait_until_done(self, until: float) -> None:
        """Wait until every pod has ended or is gone, or the monotonic time `until`."""
        time.sleep(max(0.0, min(0.2, until - time.monotonic())))
        with self.changed:
            self.changed.wait_for(
                lambda: not (self._live or self.strays.names()),
                max(0.0, until - time.monotonic()),
            )

    def claimable(self, request: PodRequest) -> bool:
        """Whether a pod of an earlier leader has done the job already."""
        with self.changed:
            return self.strays.ended(pod_name(self._run, request))

    def spoil(self, request: PodRequest) -> None:
        """What that pod has made is no longer there."""
        with self.changed:
            self.strays.spoil(pod_name(self._run, request))

    def have_ended(self, names: set[str]) -> bool:
        with self.changed:
            return all(name in self._pods and self._pods[name].ended for name in names)

    def leftover(self, succeeded: bool, age: float = 0.0) -> int:
        """How many ended pods are still there, `age` seconds or more after their end was read."""
        before = time.monotonic() - age
        with self.changed:
            return sum(1 for ok, at in self._leftover.values() if ok == succeeded and at <= before)

    def waiting(self) -> list[Job]:
        with self.changed:
            return [job for job in self._pods.values() if job.wait or job.placed]

    def waits(self) -> dict[str, str]:
        """What each job that waits is known to wait for."""
        with self.changed:
            return {i: job.wait.message for i, job in self._jobs.items() if job.wait}

    def is_overdue(self, job: Job) -> bool:
        """Whether a job has waited longer than the limit of what it waits for."""
        with self.changed:
            return self._is_over(job, time.monotonic())

    def expire(self, spared: Collection[str] = ()) -> list[Job]:
        """End the jobs that have waited longer than the limit of what they wait for.

        `spared` are limits that do not hold now.
        """
        now = time.monotonic()
        with self.changed:
            found = [
                (job, job.wait)
                for job in self._pods.values()
                if job.wait and job.wait.limit not in spared and self._is_over(job, now)
            ]
            for job, wait in found:
                end = End(wait.cause, wait.message, disruption=wait.cause == Cause.NODE_LOST)
                job.expired = True
                self._finish(job, wait.end or end)
        return [job for job, _ in found]

    def _is_over(self, job: Job, now: float) -> bool:
        limit = getattr(self._limits, job.wait.limit) if job.wait else None
        return limit is not None and now - job.wait_began >= limit
