"""Snakemake inside a pod: `python3 -m byok8s.workflow.in_pod ARGUMENTS`.

The same as `python3 -m snakemake`, with the leader's findings of glob_wildcards, with all files of
the bucket in `shadow: "full"`, and without trying again: that is for the leader, which would
otherwise do so on top of the pod.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run Snakemake's command line; exits as it does."""
    from snakemake import cli, workflow  # cli first: they import each other
    from snakemake.jobs import GroupJob, Job

    from byok8s.workflow.globbing import RecordedGlob
    from byok8s.workflow.shadow import complete_full_shadow

    workflow.glob_wildcards = RecordedGlob()
    # --retries=0 is only for rules that say nothing of it
    Job.restart_times = GroupJob.restart_times = property(lambda job: 0)
    complete_full_shadow()
    cli.main(sys.argv[1:])


if __name__ == "__main__":
    main()
