"""Runs one command: passes its output on, keeps it, and measures what it used."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, NoReturn

from byok8s.worker.names import ENVIRONMENT_FILE, OUR_VARIABLES

if TYPE_CHECKING:
    from byok8s.worker.benchmark import Benchmark

TAIL_LINES = 20
_KILL_AFTER_SECONDS = 5.0  # between SIGTERM and SIGKILL of a command whose time is over
# How Snakemake tells a shell command's exit code (subprocess.CalledProcessError)
_EXIT_STATUS = r"returned non-zero exit status (-?\d+)|died with <?Signals\.(SIG\w+)"


class Ran(NamedTuple):
    """How a command went: exit code (128 + N for signal N) and the end of its output.

    `seconds` of its own; `cpu_seconds` of the command with its children, `peak_memory` in bytes of
    the largest of them (getrusage(2), which also counts the worker itself before it became the
    command: 45 MB).
    `late`: it was ended because its time was over. `out_of_memory`: the kernel killed a process
    of this container meanwhile. `untold`: it went without a word, and the exit code is a guess.
    """

    exit_code: int
    tail: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    late: bool = False
    out_of_memory: bool = False
    untold: bool = False


# Where the kernel counts such kills: control groups version 2, then 1, as a container sees them
_OOM_COUNTS = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)


def say(line: bytes) -> None:
    """Write a line to the pod's log at once; one that does not end is ended."""
    sys.stdout.buffer.write(line if line.endswith(b"\n") else line + b"\n")
    sys.stdout.buffer.flush()


def leave(code: int) -> NoReturn:
    """End this process. Python's own end takes a sixth of a small job's CPU, and does nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def execute(
    arguments: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
    log: Path,
    *,
    tell: Callable[[bytes], None] = say,
    seconds: float | None = None,
    benchmark: Path | None = None,
    began: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
) -> Ran:
    """Run a command in a process group of its own; its output goes to `log` and to `tell`.

    `seconds` is how long it may take; `began` is given the process, for who wants to end it. What
    it takes is written to `benchmark` when it succeeds.
    """
    environment = {**os.environ, **user_environment(), **variables}
    for name in OUR_VARIABLES:
        environment.pop(name, None)
    killed_before = oom_kills()
    start = time.monotonic()
    with (
        open(log, "wb", buffering=0) as kept,  # others read it meanwhile
        subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        began(process)
        measured = _measured(process.pid) if benchmark else None
        watch = _Deadline(process, seconds)
        assert process.stdout is not None
        lines = tee(process.stdout, kept, tell)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        watch.over()
    if benchmark and measured:
        table = measured.stop()
        if code == 0:
            benchmark.write_text(table)
    return Ran(
        exit_code=code if code >= 0 else 128 - code,
        tail=b"".join(lines).decode(errors="replace"),
        seconds=time.monotonic() - start,
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 3),
        peak_memory=usage.ru_maxrss * 1024,
        late=watch.ended_it,
        out_of_memory=oom_kills() > killed_before,
    )


def _measured(pid: int) -> Benchmark:
    from byok8s.worker.benchmark import Benchmark  # few jobs have one

    return Benchmark(pid)


def command_exit(output: str) -> int | None:
    """The exit code of the user's command as Snakemake reports it, if it does."""
    found = re.findall(_EXIT_STATUS, output)
    if not found:
        return None
    code, name = found[-1]
    if name:
        return 128 + int(getattr(signal, name, 0))
    return int(code) if int(code) >= 0 else 128 - int(code)


def oom_kills() -> int:
    """How many processes of this container the kernel has killed for want of memory."""
    for path in _OOM_COUNTS:
        try:
            fields = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
            return int(fields["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return 0


def end(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a command and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def user_environment() -> dict[str, str]:
    """The variables that the Snakefile asks for with `envvars:`; they may be secret."""
    try:
        variables: dict[str, str] = json.loads(Path(ENVIRONMENT_FILE).read_text())
    except FileNotFoundError:
        return {}
    return variables


def tee(source: IO[bytes], log: IO[bytes], tell: Callable[[bytes], None] = say) -> deque[bytes]:
    """Pass lines on and keep them; returns the last ones."""
    last: deque[bytes] = deque(maxlen=2 * TAIL_LINES)
    for line in source:
        tell(line)
        log.write(line)
        last.append(line)
    return last


class _Deadline:
    """Ends a process when its time is over: SIGTERM first, SIGKILL a little later."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float | None) -> None:
        self.ended_it = False
        self._process = process
        self._over = threading.Event()
        if seconds is not None:
            threading.Thread(target=self._watch, args=(seconds,), daemon=True).start()

    def over(self) -> None:
        self._over.set()

    def _watch(self, seconds: float) -> None:
        if self._over.wait(seconds):
            return
        self.ended_it = True
        end(self._process, signal.SIGTERM)
        if not self._over.wait(_KILL_AFTER_SECONDS):
            end(self._process, signal.SIGKILL)
