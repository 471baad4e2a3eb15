"""Questions that Snakemake's core asks a hundred times for each job, answered faster.

Each of these gives what the function gives in whose place it is put; test_leader.py compares them.
They are for a workflow that has been read: what they keep does not change any more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from functools import cache
from typing import Any

from snakemake.common import get_function_params
from snakemake.io import get_flag_value, is_flagged, wait_for_files
from snakemake.iocontainers import ResourceList
from snakemake.jobs import Job
from snakemake.rules import Rule
from snakemake.workflow import Workflow
from snakemake_interface_common.io import AnnotatedStringInterface

from byok8s.workflow.lead import knows

_is_local = Job.is_local.fget
_is_local_rule = Workflow.is_local
_scheduler_resources = Job._get_scheduler_resources
_expand_resources = Rule.expand_resources


def take_shortcuts() -> None:
    """Put these in the place of Snakemake's own, in every module that has one by its name."""
    shortcuts: dict[str, tuple[Any, Any]] = {
        "is_flagged": (is_flagged, _is_flagged),
        "get_flag_value": (get_flag_value, _get_flag_value),
        "get_function_params": (get_function_params, _get_function_params),
        "wait_for_files": (wait_for_files, _wait_for_files),
    }
    modules = [m for name, m in sys.modules.items() if name.startswith("snakemake.")]
    for name, (old, new) in shortcuts.items():
        for module in modules:
            if vars(module).get(name) is old:
                setattr(module, name, new)
    Job.is_local = property(_is_local_once)
    Workflow.is_local = _is_local_rule_once
    Job._get_scheduler_resources = _scheduler_resources_once
    Job.scheduler_resources = property(_scheduler_resources_once)
    Rule.expand_resources = _expand_resources_once


class _HasFlags(dict[type, bool]):
    """Whether values of a class have flags, in the way that all of Snakemake's own have them.

    To ask isinstance of an abstract class takes longer than everything else here.
    """

    def __missing__(self, kind: type) -> bool:
        plain = AnnotatedStringInterface.is_flagged
        known = issubclass(kind, AnnotatedStringInterface)
        self[kind] = known = known and kind.is_flagged is plain  # type: ignore[attr-defined]
        return known


_has_flags = _HasFlags()


def _is_flagged(value: Any, flag: str) -> bool:
    if _has_flags[value.__class__]:
        flags = value.flags
        return flag in flags and bool(flags[flag])
    result: bool = is_flagged(value, flag)
    return result


def _get_flag_value(value: Any, flag_type: str) -> Any:
    if _has_flags[value.__class__]:
        return value.flags.get(flag_type)
    return get_flag_value(value, flag_type)


@cache
def _get_function_params(function: Callable[..., Any]) -> Any:
    """The parameters of a function; those of a default resource are asked for every job."""
    return get_function_params(function)


def _is_local_once(job: Any) -> bool:
    """Whether a job runs on the leader's machine: by its rule, and by flags of its files."""
    known: bool | None = job.__dict__.get("byok8s_is_local")
    if known is None:
        known = job.byok8s_is_local = bool(_is_local(job))
    return known


def _is_local_rule_once(workflow: Any, rule: Any) -> bool:
    known: bool | None = rule.__dict__.get("byok8s_is_local")
    if known is None:
        known = rule.byok8s_is_local = bool(_is_local_rule(workflow, rule))
    return known


def _expand_resources_once(
    rule: Any,
    wildcards: Any,
    input: Any,
    attempt: int,
    skip_evaluation: Collection[str] | None = None,
) -> Any:
    """A job's resources; for a rule that has none to compute, read once and copied for each job."""
    skipped = frozenset(skip_evaluation or ())
    if not _computes_nothing(rule, skipped):
        return _expand_resources(rule, wildcards, input, attempt, skip_evaluation)
    known = rule.__dict__.setdefault("byok8s_resources", {})
    if skipped not in known:
        known[skipped] = dict(_expand_resources(rule, wildcards, input, attempt, skipped).items())
    return ResourceList(fromdict=known[skipped])


def _computes_nothing(rule: Any, skipped: frozenset[str]) -> bool:
    """Whether a rule's resources, but for those, are the same for all of its jobs."""
    kept = rule.__dict__.setdefault("byok8s_computes_nothing", {})
    if skipped not in kept:
        kept[skipped] = all(
            name in skipped or not resource.is_evaluable()
            for name, resource in rule.resources.items()
        )
    known: bool = kept[skipped]
    return known


def _scheduler_resources_once(job: Any) -> Any:
    """What the scheduler counts for a job; the same dictionary for all of a rule that may share it.

    So the resources of a job are not read before it starts.
    """
    if job._scheduler_resources is None:
        own = job._aux_resources or not _computes_nothing(job.rule, frozenset({"tmpdir"}))
        if own or job.is_local:  # as all are without a cluster
            return _scheduler_resources(job)
        kept = job.rule.__dict__
        if "byok8s_scheduler_resources" not in kept:
            kept["byok8s_scheduler_resources"] = _scheduler_resources(job)
        job._scheduler_resources = kept["byok8s_scheduler_resources"]
    return job._scheduler_resources


async def _wait_for_files(files: Iterable[Any], *arguments: Any, **options: Any) -> None:
    """Wait for files, without a task for each of those that the leader knows to be there."""
    files = list(files)
    if options.get("wait_for_local", True) or not all(map(_is_there, files)):
        await wait_for_files(files, *arguments, **options)


def _is_there(file: Any) -> bool:
    return knows(file) and bool(file.storage_object.exists())
