"""The command line: parse, one call, print. The only importer of click."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the byok8s command."""
    import sys

    try:
        from byok8s.command.root import root
    except KeyboardInterrupt:  # while Python still loads
        sys.exit(130)
    try:
        root.main(prog_name="byok8s")
    except SystemExit as end:
        _exit(end.code if isinstance(end.code, int) else 1)


def _exit(status: int) -> NoReturn:
    """End the process without taking it apart.

    Python frees Snakemake, its DAG and every library piece by piece, which takes some tenths of a
    second; the system does it at once.
    """
    import atexit
    import os
    import sys

    atexit._run_exitfuncs()  # of others: the Kubernetes client removes its files with keys
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads any more
            status = status or 1
    os._exit(status)
