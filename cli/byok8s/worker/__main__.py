"""Run one job in a pod: `python3 -m byok8s.worker`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

from byok8s.worker import lean
from byok8s.worker.s3 import TransferError, open_bucket
from byok8s.worker.spec import (
    CREDENTIALS_FILE,
    ENVIRONMENT_FILE,
    FACTS_VARIABLE,
    GLOBS_VARIABLE,
    JOB_VARIABLE,
    S3_VARIABLE,
    STAGING_FAILED,
    STORED_VARIABLE,
    TERMINATION_LIMIT,
    TERMINATION_LOG,
    Bucket,
    Command,
    JobSpec,
    Result,
)
from byok8s.worker.transfer import Transfers

# What Snakemake says around a failed command, which the leader says better
_NOISE = re.compile(
    r"(Building DAG of jobs|Using shell: |Select jobs to execute|Execute \d+ jobs|Shutting down, |"
    r"Exiting because a job|Storing output in storage|Elapsed time: |WorkflowError:$|"
    r"RuleException:$|CalledProcessError in file |At least one job did not complete)"
)
SCRATCH = Path("/tmp")  # noqa: S108 (the pod's own)
_TAIL_LINES = 20
_TAIL_BYTES = 2000
# How Snakemake tells a shell command's exit code (subprocess.CalledProcessError)
_EXIT_STATUS = re.compile(r"returned non-zero exit status (-?\d+)|died with <?Signals\.(SIG\w+)")


def main() -> int:
    """Do the job that the environment names; return the pod's exit code."""
    store, spec, transfers = open_job()
    result = fetch_sources(store, spec)
    if result is None:
        command = spec.command
        result = run(spec) if command is None else run_lean(spec, command, transfers)
        keep_log(store, spec, result)
    report(store, spec, result)
    return result.exit_code


def open_job() -> tuple[Any, JobSpec, Transfers]:
    """The bucket and the job that the environment names."""
    bucket = Bucket.loads(os.environ[S3_VARIABLE])
    credentials = CREDENTIALS_FILE if os.path.exists(CREDENTIALS_FILE) else None
    store = open_bucket(bucket, credentials)
    transfers = Transfers(store, bucket.storage_class, md5_etags=bucket.md5_etags)
    return store, load_spec(store), transfers


def fetch_sources(store: Any, spec: JobSpec) -> Result | None:
    """Unpack the sources here; how the job ends when that cannot be done."""
    try:
        unpack_sources(store, spec)
    except Exception as error:
        text = f"The workflow's sources could not be fetched from the bucket: {error}"
        print(text, flush=True)
        return Result(STAGING_FAILED, error=text)
    return None


def keep_log(store: Any, spec: JobSpec, result: Result) -> None:
    """Put what the job wrote into the bucket; the job's outcome counts more than its log."""
    log = SCRATCH / "byok8s.log"
    if result.exit_code or log.stat().st_size:
        try:
            store.put(spec.log_key, log)
        except Exception as error:
            print(f"The log could not be kept in the bucket: {error}", flush=True)


def load_spec(store: Any) -> JobSpec:
    """The job, from the environment or, where it is too long for that, from the bucket."""
    text = os.environ[JOB_VARIABLE]
    if text.startswith("key:"):
        text = bytes(store.get(text.removeprefix("key:")).bytes()).decode()
    return JobSpec.loads(text)


def unpack_sources(store: Any, spec: JobSpec) -> None:
    """Fetch the source archive and unpack it here; ValueError when it is not the right one."""
    data = bytes(store.get(spec.sources_key).bytes())
    if hashlib.sha256(data).hexdigest() != spec.sources_sha256:
        raise ValueError(f"{spec.sources_key} is not what was uploaded")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        # The archive is the leader's own; Python before 3.11.4 has no filters
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(".", **safe)  # type: ignore[arg-type]  # noqa: S202
    Path(spec.workdir).mkdir(parents=True, exist_ok=True)


def run(spec: JobSpec) -> Result:
    """Run the job in Snakemake, which fetches the inputs and stores the outputs."""
    stored, facts, globs = (SCRATCH / f"byok8s.{name}" for name in ("stored", "facts", "globs"))
    facts.write_text(json.dumps(spec.facts))
    globs.write_text(json.dumps(spec.globs))
    variables = {
        STORED_VARIABLE: str(stored),
        FACTS_VARIABLE: str(facts),
        GLOBS_VARIABLE: str(globs),
    }
    began = time.monotonic()
    code, output = execute([sys.executable, *spec.argv], spec.workdir, variables)
    return Result(
        exit_code=code,
        command_exit=command_exit(output) if code else None,
        seconds=round(time.monotonic() - began, 3),
        tail=(rule_log_tail(spec) or output) if code else "",
        stored=read_stored(stored),
    )


def run_lean(spec: JobSpec, command: Command, transfers: Transfers) -> Result:
    """Run a `shell:` rule's command without Snakemake."""
    folder = Path(spec.workdir)
    began = time.monotonic()
    try:
        lean.prepare(command, folder, transfers)
        variables = lean.environment(command, SCRATCH)
        code, output = execute(lean.shell_arguments(command), spec.workdir, variables)
        stored = lean.finish(command, folder, transfers, failed=code != 0)
    except (TransferError, OSError) as error:
        (SCRATCH / "byok8s.log").touch()
        print(error, flush=True)
        return Result(STAGING_FAILED, error=str(error), tail=rule_log_tail(spec))
    return Result(
        exit_code=code,
        command_exit=code or None,
        seconds=round(time.monotonic() - began, 3),
        tail=(rule_log_tail(spec) or output) if code else "",
        stored=stored,
    )


def execute(arguments: list[str], folder: str, variables: dict[str, str]) -> tuple[int, str]:
    """Run a command; its output goes to the pod's log and to a file.

    Returns the exit code, 128 + N for signal N, and the last lines of the output.
    """
    environment = {**os.environ, **user_environment(), **variables}
    environment.pop(JOB_VARIABLE, None)
    with (
        open(SCRATCH / "byok8s.log", "wb") as log,
        subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        assert process.stdout is not None
        lines = tee(process.stdout, log)
        code = process.wait()
    return code if code >= 0 else 128 - code, b"".join(lines).decode(errors="replace")


def tee(source: IO[bytes], log: IO[bytes]) -> deque[bytes]:
    """Copy lines to standard output and to the log; return the last ones."""
    last: deque[bytes] = deque(maxlen=2 * _TAIL_LINES)
    for line in source:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        log.write(line)
        last.append(line)
    return last


def command_exit(output: str) -> int | None:
    """The exit code of the user's command as Snakemake reports it, if it does."""
    found = _EXIT_STATUS.findall(output)
    if not found:
        return None
    code, name = found[-1]
    if name:
        return 128 + int(getattr(signal, name, 0))
    return int(code) if int(code) >= 0 else 128 - int(code)


def rule_log_tail(spec: JobSpec) -> str:
    """The end of the rule's own `log:` files."""
    parts = []
    for name in spec.rule_logs:
        path = Path(spec.workdir, name)
        if path.is_file() and path.stat().st_size:
            with open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
                parts.append(file.read().decode(errors="replace"))
    return "\n".join(parts)


def user_environment() -> dict[str, str]:
    """The variables that the Snakefile asks for with `envvars:`; they may be secret."""
    try:
        variables: dict[str, str] = json.loads(Path(ENVIRONMENT_FILE).read_text())
    except FileNotFoundError:
        return {}
    return variables


def read_stored(path: Path) -> list[tuple[str, int, float, str]]:
    """What the storage provider says it has uploaded."""
    if not path.exists():
        return []
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


def report(store: Any, spec: JobSpec, result: Result) -> None:
    """Leave the result in the termination message, or in the bucket when it is too long."""
    lines = [line for line in result.tail.splitlines() if line and not _NOISE.match(line)]
    lines = lines[-_TAIL_LINES:]
    result.tail = "\n".join(lines).encode()[-_TAIL_BYTES:].decode(errors="replace")
    text = result.dumps()
    if len(text.encode()) > TERMINATION_LIMIT:
        store.put(spec.result_key, text.encode())
        text = f"key:{spec.result_key}"
    Path(TERMINATION_LOG).write_text(text)


if __name__ == "__main__":
    sys.exit(main())
