"""The Snakemake storage plugin: objects of S3 as files of a workflow.

Imported in pods too, so: nothing of boto3, kubernetes, click or rich. In the leader `lead` says
where the bucket is and what is known of it; elsewhere, and with plain `snakemake
--default-storage-provider byok8s`, settings and the AWS_* environment do.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_storage_plugins.common import Operation
from snakemake_interface_storage_plugins.io import IOCacheStorageInterface, get_constant_prefix
from snakemake_interface_storage_plugins.storage_object import (
    StorageObjectGlob,
    StorageObjectRead,
    StorageObjectTouch,
    StorageObjectWrite,
)
from snakemake_interface_storage_plugins.storage_provider import (
    ExampleQuery,
    QueryType,
    StorageProviderBase,
    StorageQueryValidationResult,
)

from byok8s.exceptions import StorageError
from byok8s.storage.inventory import Entry, Inventory
from byok8s.worker.checksum import is_plain
from byok8s.worker.names import FACTS_VARIABLE, S3_VARIABLE, STORED_VARIABLE
from byok8s.worker.s3 import StorageAway, TransferError
from byok8s.worker.spec import AWAY
from byok8s.worker.transfer import MARKER, ObjectMeta
from byok8s.workflow.ensured import check_files
from byok8s.workflow.lead import QUERY, Lead, current, lead
from byok8s.workflow.storage_settings import StorageProviderSettings

__all__ = ["Lead", "StorageObject", "StorageProvider", "StorageProviderSettings", "lead"]

_BUCKET = re.compile(r"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])")
_POOL = ThreadPoolExecutor(16, "byok8s-s3")  # transfers at once, each of one file or folder


class StorageProvider(StorageProviderBase):
    """Buckets as storage; makes and deletes none."""

    settings: StorageProviderSettings

    def __post_init__(self) -> None:
        check_files()
        self._own: dict[str, Inventory] = {}
        self.settings = self.settings or StorageProviderSettings()
        # of a tagged provider with settings of its own, the leader knows nothing
        self._plain = self.settings == StorageProviderSettings()
        self._cache: IOCacheStorageInterface | None = None

    @property
    def leader(self) -> Lead | None:
        """The leader's knowledge; with plain Snakemake it begins after the provider was made."""
        return current() if self._plain else None

    def inventory(self, bucket: str) -> Inventory:
        """What is known of a bucket."""
        if self.leader:
            return self.leader.inventory(bucket)
        if bucket not in self._own:
            self._own[bucket] = Inventory(self.settings.open(bucket))
            facts = os.environ.get(FACTS_VARIABLE)
            if self._plain and facts and Path(facts).exists():
                told = json.loads(Path(facts).read_text())
                if told["bucket"] == bucket:
                    self._own[bucket].learn(told)
        return self._own[bucket]

    def must_ask(self) -> bool:
        """Whether others may have changed the bucket unknown to us.

        True in a leader that byok8s does not lead, once its DAG is built: Snakemake has then
        switched its own cache off, and nobody tells us what the jobs store.
        """
        return self.leader is None and self._cache is not None and not self._cache.active

    def list_around(self, key: str, inventory: Inventory, cache: IOCacheStorageInterface) -> None:
        """Fill the inventory if there is time for it (in a pod there is none)."""
        if cache.remaining_wait_time > 0:
            self._cache = cache
            inventory.prepare(key)

    @classmethod
    def example_queries(cls) -> list[ExampleQuery]:
        return [ExampleQuery("s3://mybucket/folder/file.txt", "An object", QueryType.ANY)]

    def use_rate_limiter(self) -> bool:
        return False

    def rate_limiter_key(self, query: str, operation: Operation) -> Any:
        return None

    def default_max_requests_per_second(self) -> float:
        return 0.0

    @classmethod
    def is_valid_query(cls, query: str) -> StorageQueryValidationResult:
        reason = _invalid(str(query))
        return StorageQueryValidationResult(query, reason is None, reason)

    def postprocess_query(self, query: str) -> str:
        return query.rstrip("/") if query.count("/") > 3 else query

    def list_objects(self, query: Any) -> Iterable[str]:
        """All objects below a query's constant part; used by Snakemake's command line."""
        return _below(self, str(query))


def _invalid(query: str) -> str | None:
    found = QUERY.fullmatch(query)
    if not found:
        return "it must be of the form s3://BUCKET/KEY"
    bucket, key = found[1], found[2]
    if "{" not in bucket and not _BUCKET.fullmatch(bucket):
        return (
            f"'{bucket}' is no bucket name (3 to 63 lower-case letters, digits, dots and hyphens)"
        )
    parts = key.split("/")
    if "" in parts:
        return "an absolute path, or '//', cannot be in S3; use paths below the working directory"
    if "." in parts or ".." in parts:
        return "the key has a '.' or '..' part"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in key):
        return "the key has a control character, such as a line break"
    return None


def _below(provider: StorageProvider, query: str) -> list[str]:
    """Objects and folders below the constant part of a query, as queries."""
    constant = get_constant_prefix(query, strip_incomplete_parts=True)
    found = re.fullmatch(r"s3://([^/{]+)/(.*)", constant, re.DOTALL)
    if not found:
        raise WorkflowError(f"'{query}' must name its bucket without a wildcard.")
    bucket, prefix = found[1], found[2]
    if prefix and not prefix.endswith("/"):  # there is no wildcard
        prefix = prefix[: prefix.rfind("/") + 1]
    keys = provider.inventory(bucket).keys_below(prefix)
    folders = {
        key[:i] for key in keys for i, letter in enumerate(key) if letter == "/" and i > len(prefix)
    }
    return [f"s3://{bucket}/{key}" for key in sorted({*keys, *folders})]


class StorageObject(StorageObjectRead, StorageObjectWrite, StorageObjectGlob, StorageObjectTouch):
    """A file s3://BUCKET/KEY, or a folder: the objects s3://BUCKET/KEY/..."""

    provider: StorageProvider

    def __post_init__(self) -> None:
        # A query that is not valid makes an object too, for Snakemake to ask it whether it is
        found = QUERY.fullmatch(self.query)
        self.bucket, self.key = (found[1], found[2]) if found else ("", self.query)

    @property
    def _inventory(self) -> Inventory:
        return self.provider.inventory(self.bucket)

    def local_suffix(self) -> str:
        return f"{self.bucket}/{self.key}"

    def get_inventory_parent(self) -> str | None:
        return None  # our own inventory answers, also when Snakemake's is switched off

    async def inventory(self, cache: IOCacheStorageInterface) -> None:
        with _workflow_errors():
            self.provider.list_around(self.key, self._inventory, cache)

    def cleanup(self) -> None:
        """Nothing is left behind: temporary files never outlive a transfer."""

    def _find(self) -> Entry | None:
        leader = self.provider.leader
        with _workflow_errors():
            if leader and self.bucket == leader.bucket and (local := leader.look_local(self.key)):
                return local
            inventory = self._inventory
            if self.provider.must_ask():
                inventory.told_stored(self.key)
            return inventory.find(self.key)

    def _entry(self) -> Entry:
        entry = self._find()
        if entry is None:
            raise WorkflowError(f"There is no object {self.query}.")
        return entry

    def exists(self) -> bool:
        return self._find() is not None

    def mtime(self) -> float:
        return self._entry().mtime

    def size(self) -> int:
        return self._entry().size

    def local_footprint(self) -> int:
        return self._entry().total

    def checksum(self) -> str | None:
        """The content's MD5 where the store tells it, else the ETag: when it is the same as
        before, so is the content.
        """
        entry = self._find()
        if entry is None or not entry.etag:
            return None
        md5 = is_plain(entry.etag) and self._inventory.objects.etags_are_md5
        return f"{'md5' if md5 else 'etag'}:{entry.etag}"

    async def managed_retrieve(self) -> None:
        await self.wait_for_free_space()
        await _in_thread(self.retrieve_object, "retrieve", self.query)

    async def managed_store(self) -> None:
        await _in_thread(self.store_object, "store", self.query)

    def retrieve_object(self) -> None:
        """Download to the local path; a file or folder appears complete or not at all."""
        if self.provider.leader:
            self.provider.leader.before_retrieval()
        path = self.local_path()
        entry = self._entry()
        with _workflow_errors():
            objects = self._inventory.objects
            if entry.names is not None:
                objects.get_folder(self.key, path, entry.names)
            else:
                if path.is_dir():
                    shutil.rmtree(path)
                objects.get_file(self.key, path, entry.meta)
        _tell_worker([entry.total])

    def store_object(self) -> None:
        """Upload the local path; what was a file and becomes a folder, or back, is replaced."""
        path = self.local_path()
        if path.is_fifo():  # pipe(): what flows through it is read by the job beside this one
            return
        if not path.exists():
            raise WorkflowError(f"There is no {path} to be stored as {self.query}.")
        inventory = self._inventory
        objects, key = inventory.objects, self.key
        with _workflow_errors():
            old = inventory.names_below(key)
            if path.is_dir():
                if inventory.is_file(key):
                    objects.delete([key])
                folder = objects.put_folder(key, path, old)
                stored = {f"{key}/{name}": meta for name, meta in folder.items()}
            else:
                if old and not _is_ours(old):
                    raise WorkflowError(
                        f"{self.query} is a folder with objects that no rule has made; name "
                        "another output, or delete them."
                    )
                objects.delete(f"{key}/{name}" for name in old or ())
                stored = {key: objects.put_file(key, path)}
        inventory.told_gone(key)
        for name, meta in stored.items():
            inventory.told_stored(name, meta.size, meta.mtime, meta.etag)
        s3 = os.environ.get(S3_VARIABLE)
        if s3 and json.loads(s3)["bucket"] == self.bucket:
            _tell_worker([k, m.size, m.mtime, m.etag] for k, m in stored.items())

    def remove(self) -> None:
        """Delete this object; of a folder that a rule has made, the objects below it.

        Snakemake removes what is in the place of an output before and after a job. A rule that
        says "data" and means a file must not cost the folder of that name.
        """
        with _workflow_errors():
            inventory = self._inventory
            entry = inventory.find(self.key)
            if entry is not None and entry.names is not None:
                below = inventory.objects.list(f"{self.key}/")
                if not _is_ours(name.removeprefix(f"{self.key}/") for name in below):
                    return
                inventory.objects.delete([self.key, *below])
            elif entry is not None:
                inventory.objects.delete([self.key])
            inventory.told_gone(self.key)

    def is_half(self) -> bool:
        """Whether this is a folder that a pod has not stored to its end."""
        entry = self._find()
        return entry is not None and entry.names is not None and not _is_ours(entry.names)

    def touch(self) -> None:
        """Give the object a new mtime by writing it again; of a folder, its marker."""
        with _workflow_errors():
            inventory = self._inventory
            folder = self._entry().names is not None
            key = f"{self.key}/{MARKER}" if folder else self.key
            if folder:
                inventory.objects.put_bytes(key, b"")
                meta = ObjectMeta(0, time.time())
            else:
                meta = inventory.objects.touch(key)
            inventory.told_stored(key, meta.size, meta.mtime, meta.etag)

    def list_candidate_matches(self) -> Iterable[str]:
        with _workflow_errors():
            return _below(self.provider, self.query)


def _is_ours(names: Iterable[str]) -> bool:
    """Whether a folder with these files was stored by a rule, to its end."""
    return MARKER in names


def _tell_worker(rows: Iterable[Any]) -> None:
    """Leave lines for the worker, which tells the leader: a list for each object of the run's
    bucket that was stored, and the bytes of what was fetched.
    """
    if path := os.environ.get(STORED_VARIABLE):
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        with open(path, "a") as file:
            file.write(text)


class _workflow_errors:
    """Our sentences in Snakemake's error class, which it prints without a traceback."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, StorageError | TransferError):
            if isinstance(error, StorageAway):
                _tell_away(str(error))
            raise WorkflowError(str(error)) from None


def _tell_away(sentence: str) -> None:
    """Let the worker know, whose job fails by it and not by itself."""
    if path := os.environ.get(STORED_VARIABLE):
        Path(f"{path}{AWAY}").write_text(sentence)


async def _in_thread(work: Callable[[], None], verb: str, query: str) -> None:
    """Let transfers of one job run side by side; Snakemake's own loop would do one at a time."""
    try:
        await asyncio.get_running_loop().run_in_executor(_POOL, work)
    except WorkflowError:
        raise
    except OSError as error:
        raise WorkflowError(f"Could not {verb} {query}: {error}") from error
