"""A bucket in memory that counts what is asked of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from byok8s.storage.objects import Objects
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

_NO_ANSWER = (
    "Generic S3 error: Error performing PUT http://s3:1/memory/k in 46s, after 20 retries, "
    "max_retries: 20, retry_timeout: 180s  - HTTP error: error sending request\n\nDebug source:"
)


class MemoryBucket:
    """An obstore store of its own; `calls` are counted by method.

    The next `away` of them fail as where no server answers.
    """

    def __init__(self, **objects: bytes) -> None:
        self.config = {"bucket": "memory"}
        self.calls: Counter[str] = Counter()
        self.away = 0
        self._store = MemoryStore()
        for key, data in objects.items():
            self._store.put(key, data)

    @property
    def objects(self) -> Objects:
        return Objects(self)  # type: ignore[arg-type]

    def content(self) -> dict[str, bytes]:
        """All objects, uncounted."""
        metas = self._store.list().collect()
        return {m["path"]: bytes(self._store.get(m["path"]).bytes()) for m in metas}

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        method = getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.away:
                self.away -= 1
                raise GenericError(_NO_ANSWER)
            kwargs.pop("attributes", None)
            return method(*args, **kwargs)

        return call
