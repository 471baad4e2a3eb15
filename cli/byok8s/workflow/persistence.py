"""Snakemake's provenance records, kept with the workflow's files in the bucket.

Snakemake keeps them in the working directory, so that on another machine it cannot tell what
changed. Here every record lives in memory while the run lasts, and in
`PREFIX/.byok8s/metadata/*.jsonl` afterwards: one object per run, a line per record, the newest
line of an output wins. Writes are batched, so that a finished job costs the leader no request.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord, PersistenceBase
from snakemake.persistence.file import FilePersistence

from byok8s.workflow.executor import job_id
from byok8s.workflow.lead import knows
from byok8s.workflow.paths import without_paths_here
from byok8s.workflow.provenance import outside_values, script_code

# A crash loses at most this many records or seconds of them; what is lost is only the reason
# for a later re-run, never an output.
FLUSH_RECORDS = 200
FLUSH_SECONDS = 5.0
# A run's segment is written whole with each batch, so that a long run must begin new ones
SEGMENT_RECORDS = 2000
COMPACT_SEGMENTS = 16
CLOCK_SECONDS = 2.0  # by which the times of an object, from its upload and from a list, may differ


class SegmentStore(Protocol):
    """Where segments of records are kept."""

    def read(self) -> Iterator[str]:
        """The texts of all segments, oldest first."""

    def write(self, number: int, text: str) -> None:
        """Replace one of this run's segments; the highest number is the newest."""

    def compact(self, text: str) -> None:
        """Put one segment in the place of all that were read."""


class RecordLog:
    """Provenance records by output: read once, written in batches by a thread of its own."""

    def __init__(self, store: SegmentStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._records: dict[str, dict[str, Any] | None] = {}
        self._segment: dict[str, str] = {}  # lines of this run's newest segment
        self._number = 0  # of that segment
        self._unwritten = 0
        self._wake = threading.Condition(self._lock)
        self._closed = False
        self.problem: Exception | None = None  # why records could not be written
        self._writer: threading.Thread | None = None
        self._segments = 0
        self._loaded = False

    def load(self) -> None:
        """Read what earlier runs recorded; a line that is cut short or foreign is passed over."""
        if self._loaded:
            return
        self._loaded = True
        for text in self._store.read():
            self._segments += 1
            for line in text.splitlines():
                try:
                    key, record = json.loads(line)
                except ValueError:
                    continue
                self._records[key] = record

    def get(self, key: str) -> dict[str, Any] | None:
        return self._records.get(key)

    def put(self, key: str, record: dict[str, Any] | None) -> None:
        """Keep a record; None forgets it."""
        line = _line(key, record)
        with self._wake:
            self._records[key] = record
            self._segment[key] = line
            self._unwritten += 1
            if self._writer is None:
                self._writer = threading.Thread(
                    target=self._write_batches, name="byok8s-records", daemon=True
                )
                self._writer.start()
            if self._unwritten >= FLUSH_RECORDS:
                self._wake.notify()

    def close(self) -> None:
        """Write what is left; compact when many runs have left their segments."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._writer is not None:
            self._writer.join()
        if self._segments >= COMPACT_SEGMENTS:
            live = (_line(key, record) for key, record in self._records.items() if record)
            self._store.compact("".join(live))

    def _write_batches(self) -> None:
        while True:
            with self._wake:
                if not self._closed:
                    self._wake.wait(FLUSH_SECONDS)
                closed = self._closed
                lines = list(self._segment.values()) if self._unwritten or self.problem else []
                self._unwritten = 0
            if lines:
                self._write("".join(lines), attempts=3 if closed else 1)
            if closed:
                return
            if len(lines) >= SEGMENT_RECORDS and not self.problem:
                self._begin_segment(lines)

    def _begin_segment(self, written: list[str]) -> None:
        """Leave the segment as it was written; what came since goes to the next."""
        with self._lock:
            known = set(written)
            self._segment = {k: line for k, line in self._segment.items() if line not in known}
            self._number += 1

    def _write(self, text: str, attempts: int) -> None:
        """Write the segment; what fails is written with the next batch, as it holds all."""
        for _ in range(attempts):
            try:
                self._store.write(self._number, text)
            except Exception as error:
                self.problem = error
            else:
                self.problem = None
                return


def _line(key: str, record: dict[str, Any] | None) -> str:
    return json.dumps((key, record)) + "\n"


class OutsideValues:
    """Mix-in: a job's params include the values that its command takes from the Snakefile."""

    @functools.lru_cache  # noqa: B019 (one instance a run)
    def _params(self, job: Any) -> list[Any]:
        params: list[Any] = super()._params(job)  # type: ignore[misc]
        workflow = job.rule.workflow
        values = (*params, *outside_values(job))
        return sorted(without_paths_here(value, workflow) for value in values)

    @functools.lru_cache  # noqa: B019
    def _code(self, rule: Any) -> str | None:
        code: str | None = script_code(rule) or super()._code(rule)  # type: ignore[misc]
        return code


class LocalPersistence(OutsideValues, FilePersistence):
    """Records in the working directory, for a run without a bucket."""


class BucketPersistence(OutsideValues, PersistenceBase):
    """Records in the bucket.

    Objects appear in S3 completely or not at all, so there are no markers for incomplete files;
    folders have a marker when they are complete. The run as a whole is guarded by byok8s, so there
    are no locks on single files.
    `in_flight` are the ids of jobs whose pods a dead leader has left.
    """

    def __init__(
        self, log: RecordLog, in_flight: Collection[str] = frozenset(), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._records = log
        self._in_flight = in_flight
        self._started: dict[str, float] = {}
        log.load()

    def _read_record(self, key: str) -> MetadataRecord | None:
        record = self._records.get(key)
        return None if record is None else MetadataRecord.model_validate(record)

    async def finished(self, job: Any) -> None:
        """Record a job, as Snakemake does, at a fifth of its CPU time: one record, not a model
        and its checks for each output.
        """
        now = time.time()
        sums = [(str(file), await file.checksum(self.max_checksum_file_size)) for file in job.input]
        same = {
            "rule": job.rule.name,
            "input": self._input(job),
            "log": self._log(job),
            "shellcmd": job.shellcmd,
            "params": self._params(job),
            "code": self._code(job.rule),
            "record_format_version": RECORD_FORMAT_VERSION,
            "conda_env": self._conda_env(job),
            "container_img_url": job.container_img_url,
            "software_stack_hash": self._software_stack_hash(job),
            "job_hash": hash(job),
            "incomplete": False,
            "input_checksums": {name: value for name, value in sums if value is not None},
        }
        for file in job.output:
            key = self._get_key(file)
            times = {
                "starttime": self._started.pop(key, now),
                "endtime": await _made(job, file, now),
            }
            record = {k: v for k, v in (same | times).items() if v is not None}
            self._records.put(key, record)

    def _write_record(self, key: str, record: MetadataRecord) -> None:
        self._records.put(key, {k: v for k, v in record.model_dump().items() if v is not None})

    def _delete_record(self, key: str) -> bool:
        known = self._records.get(key) is not None
        if known:
            self._records.put(key, None)
        return known

    def _software_stack_hash(self, job: Any) -> str:
        """With the image, which Snakemake leaves out unless it starts containers itself."""
        own: str = super()._software_stack_hash(job)
        return f"{own} {job.container_img_url}" if job.container_img_url else own

    def _mark_incomplete(self, key: str, external_jobid: str | None) -> None:
        self._started[key] = time.time()

    def _get_recorded_starttime(self, key: str) -> float | None:
        return self._started.get(key)

    def _unmark_incomplete(self, key: str) -> None:
        self._started.pop(key, None)

    async def incomplete(self, job: Any) -> list[Any]:
        """Outputs that are not to be relied on, so that their job is run again.

        Those are folders that a pod which was lost has left half, and what a pod made for a leader
        that died before it could record it; there the job adopts that pod.
        """
        half = [f for f in job.output if f.is_directory and knows(f) and f.storage_object.is_half()]
        if not self._in_flight or job_id(job) not in self._in_flight:
            return half
        made = [f for f in job.output if await f.exists() and not await self._is_recorded(f)]
        return [*made, *(f for f in half if f not in made)]

    async def _is_recorded(self, file: Any) -> bool:
        record = self._read_record(self._get_key(file))
        made = (await file.mtime()).local_or_storage()
        return record is not None and (record.endtime or 0.0) > made - CLOCK_SECONDS

    def _filter_incomplete_keys(self, keys: Iterable[str]) -> set[str]:
        return set()

    def _get_external_jobids(self, keys: Iterable[str]) -> set[str]:
        return set()

    def _read_locks(self) -> Iterable[tuple[str, str]]:
        return ()

    def _write_locks(self, lock_type: str, keys: Iterable[str]) -> None:
        """There are no locks on single files."""

    def _delete_locks(self) -> None:
        """There are no locks on single files."""

    def _clear_cache(self) -> None:
        """The records in memory are the truth while the run lasts."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield


async def _made(job: Any, file: Any, now: float) -> float:
    """When a job has made a file, in epoch seconds; of a pod's, what the leader was told."""
    if knows(file) and not job.is_local:
        return float(file.storage_object.mtime()) if file.storage_object.exists() else now
    return (await file.mtime()).local_or_storage() if await file.exists() else now
