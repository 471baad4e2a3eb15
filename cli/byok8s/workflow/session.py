"""A run's resources: its pods, its place in the bucket, its sources and its inputs."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byok8s.batch.placement import ANYWHERE, Placement
from byok8s.batch.retry import RetryPolicy
from byok8s.exceptions import Byok8sError, StorageError
from byok8s.progress import file_size, some_of
from byok8s.settings import S3Settings
from byok8s.storage.bucket import describe
from byok8s.storage.inventory import OURS
from byok8s.worker.names import (
    CA_FILE,
    CREDENTIALS_FILE,
    ENVIRONMENT_FILE,
    S3_VARIABLE,
    SECRET_FOLDER,
    SOURCES_FILE,
)
from byok8s.worker.s3 import outlast
from byok8s.worker.spec import Bucket, File, Result
from byok8s.worker.transfer import ObjectMeta
from byok8s.workflow import companions, sources
from byok8s.workflow.durations import Durations
from byok8s.workflow.events import Listener
from byok8s.workflow.inherited import Stock, take_stock, text_of
from byok8s.workflow.lead import knows, split_query
from byok8s.workflow.resources import refuse_what_never_fits, rehearse_rules
from byok8s.workflow.secret import RunSecret

if TYPE_CHECKING:
    from byok8s.batch import BatchSystem, KubeClient, Lease, Limits, RunIdentity
    from byok8s.storage.objects import Objects
    from byok8s.workflow.globbing import BucketGlob
    from byok8s.workflow.inputs import LocalInputs
    from byok8s.workflow.storage import Lead

# Pods learn of new keys within about a minute (the kubelet's sync period for mounted Secrets)
_REFRESH_SECONDS = 60.0
_DURATIONS = "durations.json"
_SMALL_SOURCES = 200_000  # bytes: of the megabyte that a Secret can have; each pod has a copy
_OUTAGE_SECONDS = 600.0  # how long a store that is away is waited for


@dataclass
class Session:
    """One run on the cluster; `open` makes what is needed, `close` removes it."""

    client: KubeClient
    lease: Lease  # acquired at the latest by `open`
    s3: S3Settings
    objects: Objects
    credentials: Callable[[], str]  # an AWS credentials file with keys that are valid now
    image: str
    listener: Listener
    workdir: Path
    configfile: Path
    inputs: LocalInputs
    leader: Lead
    placement: Placement = ANYWHERE  # unless a rule says otherwise
    glob: BucketGlob | None = None
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    limits: Limits | None = None  # of waiting; None: the batch system's own
    on_open: Callable[[], None] = lambda: None
    max_pods: int = 1000  # at once
    pods_per_second: float = 20.0  # that are created; 0: no limit
    share_pods: bool = True  # whether several jobs may run in one pod
    cancelled: bool = False
    idle: bool = False  # no job runs any more, though a pod may wait for some
    stock: Stock = field(default_factory=Stock)  # what an earlier leader has left
    # keys of what may be half stored by those who can do nothing about it any more
    unfinished: set[str] = field(default_factory=set)
    sources: sources.SourceArchive = field(init=False, repr=False)
    sources_key: str = field(init=False, default="")
    secret: RunSecret = field(init=False)
    batch: BatchSystem = field(init=False, repr=False)
    _opened: bool = field(init=False, default=False)
    _closed: threading.Event = field(init=False, default_factory=threading.Event)

    @cached_property
    def bucket(self) -> Bucket:
        return describe(self.s3)

    @cached_property
    def pod_env(self) -> dict[str, str]:
        """Where a pod finds the bucket; no secret."""
        return {S3_VARIABLE: self.bucket.dumps()}

    def key(self, path: str) -> str:
        """The key of something that byok8s keeps for itself."""
        return self.s3.location.key(f"{OURS}{path}")

    @property
    def run(self) -> RunIdentity:
        return self.lease.run

    def run_key(self, path: str) -> str:
        return self.key(f"runs/{self.run.name}/{self.lease.started}/{path}")

    def log_key(self, id: str, attempt: int) -> str:
        return self.run_key(f"logs/{id}-{attempt}.log")

    def log_url(self, id: str, attempt: int) -> str:
        return f"s3://{self.s3.location.bucket}/{self.log_key(id, attempt)}"

    def result_key(self, id: str, attempt: int) -> str:
        return self.run_key(f"results/{id}-{attempt}.json")

    def open(self, workflow: Any, envvars: Mapping[str, str]) -> None:
        """Upload the sources and make the run's objects in the cluster; before the first pod."""
        from concurrent.futures import ThreadPoolExecutor

        from byok8s.batch import BatchSystem

        with ThreadPoolExecutor(1, "byok8s-sources") as pool:
            packed = pool.submit(self._pack_sources, workflow)
            rehearse_rules(workflow, self.client, self.placement, self.image)
            packed.result()
        self.secret = self._make_secret(envvars)
        self.batch = BatchSystem(
            self.client,
            self.run,
            secret_files=self.secret.entries,
            secret_mount=SECRET_FOLDER,
            rate=self.pods_per_second,
            burst=max(1, round(self.pods_per_second)),
            limits=self.limits,
            lease=self.lease,
            tell_placed=True,
        )
        self._opened = True
        self.on_open()
        if self.lease.before is not None:  # it, or one of its pods, may have been killed
            for job in workflow.dag.needrun_jobs():
                self.cut_short(job)
        with ThreadPoolExecutor(1, "byok8s-sources") as pool:
            uploaded = pool.submit(self._upload_sources)
            self.batch.start(adopting=self.stock.bundles)
            refuse_what_never_fits(workflow, self.batch, self.placement)
            uploaded.result()
        threading.Thread(target=self._refresh_credentials, name="byok8s-keys", daemon=True).start()

    def take_over(self) -> None:
        """Become the run's leader, and learn of the pods that a dead one has left.

        Raises RunIsLed, StorageError and ApiError.
        """
        self.lease.acquire()
        if self.lease.before is not None:
            self.stock = take_stock(
                self.client, self.run.name, self.objects, self.run_key("bundles/")
            )

    def close(self, deadline: float = 10.0) -> list[str]:
        """Remove what the run made in the cluster; returns the names of what remains."""
        from byok8s.batch.runs import remove_run

        self._closed.set()
        opened, self._opened = self._opened, False
        if opened:
            return self.batch.shutdown(deadline=deadline, idle=self.idle)
        if not self.lease.held:
            return []
        self.lease.stop()
        try:
            # what a dead leader has left, nobody wants any more
            left = self.lease.before is not None
            return remove_run(self.client, self.run.name, deadline, pods=left)
        except Byok8sError as error:
            return [f"pods of the run ({error})"]
        finally:
            self.lease.end()

    def leave(self) -> None:
        """Let the pods run, for a later leader to adopt them; raises Byok8sError."""
        self._closed.set()
        opened, self._opened = self._opened, False
        if opened:
            self.batch.leave()
        elif self.lease.held:
            self.lease.release()

    def abandon(self) -> None:
        """Touch nothing any more: another leader has the run."""
        self._closed.set()
        opened, self._opened = self._opened, False
        if opened:
            self.batch.abandon()
        self.lease.end()

    def live_pods(self) -> tuple[int, int]:
        """How many of the run's pods run, and how many wait to start."""
        if not self._opened:
            return 0, 0
        running = len(self.batch.running())
        return running, max(0, len(self.batch.issued()) - running)

    def outputs_exist(self, job: Any) -> bool:
        """Ask the bucket whether a job's outputs are there."""
        queries = _queries(job.output)
        self.leader.told_finished(queries, [])
        found = [self.leader.inventory(b).find(key) for b, key in map(split_query, queries)]
        return all(found)

    def hint(self, job: Any) -> str:
        """What a job whose command failed may have missed.

        Also of what is among the sources, since inputs lie elsewhere than these.
        """
        inputs, outputs = map(self._paths, (job.input, job.output))
        return companions.hint(inputs, outputs, self.leader, self.workdir)

    def _paths(self, files: Any) -> list[str]:
        """Of files in the run's bucket, as the Snakefile names them."""
        start = f"{self.s3.location}/"
        return [q.removeprefix(start) for q in _queries(files) if q.startswith(start)]

    def cut_short(self, job: Any) -> None:
        """A pod of the job may have begun to store something, and could not end it."""
        files = [*job.output, *job.log, *(() if job.is_group() else filter(None, [job.benchmark]))]
        self.unfinished.update(key for _, key in map(split_query, _queries(files)))
        self.unfinished.add(self.run_key("logs"))

    def upload_inputs(self) -> None:
        """Bring input files of the working directory, which the DAG has asked for, up to date."""
        if self.lease.before is not None:
            self.unfinished.update(self.inputs.waiting())
        count, size = outlast(self.inputs.flush, _OUTAGE_SECONDS)
        if count:
            noun = "file" if count == 1 else "files"
            self.listener.note(f"Uploaded {count} input {noun} ({file_size(size)}) to the bucket")

    def durations(self) -> Durations:
        """What is known of how long the rules' jobs take."""
        return Durations((self.objects.get_bytes(self.key(_DURATIONS)) or b"").decode())

    def keep_durations(self, durations: Durations) -> None:
        """Keep for the next run what this one has learnt; what is lost is learnt again."""
        with contextlib.suppress(StorageError):
            if text := durations.dumps():
                self.objects.put_bytes(self.key(_DURATIONS), text.encode())

    def keep_spec(self, name: str, text: str) -> str:
        key = self.run_key(f"jobs/{name}.json")
        self.objects.put_bytes(key, text.encode())
        return key

    def report(self, text: str) -> str:
        """A worker's report, which it has left in the bucket when it was too long."""
        return text_of(text, self.objects)

    def told(self, result: Result | None, job: Any) -> None:
        """Let the storage provider know what a finished job has stored, without asking S3."""
        stored = result.stored if result else []
        for key, size, mtime, etag in stored:
            self.leader.told_stored(key, ObjectMeta(size, mtime, etag))
        self.leader.told_finished(_queries(job.output), [row[0] for row in stored])

    def facts(self, job: Any, *, tried: bool = False) -> dict[str, Any]:
        """What the pod need not ask S3 about the job's inputs and outputs.

        What a pod that `tried` before has left of the outputs, such as half a folder, is not known.
        """
        files = [*job.input, *job.log, *(() if tried else job.output)]
        if not job.is_group() and job.benchmark:
            files.append(job.benchmark)
        return self.leader.facts(_queries(files))

    def bytes_of(self, files: Iterable[File]) -> int:
        """What is stored of these files and folders of the run's bucket."""
        found = (self.leader.inventory().find(file.key) for file in files)
        return sum(entry.total for entry in found if entry)

    def late_globs(self) -> dict[str, list[list[str]]]:
        """What glob_wildcards found after the sources were packed, as behind a checkpoint."""
        return self.glob.late() if self.glob else {}

    def _make_secret(self, envvars: Mapping[str, str]) -> RunSecret:
        files: dict[str, str | bytes] = {CREDENTIALS_FILE: self.credentials()}
        if self.s3.ca_file:
            files[CA_FILE] = self.s3.ca_file.read_text()
        if envvars:
            files[ENVIRONMENT_FILE] = json.dumps(dict(envvars))
        if len(self.sources.data) <= _SMALL_SOURCES:
            files[SOURCES_FILE] = self.sources.data
        return RunSecret(files)

    def _pack_sources(self, workflow: Any) -> None:
        made = {path for job in workflow.dag.jobs for path in self._paths(job.output)}
        required = sources.required_files(workflow, self.configfile, self.workdir)
        optional = sources.project_files(
            self.workdir, lambda name: not made.isdisjoint((name, *map(str, Path(name).parents)))
        )
        self.sources = sources.pack(required, optional, self.workdir)
        self.sources_key = self.key(f"sources/{self.sources.sha256}")
        if self.sources.skipped:
            self.listener.warn(
                f"The project's files exceed {file_size(sources.MAX_TOTAL)}; the pods will not see "
                f"{some_of(self.sources.skipped, 3)}."
            )

    def _upload_sources(self) -> None:
        """Also small ones: a pod may meet a later leader's in the Secret."""
        if self.objects.head(self.sources_key) is None:
            self.objects.put_bytes(self.sources_key, self.sources.data)

    def _refresh_credentials(self) -> None:
        """Keys that expire are replaced in the Secret while the run lasts."""
        while not self._closed.wait(_REFRESH_SECONDS):
            try:
                if self.secret.renew(self.credentials()):
                    self.batch.refresh_secret(self.secret.entries)
            except Exception as error:
                self.listener.warn(f"The credentials could not be refreshed: {error}")


def _queries(files: Any) -> list[str]:
    return [str(file.storage_object.query) for file in files if knows(file)]
