"""`script:` in an image of the rule's own: what Snakemake would write there, written by the leader.

Snakemake puts a preamble before the script that defines the object `snakemake`. In R and bash it
is plain text, made by the classes that are used here, and needs nothing in the image but the
interpreter. In Python it is a pickle, whose classes are one module of Snakemake's that needs the
standard library alone, and that goes to the pod beside the script (workflow/script_parts).
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shlex
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

# In images made by conda Python is `python`, in those of distributions `python3`
_PYTHON = "$(command -v python || echo python3)"
_COMMANDS = {".R": "Rscript --vanilla", ".sh": "bash", ".py": _PYTHON}
_PARTS = ".snakemake/byok8s-python"  # below the working directory; where the pickle's classes are
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


class NeedsSnakemake(Exception):
    """A job cannot do without Snakemake in its pod; the text says why, after "it"."""


_FOLDER = ".snakemake/scripts"
_TMPDIR = "/tmp"  # noqa: S108 (the pod's own)


Texts = tuple[tuple[str, str], ...]


def script_texts(job: Any, workdir: str) -> Texts:
    """The script that a job runs and, after it, what it needs: paths and contents.

    Paths are below the working directory; `workdir` is where the pod has that. Raises
    NeedsSnakemake.
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
    makers = {"r": script.RScript, "bash": script.BashScript, "python": _python_script()}
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
    try:
        maker.write_script(maker.get_preamble(), written)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise NeedsSnakemake(f"has a value that cannot be sent to its pod ({error})") from error
    text = written.getvalue()
    name = f"{hashlib.sha256(text).hexdigest()[:12]}.{path.get_filename()}"
    needed = _python_parts() if language == "python" else ()
    return ((f"{_FOLDER}/{name}", text.decode()), *needed)


@lru_cache
def _python_script() -> Any:
    """Snakemake's class for Python scripts, which looks for Snakemake where we put a part of it."""
    from snakemake import script

    class PythonScript(script.PythonScript):
        def get_preamble(self) -> str:
            preamble: str = super().get_preamble()
            installed = repr(script.get_snakemake_searchpaths())[1:-1]
            assert installed in preamble
            # next to the script, wherever that lies in the pod and whereto it changes
            here = "__import__('os').path.abspath(__file__).rpartition('/.snakemake/')[0]"
            parts = f"{here} + '/{_PARTS}'"
            return preamble.replace(installed, parts, 1)

    return PythonScript


@lru_cache
def _python_parts() -> Texts:
    """What a Python script's preamble imports."""
    from snakemake import iocontainers

    package, ours = f"{_PARTS}/snakemake", Path(__file__).parent / "script_parts"
    texts = {path.name: path.read_text() for path in sorted(ours.glob("*.py"))}
    texts["iocontainers.py"] = Path(iocontainers.__file__).read_text()
    return tuple((f"{package}/{name}", text) for name, text in texts.items())


def script_command(path: str) -> str:
    """The command that runs a script, as Snakemake has it."""
    interpreter = _COMMANDS[Path(path).suffix]
    if interpreter is _PYTHON:
        path = f"./{path}"
    return f"{interpreter} {shlex.quote(path)}"


def is_sent_whole(script: Any) -> bool:
    """Whether all that the script needs can be sent with it: in R, bash and Python."""
    return str(script).endswith(tuple(_COMMANDS))


def pod_resources(job: Any) -> Any:
    """The job's resources, with the one that the leader leaves to be found in the pod."""
    from snakemake.iocontainers import ResourceList

    resources = dict(job.resources.items())
    if str(resources.get("tmpdir")) in ("<TBD>", tempfile.gettempdir()):
        resources["tmpdir"] = _TMPDIR
    return ResourceList(fromdict=resources)
