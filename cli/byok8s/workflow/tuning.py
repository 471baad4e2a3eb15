"""What Snakemake does again for every job and need do once; put in its place for a run.

Each of these costs the leader more than all of byok8s's own work for a job. Snakemake's interfaces
have no word for them (docs/decisions/0013-leader.md).
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterable
from operator import is_
from typing import Any

from snakemake.io import is_flagged
from snakemake.io.fmt import fmt_iofile
from snakemake.jobs import Job
from snakemake.logging import format_resources, format_wildcards, logger, timestamp
from snakemake.scheduling import job_scheduler
from snakemake.utils import QuotedFormatter, SequenceFormatter
from snakemake_interface_logger_plugins.common import LogEvent

from byok8s.workflow.provenance import outside_names
from byok8s.workflow.shortcuts import take_shortcuts

# New objects between two looks for garbage. The records of finished jobs stay, and Python's own 700
# would have it go through all of them again and again: a tenth of the leader's CPU at 20,000 jobs.
_GARBAGE_OBJECTS = 50_000

# Events of which there are some for every job; what comes with another one is written at once
_OFTEN = frozenset({"job_info", "shellcmd", "job_finished", "progress"})

_FORMATTER = SequenceFormatter(element_formatter=QuotedFormatter())
_format_shellcmd = Job.shellcmd.fget
_log_info = Job.log_info
_is_pipe_or_service_input = Job.is_pipe_or_service_input


def tune(workflow: Any) -> None:
    """Make Snakemake do less for each job of a workflow that has been read."""
    take_shortcuts()
    _log_without_whereabouts()
    Job.shellcmd = property(_shellcmd)
    verbose = workflow.output_settings.verbose  # then what the log file says is for the screen, too
    Job.log_info = _log_info if verbose else _log_info_briefly
    job_scheduler.logger = logger if verbose else _SchedulerLog(workflow.logger_manager)
    Job.is_pipe_or_service_input = (
        _is_pipe_or_service_input if _has_pipes(workflow.rules) else lambda job, path: False
    )
    _keep_dag(workflow)
    for handler in workflow.logger_manager.logfile_handlers:
        if isinstance(handler, logging.FileHandler):
            _flush_rarely(handler)


def _log_without_whereabouts() -> None:
    """Let log records not say from which line, thread and process they come: nobody shows it.

    As https://docs.python.org/3/howto/logging.html#optimization has it.
    """
    logging._srcfile = ""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _keep_dag(workflow: Any) -> None:
    """Do not look for garbage in the DAG, neither while it grows nor later: it stays."""
    build = workflow._build_dag

    def build_dag() -> None:
        gc.disable()
        try:
            build()
        finally:
            gc.freeze()
            gc.set_threshold(_GARBAGE_OBJECTS)
            gc.enable()

    workflow._build_dag = build_dag


def _shellcmd(job: Any) -> Any:
    """The formatted command, which Snakemake asks for four times, kept with the job.

    It is another one when the job is tried again or its params or resources have been read anew.
    """
    if not job.rule.shellcmd:
        return None
    made_of = (job.attempt, job.params, job.resources)
    kept, text = job.__dict__.get("byok8s_shellcmd", ((), None))
    if not kept or not all(map(is_, kept, made_of)):
        text = _formatted(job)
        job.byok8s_shellcmd = (made_of, text)
    return text


def _formatted(job: Any) -> Any:
    """The formatted command, without all names of the Snakefile where it takes none of them."""
    if not outside_names(job.rule.shellcmd):
        with contextlib.suppress(Exception):  # Snakemake says what is wrong
            return _FORMATTER.format(
                job.rule.shellcmd,
                input=job.input,
                output=job.output,
                params=job.params,
                wildcards=job._format_wildcards,
                threads=job.threads,
                resources=job.resources,
                log=job.log,
                jobid=job.jobid,
                rule=job.rule.name,
                bench_iteration=None,
            )
    return _format_shellcmd(job)


def _log_info_briefly(job: Any, indent: bool = False, printshellcmd: bool = True) -> None:
    """What Snakemake's log file says of a job, as one finished text.

    Snakemake gathers it for all who may want to format it: half of what it does to start a job.
    Jobs of this machine are told as ever, since others listen to that (workflow/events.py). It goes
    to the files alone: nobody else wants it, and a log record costs as much as the text.
    """
    special = indent or job.rule.message or job.rule.is_checkpoint or job.rule.is_handover
    if special or job.is_local or job.dag.workflow.dryrun:
        job_scheduler.logger.wanted.add(job.jobid)
        _log_info(job, indent, printshellcmd)
        return
    files = (
        (name, ", ".join(fmt_iofile(f, as_input=name == "input", as_output=True) for f in some))
        for name, some in (("input", job.input), ("output", job.output), ("log", job.log))
    )
    fields = {
        **dict(files),
        "jobid": job.jobid,
        "benchmark": job.benchmark,
        "reason": job.dag.reason(job),
        "wildcards": format_wildcards(job.wildcards_dict),
        "priority": job.priority,
        "threads": job.threads if job.threads != 1 else None,
        "resources": format_resources(job.resources),
    }
    lines = [f"    {name}: {value}" for name, value in fields.items() if value or name == "jobid"]
    told = [timestamp(), f"rule {job.rule.name}:", *lines]
    text = "\n".join(["", *told, f"Shell command: {job.shellcmd}", ""])
    _write(job.dag.workflow.logger_manager, text)


def _write(manager: Any, text: str) -> None:
    """Into Snakemake's log file."""
    for handler in manager.logfile_handlers:
        with handler.lock:
            if handler.stream:  # None once it is closed
                handler.stream.write(text)


class _SchedulerLog:
    """Snakemake's logger as its scheduler has it: that a job is finished goes to the file alone.

    Of jobs that are `wanted`, by their ids, others are told as well.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self.wanted: set[int] = set()

    def info(self, message: Any, *values: Any, extra: Any = None, **options: Any) -> None:
        routine = extra and extra.get("event") is LogEvent.JOB_FINISHED
        if routine and extra["job_id"] not in self.wanted:
            _write(self._manager, f"{timestamp()}\n{message}\n")
        else:
            logger.info(message, *values, extra=extra, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(logger, name)


def _has_pipes(rules: Iterable[Any]) -> bool:
    """Whether a rule streams: only then need each input be looked for among such outputs.

    Snakemake looks through all producers for each input: of the one job that wants the results of
    20,000 others, 200 million times.
    """
    outputs = [file for rule in rules for file in rule.output]
    return any(is_flagged(file, kind) for file in outputs for kind in ("pipe", "service"))


def _flush_rarely(handler: logging.FileHandler) -> None:
    """Write a log file in blocks, not in four lines for each job."""
    emit = handler.emit

    def emit_rarely(record: logging.LogRecord) -> None:
        emit(record)
        routine = getattr(record, "event", None) in _OFTEN
        last = getattr(record, "done", 0) == getattr(record, "total", 1)
        if handler.stream and (last or not routine):
            handler.stream.flush()

    handler.emit = emit_rarely  # type: ignore[method-assign]
    handler.flush = lambda: None  # type: ignore[method-assign]
