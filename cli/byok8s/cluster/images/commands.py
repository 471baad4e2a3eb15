"""Runs the commands of a build: their output goes to a log, their last line to the step."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from byok8s.exceptions import ClusterError
from byok8s.progress import Step

_DETAIL_LENGTH = 60


def run(
    command: Sequence[str], log: Path, step: Step, environment: Mapping[str, str] | None = None
) -> None:
    """Run a command to its end.

    Raises ClusterError, which names the command and the log, when it fails or is not there.
    """
    with log.open("a") as file:
        print("+", *command, file=file, flush=True)
        try:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise ClusterError(
                f"An image cannot be built: the command '{command[0]}' does not start "
                f"({error.strerror}); install it and run byok8s again."
            ) from error
        with process:
            try:
                for line in process.stdout or ():
                    file.write(line)
                    file.flush()
                    step.update(line.strip()[:_DETAIL_LENGTH])
            except BaseException:
                process.terminate()
                raise
    if process.returncode:
        raise ClusterError(
            f"Building an image failed: '{command[0]}' ended with exit code "
            f"{process.returncode}; its output is in {log}."
        )
