"""Stages a job whose command runs in an image of its own: `python3 -m byok8s.worker.staging`.

Such a pod has two containers. `job` is the user's image, unmodified: nothing of ours but a few
lines for its /bin/sh. `staging`, of the worker image, fetches the inputs into the working folder
that both see, lets the command run, and stores what it made. Between them are two FIFOs in a folder
in memory:

- `end`: `job` opens it when it starts, which waits until staging opens it too, and that means
  "go". It tells the command's exit code. A shell that is killed closes it without a word.
- `output`: what the command writes; staging keeps it and shows it as its own container's log.

The lines that `job` runs then are in the file `run`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from byok8s.worker.spec import STAGING_FAILED, Command, JobSpec, Result

if TYPE_CHECKING:
    from byok8s.worker.transfer import Transfers

FOLDER = "/byok8s"  # where both containers see the folder in memory
# Staging makes `end` at once, but nothing says which container is the first to start. An image
# may have no sleep, or one that knows whole seconds only.
_WAIT_AND_RUN = """\
trap 'exit 143' TERM
until [ -e {0}/end ]; do sleep 0.05 2>/dev/null || sleep 1 2>/dev/null; done
exec 9>{0}/end
. {0}/run
"""
# Snakemake's shell() in a container: `bash -c`; where there is none, its strict mode as far as sh
# knows it. The shell that waits is the container's first process, which no signal ends by itself.
_RUN = """\
exec >{folder}/output 2>&1
{exports}
cd {workdir} || exit
if command -v {shell} >/dev/null 2>&1; then set -- {shell} {text}; else set -- sh {sh}; fi
asked=
trap 'asked=1; kill -TERM "$child" 2>/dev/null' TERM
"$1" -c "$2" </dev/null 9>&- &
child=$!
wait "$child"
code=$?
while [ "$asked" ]; do  # the signal may have ended the wait and not the command
    asked=
    wait "$child" 2>/dev/null
    again=$?
    [ "$again" = 127 ] || code=$again
done
[ -O {folder}/end ] || chmod -R go+rX {made} 2>/dev/null
{{ echo "$code"; times; }} >&9
exit "$code"
"""
_GIVEN_UP = f"exit {STAGING_FAILED}\n"
_SH = "set -eu; if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi;  "
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OUTPUT_SECONDS = 10.0  # longest wait for the last output of a container that has ended


def job_command(folder: str = FOLDER) -> tuple[str, ...]:
    """What the container `job` is started with."""
    return ("/bin/sh", "-c", _WAIT_AND_RUN.format(folder))


def main() -> int:
    """Stage the job that the environment names; return the container's exit code."""
    os.umask(0o002)  # the job may run as another user, of the same group
    signal.signal(signal.SIGTERM, _stopped)
    with handshake(Path(FOLDER)) as folder:
        # not at the top: what takes time comes after the FIFOs are there
        from byok8s.worker import job
        from byok8s.worker.s3 import TransferError

        store, transfers = job.open_pod()
        try:
            spec = job.load_job(store)
        except TransferError as error:
            return job.give_up(job.UNREADABLE, error)
        if (result := job.unpack_sources(store, spec)) is None:
            assert spec.command is not None
            with job.log_kept_meanwhile(store, spec, job.LOG):
                result = stage(spec, spec.command, transfers, folder)
        job.conclude(store, spec, result)
    return result.exit_code


def _stopped(signum: int, _frame: object) -> NoReturn:
    """The pod is being deleted and the command has not begun."""
    sys.exit(128 + signum)


@contextmanager
def handshake(folder: Path) -> Iterator[Path]:
    """The FIFOs; afterwards plain files that keep no container waiting, also one that comes late.

    Anybody in the pod may open them: the two containers may run as different users.
    """
    for name in ("output", "end"):  # the job waits for the last one
        os.mkfifo(folder / name)
        (folder / name).chmod(0o666)
    try:
        yield folder
    finally:
        _write(folder / "run", _GIVEN_UP)
        (folder / "end").rename(folder / "was")
        (folder / "end").touch()
        # wakes a shell that is just opening it
        os.close(os.open(folder / "was", os.O_RDONLY | os.O_NONBLOCK))


def stage(spec: JobSpec, command: Command, transfers: Transfers, folder: Path) -> Result:
    """Fetch the inputs, have the command run in the other container, store the outputs."""
    from byok8s.worker import job, lean
    from byok8s.worker.benchmark import table_of_times
    from byok8s.worker.process import Ran, user_environment

    def run_command(command: Command, workdir: Path) -> Ran:
        variables = {**user_environment(), **lean.environment(command, job.SCRATCH)}
        _write(folder / "run", script(command, workdir.absolute(), variables, folder))
        began = time.monotonic()
        said, output = follow(folder)
        seconds = time.monotonic() - began
        code, _, times = said.partition("\n")
        if not code:
            return Ran(128 + signal.SIGKILL, output, seconds, untold=True)
        ran = Ran(int(code), output, seconds, cpu_seconds=_cpu_seconds(times))
        if command.benchmark and not ran.exit_code:
            table = table_of_times(seconds, ran.cpu_seconds)
            (workdir / command.benchmark.path).write_text(table)
        return ran

    return lean.run(spec, command, Path(), transfers, run_command)


def script(
    command: Command, workdir: Path, variables: Mapping[str, str], folder: Path = Path(FOLDER)
) -> str:
    """What the job's shell runs: the command, as Snakemake runs it in a container."""
    from byok8s.worker import lean
    from byok8s.worker.shell import in_folder

    exports = [
        f"export {name}={shlex.quote(value)}"
        for name, value in variables.items()
        if _NAME.fullmatch(name)
    ]
    return _RUN.format(
        folder=folder,
        exports="\n".join(exports),
        workdir=shlex.quote(str(workdir)),
        made=shlex.join(file.path for file in (*command.outputs, *command.logs)),
        shell=shlex.quote(os.path.basename(command.shell)),
        text=shlex.quote(lean.shell_arguments(command, workdir)[-1]),
        sh=shlex.quote(_SH * command.strict + in_folder(command.text, str(workdir))),
    )


def follow(folder: Path) -> tuple[str, str]:
    """Let the command run to its end.

    Returns what its shell said of that, nothing when it was killed, and the last lines of its
    output.
    """
    from byok8s.worker.job import LOG
    from byok8s.worker.process import tee

    lines: deque[bytes] = deque()

    def keep() -> None:
        with open(folder / "output", "rb") as out:
            try:
                with open(LOG, "wb", buffering=0) as log:
                    lines.extend(tee(out, log))
            except OSError as error:  # the disk is full, for one; the command must find a reader
                print(f"The output cannot be kept: {error}", flush=True)
                shutil.copyfileobj(out, sys.stdout.buffer)

    # held open until the end is known, so that there is always somebody to read from
    output = os.open(folder / "output", os.O_RDWR)
    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        with open(folder / "end") as end:
            # From here on the command is asked to end, and its log is kept within the grace period
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            said = end.read()
    finally:
        os.close(output)
    keeper.join(_OUTPUT_SECONDS)
    return said, b"".join(lines).decode(errors="replace")


def _cpu_seconds(times: str) -> float:
    """Of a shell's children, from what its `times` prints: the second line, as "0m1.5s 0m0.2s"."""
    found = re.findall(r"(\d+)m([\d.]+)s", times.partition("\n")[2])
    return round(sum(60 * int(minutes) + float(seconds) for minutes, seconds in found), 3)


def _write(path: Path, text: str) -> None:
    """Whole or not at all: the other container reads it when it is there."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.rename(path)


if __name__ == "__main__":
    from byok8s.worker.process import leave

    leave(main())
