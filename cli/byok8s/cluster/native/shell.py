"""Running the machine's own tools, with failures in one sentence."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from byok8s.exceptions import ClusterError


def run(command: Sequence[str], *, stdin: str = "", timeout: float = 120) -> str:
    """The standard output of a command; `timeout` in seconds.

    Raises ClusterError with the command and its own last words when it fails.
    """
    done = attempt(command, stdin=stdin, timeout=timeout)
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise ClusterError(
            f"The command '{' '.join(command[:4])}' failed"
            f" ({words[-1].strip() if words else f'exit code {done.returncode}'})."
        )
    return done.stdout


def attempt(
    command: Sequence[str], *, stdin: str = "", timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """A command that may fail; raises ClusterError only when it is not there or hangs."""
    try:
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
    except FileNotFoundError as error:
        raise ClusterError(f"The command '{command[0]}' is missing; install it.") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"The command '{' '.join(command[:4])}' did not end within {timeout:.0f} s."
        ) from error
