"""A Kubernetes batch system that knows no Snakemake."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import Empty
from typing import Any, Self

from byok8s.batch.book import Book, Job
from byok8s.batch.client import ApiError, KubeClient, Stream
from byok8s.batch.create import Creators
from byok8s.batch.ends import Update
from byok8s.batch.lease import Lease
from byok8s.batch.lists import list_all
from byok8s.batch.nodes import NeverFits, Nodes
from byok8s.batch.pace import TokenBucket
from byok8s.batch.pods import (
    SECRET_MOUNT,
    PodRequest,
    RunIdentity,
    log_container,
    manifest,
    problem_of,
)
from byok8s.batch.record import RunRecord, SecretFiles
from byok8s.batch.steward import Steward
from byok8s.batch.strays import bundles_remain
from byok8s.batch.waits import Limits, remaining
from byok8s.batch.watch import PodWatch
from byok8s.exceptions import Byok8sError, ClusterError

LOOK_AGAIN_SECONDS = 2.0
DELETE_SECONDS = 5.0
BUNDLES_SECONDS = 60.0  # how long the bundles of an earlier leader may take to end


class BatchSystem:
    """Runs jobs as bare pods, all told of by one watch.

    `secret_files` become a Secret that every pod sees read-only at `secret_mount`. `rate` pods a
    second are created (0: no limit), `burst` at once, and at most `max_pods` live at a time.
    `limits` says how long a job may wait for what; `grace_seconds` is what a job has between
    SIGTERM and SIGKILL. Every `reconcile_seconds` the watch is checked against a list. `lease`
    makes this process the run's leader; one that is not held yet is acquired by `start`.
    `tell_placed`: updates also tell when a node has a pod, for who follows its log.
    """

    def __init__(
        self,
        client: KubeClient,
        run: RunIdentity,
        *,
        secret_files: SecretFiles | None = None,
        secret_mount: str = SECRET_MOUNT,
        image_pull_policy: str = "IfNotPresent",
        rate: float = 20.0,
        burst: int = 20,
        threads: int = 12,
        max_pods: int = 3000,
        limits: Limits | None = None,
        grace_seconds: int = 5,
        reconcile_seconds: float = 300.0,
        lease: Lease | None = None,
        tell_placed: bool = False,
    ) -> None:
        self._client = client
        self._run = run
        self._secret_files = dict(secret_files or {})
        self._secret_mount = secret_mount
        self._pull_policy = image_pull_policy
        self._grace = grace_seconds
        self._pods = f"/api/v1/namespaces/{client.namespace}/pods"
        self._lease = lease or Lease(client, run)
        self._over = ""  # by whom, in a sentence; for those who bring no lease
        if lease is None:
            self._lease.on_lost = self._on_lost
            self._lease.on_cancel = self._on_cancel
        self._record = RunRecord(client, run, self._lease)
        self._book = Book(run.name, limits or Limits(), tell_placed=tell_placed)
        self._watch = PodWatch(
            client,
            run.selector,
            self._book.on_list,
            self._book.on_event,
            reconcile=reconcile_seconds,
        )
        self._env: dict[str, str] = {}
        self._nodes = Nodes(client)
        self._creators = Creators(
            client,
            self._book,
            self._build,
            never_fits=self._nodes.never_fits,
            bucket=TokenBucket(rate, burst),
            threads=threads,
            max_pods=max_pods,
        )
        self._steward = Steward(
            client, run, self._book, self._watch, self._creators, nodes=self._nodes
        )
        self._book.on_room = self._creators.unpark
        self._book.on_free = self._creators.put

    def start(self, adopting: Collection[str] = ()) -> None:
        """Make the run's ConfigMap and Secret and begin to watch.

        Takes over what a dead leader of the same run has left: `issue` adopts pods that do what
        it asks for and replaces others. Of pods that run several jobs those with the ids
        `adopting` wait for `adopt`; the others are deleted here. Raises RunIsLed when the run's
        leader lives, ClusterError when a pod that was deleted does not end, and ApiError.
        """
        # the first pod is compared with the nodes; by then the answer is there
        threading.Thread(target=self._nodes.refresh, name="byok8s-nodes", daemon=True).start()
        self._record.create(self._secret_files)
        self._book.strays.owner = self._lease.uid
        self._watch.start()
        self._delete_bundles(adopting)
        self._creators.start()
        self._steward.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.shutdown()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def issue(self, request: PodRequest, still_there: Callable[[], bool] | None = None) -> None:
        """Have a job run; returns at once, what becomes of it comes as updates.

        An attempt is issued once: one more try of a job has a new `attempt`. What no node can ever
        have, fails without a pod. Where a pod of an earlier leader has done the job already,
        `still_there` is asked whether what it has made still is. Raises ValueError when the job
        has not ended, the attempt's pod is still there, or the request can be of no pod.
        """
        if self._env:
            request = replace(request, env={**self._env, **request.env})
        if problem := problem_of(request):
            raise ValueError(f"job '{request.id}': {problem}")
        if still_there and self._book.claimable(request) and not still_there():
            self._book.spoil(request)
        job = self._book.add(request)
        if job is not None:
            self._creators.put(job)

    def set_env(self, name: str, value: str | None) -> None:
        """Set a variable for all jobs issued from now on, or with None no longer set it.

        A job's own `env` comes before it.
        """
        changed = {**self._env, name: value}
        self._env = {name: text for name, text in changed.items() if text is not None}

    def check(self, request: PodRequest) -> None:
        """Raise NeverFits when no node can ever have such a job, nor one that may be added.

        `issue` looks as well, and then the job fails without a pod.
        """
        if lack := self._nodes.never_fits(request):
            raise NeverFits(lack)

    def adopt(self, job_id: str) -> bool:
        """Take over a pod that an earlier leader has left, as it is, whatever it does.

        What becomes of it comes as updates. False when there is none.
        """
        return self._book.adopt(job_id)

    def updates(self, timeout: float | None = None) -> Update | None:
        """The next news, waiting for it `timeout` seconds (None: as long as it takes).

        After `shutdown`, `leave` and `abandon` it does not wait. Raises ClusterError when another
        process has taken the run over, as it may when this one gave no sign of life for long, and
        when somebody cancels the run (`byok8s cancel`): then it is to be shut down.
        """
        try:
            news = self._book.updates.get(timeout=None if timeout is None else max(0.0, timeout))
        except Empty:
            return None
        if news is None:
            self._book.updates.put(None)  # for whoever asks next
            if self._over:
                raise ClusterError(self._over)
        return news

    def issued(self) -> list[str]:
        """The ids of all jobs that have neither ended nor been killed."""
        return self._book.issued()

    def running(self) -> dict[str, float]:
        """For each job whose container runs, for how many seconds it has."""
        return self._book.running(self._client.server_time())

    def waiting(self) -> dict[str, str]:
        """For each job that is known to wait for something, what for, in a sentence."""
        return self._book.waits()

    def status_message(self) -> str | None:
        """What jobs wait for, the most frequent of it, in a sentence or two; None: for nothing."""
        waits = self._book.waits()
        if not waits:
            return None
        message, count = Counter(waits.values()).most_common(1)[0]
        few = f", {count} of them for this" if count < len(waits) else ""
        return f"Jobs that wait: {len(waits)} of {len(self.issued())}{few}. {message}"

    def kill(self, ids: Iterable[str], deadline: float = 30.0) -> list[str]:
        """Delete the pods of jobs, of which no update comes any more.

        Waits at most `deadline` seconds until they are gone and returns the names of the pods
        that are still terminating. An unknown id is no error.
        """
        until = time.monotonic() + deadline
        jobs = self._book.kill(ids)
        made = [job for job in jobs if job.acknowledged is not None]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda job: self._delete(job, until), made))
        with self._book.changed:
            self._book.changed.wait_for(
                lambda: not any(map(self._book.exists, made)), until - time.monotonic()
            )
        return [job.pod for job in made if self._book.exists(job)]

    def delete(self, job_id: str) -> None:
        """Delete a job's pod; that it ended comes as an update."""
        job = self._book.find(job_id)
        if job is not None and job.acknowledged is not None:
            self._delete(job, time.monotonic() + DELETE_SECONDS)

    def places(self, request: PodRequest) -> int | None:
        """How many such pods the cluster's nodes could hold; None: unknown, or it can grow."""
        self._nodes.refresh()
        return self._nodes.places(request)

    def least_cpu(self, request: PodRequest) -> float:
        """The least CPU it can ask for without any node having room for more such pods."""
        self._nodes.refresh()
        return self._nodes.least_cpu(request)

    def logs(self, job_id: str, tail_lines: int | None = None) -> str:
        """What the job's container wrote; "" when it has not started or is gone."""
        job = self._book.find(job_id)
        if job is None:
            return ""
        query: dict[str, Any] = {"container": log_container(job.request)}
        if tail_lines is not None:
            query["tailLines"] = tail_lines
        try:
            return self._client.text(f"{self._pods}/{job.pod}/log", **query)
        except ApiError as error:
            if error.status in (400, 404):
                return ""
            raise

    def most_memory_mb(self) -> int | None:
        """What one pod can get on the largest node, in MB; None when that cannot be known."""
        return self._nodes.most_memory_mb()

    def follow(self, job_id: str, silence: float = 60.0) -> Stream:
        """The lines that the job's container writes, from its first, as they come.

        Ends when the container does. Raises ApiError: 400 when it has not started yet, 404 when
        there is no such pod, and from the lines when nothing came for `silence` seconds.
        """
        job = self._book.find(job_id)
        if job is None:
            raise ApiError(404, "NotFound", f"There is no job '{job_id}'.")
        path = f"{self._pods}/{job.pod}/log"
        container = log_container(job.request)
        return self._client.stream(path, silence=silence, container=container, follow="true")

    def refresh_secret(self, files: SecretFiles) -> None:
        """Replace the Secret's files; running pods see them within about a minute."""
        self._record.put_secret(files)

    def leave(self) -> None:
        """Stop, and leave the run and its pods to a later leader; raises Byok8sError."""
        self._stop_threads(2.0)
        self._watch.stop()
        self._lease.release()

    def abandon(self) -> None:
        """Stop at once and touch nothing: the run is another leader's now."""
        self._stop_threads(0.0)
        self._watch.stop()
        self._lease.end()

    def _stop_threads(self, timeout: float) -> None:
        self._book.updates.put(None)
        self._steward.stop()
        self._creators.stop(timeout)

    def _on_lost(self, sentence: str) -> None:
        self._over = sentence
        self.abandon()

    def _on_cancel(self, who: str) -> None:
        self._over = f"{who} cancels the run."
        self._book.updates.put(None)

    def _delete_bundles(self, but: Collection[str]) -> None:
        """What the jobs of a bundle do, which nobody knows, must not be done twice at a time."""
        for name in self._book.bundles(but):
            self._creators.delete_pod(name)
        with self._book.changed:
            self._book.changed.wait_for(lambda: not self._book.bundles(but), BUNDLES_SECONDS)
            left = self._book.bundles(but)
        if left:
            raise bundles_remain(left)

    def shutdown(
        self, *, keep_record: bool = False, deadline: float = 10.0, idle: bool = False
    ) -> list[str]:
        """Delete the run's pods, its Secret and, unless `keep_record`, its ConfigMap.

        Takes at most about `deadline` seconds; returns the names of what remains. `idle`: no pod
        has work any more, and none needs time to end. A run that `start` did not get is not
        touched: it is another leader's.
        """
        until = time.monotonic() + deadline
        self._stop_threads(min(2.0, deadline / 4))
        if self._lease.taken:
            self.abandon()
            return []
        if not self._lease.uid:
            return []
        query = {"labelSelector": self._run.selector}
        if idle:  # else the cluster's garbage collector deletes each of them, too, at the same time
            with contextlib.suppress(Byok8sError):
                self._delete_now(query, 0, until)
        # Then the ConfigMap: the cluster removes what is left even if we are killed here
        remaining = self._record.delete(keep_config_map=keep_record, patience=deadline / 4)
        remaining += self._delete_all(query, until, idle)
        self._watch.stop()
        return remaining

    def _delete_all(self, query: dict[str, str], until: float, idle: bool) -> list[str]:
        """Delete every pod of the run; returns those that are left at `until`."""
        left = ["pods of the run (the API server could not be asked)"]
        asked: set[str] = set()
        while True:
            with contextlib.suppress(Byok8sError):
                found = list_all(self._client, self._pods, query, **_within(until))
                pods = {pod["metadata"]["name"]: pod for pod in found.items}
                left = [remaining(pods[name]) for name in sorted(pods)]
                if not left:
                    return left
                names = set(pods)
                # Where nothing runs any more there is no need to wait for a busy node
                ended = idle or self._book.have_ended(names)
                grace = 0 if ended else min(2, self._grace)
                if grace == 0 or not asked.issuperset(names):  # one may have been in the making
                    self._delete_now(query, grace, until)
                    first, asked = not asked, asked | names
                    if grace == 0 and first:  # as a rule they are gone with that
                        continue
            if time.monotonic() >= until:
                return left
            # the watch tells when they are gone; one more list makes sure
            self._book.wait_until_done(min(until, time.monotonic() + LOOK_AGAIN_SECONDS))

    def _delete_now(self, query: dict[str, str], grace: int, until: float) -> None:
        options = {"gracePeriodSeconds": grace}
        self._client.call("DELETE", self._pods, query=query, body=options, **_within(until))

    def _delete(self, job: Job, until: float) -> None:
        patience = until - time.monotonic()
        if patience > 0:  # what is still there is told by its name
            with contextlib.suppress(Byok8sError):
                self._creators.delete(job, **{**_within(until), "patience": patience})

    def _build(self, job: Job) -> dict[str, Any]:
        return manifest(
            self._run,
            job.request,
            owner=self._record.owner,
            secret=self._record.secret,
            secret_mount=self._secret_mount,
            pull_policy=self._pull_policy,
            grace_seconds=self._grace,
        )


def _within(until: float) -> dict[str, float]:
    """Options of a call that has to be over at the monotonic time `until`."""
    seconds = max(0.5, until - time.monotonic())
    return {"patience": 0.0, "timeout": seconds, "connect": seconds}
