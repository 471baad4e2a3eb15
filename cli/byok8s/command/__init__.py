"""The command line: parse, one call, print. The only importer of click."""

from __future__ import annotations


def main() -> None:
    """Entry point of the byok8s command."""
    from byok8s.command.root import root

    root.main(prog_name="byok8s")
