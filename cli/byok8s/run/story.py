"""The story of one run: look up and check, plan, execute, report, leave nothing behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byok8s.exceptions import SettingsError, StorageError, WorkflowFailed
from byok8s.progress import Reporter, elapsed, file_size, some_of
from byok8s.run.ahead import load_ahead
from byok8s.run.display import Display
from byok8s.run.interrupts import Interrupts
from byok8s.run.leading import Leading, run_name, user_name
from byok8s.run.preflight import Ready, preflight
from byok8s.settings import RunSettings
from byok8s.storage.bucket import describe
from byok8s.worker.names import S3_VARIABLE

if TYPE_CHECKING:
    from byok8s.workflow.api import Plan
    from byok8s.workflow.bucket import WorkflowBucket
    from byok8s.workflow.session import Session

# More would burden a namespace: Kubernetes' scalability thresholds name 3,000 pods in one
# (https://github.com/kubernetes/community/blob/master/sig-scalability/configs-and-limits/thresholds.md)
MAX_PODS = 1000
PRIVATE = Path(".snakemake/byok8s")  # ours in the working directory


def run_workflow(settings: RunSettings, report: Reporter) -> None:
    """Run one workflow, from its files to its results.

    Raises SettingsError and EnvironmentNotReady before anything was submitted, WorkflowFailed
    when jobs failed, Interrupted after a signal. What the run made in the cluster is gone then,
    unless the settings ask to keep it after a signal.
    """
    began = time.monotonic()
    wait_until_loaded = load_ahead(cluster=not settings.local)
    with report.step("Checking the files, the cluster and the bucket"):
        ready = preflight(settings)
        wait_until_loaded()
    display = Display(dry_run=settings.dry_run)
    display.note(_headline(settings, ready))
    with _one_run_at_a_time(), _aws_environment(ready):
        targets = _execute(settings, ready, display)
    if not settings.dry_run:
        display.note(_conclusion(ready, targets, display, time.monotonic() - began))


def _execute(settings: RunSettings, ready: Ready, display: Display) -> tuple[str, ...]:
    from byok8s.workflow import api
    from byok8s.workflow.bucket import WorkflowBucket

    bucket = None
    if ready.s3 is not None and ready.account is not None:
        bucket = WorkflowBucket.of(ready.s3, ready.account, Path.cwd())
    plan = _plan(settings, ready)
    session = None if settings.local else _session(settings, ready, bucket, display, plan)
    parts = api.Parts(listener=display, session=session)
    if bucket is not None:
        bucket.equip(parts)
    leading = Leading(session, display, keep=settings.on_exit == "keep")
    with Interrupts(leading.stopping, leading.remains) as interrupts:
        try:
            if not settings.dry_run:
                leading.begin(interrupts)
            with display.shown():
                targets = api.execute(plan, parts)
            if bucket is not None and settings.download and not settings.dry_run:
                count = bucket.download(targets, Path.cwd())
                display.note(f"Downloaded {count} file{'s' * (count != 1)} of the targets")
            return targets
        except (KeyboardInterrupt, WorkflowFailed, SettingsError) as error:
            if interrupts.received:
                raise leading.interrupted() from error
            raise _failed(display, error) from error
        finally:
            # until it is written down what was done, the pods are there to tell
            try:
                _close(bucket, display)
            finally:
                leading.end()
            if bucket is not None and leading.is_over:
                _end_uploads(bucket, session.unfinished if session else set(), display)
            if bucket is not None and settings.dry_run:
                _say_pending(display, *bucket.inputs.pending())


def _close(bucket: WorkflowBucket | None, display: Display) -> None:
    """Write what is still in memory."""
    if bucket is not None:
        try:
            bucket.close()
        except StorageError as error:
            display.warn(str(error))


def _end_uploads(bucket: WorkflowBucket, keys: set[str], display: Display) -> None:
    """Leave nothing in the bucket of what killed pods had begun to store."""
    try:
        bucket.end_uploads(keys)
    except StorageError as error:
        display.warn(
            f"Parts of unfinished uploads may be left in {bucket.s3.location} ({error}) "
            "A lifecycle rule of the bucket can remove them."
        )


def _plan(settings: RunSettings, ready: Ready) -> Plan:
    from byok8s.workflow.api import Plan

    PRIVATE.mkdir(parents=True, exist_ok=True)
    configfile = Path.cwd() / PRIVATE / "params.json"
    configfile.write_text(json.dumps(dict(ready.files.config), indent=1))
    return Plan(
        snakefile=ready.files.snakefile,
        configfile=configfile,
        targets=ready.files.targets,
        force=settings.force,
        dry_run=settings.dry_run,
        keep_going=settings.keep_going,
        retries=settings.retries,
        jobs=settings.jobs or (os.cpu_count() or 1 if settings.local else MAX_PODS),
        max_threads=settings.max_threads,
        storage_prefix=str(ready.s3.location) if ready.s3 else None,
        verbose=settings.debug,
    )


def _session(
    settings: RunSettings,
    ready: Ready,
    bucket: WorkflowBucket | None,
    display: Display,
    plan: Plan,
) -> Session:
    from byok8s.batch import Lease, Limits, RetryPolicy, RunIdentity
    from byok8s.workflow.session import Session

    assert bucket is not None and ready.client is not None and ready.account is not None
    account, files = ready.account, ready.files
    name = run_name(files.workflow.stem, bucket.s3.location)
    about = {"workflow": files.workflow.name, "params": files.params.name, **bucket.s3.as_words()}
    return Session(
        client=ready.client,
        lease=Lease(ready.client, RunIdentity(name, settings.owner or user_name()), about),
        s3=bucket.s3,
        objects=bucket.objects,
        credentials=lambda: account.current().as_ini(),
        image=ready.image,
        listener=display,
        workdir=Path.cwd(),
        configfile=plan.configfile,
        inputs=bucket.inputs,
        leader=bucket.leader,
        placement=ready.placement,
        max_pods=settings.jobs or MAX_PODS,
        pods_per_second=settings.pods_per_second,
        share_pods=settings.bundle,
        limits=Limits(**settings.wait_limits),
        retry_policy=RetryPolicy(
            disruptions=settings.max_disruptions, growths=settings.memory_retries
        ),
    )


def _say_pending(display: Display, count: int, size: int) -> None:
    if count:
        files = f"{count} new or changed input file{'s' * (count != 1)}"
        display.note(f"Would upload {files} ({file_size(size)}) to the bucket")


@contextlib.contextmanager
def _one_run_at_a_time() -> Iterator[None]:
    """Refuse a second run in this folder; the lock ends with the process, however it ends."""
    PRIVATE.mkdir(parents=True, exist_ok=True)
    with open(PRIVATE / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"Another byok8s runs in {Path.cwd()}; wait for its end or stop it."
            ) from None
        yield


@contextlib.contextmanager
def _aws_environment(ready: Ready) -> Iterator[None]:
    """Let Snakemake's own subprocesses on this machine (local rules) reach the bucket.

    By environment, which other users cannot read, never by arguments or files.
    """
    if ready.s3 is None or ready.account is None:
        yield
        return
    keys = ready.account.current()
    wanted = {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": keys.session_token,
        "AWS_ENDPOINT_URL_S3": ready.s3.endpoint_url,
        "AWS_REGION": ready.s3.region,
        S3_VARIABLE: describe(ready.s3).dumps(),
    }
    if ready.s3.ca_file:
        wanted["AWS_CA_BUNDLE"] = str(ready.s3.ca_file)
    before = {name: os.environ.get(name) for name in wanted}
    _set_environment(wanted)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _headline(settings: RunSettings, ready: Ready) -> str:
    what = f"{ready.files.workflow.name} with {ready.files.params.name}"
    where = "on this machine"
    if ready.client is not None:
        where = f"on {ready.client.context}, namespace {ready.client.namespace}"
    files = f", files in {ready.s3.location}" if ready.s3 else ""
    return f"{'Dry run of ' if settings.dry_run else ''}{what} {where}{files}"


def _conclusion(ready: Ready, targets: tuple[str, ...], display: Display, seconds: float) -> str:
    shown = some_of(targets, 3)
    where = f" in {ready.s3.location}" if ready.s3 else ""
    if not display.total:
        return f"Nothing to be done: {shown or 'the target'} is up to date{where}"
    jobs = f"{display.total} job{'s' * (display.total != 1)}"
    return f"Done: {jobs} in {elapsed(seconds)}{f'; {shown}{where}' if shown else ''}"


def _failed(display: Display, error: BaseException) -> BaseException:
    """A failed workflow names its failed jobs; other errors stay what they are."""
    if not isinstance(error, WorkflowFailed) or not display.failures:
        return error
    names = [str(failure.job) for failure in display.failures]
    count = f"{len(names)} job{'s' * (len(names) != 1)} failed"
    return WorkflowFailed(f"{count}: {some_of(names, 5)}; the reasons stand above.")
