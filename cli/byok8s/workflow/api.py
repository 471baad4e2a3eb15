"""The one call of Snakemake's API; the only file that changes when that API does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byok8s.exceptions import Byok8sError, SettingsError, WorkflowFailed
from byok8s.workflow.content import compare_objects
from byok8s.workflow.events import EventHandler, Listener
from byok8s.workflow.resources import check_rules

if TYPE_CHECKING:
    from byok8s.workflow.globbing import BucketGlob
    from byok8s.workflow.persistence import RecordLog
    from byok8s.workflow.session import Session

_MANY_JOBS = 1_000_000
PROVIDER = "byok8s"  # snakemake_storage_plugin_byok8s


@dataclass(frozen=True)
class Plan:
    """What Snakemake is asked to do."""

    snakefile: Path
    configfile: Path  # the params as JSON, below the working directory
    targets: tuple[str, ...] = ()
    force: bool = False
    dry_run: bool = False
    keep_going: bool = False
    retries: int = 0
    jobs: int = 1  # pods, or cores of this machine, at once
    max_threads: int | None = None  # of a job, whatever its rule says
    storage_prefix: str | None = None  # s3://BUCKET/PREFIX; None: plain files here
    verbose: bool = False


@dataclass
class Parts:
    """What a run brings along: hooks that replace parts of Snakemake."""

    listener: Listener
    session: Session | None = None  # None: jobs run on this machine
    records: RecordLog | None = None
    glob: BucketGlob | None = None
    on_parsed: Callable[[Callable[[str], bool]], None] = lambda producible: None


def execute(plan: Plan, parts: Parts) -> tuple[str, ...]:
    """Plan and run the workflow; returns the targets' paths, as the Snakefile writes them.

    Raises SettingsError when the Snakefile or the plan is at fault and nothing was run, and
    WorkflowFailed when jobs failed.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.logging import logger

    handler = EventHandler(parts.listener)
    with SnakemakeApi(_output_settings(plan)) as api:
        if not (plan.verbose or plan.dry_run):
            _remove_stream_handler(logger)
        logger.addHandler(handler)
        try:
            workflow_api = _workflow_api(api, plan, on_cluster=parts.session is not None)
            workflow = _parsed_workflow(workflow_api, plan, parts)
            _execute(workflow_api, plan, parts)
        except Byok8sError:
            raise
        except Exception as error:
            with contextlib.suppress(KeyError):  # Snakemake's own, for an error in the first lines
                api.print_exception(error)
            text = _explanation(error, handler)
            if text.startswith("Traceback"):  # neither Snakemake's nor the Snakefile's, but ours
                raise
            raise (WorkflowFailed if handler.jobs_started else SettingsError)(text) from error
        return _targets(workflow)


def _output_settings(plan: Plan) -> Any:
    from snakemake.settings.enums import Quietness
    from snakemake.settings.types import OutputSettings

    return OutputSettings(
        dryrun=plan.dry_run,
        printshellcmds=True,
        verbose=plan.verbose,
        quiet=None if plan.verbose else {Quietness.HOST},
        stdout=plan.dry_run,
        nocolor=not os.isatty(1),
    )


def _workflow_api(api: Any, plan: Plan, *, on_cluster: bool) -> Any:
    from snakemake.resources import Resources
    from snakemake.settings.types import (
        ConfigSettings,
        DeploymentSettings,
        ResourceSettings,
        StorageSettings,
        WorkflowSettings,
    )

    storage: dict[str, Any] = {}
    if plan.storage_prefix is not None:
        storage = {
            "default_storage_provider": PROVIDER,
            "default_storage_prefix": plan.storage_prefix,
        }
    return api.workflow(
        snakefile=plan.snakefile,
        config_settings=ConfigSettings(configfiles=[plan.configfile]),
        resource_settings=ResourceSettings(
            # how many pods live at once is the dispatcher's affair: one may run many jobs
            nodes=_MANY_JOBS if on_cluster else plan.jobs,
            # a number here would cut every rule's threads down to it, also in pods
            cores=None if on_cluster else plan.jobs,
            max_threads=plan.max_threads,
            # explicit: the "full" set, Snakemake's choice for clusters, asks for 50 GB of disk
            default_resources=Resources.default("bare"),
        ),
        storage_settings=StorageSettings(**storage),
        workflow_settings=WorkflowSettings(),
        deployment_settings=DeploymentSettings(),
        storage_provider_settings=_storage_provider_settings(plan),
    )


def _storage_provider_settings(plan: Plan) -> dict[str, Any]:
    if plan.storage_prefix is None:
        return {}
    from snakemake_interface_common.plugin_registry.plugin import TaggedSettings
    from snakemake_interface_storage_plugins.registry import StoragePluginRegistry

    tagged = TaggedSettings()
    plugin = StoragePluginRegistry().get_plugin(PROVIDER)
    if plugin.settings_cls is not None:
        tagged.register_settings(plugin.settings_cls())
    return {PROVIDER: tagged}


def _parsed_workflow(workflow_api: Any, plan: Plan, parts: Parts) -> Any:
    """Read the Snakefile, as WorkflowApi._workflow does, with our parts in place."""
    import snakemake.workflow
    from snakemake.jobs import Job

    from byok8s.workflow.rounds import Rounds
    from byok8s.workflow.shadow import complete_full_shadow
    from byok8s.workflow.tuning import tune

    snakemake.workflow.JobScheduler = Rounds
    if parts.glob is not None:
        snakemake.workflow.glob_wildcards = parts.glob
        if parts.session is not None:
            parts.session.glob = parts.glob
    # Scripts are compared by content (provenance.script_code): on another machine, or after a
    # checkout, their modification time would re-run everything.
    Job.outputs_older_than_script_or_notebook = _none
    compare_objects()
    complete_full_shadow()
    workflow = workflow_api._get_workflow()
    workflow_api._workflow_store = workflow
    started = Path.cwd()
    workflow.include(workflow_api.snakefile, overwrite_default_target=True)
    if plan.storage_prefix is not None and Path.cwd() != started:
        raise _workdir_refused(workflow_api.snakefile, Path.cwd())
    workflow.check()
    if not list(workflow.rules):
        raise SettingsError(f"The Snakefile '{plan.snakefile}' has no rules; add at least one.")
    if parts.session is not None:
        check_rules(workflow.rules, parts.session.placement)
    if parts.glob is not None:
        parts.glob.write_record()
    _replace_persistence(workflow, parts)
    tune(workflow)
    _check_jobs(workflow, parts.session)
    if plan.storage_prefix is not None:
        parts.on_parsed(lambda path: _producible(workflow, path))
    return workflow


def _workdir_refused(snakefile: Path, folder: Path) -> SettingsError:
    """With files in a bucket, a folder here can be none of the rules' paths."""
    there = os.path.relpath(snakefile.absolute(), folder)
    return SettingsError(
        f"The Snakefile changes to the folder '{folder}' (workdir:), which no pod has; leave the "
        f"line out, and run byok8s in that folder with -s {there}."
    )


def _replace_persistence(workflow: Any, parts: Parts) -> None:
    """Let the DAG find provenance in the bucket instead of in the working directory."""
    from byok8s.workflow.persistence import BucketPersistence, LocalPersistence

    prepare = workflow._prepare_dag
    in_flight = parts.session.stock.ids() if parts.session else frozenset()

    def prepare_dag(*args: Any, **kwargs: Any) -> None:
        prepare(*args, **kwargs)
        made = {"dag": workflow._dag, "shadow_prefix": kwargs.get("shadow_prefix")}
        workflow._persistence = (
            LocalPersistence(**made)
            if parts.records is None
            else BucketPersistence(parts.records, in_flight, **made)
        )

    workflow._prepare_dag = prepare_dag


def _check_jobs(workflow: Any, session: Session | None) -> None:
    """Refuse what cannot come out well as soon as it is known which jobs there are."""
    from byok8s.workflow.containers import check_containers
    from byok8s.workflow.lead import current
    from byok8s.workflow.outputs import check_outputs

    build = workflow._build_dag

    def build_dag() -> None:
        build()
        jobs = list(workflow.dag.needrun_jobs())
        if leader := current():
            check_outputs(jobs, leader)
        if session is not None:
            check_containers(jobs, session.leader)

    workflow._build_dag = build_dag


def _producible(workflow: Any, path: str) -> bool:
    """Whether a rule can make a path, or a folder that it lies in."""
    paths = [path, *map(str, Path(path).parents)][:-1]
    stored = [workflow.modifier.path_modifier.apply_default_storage(p) for p in paths]
    return any(rule.is_producer(candidate) for rule in workflow.rules for candidate in stored)


def _execute(workflow_api: Any, plan: Plan, parts: Parts) -> None:
    from snakemake.settings.types import (
        DAGSettings,
        ExecutionSettings,
        RemoteExecutionSettings,
        SchedulingSettings,
    )

    from byok8s.workflow.scheduler import SchedulerSettings

    executor, settings = "local", None
    if parts.session is not None:
        from byok8s.workflow.executor import SessionSettings

        executor, settings = "byok8s", SessionSettings(session=parts.session)
    dag = workflow_api.dag(
        DAGSettings(targets=frozenset(plan.targets), forceall=plan.force, force_incomplete=True)
    )
    dag.execute_workflow(
        executor=executor,
        executor_settings=settings,
        pseudo_executor="dryrun" if plan.dry_run else None,
        execution_settings=ExecutionSettings(
            keep_going=plan.keep_going, retries=plan.retries, lock=parts.records is None
        ),
        scheduling_settings=SchedulingSettings(scheduler="byok8s"),
        scheduler_settings=SchedulerSettings(),
        remote_execution_settings=RemoteExecutionSettings(job_deploy_sources=False),
    )


def _targets(workflow: Any) -> tuple[str, ...]:
    """Paths of the targets, as the Snakefile writes them."""
    prefix = workflow.storage_settings.default_storage_prefix
    paths = []
    for job in workflow.dag.targetjobs:
        for file in job.output or job.input:
            query = str(file.storage_object.query) if file.is_storage else str(file)
            paths.append(query.removeprefix(prefix or "").lstrip("/") if prefix else query)
    return tuple(dict.fromkeys(paths))


def _explanation(error: Exception, handler: EventHandler) -> str:
    """What Snakemake says of an error, without the lines that say nothing."""
    text = "\n".join(handler.errors) or str(error)
    lines = [line for line in text.splitlines() if line.strip() not in ("", "None")]
    return "\n".join(lines)


def _remove_stream_handler(logger: Any) -> None:
    """Snakemake's own lines go to its log file; a person sees ours."""
    for old in list(logger.handlers):
        if old.name == "DefaultStreamHandler":
            logger.removeHandler(old)


async def _none(job: Any) -> Any:
    """An asynchronous generator of nothing."""
    nothing: tuple[Any, ...] = ()
    for item in nothing:
        yield item
