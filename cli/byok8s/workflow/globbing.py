"""glob_wildcards on the bucket.

Snakemake's `glob_wildcards("data/{sample}.txt")` looks at the local disk, where a workflow whose
files live in S3 has nothing. Here it looks into the bucket as well, and what the leader found
travels to the pods, so that a Snakefile that is read again there sees the same samples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from byok8s.worker.names import GLOBS_VARIABLE

RECORD = Path(".snakemake/byok8s/globs.json")

Rows = list[list[str]]


class BucketGlob:
    """Stands in for glob_wildcards in the leader: local files and keys below the prefix."""

    def __init__(self, keys_below: Callable[[str], Iterable[str]], copies: str) -> None:
        """keys_below(folder) lists paths relative to the prefix, below a folder ('' for all).

        `copies` is where Snakemake keeps local copies of them: patterns there mean the bucket.
        """
        self._keys_below = keys_below
        self._copies = f"{copies.rstrip('/')}/"
        self._packed: set[str] = set()
        self._found: dict[str, Rows] = {}

    def __call__(self, pattern: Any, files: Any = None, followlinks: bool = False) -> Any:
        from snakemake.io import glob_wildcards

        local = glob_wildcards(pattern, files=files, followlinks=followlinks)
        path = os.path.normpath(str(pattern)).removeprefix(self._copies)
        if files is not None or path.startswith(("/", "../")) or _is_storage(pattern):
            return local
        folder = path.split("{", 1)[0].rpartition("/")[0]
        remote = glob_wildcards(path, files=sorted(_with_folders(self._keys_below(folder))))
        rows = dict.fromkeys(zip(*remote, strict=True))
        if path == os.path.normpath(str(pattern)):  # else a copy, which may be out of date
            rows = dict.fromkeys([*zip(*local, strict=True), *rows])
        self._found[str(pattern)] = [list(row) for row in rows]
        return _columns(local, rows)

    def write_record(self) -> None:
        """Leave what was found so far for the pods, with the sources."""
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(json.dumps(self._found, indent=0, sort_keys=True))
        self._packed = set(self._found)

    def late(self) -> dict[str, Rows]:
        """What was found since."""
        return {text: rows for text, rows in self._found.items() if text not in self._packed}


class RecordedGlob:
    """Stands in for glob_wildcards in a pod: what the leader found, else the local disk."""

    def __init__(self) -> None:
        self._found: dict[str, Rows] = {}
        for record in (RECORD, Path(os.environ.get(GLOBS_VARIABLE, RECORD))):
            if record.exists():
                self._found |= json.loads(record.read_text())

    def __call__(self, pattern: Any, files: Any = None, followlinks: bool = False) -> Any:
        from snakemake.io import glob_wildcards

        rows = None if files is not None else self._found.get(str(pattern))
        if rows is None:
            return glob_wildcards(pattern, files=files, followlinks=followlinks)
        return _columns(glob_wildcards(str(pattern), files=[]), rows)


def _is_storage(pattern: Any) -> bool:
    return "storage_object" in getattr(pattern, "flags", {})


def _with_folders(paths: Iterable[str]) -> set[str]:
    """The paths and the folders they lie in: on a disk, a pattern may match a folder too."""
    found = set()
    for path in paths:
        while path and path not in found:
            found.add(path)
            path = path.rpartition("/")[0]  # noqa: PLW2901
    return found


def _columns(like: Any, rows: Iterable[Iterable[str]]) -> Any:
    """A Wildcards tuple with a list per wildcard, as glob_wildcards returns it."""
    rows = list(rows)
    return type(like)(*([list(column) for column in zip(*rows, strict=True)] or map(list, like)))
