"""glob_wildcards on the bucket.

Snakemake's `glob_wildcards("data/{sample}.txt")` looks at the local disk, where a workflow whose
files live in S3 has nothing. Here it looks into the bucket as well, and what the leader found
travels with the sources, so that a Snakefile that is read again in a pod sees the same samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

RECORD = Path(".snakemake/byok8s/globs.json")


class BucketGlob:
    """Stands in for glob_wildcards in the leader: local files and keys below the prefix."""

    def __init__(self, keys_below: Callable[[str], Iterable[str]]) -> None:
        """keys_below(folder) lists paths relative to the prefix, below a folder ('' for all)."""
        self._keys_below = keys_below
        self.found: dict[str, list[list[str]]] = {}

    def __call__(self, pattern: Any, files: Any = None, followlinks: bool = False) -> Any:
        from snakemake.io import glob_wildcards

        if files is not None or not isinstance(pattern, (str, Path)):
            return glob_wildcards(pattern, files=files, followlinks=followlinks)
        local = glob_wildcards(str(pattern), followlinks=followlinks)
        text = str(pattern).removeprefix("./")
        if text.startswith(("/", "../")) or hasattr(pattern, "flags"):
            return local
        folder = text.split("{", 1)[0].rpartition("/")[0]
        remote = glob_wildcards(text, files=sorted(self._keys_below(folder)))
        rows = dict.fromkeys([*zip(*local, strict=True), *zip(*remote, strict=True)])
        self.found[str(pattern)] = [list(row) for row in rows]
        return _columns(local, rows)

    def write_record(self) -> None:
        """Leave what was found for the pods."""
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(json.dumps(self.found, indent=0, sort_keys=True))


class RecordedGlob:
    """Stands in for glob_wildcards in a pod: what the leader found, else the local disk."""

    def __init__(self, record: Path = RECORD) -> None:
        self._found = json.loads(record.read_text()) if record.exists() else {}

    def __call__(self, pattern: Any, files: Any = None, followlinks: bool = False) -> Any:
        from snakemake.io import glob_wildcards

        rows = None if files is not None else self._found.get(str(pattern))
        if rows is None:
            return glob_wildcards(pattern, files=files, followlinks=followlinks)
        return _columns(glob_wildcards(str(pattern), files=[]), rows)


def _columns(like: Any, rows: Iterable[Iterable[str]]) -> Any:
    """A Wildcards tuple with a list per wildcard, as glob_wildcards returns it."""
    rows = list(rows)
    return type(like)(*([list(column) for column in zip(*rows, strict=True)] or map(list, like)))
