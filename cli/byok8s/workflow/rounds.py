"""Snakemake's scheduler, asked as rarely as does no harm.

Snakemake looks at all ready jobs again for every job that ends: at whether they are valid, at the
sizes of all their inputs, at every job that is still to be done. Of 20,000 jobs of which 1,000 may
run at once, that is more work than a machine can do. Here the jobs that end while it looks are one
reason for one more look, and when there is much to look at there is a pause before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any

from snakemake.scheduling.job_scheduler import JobScheduler

# About what a round costs for each ready job: with such a pause, rounds take half of the time
_SECONDS_PER_JOB = 10e-6
_LONGEST_PAUSE = 1.0
# A larger run is told to be this far, as a thousandth of the whole, and not after each job
_PROGRESS_LINES = 1000


class Bell:
    """Takes the place of a semaphore: rung many times before it is heard, it is heard once."""

    def __init__(self, pause: Callable[[], float]) -> None:
        """`pause` gives the seconds for which it goes on ringing unheard."""
        self._pause = pause
        self._rung: SimpleQueue[None] = SimpleQueue()  # may be put to by a signal handler

    def release(self) -> None:
        self._rung.put(None)

    def acquire(self) -> None:
        self._rung.get()
        if seconds := self._pause():
            time.sleep(seconds)
        try:
            while True:
                self._rung.get_nowait()
        except Empty:
            pass


class Rounds(JobScheduler):
    """Snakemake's scheduler with fewer and cheaper rounds; the choice is the plugin's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._open_jobs = Bell(self._pause)
        self._open_jobs.release()
        self._valid: dict[Any, Any] = {}  # rule -> what one of its jobs needs

    def _pause(self) -> float:
        if not self.running:  # then nothing ends meanwhile
            return 0.0
        return min(_LONGEST_PAUSE, _SECONDS_PER_JOB * len(self.workflow.dag.ready_jobs))

    def progress(self) -> None:
        """Tell how far the run is; of a large one, some of the times that it gets farther."""
        done, total = self.finished_jobs, len(self.workflow.dag)
        if done == total or done % (total // _PROGRESS_LINES + 1) == 0:
            super().progress()

    def validate_job(self, job: Any) -> None:
        """Of the jobs of a rule that share one dictionary of needs, only the first is looked at."""
        rule, needs = None if job.is_group() else job.rule, job.scheduler_resources
        if rule is None or self._valid.get(rule) is not needs:
            super().validate_job(job)
            self._valid[rule] = needs

    async def update_input_sizes(self, jobs: Iterable[Any]) -> None:
        """Ask for sizes once: the inputs of a ready job do not change any more."""

        async def size(path: Any) -> tuple[Any, int | None]:
            return path, await path.size() if await path.exists() else None

        known = self._input_sizes
        paths = {path for job in jobs for path in job.input if path not in known}
        known.update(await asyncio.gather(*map(size, paths)))
