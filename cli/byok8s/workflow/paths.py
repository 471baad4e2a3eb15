"""Paths of this machine in a command: what a pod has in their place.

`workflow.basedir`, or the folder in which byok8s was started, is another one in a pod, and
`workflow.source_path` names a copy that Snakemake keeps here. Snakemake in a pod would read the
Snakefile again and find its own; the leader's commands say WORKDIR for the working directory, which
the worker knows.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from byok8s.worker.names import WORKDIR
from byok8s.worker.spec import Command
from byok8s.workflow.scripts import NeedsSnakemake

_COPIES = ".snakemake/byok8s-sources"  # below the working directory
# What may stand between two folders of a path and change nothing: `./`, and `rules/../`
_DETOUR = r"(?:\./|(?:(?!\.\.?/)[^/]+/)+(?:\.\./)+)*"


def with_paths_of_pod(command: Command, rule: Any) -> Command:
    """The command with the pod's paths, and with the files that they need.

    Raises NeedsSnakemake for a file that cannot be sent.
    """
    copies: list[tuple[str, str]] = []

    def in_pod(path: str) -> str:
        copies.append(_copy(path))
        return f"{WORKDIR}/{copies[-1][0]}"

    text = _with_sources(command.text, rule.workflow, in_pod)
    if (kept := _kept_in(rule.workflow)) in text:
        raise NeedsSnakemake(f"names {kept} of this machine in its command")
    text = _with_folders_of_pod(text, rule.workflow)
    if text == command.text:
        return command
    return command.changed(text=text, texts=(*command.texts, *copies))


def without_paths_here(value: str, workflow: Any) -> str:
    """A value for the provenance: the same on every machine and in every run.

    Snakemake keeps what `workflow.source_path` names in a new folder each time; what counts is its
    name and content.
    """

    def content_of(path: str) -> str:
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return f"{os.path.basename(path)} {digest}"

    return _with_folders_of_pod(_with_sources(value, workflow, content_of), workflow)


def _kept_in(workflow: Any) -> str:
    """The folder of the copies that `workflow.source_path` names."""
    return str(workflow.sourcecache.cache_path)


def _with_sources(text: str, workflow: Any, in_place: Callable[[str], str]) -> str:
    """A text with something in the place of each such copy that it names."""
    if (kept := _kept_in(workflow)) in text:
        files = sorted(_files_below(kept), key=len, reverse=True)
        for path in files:
            if path in text:
                text = text.replace(path, in_place(path))
        if kept in text:
            for path in files:
                text = _with_detours(text, kept, path, in_place)
    return text


def _with_detours(text: str, kept: str, path: str, in_place: Callable[[str], str]) -> str:
    """The same for paths with `..`: what a file in `rules/` calls `../scripts/a.sh`."""
    parts = os.path.relpath(path, kept).split("/")
    if parts[-1] not in text:
        return text
    pattern = re.escape(kept) + "".join(f"/{_DETOUR}{re.escape(part)}" for part in parts)

    def replaced(found: re.Match[str]) -> str:
        spelled = found[0]
        return in_place(path) if os.path.normpath(spelled) == path else spelled

    return re.sub(pattern, replaced, text)


def _with_folders_of_pod(text: str, workflow: Any) -> str:
    for folder, place in _folders(workflow).items():
        if folder in text:
            text = re.sub(rf"{re.escape(folder)}(?![\w.-])", place.replace("\\", r"\\"), text)
    return text


def _files_below(folder: str) -> list[str]:
    return [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]


def _copy(path: str) -> tuple[str, str]:
    """Where a file lies in the pod, and its content."""
    try:
        content = Path(path).read_bytes().decode()
    except UnicodeDecodeError:
        raise NeedsSnakemake(f"names {path} in its command, which is no text") from None
    digest = hashlib.sha256(path.encode()).hexdigest()[:12]
    return f"{_COPIES}/{digest}/{os.path.basename(path)}", content


def _folders(workflow: Any) -> Mapping[str, str]:
    """The folders of the Snakefiles and the working directory; asked for by every job."""
    kept: dict[str, Any] = workflow.__dict__
    if "byok8s_folders" not in kept:
        kept["byok8s_folders"] = _find_folders(workflow)
    folders: Mapping[str, str] = kept["byok8s_folders"]
    return folders


def _find_folders(workflow: Any) -> Mapping[str, str]:
    """Folders here and in the pod; what lies deeper goes first."""
    here = os.getcwd()
    found = {here, str(workflow.basedir)}
    for rule in workflow.rules:
        if hasattr(rule.basedir, "abspath"):  # of this machine
            found.add(rule.basedir.abspath().get_path_or_uri(secret_free=True))
    places = {path: os.path.relpath(path, here) for path in found if path != "/"}
    return {
        path: WORKDIR if place == "." else f"{WORKDIR}/{place}"
        for path, place in sorted(places.items(), key=lambda item: -len(item[0]))
    }
