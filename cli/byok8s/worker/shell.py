"""How a rule's command is started: as Snakemake's shell() starts it."""

from __future__ import annotations

import os

from byok8s.worker.names import WORKDIR

# What Snakemake's shell() sets for libraries that would otherwise take every core of the node
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_FOLDER_VARIABLES = ("TMPDIR", "TMP", "TEMPDIR", "TEMP")
STRICT = "set -euo pipefail;  "


def arguments(shell: str, text: str, folder: str, *, strict: bool) -> list[str]:
    """By the shell's whole path, which is what it calls itself in its messages."""
    return [_whole_path(shell), "-c", in_folder(f"{STRICT}{text}" if strict else text, folder)]


def _whole_path(program: str) -> str:
    """As shutil.which, whose module imports all compressors, for nothing here."""
    if "/" in program:
        return program
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    paths = (os.path.join(folder, program) for folder in folders)
    return next((p for p in paths if os.path.isfile(p) and os.access(p, os.X_OK)), program)


def in_folder(text: str, folder: str) -> str:
    """A text of the leader's with this working directory, an absolute path."""
    return text.replace(WORKDIR, folder)


def bucket_variables(endpoint: str | None, region: str | None) -> dict[str, str]:
    """Where AWS tools find the bucket; no secret."""
    found = {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
    }
    return {name: value for name, value in found.items() if value}


def variables(threads: int, tmpdir: str) -> dict[str, str]:
    """What a command finds in its environment beside the pod's own."""
    counts = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    return counts | dict.fromkeys(_FOLDER_VARIABLES, tmpdir)
