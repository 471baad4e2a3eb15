"""The Snakemake scheduler plugin: which of the ready jobs start now.

Snakemake's greedy scheduler looks at every ready job again for each job that it takes, so that a
round of 10,000 takes a minute. No job is taken twice and what is free only shrinks, so one look at
the jobs in the order of their rewards comes to the same choice.

No `from __future__ import annotations` here: Snakemake reads the types of the settings' fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from snakemake.scheduling.greedy import Scheduler as Greedy
from snakemake_interface_scheduler_plugins.settings import SchedulerSettingsBase


@dataclass
class SchedulerSettings(SchedulerSettingsBase):
    """Settings of `snakemake --scheduler byok8s`."""

    omit_prioritize_by_temp_and_input: bool = field(
        default=False,
        metadata={"help": "Do not prefer jobs with larger temporary or input files."},
    )


class Scheduler(Greedy):
    """Greedy's rewards and resource limits; time proportional to the number of ready jobs."""

    settings: SchedulerSettings

    def __post_init__(self) -> None:
        self.settings = self.settings or SchedulerSettings()

    def select_jobs(
        self,
        selectable_jobs: Sequence[Any],
        remaining_jobs: Sequence[Any],
        available_resources: Mapping[str, int],
        input_sizes: Mapping[Any, int],
    ) -> list[Any]:
        """The jobs to start, those with the highest reward first."""
        free = dict(available_resources)
        selected = []
        best_first = sorted(
            selectable_jobs, key=lambda job: self.job_reward(job, input_sizes), reverse=True
        )
        for job in best_first:
            if free.get("_nodes") == 0:  # each job takes at least one
                break
            needs = job.scheduler_resources
            for name, left in free.items():
                if needs.get(name, 0) > left:
                    break
            else:
                selected.append(job)
                for name in free:
                    free[name] -= needs.get(name, 0)
        return selected

    def job_reward(self, job: Any, input_sizes: Mapping[Any, int]) -> Any:
        """As greedy has it; most jobs that are ready from the start have no input to look at."""
        if job.input or self.settings.omit_prioritize_by_temp_and_input:
            return super().job_reward(job, input_sizes)
        return (job.priority, 0, 0)
