"""Snakemake inside a pod: `python3 -m byok8s.workflow.in_pod ARGUMENTS`.

The same as `python3 -m snakemake`, with the leader's findings of glob_wildcards.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run Snakemake's command line; exits as it does."""
    from snakemake import cli, workflow  # cli first: they import each other

    from byok8s.workflow.globbing import RecordedGlob

    workflow.glob_wildcards = RecordedGlob()
    cli.main(sys.argv[1:])


if __name__ == "__main__":
    main()
