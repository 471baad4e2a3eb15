"""The bucket's part in a run: storage provider, provenance, globbing, inputs and downloads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byok8s.exceptions import StorageError
from byok8s.settings import S3Settings
from byok8s.storage.bucket import describe
from byok8s.storage.inventory import OURS
from byok8s.storage.objects import Objects
from byok8s.storage.uploads import end_uploads
from byok8s.worker.s3 import open_bucket
from byok8s.workflow.api import PROVIDER
from byok8s.workflow.globbing import BucketGlob
from byok8s.workflow.inputs import LocalInputs
from byok8s.workflow.persistence import RecordLog
from byok8s.workflow.records import BucketSegments
from byok8s.workflow.storage import Lead, lead

if TYPE_CHECKING:
    from byok8s.storage.account import Account
    from byok8s.workflow.api import Parts

# Keys without an expiry may still be replaced in their profile: ask again now and then
_ASK_AGAIN = timedelta(minutes=10)


@dataclass
class WorkflowBucket:
    """What a run does with its bucket."""

    s3: S3Settings
    account: Account
    objects: Objects
    inputs: LocalInputs
    leader: Lead
    records: RecordLog

    @classmethod
    def of(cls, s3: S3Settings, account: Account, workdir: Path) -> WorkflowBucket:
        """Open the bucket of a run and make this process its leader."""

        credentials, ca_file = _for_obstore(account), str(s3.ca_file) if s3.ca_file else None

        def opened(name: str) -> Objects:
            where = describe(s3, name)
            store = open_bucket(where, credentials=credentials, ca_file=ca_file)
            return Objects(store, where.storage_class, md5_etags=where.md5_etags)

        leader = Lead(s3.location.bucket, s3.location.prefix, opened)
        objects = leader.inventory().objects
        inputs = LocalInputs(leader.inventory(), s3.location.prefix, workdir)
        leader.look_local = inputs.look
        leader.before_retrieval = inputs.flush
        lead(leader)
        records = RecordLog(BucketSegments(objects, s3.location.key(f"{OURS}metadata/")))
        return cls(s3, account, objects, inputs, leader, records)

    def equip(self, parts: Parts) -> None:
        """Put the bucket's hooks into a run's parts."""
        parts.records = self.records
        copies = (
            f".snakemake/storage/{PROVIDER}/{self.s3.location.bucket}/{self.s3.location.prefix}"
        )
        parts.glob = BucketGlob(self.leader.keys_below, copies)
        parts.on_parsed = self._know_producible

    def download(self, paths: Iterable[str], folder: Path) -> int:
        """Copy files and folders, given by their paths below the prefix; returns how many files."""
        count = 0
        for path in paths:
            key = self.s3.location.key(path)
            entry = self.leader.inventory().find(key)
            if entry is None:  # temp(): it is gone by now
                continue
            if entry.names is not None:
                self.objects.get_folder(key, folder / path, entry.names)
                count += len(entry.names)
            else:
                self.objects.get_file(key, folder / path, entry.meta)
                count += 1
        return count

    def end_uploads(self, keys: Collection[str]) -> None:
        """End what was begun of these objects, and of input files that did not get there.

        Raises StorageError.
        """
        if keys := {*keys, *self.inputs.begun}:
            end_uploads(self.s3, self.account, keys)

    def close(self) -> None:
        """Write what is in memory; this process leads no more.

        Raises StorageError when the records could not be written.
        """
        lead(None)
        self.records.close()
        if self.records.problem is not None:
            raise StorageError(
                f"What this run did could not be recorded in {self.s3.location} "
                f"({self.records.problem}); the next run may repeat some of it."
            )

    def _know_producible(self, producible: Callable[[str], bool]) -> None:
        self.inputs.producible = producible


def _for_obstore(account: Account) -> Callable[[], dict[str, Any]]:
    """An account's keys in obstore's words."""

    def current() -> dict[str, Any]:
        keys = account.current()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.session_token,
            "expires_at": keys.expires or datetime.now(UTC) + _ASK_AGAIN,
        }

    return current
