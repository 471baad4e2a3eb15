"""The source archive: the files that a pod needs beside its inputs, packed once a run.

In it are the Snakefile and what it includes, scripts with their folders, conda files, the
params, and the project's other small files: in a git checkout what git tracks or would track,
elsewhere the files below the working directory that are neither hidden nor large. Nothing of
what the workflow itself makes belongs here, nor its inputs: these travel by the bucket.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byok8s.worker.archive import packed
from byok8s.workflow import globbing

# Larger files are inputs, not sources; the second limit keeps a folder of many from every pod.
MAX_FILE = 1_000_000  # bytes
MAX_TRACKED_FILE = 10_000_000  # bytes, for files under version control, as Snakemake has it
MAX_TOTAL = 50_000_000  # bytes


@dataclass(frozen=True)
class SourceArchive:
    """As `worker/archive.py` has it, equal for equal sources."""

    data: bytes
    sha256: str
    workdir: str  # the working directory within the archive
    skipped: tuple[str, ...]  # files left out because of their size


def pack(required: Iterable[Path], optional: Iterable[Path], workdir: Path) -> SourceArchive:
    """Pack files, which keep their places relative to each other and to the working directory."""
    chosen: dict[Path, None] = dict.fromkeys(sorted(map(_absolute, required)))
    total = sum(path.stat().st_size for path in chosen)
    skipped = []
    for path in sorted(set(map(_absolute, optional)) - set(chosen)):
        size = path.stat().st_size
        if total + size > MAX_TOTAL:
            skipped.append(os.path.relpath(path, workdir))
            continue
        chosen[path] = None
        total += size
    root = Path(os.path.commonpath([workdir, *(path.parent for path in chosen)]))
    data = packed({str(path.relative_to(root)): path for path in chosen})
    return SourceArchive(
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        workdir=str(workdir.relative_to(root)),
        skipped=tuple(skipped),
    )


def required_files(workflow: Any, configfile: Path, workdir: Path) -> Iterator[Path]:
    """What the workflow names itself: Snakefiles, scripts with their folders, conda files.

    A script's folder goes along because scripts import from it, unless it is the whole project.
    """
    yield configfile
    if globbing.RECORD.exists():
        yield globbing.RECORD
    for source in workflow.included:
        if path := _local(source.get_path_or_uri(secret_free=True)):
            yield path
    for name in workflow.configfiles:
        yield Path(name)
    for rule in workflow.rules:
        script = rule.script or rule.notebook
        if script and (path := beside(rule, script)):
            yield path
            if not workdir.is_relative_to(_absolute(path.parent)):
                yield from _neighbours(path.parent)
        conda = rule.conda_env
        if isinstance(conda, str) and (path := beside(rule, conda)):
            yield path


def project_files(workdir: Path, is_workflow_file: Callable[[str], bool]) -> Iterator[Path]:
    """The project's other files below the working directory, by the rule of this module's head.

    is_workflow_file tells whether a path relative to the working directory is something that the
    workflow makes; those are left out.
    """
    names = _git_files(workdir)
    limit = MAX_TRACKED_FILE
    if names is None:
        names = list(_visible_files(workdir))
        limit = MAX_FILE
    for name in names:
        path = workdir / name
        if _small(path, limit) and not is_workflow_file(name):
            yield path


def _git_files(folder: Path) -> list[str] | None:
    """What git tracks here, and what it would; None outside of a checkout or without git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "."]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return [name for name in os.fsdecode(done.stdout).split("\0") if name and not _hidden(name)]


def _visible_files(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(parent, name), folder)


def _neighbours(folder: Path) -> Iterator[Path]:
    """A script's folder, with what the script may import; it may be the project's own folder."""
    for name in _visible_files(folder):
        path = folder / name
        if _small(path, MAX_TRACKED_FILE):
            yield path


def _hidden(name: str) -> bool:
    """Hidden files hold settings and secrets of tools (.env, .aws), not sources of a workflow."""
    return any(part.startswith(".") for part in name.split("/"))


def _small(path: Path, limit: int) -> bool:
    return path.is_file() and path.stat().st_size <= limit and "__pycache__" not in path.parts


def beside(rule: Any, name: str) -> Path | None:
    """The local file that a rule names relative to its Snakefile."""
    if "{" in name or "://" in name:
        return None
    path = Path(name)
    if not path.is_absolute():
        path = Path(rule.basedir.join(name).get_path_or_uri(secret_free=True))
    return path if path.is_file() else None


def _absolute(path: Path) -> Path:
    """Without '..', and with links kept as the user wrote them."""
    return Path(os.path.abspath(path))


def _local(name: str) -> Path | None:
    path = Path(name.removeprefix("file://"))
    return path if path.is_file() else None
