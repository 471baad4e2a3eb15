"""Run one job in a pod, or a bundle of them: `python3 -m byok8s.worker`."""

# ruff: noqa: E402

from __future__ import annotations

import gc

gc.disable()  # looking for garbage while all is imported takes a twentieth of a small job's CPU

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from byok8s.worker import lean
from byok8s.worker.job import (
    LOG,
    NO_FOLDERS,
    SCRATCH,
    UNREADABLE,
    conclude,
    end_of,
    give_up,
    load_job,
    load_text,
    log_kept_meanwhile,
    open_pod,
    result_of,
    unpack_sources,
    write_files,
)
from byok8s.worker.names import BUNDLE_VARIABLE, FACTS_VARIABLE, GLOBS_VARIABLE, STORED_VARIABLE
from byok8s.worker.plain import Done
from byok8s.worker.process import Ran, command_exit, end, execute, leave, oom_kills
from byok8s.worker.s3 import TransferError
from byok8s.worker.spec import AWAY, Command, JobSpec, Result

gc.enable()

_LONGEST_TAIL = 100_000  # bytes


def main(done: Done | None = None) -> int:
    """Do what the environment asks for; return the pod's exit code.

    `done`: how the job's command went, which has run already.
    """
    try:
        write_files()
    except OSError as error:
        return give_up(NO_FOLDERS, error)
    try:
        store, transfers = open_pod()
        if BUNDLE_VARIABLE in os.environ:
            from byok8s.worker.bundle import run_bundle

            return run_bundle(transfers, load_text(store, os.environ[BUNDLE_VARIABLE]))
        spec = load_job(store)
    except TransferError as error:
        return give_up(UNREADABLE, error)
    run_command = (lambda *_: _ran(done)) if done else _run_command
    result = None if done else unpack_sources(store, spec)
    if result is None:
        command = spec.command
        with log_kept_meanwhile(store, spec, LOG):
            result = (
                run_snakemake(spec)
                if command is None
                else lean.run(spec, command, Path(), transfers, run_command)
            )
    conclude(store, spec, result)
    return result.exit_code


def run_snakemake(spec: JobSpec) -> Result:
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
    folder = Path(spec.workdir)
    ran = _execute([sys.executable, *spec.argv], folder, variables)
    code = command_exit(ran.tail) if ran.exit_code else None
    seconds = time.monotonic() - began
    told = read_told(stored)
    objects = [tuple(row) for row in told if isinstance(row, list)]
    result = result_of(ran, spec, folder, seconds, command_exit=code, stored=objects)
    result.bytes_in = sum(row for row in told if isinstance(row, int))
    away = Path(f"{stored}{AWAY}")
    if ran.exit_code and code is None and away.exists():
        result.error, result.storage_away = away.read_text(), True
    return result


def read_told(path: Path) -> list[Any]:
    """What the storage provider says it has stored, a list each, and fetched, in bytes."""
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


def _run_command(command: Command, folder: Path) -> Ran:
    variables = lean.environment(command, SCRATCH)
    benchmark = folder / command.benchmark.path if command.benchmark else None
    return _execute(lean.shell_arguments(command, folder), folder, variables, benchmark)


def _ran(done: Done) -> Ran:
    if done.problem:
        raise done.problem
    return Ran(
        done.exit_code,
        end_of(LOG, _LONGEST_TAIL),
        seconds=done.seconds,
        cpu_seconds=done.cpu_seconds,
        peak_memory=done.peak_memory,
        out_of_memory=oom_kills() > 0,
    )


def keep_log_meanwhile() -> contextlib.ExitStack:
    """Keep the log of the pod's one job in the bucket from now on, until this is closed."""
    store, _ = open_pod()
    keeper = contextlib.ExitStack()
    keeper.enter_context(log_kept_meanwhile(store, load_job(store), LOG))
    return keeper


def _execute(
    arguments: list[str], folder: Path, variables: dict[str, str], benchmark: Path | None = None
) -> Ran:
    return execute(arguments, folder, variables, LOG, benchmark=benchmark, began=_pass_sigterm_on)


def _pass_sigterm_on(process: subprocess.Popen[bytes]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: end(process, signal.SIGTERM))


if __name__ == "__main__":
    leave(main())
