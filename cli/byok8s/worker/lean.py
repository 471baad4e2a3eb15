"""Runs a `shell:` rule without Snakemake: get the inputs, run the command, put the outputs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from byok8s.worker import shell
from byok8s.worker.job import result_of, rule_log_tail
from byok8s.worker.process import Ran, say
from byok8s.worker.s3 import StorageAway, TransferError, outlast
from byok8s.worker.spec import STAGING_FAILED, Command, File, JobSpec, Result
from byok8s.worker.transfer import Transfers, in_parallel

T = TypeVar("T")
Stored = list[tuple[str, int, float, str]]
LONGEST_KEEP = 600.0  # seconds for which outputs are kept for a store that is away


class Keeping(NamedTuple):
    """Stores files; where the store is away they are kept for it, for `seconds`."""

    transfers: Transfers
    seconds: float = 0.0
    tell: Callable[[bytes], None] = say

    def put(self, work: Callable[[Transfers], T]) -> T:
        """Raises TransferError."""
        return outlast(lambda: work(self.transfers), self.seconds, self.tell)


class OutputError(Exception):
    """The command succeeded and its outputs are not what the rule says; the text is a sentence."""


def run(
    spec: JobSpec,
    command: Command,
    root: Path,
    transfers: Transfers,
    run_command: Callable[[Command, Path], Ran],
    *,
    tell: Callable[[bytes], None] = say,
) -> Result:
    """Stage, run and store one job whose sources lie in `root`; what goes wrong is in the result.

    `run_command` runs the formatted command in a folder.
    """
    folder = root / spec.workdir
    began = time.monotonic()
    try:
        received = prepare(command, folder, transfers)
        fetched = time.monotonic()
        ran = run_command(command, folder)
        ended = time.monotonic()
        # to run the command again would cost as much time
        keeping = Keeping(transfers, min(ran.seconds, LONGEST_KEEP), tell)
        stored = finish(command, folder, keeping, failed=ran.exit_code != 0)
    except (TransferError, OutputError, OSError) as error:
        tell(f"{error}\n".encode())
        away, tail = isinstance(error, StorageAway), rule_log_tail(spec, folder)
        return Result(STAGING_FAILED, error=str(error), storage_away=away, tail=tail)
    command_exit = None if ran.untold else ran.exit_code or None
    fetch, store = fetched - began, time.monotonic() - ended
    # in a bundle a command waits for its turn, which is no part of the job
    seconds = fetch + ran.seconds + store
    result = result_of(ran, spec, folder, seconds, command_exit=command_exit, stored=stored)
    result.fetch_seconds, result.store_seconds = round(fetch, 3), round(store, 3)
    result.bytes_in = received
    return result


def prepare(command: Command, folder: Path, transfers: Transfers) -> int:
    """Fetch the inputs, write the scripts and make the outputs' folders; raises TransferError.

    Returns how many bytes the inputs have.
    """
    files = [file for file in command.inputs if not file.folder]
    metas = in_parallel(lambda file: transfers.get_file(file.key, folder / file.path), files)
    received = sum(meta.size for meta in metas)
    for file in command.inputs:
        if file.folder:
            received += transfers.get_folder(file.key, folder / file.path, file.names)
    for file in (*_made(command), *command.logs):
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
    if command.tmpdir:
        with contextlib.suppress(OSError):  # it may be a volume that the job's container alone has
            (folder / command.tmpdir).mkdir(parents=True, exist_ok=True)
    for path, text in command.texts:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(shell.in_folder(text, str(folder.absolute())))
    return received


def _made(command: Command) -> tuple[File, ...]:
    """What a job is to make: its outputs and its benchmark."""
    return (*command.outputs, command.benchmark) if command.benchmark else command.outputs


def shell_arguments(command: Command, folder: Path) -> list[str]:
    """What runs the command in a folder."""
    where, strict = str(folder.absolute()), command.strict
    return shell.arguments(command.shell, command.text, where, strict=strict)


def environment(command: Command, scratch: Path) -> dict[str, str]:
    """What a command finds in its environment beside the pod's own."""
    return shell.variables(command.threads, command.tmpdir or str(scratch))


def finish(command: Command, folder: Path, keeping: Keeping, *, failed: bool) -> Stored:
    """Keep the logs and, of a command that succeeded, the outputs.

    Raises OutputError that names the outputs which the command did not make, or not as the rule
    promises; and, of a command that succeeded, TransferError.
    """
    _make_missing(command.logs, folder)
    try:
        stored = _put(command.logs, folder, keeping)
    except TransferError as error:
        if not failed:
            raise
        keeping.tell(f"{error}\n".encode())  # that the command failed counts more
        stored = []
    if failed:
        return stored
    _make_missing((file for file in command.outputs if file.touch), folder)
    missing = [file.key for file in command.outputs if not os.path.exists(folder / file.path)]
    if missing:
        raise OutputError(f"the command did not make {', '.join(missing)}")
    wrong = [file for file in command.outputs if (folder / file.path).is_dir() != file.folder]
    for file in wrong:
        made, say = ("file", "do not say") if file.folder else ("folder", "say")
        raise OutputError(f"the command made a {made} of {file.key}; {say} directory() in the rule")
    for file in command.outputs:
        _ensure(file, folder / file.path)
    return stored + _put(_made(command), folder, keeping)


def _ensure(file: File, path: Path) -> None:
    """What a rule promises of an output with `ensure()`."""
    if file.non_empty and not path.stat().st_size:
        raise OutputError(f"the command left {file.key} empty, which the rule says it never is")
    if file.checksum:
        algorithm, _, promised = file.checksum.partition(":")
        with open(path, "rb") as content:
            found = hashlib.file_digest(content, algorithm).hexdigest()
        if found != promised:
            raise OutputError(
                f"the command made {file.key} with the {algorithm} {found}, "
                f"where the rule promises {promised}"
            )


def _make_missing(files: Iterable[File], folder: Path) -> None:
    """Only those: what another user has made, this one need not be able to touch."""
    for file in files:
        path = folder / file.path
        if not path.exists():
            path.touch()


def _put(files: Iterable[File], folder: Path, keeping: Keeping) -> Stored:
    files = list(files)
    plain = [file for file in files if not file.folder]
    metas = in_parallel(
        lambda file: keeping.put(lambda to: to.put_file(file.key, folder / file.path)), plain
    )
    stored = {file.key: meta for file, meta in zip(plain, metas, strict=True)}
    for file in files:
        if file.folder:
            key, path = file.key, folder / file.path
            below = keeping.put(partial(Transfers.put_folder, key=key, path=path))
            stored |= {f"{key}/{name}": meta for name, meta in below.items()}
    return [(key, meta.size, meta.mtime, meta.etag) for key, meta in stored.items()]
