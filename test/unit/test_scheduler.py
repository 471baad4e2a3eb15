"""The scheduler chooses what Snakemake's greedy one does, in linear time."""

from __future__ import annotations

import heapq
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from byok8s.workflow.scheduler import Scheduler, SchedulerSettings
from snakemake.scheduling import greedy
from snakemake_interface_scheduler_plugins.registry import SchedulerPluginRegistry

Select = Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class File:
    name: str
    temp: bool = False

    def is_flagged(self, flag: str) -> bool:
        return flag == "temp" and self.temp


@dataclass(eq=False)
class Job:
    scheduler_resources: dict[str, int]
    priority: int = 0
    input: list[File] = field(default_factory=list)
    seconds: int = 1


def ours(**settings: Any) -> Select:
    return Scheduler(None, SchedulerSettings(**settings), logging.getLogger()).select_jobs


def theirs(**settings: Any) -> Select:
    made = greedy.Scheduler(None, greedy.SchedulerSettings(**settings), logging.getLogger())
    select: Select = made.select_jobs
    return select


@dataclass
class Instance:
    """Jobs of mixed needs, and what there is for them."""

    jobs: list[Job]
    free: dict[str, int]
    sizes: dict[File, int | None]


def instance(seed: int) -> Instance:
    draw = random.Random(seed)
    files = [File(str(i), temp=draw.random() < 0.3) for i in range(10)]
    sizes = {file: draw.choice([None, 0, 5, draw.randrange(1000)]) for file in files}
    jobs = [
        Job(
            {
                "_cores": draw.randint(1, 8),
                "_nodes": 1,
                "_job_count": 1,
                "mem_mb": draw.choice([0, 100, 1000, 4000]),
                "disk_mb": 7,  # of which there is no limit
                **({"gpu": 1} if draw.random() < 0.2 else {}),
            },
            priority=draw.choice([0, 0, 0, 1, 50]),
            input=draw.sample(files, draw.randint(0, 4)),
            seconds=draw.randint(1, 9),
        )
        for _ in range(draw.randint(1, 60))
    ]
    free = {
        "_cores": draw.choice([8, 16, 10**9]),
        "_nodes": draw.choice([2, 8, 100]),
        "_job_count": draw.choice([3, 10**9]),
        "mem_mb": draw.choice([4000, 16_000]),
        "gpu": draw.choice([1, 2]),
    }
    return Instance(jobs, free, sizes)


def makespan(found: Instance, select: Select) -> int:
    """Seconds until the last job has ended, when the scheduler is asked at each job's end."""
    ready, free, now = list(found.jobs), dict(found.free), 0
    running: list[tuple[int, int, Job]] = []
    while ready or running:
        for job in select(ready, ready, free, found.sizes):
            ready.remove(job)
            heapq.heappush(running, (now + job.seconds, id(job), job))
            take(free, job, 1)
        now, _, ended = heapq.heappop(running)
        take(free, ended, -1)
    return now


def take(free: dict[str, int], job: Job, sign: int) -> None:
    for name in set(free) & set(job.scheduler_resources):
        free[name] -= sign * job.scheduler_resources[name]
        assert free[name] >= 0, f"more {name} was given than there is"


@pytest.mark.parametrize("omit", [False, True])
def test_it_chooses_what_greedy_chooses(omit: bool) -> None:
    settings = {"omit_prioritize_by_temp_and_input": omit}
    for seed in range(300):
        found = instance(seed)
        arguments = (found.jobs, found.jobs, found.free, found.sizes)
        chosen = ours(**settings)(*arguments)
        assert len(chosen) == len(set(chosen))
        assert set(chosen) == set(theirs(**settings)(*arguments)), f"instance {seed}"


def test_its_makespan_on_mixed_resources_is_greedys_or_better() -> None:
    for seed in range(150):
        found = instance(seed)
        assert makespan(found, ours()) <= makespan(found, theirs()), f"instance {seed}"


def test_the_jobs_with_the_highest_reward_come_first() -> None:
    low, high, big = (Job({"_nodes": 1}, priority=p) for p in (0, 9, 0))
    big.input = [File("big")]
    jobs = [low, big, high]
    assert ours()(jobs, jobs, {"_nodes": 9}, {File("big"): 5}) == [high, big, low]


def test_a_round_of_20000_jobs_takes_no_more_per_job_than_one_of_1000() -> None:
    def seconds(count: int) -> float:
        jobs = [Job({"_nodes": 1, "_cores": 1, "mem_mb": 100}) for _ in range(count)]
        began = time.process_time()
        chosen = ours()(jobs, jobs, {"_nodes": 10**6, "_cores": 10**6, "mem_mb": 10**9}, {})
        assert len(chosen) == count
        return (time.process_time() - began) / count

    # greedy: 20 times as much; a margin for what else the machine does meanwhile
    assert seconds(20_000) < 5 * min(seconds(1000) for _ in range(3))


def test_snakemake_finds_the_plugin_by_its_name() -> None:
    plugin = SchedulerPluginRegistry().get_plugin("byok8s")
    assert plugin.scheduler is Scheduler
    assert plugin.settings_cls is SchedulerSettings
    assert Scheduler(None, None, logging.getLogger()).settings == SchedulerSettings()
