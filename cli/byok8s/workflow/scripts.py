"""`script:` in an image of the rule's own: what Snakemake would write there, written by the leader.

Snakemake puts a preamble before the script that defines the object `snakemake`. In R and bash it
is plain text, made by the classes that are used here, and needs nothing in the image but the
interpreter. In Python it needs Snakemake itself.
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
from pathlib import Path
from typing import Any

_COMMANDS = {".R": "Rscript --vanilla", ".sh": "bash"}
# What else Snakemake's classes are told, and do not write
_NONE = (
    "bench_iteration",
    "bench_record",
    "conda_base_path",
    "conda_env",
    "container_img",
    "env_modules",
    "runtime_paths",
    "shadow_dir",
)
_FOLDER = ".snakemake/scripts"
_TMPDIR = "/tmp"  # noqa: S108 (the pod's own)


def script_text(job: Any, workdir: str) -> tuple[str, str]:
    """The path below the working directory, and the content, of the script that a job runs.

    `workdir` is where the pod has what is the working directory here.
    """
    from snakemake import script
    from snakemake.sourcecache import LocalSourceFile

    rule = job.rule
    path, source, language, is_local, cached = script.get_source(
        rule.script, rule.workflow.sourcecache, rule.basedir, job.wildcards, job.params
    )
    if is_local:  # what a script finds beside itself, it finds in the pod
        here = os.path.relpath(path.get_path_or_uri(secret_free=True), Path.cwd())
        path = LocalSourceFile(os.path.normpath(os.path.join(workdir, here)))
    makers = {"r": script.RScript, "bash": script.BashScript}
    maker = makers[language](
        path=path,
        cache_path=cached,
        source=source,
        basedir=rule.basedir,
        input_=job.input._plainstrings(),
        output=job.output._plainstrings(),
        params=job.params,
        wildcards=job.wildcards,
        threads=job.threads,
        resources=pod_resources(job),
        log=job.log._plainstrings(),
        config=rule.workflow.globals["config"],
        rulename=rule.name,
        singularity_args="",
        jobid=job.jobid,
        cleanup_scripts=True,
        is_local=is_local,
        **dict.fromkeys(_NONE),
    )
    written = io.BytesIO()
    maker.write_script(maker.get_preamble(), written)
    text = written.getvalue()
    name = f"{hashlib.sha256(text).hexdigest()[:12]}.{path.get_filename()}"
    return f"{_FOLDER}/{name}", text.decode()


def script_command(path: str) -> str:
    """The command that runs a script, as Snakemake has it."""
    return f"{_COMMANDS[Path(path).suffix]} {shlex.quote(path)}"


def is_plain_text(script: Any) -> bool:
    """Whether the script's preamble is text: in R and in bash."""
    return str(script).endswith(tuple(_COMMANDS))


def pod_resources(job: Any) -> Any:
    """The job's resources, with the one that the leader leaves to be found in the pod."""
    from snakemake.iocontainers import ResourceList

    resources = dict(job.resources.items())
    if "tmpdir" in resources:
        resources["tmpdir"] = _TMPDIR
    return ResourceList(fromdict=resources)
