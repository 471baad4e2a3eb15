"""Which jobs need no Snakemake in their pod.

A `shell:` rule whose inputs, outputs and logs are plain files of the run's bucket needs only: get
the inputs, run the formatted command, check and put the outputs. The worker does that itself
(byok8s.worker.lean), which saves a second or more of CPU per job. Whatever is not certain to come
out the same runs in Snakemake.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from string import Formatter
from typing import Any

from byok8s.worker.spec import Command, File
from byok8s.workflow.lead import Lead, knows, split_query
from byok8s.workflow.paths import with_paths_of_pod
from byok8s.workflow.scripts import (
    NeedsSnakemake,
    Texts,
    is_sent_whole,
    pod_resources,
    script_command,
)

# What a command may name beside values of the Snakefile. Of the job's other parts, `name` for one
# means something else here than in a pod.
_PARTS = frozenset(
    {"input", "output", "params", "wildcards", "threads", "log", "rule", "resources"}
)
_OTHER_NAMES = frozenset(
    {"jobid", "name", "rulename", "bench_iteration", "bench_record", "version"}
)
# That say something to the leader alone
_UNSEEN_FLAGS = frozenset(
    {"storage_object", "path_modified", "report", "multiext", "access_pattern"}
)
_OUTPUT_FLAGS = _UNSEEN_FLAGS | {"temp", "protected", "touch", "directory"}
_INPUT_FLAGS = _OUTPUT_FLAGS | {"ancient"}
_BENCHMARK_FLAGS = frozenset({"storage_object", "path_modified"})
# Beyond this Snakemake writes a command to a file (snakemake.shell.MAX_ARG_LEN). The kernel takes
# twice that in one argument.
_LONGEST_COMMAND = 65_535
_LONG_COMMAND = ".snakemake/byok8s-command.sh"  # below the working directory


def lean_command(job: Any, lead: Lead) -> Command | None:
    """What the worker is to do for the job; None when the job needs Snakemake."""
    try:
        return command_of(job, lead, check(job, lead))
    except NeedsSnakemake:
        return None


Files = tuple[list[File], list[File], list[File]]


def check(job: Any, lead: Lead, *, own_image: bool = False) -> Files:
    """The job's inputs, outputs and logs, when nothing in its rule needs Snakemake.

    Raises NeedsSnakemake. It can be asked before the inputs are there.
    """
    if job.is_group():
        raise NeedsSnakemake("is a group")
    if not own_image and job.resources.get("lean", 1) == 0:  # an image has no Snakemake
        raise NeedsSnakemake("says lean=0")
    _check_rule(job.rule, own_image)
    if job.resources.get("shell_exec") is not None:
        raise NeedsSnakemake("sets a shell for one rule (shell_exec)")
    if job.rule.shellcmd is not None:
        _check_fields(job)
    if own_image:
        _benchmark(job, lead)
    outputs = _promised(job, _files(job.output, _OUTPUT_FLAGS | {"ensure"}, lead))
    _check_kinds(outputs, lead)
    return (
        _files(job.input, _INPUT_FLAGS, lead),
        outputs,
        _files(job.log, _OUTPUT_FLAGS, lead),
    )


def command_of(job: Any, lead: Lead, files: Files, texts: Texts = ()) -> Command:
    """The command of a job that passed `check`; raises NeedsSnakemake.

    texts are the script that stands in the place of `shell:`, and what that needs.
    """
    inputs = tuple(_found(file, lead) for file in files[0])
    outputs, logs = map(tuple, files[1:])
    text = script_command(texts[0][0]) if texts else _shell_text(job)
    benchmark = _benchmark(job, lead)
    tmpdir = _own_tmpdir(job)
    command = Command(text, job.threads, inputs, outputs, logs, texts, benchmark, tmpdir)
    command = with_paths_of_pod(_in_shell(command), job.rule)
    if len(command.text) > _LONGEST_COMMAND:
        texts = (*command.texts, (_LONG_COMMAND, f"{command.text}\n"))
        command = command.changed(text=f". ./{_LONG_COMMAND}", texts=texts)
    return command


def _shell_text(job: Any) -> str:
    """The formatted command of a `shell:` rule."""
    text: str = job.shellcmd
    if "<TBD>" in text and "tmpdir" in job.rule.shellcmd:
        text = job.format_wildcards(job.rule.shellcmd, resources=pod_resources(job))
    if "<TBD>" in text:
        raise NeedsSnakemake("has a value that is not known yet")
    return text


def _own_tmpdir(job: Any) -> str:
    """The folder for temporary files that the rule names; '' when it leaves that to the machine."""
    tmpdir = str(job.resources.get("tmpdir", ""))
    return "" if tmpdir in ("<TBD>", tempfile.gettempdir()) else tmpdir


def _in_shell(command: Command) -> Command:
    """The command in the shell that the Snakefile sets, with what it puts around all commands."""
    from snakemake.shell import shell

    path = str(shell.get_executable() or "bash")
    program = _program(path)
    plain = shell._process_prefix is None and not shell._process_suffix
    if plain and os.path.basename(path) == "bash":
        return command if program == command.shell else command.changed(shell=program)
    around = (shell._get_process_prefix(path), command.text, shell._process_suffix)
    return command.changed(text=" ".join(around).strip(), shell=program, strict=False)


@cache
def _program(path: str) -> str:
    """A shell as the pod is to look for it: by name, if it is on the PATH here."""
    name = os.path.basename(path)
    return name if path in (name, shutil.which(name)) else path


def _check_rule(rule: Any, own_image: bool) -> None:
    """A `shell:` rule with none of the directives that change where or how it runs.

    In an image of its own the rest of these directives has no meaning (another place for the
    programs), or none in a pod (a folder of its own), or none to the pod (a checkpoint).
    """
    special = {
        "handover": rule.is_handover,
        "group": rule.group,
    }
    if not own_image:
        # what nothing deploys, Snakemake would not look at either
        methods = rule.workflow.deployment_settings.deployment_method
        deployed = {method.name for method in methods}
        special |= {
            "conda": rule.conda_env and "CONDA" in deployed,
            "container": rule.container_img,
            "envmodules": rule.env_modules and "ENV_MODULES" in deployed,
            "shadow": rule.shadow_depth,
            "cache": rule.workflow.workflow_settings.cache is not None
            and getattr(rule.cache, "flag", rule.cache),
            "checkpoint": rule.is_checkpoint,
        }
    if rule.shellcmd is None and not (own_image and is_sent_whole(rule.script)):
        kinds = ("script", "notebook", "wrapper", "cwl")
        kind = next((kind for kind in kinds if getattr(rule, kind)), "run")
        known = ", of other than Python (.py), R (.R) and bash (.sh)"
        hint = known if own_image and kind == "script" else ""
        raise NeedsSnakemake(f"is a {kind}: rule{hint}")
    for name, value in special.items():
        if value:
            raise NeedsSnakemake(f"has {name}")


def _benchmark(job: Any, lead: Lead) -> File | None:
    """Where the worker leaves what the command took: once, in Snakemake's plain columns."""
    if job.benchmark is None:
        return None
    if (
        job.benchmark_repeats != 1
        or job.rule.workflow.output_settings.benchmark_extended
        or str(job.benchmark).endswith(".jsonl")
    ):
        raise NeedsSnakemake("has a benchmark of another form")
    return _files([job.benchmark], _BENCHMARK_FLAGS, lead)[0]


def _files(files: Iterable[Any], allowed: frozenset[str], lead: Lead) -> list[File]:
    """The files as keys and local paths, when all are plain files of the run's bucket."""
    found = []
    for file in files:
        if not knows(file):
            raise NeedsSnakemake(f"has a file outside of the bucket, {file}")
        if file.should_not_be_retrieved_from_storage:
            raise NeedsSnakemake(f"has a file that is not retrieved, {file}")
        query = str(file.storage_object.query)
        if not query.startswith(f"s3://{lead.bucket}/"):
            raise NeedsSnakemake(f"has a file outside of the run's bucket, {query}")
        if other := set(file.flags) - allowed:
            raise NeedsSnakemake(f"marks {split_query(query)[1]} as {', '.join(sorted(other))}")
        key, flags = split_query(query)[1], file.flags
        found.append(File(key, str(file), touch="touch" in flags, folder="directory" in flags))
    return found


def _check_kinds(outputs: Iterable[File], lead: Lead) -> None:
    """The worker puts objects beside what is there; to replace a folder by a file takes more."""
    for file in outputs:
        entry = lead.inventory().find(file.key)
        if entry is not None and (entry.names is not None) != file.folder:
            made, is_now = ("folder", "file") if file.folder else ("file", "folder")
            raise NeedsSnakemake(f"makes a {made} of {file.key}, which is a {is_now} in the bucket")


def _promised(job: Any, files: list[File]) -> list[File]:
    """The outputs with what `ensure()` says of them."""
    return [
        file.changed(**_promise(job, output.flags["ensure"])) if "ensure" in output.flags else file
        for file, output in zip(files, job.output, strict=True)
    ]


def _promise(job: Any, said: dict[str, Any]) -> dict[str, Any]:
    checksum, algorithm = said["checksum"], said["checksum_algorithm"]
    if callable(checksum):
        try:
            checksum = checksum(job.wildcards)
        except Exception as error:  # of the user's function; Snakemake tells it best
            raise NeedsSnakemake("has a checksum that is not known") from error
    return {
        "non_empty": bool(said["non_empty"]),
        "checksum": f"{algorithm}:{checksum}" if algorithm else "",
    }


def _found(file: File, lead: Lead) -> File:
    """An input as it is in the bucket: a file, or a folder with its files."""
    entry = lead.inventory().find(file.key)
    if entry is None:
        raise NeedsSnakemake(f"has an input that is not in the bucket, {file.key}")
    return file.changed(folder=entry.names is not None, names=entry.names or ())


def _check_fields(job: Any) -> None:
    """Whether the command's fields have the same values here as in the pod.

    Of the Snakefile's own values only plain ones: others may be objects with a life of their own.
    """
    values = job.rule.workflow.globals
    for _, field, spec, _ in Formatter().parse(job.rule.shellcmd):
        if field in (None, "workflow.basedir"):  # that folder is put in as the pod has it
            continue
        first = re.split(r"[.\[]", field, maxsplit=1)[0]
        if "{" in (spec or "") or first in _OTHER_NAMES or field == "resources":
            raise NeedsSnakemake(f"has {{{field}}} in its command")
        if first not in _PARTS and not _is_plain_value(values.get(first)):
            raise NeedsSnakemake(f"has {{{field}}}, which is neither text nor a number")


def _is_plain_value(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain_value, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain_value, value))
    return value is None or isinstance(value, (str, int, float))
