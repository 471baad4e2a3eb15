"""The logs of a run: its pods', and those that the bucket keeps."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from byok8s.cluster import find_by_context
from byok8s.exceptions import SettingsError
from byok8s.run.preflight import find_storage
from byok8s.run.runs import list_runs
from byok8s.settings import S3Location
from byok8s.worker.spec import NEWS

if TYPE_CHECKING:
    from byok8s.batch.client import KubeClient
    from byok8s.batch.runs import Run, RunPod
    from byok8s.storage.objects import Objects

LOOK_AGAIN_SECONDS = 2.0
_KEPT = re.compile(r"(?P<execution>[^/]+)/logs/(?P<id>[^/]+)-(?P<attempt>\d+)\.log")


@dataclass
class Logs:
    """The logs of one run; `what` is a rule, a job or a pod, None for all.

    `location` is the bucket of a run that has nothing in the cluster any more.
    """

    client: KubeClient
    name: str
    what: str | None = None
    location: S3Location | None = None
    endpoint: str | None = None
    out: BinaryIO = field(default_factory=lambda: sys.stdout.buffer)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _closed: threading.Event = field(init=False, default_factory=threading.Event)

    def show(self) -> None:
        """Write the pods' logs and then those kept in the bucket, each below a line that names it.

        Raises SettingsError when the run is not in the cluster and no bucket is given, or when
        there is no log, and StorageError.
        """
        run = self._find()
        shown = set()
        for pod in self._pods(run):
            shown.add(f"{pod.id}-{pod.attempt}")
            self._head(f"{pod.job or pod.id} ({pod.state}, pod {pod.name})")
            self._write_log(pod)
        kept = [pair for pair in self._kept(run) if pair[0] not in shown]
        for title, text in kept:
            self._head(f"{title} (kept in the bucket)")
            self._write(text)
        if not shown and not kept:
            what = f" of '{self.what}'" if self.what else ""
            raise SettingsError(f"The run '{self.name}' has no log{what}.")

    def follow(self) -> None:
        """Write the lines of all pods as they come, until the run has ended."""
        followed: dict[str, threading.Thread] = {}
        run = self._find()
        if run is None:
            raise SettingsError(f"The run '{self.name}' has ended; leave out --follow.")
        while run is not None and not self._closed.is_set():
            for pod in self._pods(run):
                if pod.name not in followed and pod.state != "waiting":
                    thread = threading.Thread(target=self._follow, args=(pod,), daemon=True)
                    thread.start()
                    followed[pod.name] = thread
            self._closed.wait(LOOK_AGAIN_SECONDS)
            run = self._find()
        for thread in followed.values():
            thread.join(LOOK_AGAIN_SECONDS)

    def _follow(self, pod: RunPod) -> None:
        from byok8s.batch.runs import pod_log

        title = f"[{pod.job or pod.id}] ".encode()
        for lines in _for_people(pod_log(self.client, pod.name, follow=True)):
            self._write(b"".join(title + line + b"\n" for line in lines))

    def _find(self) -> Run | None:
        runs = list_runs(self.client, everywhere=False)
        return next((run for run in runs if run.name == self.name), None)

    def _pods(self, run: Run | None) -> list[RunPod]:
        from byok8s.batch.pods import label_value

        if run is None:
            return []
        if self.what is None:
            return list(run.pods)
        wanted = {self.what, label_value(self.what)}
        return [pod for pod in run.pods if wanted & {pod.rule, pod.job, pod.id, pod.name}]

    def _kept(self, run: Run | None) -> Iterator[tuple[str, bytes]]:
        """Name and text of each log in the bucket, of the run as it is or was last."""
        objects, prefix = self._open_bucket(run)
        found = [(key, _KEPT.fullmatch(key[len(prefix) :])) for key in objects.list(prefix)]
        logs = [(key, match) for key, match in found if match]
        executions = {match["execution"] for _, match in logs}
        last = run.execution if run else max(executions, default="")
        for key, match in sorted(logs):
            of_job = self.what is None or match["id"] == self.what
            if match["execution"] == last and (of_job or _rule(match["id"]) == self.what):
                yield f"{match['id']}-{match['attempt']}", objects.get_bytes(key) or b""

    def _open_bucket(self, run: Run | None) -> tuple[Objects, str]:
        from pathlib import Path

        from byok8s.storage.inventory import OURS
        from byok8s.workflow.bucket import WorkflowBucket

        about = run.about if run else {}
        location, endpoint = self.location, self.endpoint
        if location is None:
            if "storage" not in about:
                where = f"namespace '{self.client.namespace}'"
                raise SettingsError(
                    f"There is no run '{self.name}' in {where}; if it has ended, name the bucket "
                    "that keeps its logs with --s3-bucket."
                )
            location, endpoint = S3Location.parse(about["storage"]), about.get("endpoint")
        cluster = find_by_context(self.client.context)
        if cluster and cluster.s3 and endpoint == cluster.s3.endpoint_url:
            endpoint = None  # its own server, and the keys for it
        s3, account = find_storage(location, endpoint, about.get("region"), cluster, for_pods=False)
        bucket = WorkflowBucket.of(s3, account, Path.cwd())
        return bucket.objects, location.key(f"{OURS}runs/{self.name}/")

    def _head(self, title: str) -> None:
        self._write(f"==> {title} <==\n".encode())

    def _write_log(self, pod: RunPod) -> None:
        from byok8s.batch.runs import pod_log

        for lines in _for_people(pod_log(self.client, pod.name)):
            self._write(b"".join(line + b"\n" for line in lines))

    def _write(self, data: bytes) -> None:
        with self._lock:
            if self._closed.is_set():
                return
            try:
                self.out.write(data)
                self.out.flush()
            except BrokenPipeError:  # who reads, as head, has enough
                self._closed.set()
                # what is still buffered would fail again when Python ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.out.fileno())


def _for_people(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines of a pod's log as they come, but for what its worker writes for the leader."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if kept := [line for line in lines if not line.startswith(NEWS)]:
            yield kept
    if rest and not rest.startswith(NEWS):
        yield [rest]


def _rule(id: str) -> str:
    """The rule of a job's id, RULE-HASH."""
    return id.rpartition("-")[0]
