"""Reads from a rule's `resources:` where its jobs may run; docs/placement.md has the names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from byok8s.batch.placement import Placement
from byok8s.batch.placement_text import NAMES, override
from byok8s.exceptions import ClusterError
from byok8s.workflow.shares import CPU_PER_THREAD

if TYPE_CHECKING:
    from byok8s.batch import BatchSystem, KubeClient, PodRequest


def placement_of(job: Any, defaults: Placement) -> Placement:
    """Where a job or a group may run, from the run's defaults. Raises SettingsError."""
    named = ((name, value) for name, value in job.resources.items() if name in NAMES)
    said = {name: value for name, value in named if value is not None}
    if not said:  # as most jobs
        return defaults
    rules = sorted(set(job.rules)) if job.is_group() else [job.rule.name]
    return _placed(said, "+".join(rules), defaults)


def check_rules(rules: Iterable[Any], defaults: Placement) -> None:
    """Find what is wrong in rules before any job is known; functions are asked later, by job.

    Raises SettingsError.
    """
    for rule in rules:
        _known(rule, defaults)


def rehearse_rules(workflow: Any, client: KubeClient, defaults: Placement, image: str) -> None:
    """Have the cluster look at what the rules with jobs to run say; raises ClusterError."""
    from byok8s.batch.rehearsal import rehearse

    rules = {job.rule.name: job.rule for job in workflow.dag.needrun_jobs()}
    seen = {defaults}
    for name, rule in rules.items():
        placement = _known(rule, defaults)
        if placement not in seen and not workflow.is_local(rule):
            rehearse(client, placement, image, f"rule '{name}'")
        seen.add(placement)


def refuse_what_never_fits(workflow: Any, batch: BatchSystem, defaults: Placement) -> None:
    """Before the first pod, find the rules with jobs to run that are too large for every node.

    What functions say is not known yet; such a job fails when its turn comes. With --keep-going
    all do, for the sake of the others. Raises ClusterError with a line for each rule.
    """
    from byok8s.batch import NeverFits

    if workflow.execution_settings.keep_going:
        return
    most_threads = workflow.resource_settings.max_threads
    problems = []
    for rule in {job.rule.name: job.rule for job in workflow.dag.needrun_jobs()}.values():
        if workflow.is_local(rule):
            continue
        try:
            batch.check(_least(rule, defaults, most_threads))
        except NeverFits as error:
            why = str(error).replace("(threads)", "(threads, or --max-threads for all rules)")
            problems.append(f"Rule '{rule.name}' can never run. {why}")
    if problems:
        raise ClusterError("\n".join(problems))


def _least(rule: Any, defaults: Placement, most_threads: int | None) -> PodRequest:
    """What a rule's jobs ask for in any case."""
    from byok8s.batch import PodRequest

    def told(name: str) -> int | None:
        found = rule.resources.get(name)
        known = found is not None and not found.is_evaluable() and isinstance(found.value, int)
        return int(found.value) if known else None

    threads = max(1, told("_cores") or 1)
    return PodRequest(
        rule.name,
        image="",
        command=(),
        cpu=CPU_PER_THREAD * min(threads, most_threads or threads),
        memory_mb=told("mem_mb"),
        disk_mb=told("disk_mb"),
        placement=_known(rule, defaults),
    )


def _known(rule: Any, defaults: Placement) -> Placement:
    """What a rule says for every job of it."""
    told = {name: rule.resources.get(name) for name in NAMES}
    known = {name: found.value for name, found in told.items() if not found.is_evaluable()}
    return _placed(known, rule.name, defaults)


def _placed(said: Mapping[str, Any], rule: str, defaults: Placement) -> Placement:
    from snakemake.common.tbdstring import TBDString

    wishes = {
        name: value
        for name, value in said.items()
        if value is not None and not isinstance(value, TBDString)
    }
    return override(defaults, wishes, lambda name: f"The resource {name} of rule '{rule}'")
