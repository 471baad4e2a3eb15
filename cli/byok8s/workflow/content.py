"""An input that is newer, but the same as the job has read before, is no reason to run again.

Snakemake records what its storage providers tell of an input's content, and compares it only for
files on the disk; here it does for objects, of which the leader has one listing anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from byok8s.workflow.lead import knows


def compare_objects() -> None:
    """Let Snakemake of this process compare objects by what the store tells of their content."""
    from snakemake.io import _IOFile

    if not getattr(_IOFile.checksum, "of_objects", False):
        _IOFile.is_checksum_eligible = _eligible(_IOFile.is_checksum_eligible)
        _IOFile.checksum = _checksum(_IOFile.checksum)


def _eligible(original: Callable[..., Any]) -> Callable[..., Any]:
    async def is_checksum_eligible(file: Any, threshold: int) -> bool:
        """Whether a checksum can be had without a download."""
        if knows(file):
            return file.storage_object.checksum() is not None
        return bool(await original(file, threshold))

    return is_checksum_eligible


def _checksum(original: Callable[..., Any]) -> Callable[..., Any]:
    async def checksum(
        file: Any, threshold: int | None = None, force: bool = False, algorithm: Any = None
    ) -> str | None:
        """ALGORITHM:DIGEST; of an object the store's own algorithm, unless forced to another."""
        found: str | None
        if knows(file) and not force:
            found = file.storage_object.checksum()
        else:
            found = await original(file, threshold, force, algorithm)
        return found

    checksum.of_objects = True  # type: ignore[attr-defined]
    return checksum
