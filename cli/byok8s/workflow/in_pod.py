"""Snakemake inside a pod: `python3 -m byok8s.workflow.in_pod ARGUMENTS`.

The same as `python3 -m snakemake`, with the leader's findings of glob_wildcards.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run Snakemake's command line; exits as it does."""
    import snakemake.workflow
    from snakemake.cli import main as snakemake_main

    from byok8s.workflow.globbing import RecordedGlob

    snakemake.workflow.glob_wildcards = RecordedGlob()
    snakemake_main(sys.argv[1:])


if __name__ == "__main__":
    main()
