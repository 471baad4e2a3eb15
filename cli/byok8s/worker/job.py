"""What every kind of worker does around a job: sources, logs, the report."""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from byok8s.worker import plain
from byok8s.worker.archive import unpack
from byok8s.worker.names import (
    CA_FILE,
    CREDENTIALS_FILE,
    FILES_VARIABLE,
    JOB_VARIABLE,
    S3_VARIABLE,
    SCRATCH_FOLDER,
    SOURCES_FILE,
    TERMINATION_LIMIT,
    TERMINATION_LOG,
)
from byok8s.worker.process import TAIL_LINES, Ran
from byok8s.worker.s3 import StorageAway, TransferError, open_bucket, outlast, sentences
from byok8s.worker.spec import STAGING_FAILED, Bucket, JobSpec, Result
from byok8s.worker.transfer import Transfers

# What Snakemake says around a failed command, which the leader says better
_NOISE = (
    r"(Building DAG of jobs|Using shell: |Select jobs to execute|Execute \d+ jobs|Shutting down, |"
    r"Exiting because a job|Storing output in storage|Elapsed time: |WorkflowError:$|"
    r"RuleException:$|CalledProcessError in file |At least one job did not complete)"
)
UNREADABLE = "What the pod is to do could not be read from the bucket"
NO_FOLDERS = (
    "The worker's image has not the folders that it needs; build it as docs/worker-image.md says"
)
SCRATCH = Path(SCRATCH_FOLDER)
LOG = Path(plain.LOG)
_TAIL_BYTES = 2000
REPORT_SECONDS = 60.0  # how long a long report is kept for a store that is away
EARLY_SECONDS = 3.0  # how long a pod lives on to put its report into the bucket
LOG_SECONDS = 30.0  # between uploads of the log while a job runs; a shorter job has none


def write_files() -> None:
    """Write the Secret's files where they came as a variable; raises OSError."""
    if text := os.environ.get(FILES_VARIABLE):  # else they are mounted, as is the working folder
        packed = json.loads(text).items()
        plain.write_files({name: binascii.a2b_base64(content) for name, content in packed})


def open_pod() -> tuple[Any, Transfers]:
    """The bucket that the environment names, and what moves files to and from it.

    The AWS tools of the job find it, too, unless a pod template says otherwise.
    """
    bucket = Bucket.loads(os.environ[S3_VARIABLE])
    files = {"AWS_SHARED_CREDENTIALS_FILE": CREDENTIALS_FILE, "AWS_CA_BUNDLE": CA_FILE}
    there = {name: path for name, path in files.items() if os.path.exists(path)}
    for name, value in {**bucket.variables, **there}.items():
        os.environ.setdefault(name, value)
    store = open_bucket(bucket, there.get("AWS_SHARED_CREDENTIALS_FILE"))
    return store, Transfers(store, bucket.storage_class, md5_etags=bucket.md5_etags)


def load_job(store: Any) -> JobSpec:
    """The job that the environment names."""
    return JobSpec.loads(load_text(store, os.environ[JOB_VARIABLE]))


def unpack_sources(store: Any, spec: JobSpec) -> Result | None:
    """Unpack the sources here; how the job ends when that cannot be done."""
    try:
        unpack(fetch_sources(store, spec.sources_key, spec.sources_sha256), Path(), spec.workdir)
    except Exception as error:
        result = not_begun("The workflow's sources could not be fetched from the bucket", error)
        print(result.error, flush=True)
        return result
    return None


def not_begun(what: str, error: Exception) -> Result:
    """The result of a job of which nothing could be done yet."""
    away = isinstance(error, StorageAway)
    return Result(STAGING_FAILED, error=f"{what}: {error}", storage_away=away)


def give_up(what: str, error: Exception) -> int:
    """Leave a report of a pod that could do nothing; returns its exit code."""
    result = not_begun(what, error)
    print(result.error, flush=True)
    Path(TERMINATION_LOG).write_text(result.dumps())
    return result.exit_code


def conclude(store: Any, spec: JobSpec, result: Result) -> None:
    """Keep the log of a pod's one job, and leave its report."""
    failed = result.exit_code != 0
    # what could not be stored leaves its log no better chance
    if not result.storage_away and (problem := keep_log(store, spec, LOG, failed=failed)):
        print(problem, flush=True)
    shorten(result)
    least = result.changed(tail="", stored=[])  # the leader looks for what was stored
    report(store, spec.result_key, result.dumps(), least.dumps())
    if spec.early_key and not failed:
        _tell_early(store, spec.early_key, result.dumps().encode())


def _tell_early(store: Any, key: str, data: bytes) -> None:
    """Put a report where the leader looks for it; if that takes long, the cluster is sooner."""

    def put() -> None:
        with contextlib.suppress(Exception):
            store.put(key, data)

    teller = threading.Thread(target=put, name="byok8s-early", daemon=True)
    teller.start()
    teller.join(EARLY_SECONDS)


def load_text(store: Any, text: str) -> str:
    """`text`, or what it points to in the bucket where it was too long for the environment.

    Raises TransferError.
    """
    return _read(store, text.removeprefix("key:")).decode() if text.startswith("key:") else text


def fetch_sources(store: Any, key: str, sha256: str) -> bytes:
    """The archive of the workflow's sources, which are in the run's Secret where they are small.

    Raises ValueError when it is not the right one, and TransferError.
    """
    with contextlib.suppress(OSError):
        data = Path(SOURCES_FILE).read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:  # a later leader may have other ones
            return data
    data = _read(store, key)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{key} is not what was uploaded")
    return data


def _read(store: Any, key: str) -> bytes:
    with sentences("read", store.config["bucket"], key):
        return bytes(store.get(key).bytes())


def keep_log(store: Any, spec: JobSpec, log: Path, *, failed: bool) -> str:
    """Put what the job wrote into the bucket; the job's outcome counts more than its log.

    Returns a sentence when that did not work.
    """
    if log.exists() and (failed or log.stat().st_size):
        try:
            store.put(spec.log_key, log)
        except Exception as error:
            return f"The log could not be kept in the bucket: {error}"
    return ""


@contextlib.contextmanager
def log_kept_meanwhile(store: Any, spec: JobSpec, log: Path) -> Iterator[None]:
    """Put the log of a job that takes long into the bucket now and then, should its pod be killed.

    What goes wrong is told when the log is kept at the end.
    """
    over = threading.Event()

    def keep() -> None:
        kept, pause = 0, LOG_SECONDS
        while not over.wait(pause):
            began = time.monotonic()
            with contextlib.suppress(Exception):
                if (size := log.stat().st_size) != kept:
                    store.put(spec.log_key, log)
                    kept = size
            # a long log is sent whole each time, and must not be what the pod is busy with
            pause = max(LOG_SECONDS, 20 * (time.monotonic() - began))

    keeper = threading.Thread(target=keep, name="byok8s-log", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()  # so that the whole log is the last that is put


def rule_log_tail(spec: JobSpec, folder: Path) -> str:
    """The end of the rule's own `log:` files, which lie below `folder`."""
    parts = []
    for name in spec.rule_logs:
        path = folder / name
        with contextlib.suppress(OSError):  # what cannot be read has been told, or will be
            if path.is_file() and path.stat().st_size:
                parts.append(end_of(path, _TAIL_BYTES))
    return "\n".join(parts)


def end_of(path: Path, limit: int) -> str:
    """The last bytes of a file; raises OSError."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - limit))
        return file.read().decode(errors="replace")


def result_of(
    ran: Ran,
    spec: JobSpec,
    folder: Path,
    seconds: float,
    *,
    command_exit: int | None,
    stored: list[tuple[str, int, float, str]],
) -> Result:
    """The result of a job whose command ran in `folder`."""
    failed = ran.exit_code != 0
    return Result(
        exit_code=ran.exit_code,
        command_exit=command_exit,
        seconds=round(seconds, 3),
        command_seconds=round(ran.seconds, 3),
        bytes_out=sum(size for _, size, _, _ in stored),
        cpu_seconds=ran.cpu_seconds,
        peak_memory=ran.peak_memory,
        out_of_memory=ran.out_of_memory and failed,
        tail=(rule_log_tail(spec, folder) or ran.tail) if failed else "",
        stored=stored,
    )


def shorten(result: Result) -> None:
    """Leave of the tail what a person needs."""
    lines = [line for line in result.tail.splitlines() if line and not re.match(_NOISE, line)]
    text = "\n".join(lines[-TAIL_LINES:])
    result.tail = text.encode()[-_TAIL_BYTES:].decode(errors="replace")


def report(store: Any, key: str, text: str, least: str) -> None:
    """Leave a report in the termination message, or in the bucket when it is too long.

    `least` is what is left of it when the bucket does not take it.
    """

    def put() -> None:
        with sentences("write", store.config["bucket"], key):
            store.put(key, text.encode())

    left = text
    if len(text.encode()) > TERMINATION_LIMIT:
        try:
            outlast(put, REPORT_SECONDS)
            left = f"key:{key}"
        except TransferError as error:
            print(f"The job's report is not complete: {error}", flush=True)
            left = least
    Path(TERMINATION_LOG).write_text(left)
