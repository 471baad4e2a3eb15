"""Which jobs need no Snakemake in their pod.

A `shell:` rule whose inputs, outputs and logs are plain files of the run's bucket needs only: get
the inputs, run the formatted command, check and put the outputs. The worker does that itself
(byok8s.worker.lean), which saves a second or more of CPU per job. Whatever is not certain to come
out the same runs in Snakemake.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from string import Formatter
from typing import Any

from byok8s.worker.spec import Command, File
from byok8s.workflow.lead import Lead, knows, split_query

# What a command may name beside values of the Snakefile. Of the job's other parts, `resources`
# hold paths of this machine (tmpdir), and `name` means something else here than in a pod.
_PARTS = frozenset({"input", "output", "params", "wildcards", "threads", "log", "rule"})
_OTHER_NAMES = frozenset(
    {"resources", "jobid", "name", "rulename", "bench_iteration", "bench_record", "version"}
)
_OUTPUT_FLAGS = frozenset({"storage_object", "path_modified", "temp", "protected", "touch"})
_INPUT_FLAGS = _OUTPUT_FLAGS | {"ancient"}


def lean_command(job: Any, lead: Lead) -> Command | None:
    """What the worker is to do for the job; None when the job needs Snakemake."""
    if job.is_group() or not _is_plain(job.rule) or not _is_default_shell(job):
        return None
    inputs = _files(job.input, _INPUT_FLAGS, lead)
    outputs = _files(job.output, _OUTPUT_FLAGS, lead)
    logs = _files(job.log, _OUTPUT_FLAGS, lead)
    if inputs is None or outputs is None or logs is None or not _are_files(inputs, lead):
        return None
    if not _may_be_formatted_here(job):
        return None
    text = job.shellcmd
    if "<TBD>" in text:
        return None
    return Command(text, job.threads, tuple(inputs), tuple(outputs), tuple(logs))


def _is_plain(rule: Any) -> bool:
    """A `shell:` rule with none of the directives that change where or how it runs."""
    special = (
        rule.conda_env,
        rule.container_img,
        rule.env_modules,
        rule.shadow_depth,
        rule.benchmark,
        getattr(rule.cache, "flag", rule.cache),
        rule.is_checkpoint,
        rule.is_handover,
        rule.group,
    )
    return rule.shellcmd is not None and not any(special)


def _is_default_shell(job: Any) -> bool:
    from snakemake.shell import shell

    return (
        shell._process_prefix is None
        and not shell._process_suffix
        and str(shell.get_executable() or "bash").endswith("/bash")
        and job.resources.get("shell_exec") is None
    )


def _files(files: Iterable[Any], allowed: frozenset[str], lead: Lead) -> list[File] | None:
    """The files as keys and local paths; None when one is not a plain file of the run's bucket."""
    found = []
    for file in files:
        if not knows(file) or not set(file.flags) <= allowed:
            return None
        query = str(file.storage_object.query)
        if not query.startswith(f"s3://{lead.bucket}/"):
            return None
        found.append(File(split_query(query)[1], str(file), touch="touch" in file.flags))
    return found


def _are_files(inputs: Iterable[File], lead: Lead) -> bool:
    inventory = lead.inventory()
    entries = [inventory.find(file.key) for file in inputs]
    return all(entry is not None and entry.names is None for entry in entries)


def _may_be_formatted_here(job: Any) -> bool:
    """Whether the command's fields have the same values here as in the pod.

    Of the Snakefile's own values only plain ones: others may be objects with a life of their own.
    """
    values = job.rule.workflow.globals
    for _, field, spec, _ in Formatter().parse(job.rule.shellcmd):
        if field is None:
            continue
        first = re.split(r"[.\[]", field, maxsplit=1)[0]
        if "{" in (spec or "") or first in _OTHER_NAMES:
            return False
        if first not in _PARTS and not _is_plain_value(values.get(first)):
            return False
    return True


def _is_plain_value(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain_value, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain_value, value))
    return isinstance(value, (str, int, float))
