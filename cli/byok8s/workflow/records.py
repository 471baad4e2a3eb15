"""Where provenance records lie in the bucket: `PREFIX/.byok8s/metadata/*.jsonl`."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime

from byok8s.storage.objects import Objects
from byok8s.worker.transfer import in_parallel


class BucketSegments:
    """The segments of all runs; their names sort by the time at which the run began."""

    def __init__(self, objects: Objects, folder: str) -> None:
        """`folder` is the key prefix, with a slash at its end."""
        self._objects = objects
        self._folder = folder
        self._own = f"{folder}{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}"
        self._read: list[str] = []

    def read(self) -> Iterator[str]:
        """The texts of all segments, oldest first."""
        keys = sorted(self._objects.list(self._folder))
        for key, data in zip(keys, in_parallel(self._objects.get_bytes, keys), strict=True):
            if data is not None:
                self._read.append(key)
                yield data.decode(errors="replace")

    def write(self, number: int, text: str) -> None:
        """Replace one of this run's segments; the highest number is the newest."""
        self._objects.put_bytes(f"{self._own}-{number:06}.jsonl", text.encode())

    def compact(self, text: str) -> None:
        """Put one segment in the place of all that were read; a crash in between loses none."""
        self._objects.put_bytes(f"{self._own}-compact.jsonl", text.encode())
        self._objects.delete(self._read)
