"""Snakemake scheduler plugin "byok8s": greedy's choice of jobs, in linear time."""

from byok8s.workflow.scheduler import Scheduler, SchedulerSettings

__all__ = ["Scheduler", "SchedulerSettings"]
