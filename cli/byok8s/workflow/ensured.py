"""`ensure()` where Snakemake itself runs the job, in a pod or on this machine.

Snakemake checks outputs before it stores them, and asks the storage for their size and checksum,
which has no such object yet, or the one of an earlier run. Here the files are looked at.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any


def check_files() -> None:
    """Have Snakemake look at the files; may be called more than once."""
    import snakemake.api  # noqa: F401 (its modules import each other in this order only)
    from snakemake.dag import DAG
    from snakemake.io import AnnotatedString

    original = DAG.handle_ensure
    if hasattr(original, "byok8s"):
        return

    class Here(AnnotatedString):
        """What of an output's file Snakemake asks for then; as text, its local path."""

        async def size(self) -> int:
            return os.path.getsize(self)

        async def is_same_checksum(self, other: str, *args: Any, **options: Any) -> bool:
            algorithm, _, promised = other.partition(":")
            with open(self, "rb") as content:
                return hashlib.file_digest(content, algorithm).hexdigest() == promised

    def here(file: Any) -> Any:
        if not file.is_storage or "ensure" not in file.flags:
            return file
        output = Here(str(file))
        output.flags = file.flags
        return output

    async def handle_ensure(dag: Any, job: Any, outputs: list[Any]) -> None:
        await original(dag, job, list(map(here, outputs)))

    handle_ensure.byok8s = True  # type: ignore[attr-defined]
    DAG.handle_ensure = handle_ensure
