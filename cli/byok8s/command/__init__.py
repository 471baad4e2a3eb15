"""The command line: parse, one call, print. The only importer of click."""

from __future__ import annotations


def main() -> None:
    """Entry point of the byok8s command."""
    import sys

    try:
        from byok8s.command.root import root
    except KeyboardInterrupt:  # while Python still loads
        sys.exit(130)
    root.main(prog_name="byok8s")
