"""`shadow: "full"` for files of a bucket, which Snakemake leaves out.

Its copy of the working directory has nothing below .snakemake, where the files of a storage lie
while a job runs.
"""

from __future__ import annotations

import functools
import os
from typing import Any


def complete_full_shadow() -> None:
    """Have Snakemake put a job's files into its full shadow, in this process."""
    from snakemake.jobs import Job

    if hasattr(Job.prepare, "__wrapped__"):
        return
    prepare = Job.prepare

    @functools.wraps(prepare)
    async def prepared(job: Any) -> None:
        await prepare(job)
        if job.shadow_dir and job.rule.shadow_depth == "full":
            _complete(job)

    Job.prepare = prepared


def _complete(job: Any) -> None:
    for file in (*job.input, *job.output, *job.log):
        os.makedirs(os.path.join(job.shadow_dir, os.path.dirname(file)), exist_ok=True)
    for file in job.input:
        if not os.path.lexists(link := os.path.join(job.shadow_dir, file)):
            os.symlink(os.path.abspath(file), link)
