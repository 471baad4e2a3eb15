"""Creates pods: a few threads, a rate limit, and patience where a quota is full."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

from byok8s.batch.book import Book, Job
from byok8s.batch.client import ApiError, KubeClient, peace_after
from byok8s.batch.ends import Cause, End
from byok8s.batch.nodes import quantity
from byok8s.batch.pace import TokenBucket
from byok8s.batch.pods import ID, PodRequest
from byok8s.batch.waits import Wait
from byok8s.exceptions import Byok8sError

PATIENCE_SECONDS = 10.0  # of one try; then it is told, and tried again until the limit "api"
DELETE_SECONDS = 600.0  # for deleting what is in a job's way
PROBE_SECONDS = 3.0
RETRY_SECONDS = 0.5
_REFUSED = "The API server refused the pod"


class Creators:
    """Turns jobs into pods. `build` makes a job's manifest.

    `never_fits` says of a request why no node can ever have it, None when one may.
    """

    def __init__(
        self,
        client: KubeClient,
        book: Book,
        build: Callable[[Job], dict[str, Any]],
        *,
        bucket: TokenBucket,
        threads: int,
        max_pods: int,
        never_fits: Callable[[PodRequest], str | None] = lambda _: None,
    ) -> None:
        self._client = client
        self._book = book
        self._build = build
        self._bucket = bucket
        self._max_pods = max_pods
        self._never_fits = never_fits
        self._path = f"/api/v1/namespaces/{client.namespace}/pods"
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._parked: deque[Job] = deque()  # a ResourceQuota is full
        self._under_way = 0  # creations, which the book does not count as live yet
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"byok8s-create-{i}", daemon=True)
            for i in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def put(self, job: Job) -> None:
        if self._parked:  # no use asking for more while the quota is full
            self._parked.append(job)
        else:
            self._queue.put(job)

    def unpark(self) -> None:
        """Try one job again that a quota held back: when a pod ended, and now and then."""
        with contextlib.suppress(IndexError):
            self._queue.put(self._parked.popleft())

    def stop(self, timeout: float) -> None:
        """No creation begins after this; waits at most `timeout` seconds for those under way."""
        self._stop.set()
        for _ in self._threads:
            self._queue.put(None)
        with self._book.changed:
            self._book.changed.notify_all()
        until = time.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                if not self._turn(job):
                    return
            except Exception as error:  # a thread that dies tells nobody, and its job hangs
                self._book.fail(job, Cause.CREATE_REFUSED, f"The pod cannot be made: {error!r}")
                self._book.forget(job)

    def _turn(self, job: Job) -> bool:
        """Have a job's pod made, or the job failed; False: stopped."""
        if not job.killed and (lack := self._never_fits(job.request)):
            self._book.fail(job, Cause.UNSCHEDULABLE, lack)
            self._book.forget(job)
            return True
        with self._place():
            if not (job.killed or self._bucket.take(self._stop)):
                return False
            self._settle(job)
        return True

    def _settle(self, job: Job) -> None:
        if job.killed or job.ended:
            self._book.forget(job)
            return
        try:
            if self._make_way(job):
                return
            self._create(job)
        except Byok8sError as error:
            self._refused(job, error)
        else:
            self._made(job)

    def _make_way(self, job: Job) -> bool:
        """Delete pods of an earlier leader that would write the same files as this job.

        True: some are left, and the job comes back to the queue when they are gone.
        """
        for name in self._book.in_the_way(job):
            self.delete_pod(name, DELETE_SECONDS)
        return self._book.hold(job)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """A place among the live pods: waited for, and held until the book counts the pod."""
        with self._book.changed:
            self._book.changed.wait_for(
                lambda: (
                    self._stop.is_set() or self._book.live_pods() + self._under_way < self._max_pods
                )
            )
            self._under_way += 1
        try:
            yield
        finally:
            with self._book.changed:
                self._under_way -= 1
                self._book.changed.notify_all()

    def _create(self, job: Job) -> None:
        body = self._build(job)
        try:
            self._client.call(
                "POST", self._path, body=body, patience=PATIENCE_SECONDS, stop=self._stop
            )
        except ApiError as error:
            if error.reason == "AlreadyExists" and self._is_ours(job, body):
                return  # the answer to an earlier try was lost
            raise

    def _is_ours(self, job: Job, body: dict[str, Any]) -> bool:
        found = self._client.call("GET", f"{self._path}/{job.pod}", stop=self._stop)["metadata"]
        wanted = body["metadata"]
        owners = {owner.get("uid") for owner in found.get("ownerReferences") or ()}
        return (
            wanted["ownerReferences"][0]["uid"] in owners
            and found.get("annotations", {}).get(ID) == job.request.id
        )

    def _made(self, job: Job) -> None:
        self._book.acknowledge(job)
        if job.killed or job.expired:  # while it was being made
            self.delete(job)
        self.unpark()

    def _refused(self, job: Job, error: Byok8sError) -> None:
        if self._stop.is_set():
            return
        if self._passes(job, error):
            self._stop.wait(max(RETRY_SECONDS, peace_after(error)))
            self._queue.put(job)
        elif isinstance(error, ApiError) and quota_is_full(error.message):
            self._parked.append(job)
            where = f"The namespace '{self._client.namespace}'"
            fix = "it is made when others end, or when the quota is raised"
            message = f"{where} has no quota left for the pod now; {fix}: {error}"
            self._book.await_something(job, Wait(Cause.CREATE_REFUSED, message, "queue"))
        else:
            self._book.fail(job, Cause.CREATE_REFUSED, f"{_REFUSED}: {error}")
            self._book.forget(job)

    def _passes(self, job: Job, error: Byok8sError) -> bool:
        """Whether nothing was wrong with the pod itself, and it may be made a little later."""
        if isinstance(error, ApiError) and error.reason == "Conflict":
            return True  # two creations met at a ResourceQuota's status; nothing was made
        # an ApiError, or a login that cannot be renewed just now
        if isinstance(error, ApiError) and not (error.passing or error.status == 401):
            return False
        message = f"The pod cannot be made now, and is tried again (--wait-limit api=TIME): {error}"
        end = End(Cause.CREATE_REFUSED, f"{_REFUSED}: {error}")
        self._book.await_something(job, Wait(Cause.CREATE_REFUSED, message, "api", end))
        return not self._book.is_overdue(job)

    def delete(self, job: Job, **options: Any) -> None:
        """Delete a job's pod; see `delete_pod`."""
        self.delete_pod(job.pod, **options)

    def delete_pod(self, name: str, patience: float = 30.0, **options: Any) -> None:
        """Delete a pod by its name; one that is gone already is no error. Raises ApiError.

        `options` are those of the client's call.
        """
        try:
            self._client.call("DELETE", f"{self._path}/{name}", patience=patience, **options)
        except ApiError as error:
            if error.status != 404:
                raise


def quota_is_full(message: str) -> bool:
    """Whether a refusal is a ResourceQuota that has room again once other pods end."""
    found = re.search(r"exceeded quota: .*?requested: (.*), used: (.*), limited: (.*)$", message)
    if not found:
        return False
    requested, _, limited = (_quantities(part) for part in found.groups())
    return all(amount <= limited.get(name, amount) for name, amount in requested.items())


def _quantities(text: str) -> dict[str, float]:
    pairs = (part.partition("=") for part in text.split(","))
    return {name.strip(): quantity(value) for name, _, value in pairs}
