"""Reads from a rule's `resources:` where its jobs may run; docs/placement.md has the names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from byok8s.batch.placement import Placement
from byok8s.batch.placement_text import NAMES, override

if TYPE_CHECKING:
    from byok8s.batch import KubeClient


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
