"""What the leader of a run knows of its buckets, for every storage object of its process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from byok8s.storage.inventory import Entry, Inventory
from byok8s.storage.objects import Objects
from byok8s.worker.transfer import ObjectMeta

QUERY = re.compile(r"s3://([^/]+)/(.+)", re.DOTALL)


class Lead:
    """The buckets of a run, and what is known of them."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        open_bucket: Callable[[str], Objects],
        look_local: Callable[[str], Entry | None] = lambda key: None,
        before_retrieval: Callable[[], object] = lambda: None,
    ) -> None:
        """open_bucket opens a bucket by name, with credentials that refresh themselves.

        look_local is asked for keys of the run's prefix before the bucket is (LocalInputs.look);
        before_retrieval is called before a download (LocalInputs.flush).
        """
        self.bucket = bucket
        self.prefix = prefix
        self.look_local = look_local
        self.before_retrieval = before_retrieval
        self._open_bucket = open_bucket
        self._inventories: dict[str, Inventory] = {}

    def inventory(self, bucket: str | None = None) -> Inventory:
        """What is known of a bucket, by default the run's."""
        bucket = bucket or self.bucket
        if bucket not in self._inventories:
            prefix = self.prefix if bucket == self.bucket else None
            self._inventories[bucket] = Inventory(self._open_bucket(bucket), prefix)
        return self._inventories[bucket]

    def keys_below(self, folder: str) -> list[str]:
        """Paths relative to the run's prefix, below a folder of it ('' for all)."""
        base = f"{self.prefix}/" if self.prefix else ""
        below = f"{base}{folder}/" if folder else base
        return [key[len(base) :] for key in self.inventory().keys_below(below)]

    def told_stored(self, key: str, meta: ObjectMeta) -> None:
        """A job stored an object of the run's bucket."""
        self.inventory().told_stored(key, meta.size, meta.mtime, meta.etag)

    def told_finished(self, queries: Iterable[str], stored: Iterable[str]) -> None:
        """A job is done: outputs that it did not report are looked up when next asked for."""
        reported = set(stored)
        for query in queries:
            bucket, key = split_query(query)
            known = bucket == self.bucket and (
                key in reported or any(name.startswith(f"{key}/") for name in reported)
            )
            if not known:
                self.inventory(bucket).told_stored(key)

    def facts(self, queries: Iterable[str]) -> dict[str, Any]:
        """What a pod need not ask about these files of the run's bucket; JSON."""
        keys = [key for bucket, key in map(split_query, queries) if bucket == self.bucket]
        return self.inventory().facts(keys)


_leader: Lead | None = None


def current() -> Lead | None:
    """The leader that this process is; None in a pod and with plain `snakemake`."""
    return _leader


def lead(leader: Lead | None) -> None:
    """Make this process the leader's (None: no longer)."""
    global _leader  # noqa: PLW0603 (Snakemake makes the providers; there is no other way in)
    _leader = leader


def knows(file: Any) -> bool:
    """Whether a file of a job is an object that the leader answers for.

    Not of another provider, nor of this one with settings of its own (another server, perhaps).
    """
    if not file.is_storage:
        return False
    return getattr(file.storage_object.provider, "leader", None) is not None


def split_query(query: str) -> tuple[str, str]:
    """Bucket and key of s3://BUCKET/KEY; raises WorkflowError when it is not of that form."""
    found = QUERY.fullmatch(query)
    if not found:
        raise WorkflowError(f"'{query}' is not of the form s3://BUCKET/KEY.")
    return found[1], found[2]
