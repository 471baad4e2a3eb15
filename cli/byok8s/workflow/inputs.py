"""Input files of the working directory: brought to the bucket before the jobs that need them."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from byok8s.storage.inventory import OURS, Entry, Inventory
from byok8s.storage.objects import ObjectMeta
from byok8s.worker.checksum import has_etag, tells_content
from byok8s.worker.transfer import files_below, in_parallel

RECORD = "uploads.json"


@dataclass(frozen=True)
class Upload:
    """A local file as it was when it last equalled its object."""

    size: int  # bytes
    mtime_ns: int  # of the local file
    sha256: str  # '' when the ETag alone proved the content
    etag: str  # of the object


@dataclass(frozen=True)
class _Local:
    key: str
    path: Path
    size: int
    mtime_ns: int


class LocalInputs:
    """Files below the working directory that no rule makes, where the bucket lacks or differs.

    The DAG asks `look` for every file. What is new or changed counts as present from then on,
    and as modified now, and goes to the bucket with the next `flush`.
    """

    def __init__(self, inventory: Inventory, prefix: str, workdir: Path) -> None:
        """prefix is the run's, without a slash at its end."""
        self.producible: Callable[[str], bool] | None = None  # set once the Snakefile is read
        self.begun: set[str] = set()  # keys of uploads that have not come to their end
        self._inventory = inventory
        self._base = f"{prefix}/" if prefix else ""
        self._workdir = workdir
        self._record_key = f"{self._base}{OURS}{RECORD}"
        self._uploads: dict[str, Upload] | None = None
        self._record_changed = False
        self._pending: dict[str, _Local] = {}
        self._stale: set[str] = set()  # objects of files that are gone from a local folder
        self._answers: dict[str, Entry | None] = {}
        self._lock = threading.RLock()

    def look(self, key: str) -> Entry | None:
        """The local file or folder that is to become this object; None: ask the bucket."""
        with self._lock:
            if key not in self._answers:
                if self.producible is None:
                    return None
                self._answers[key] = self._examine(key)
            return self._answers[key]

    def pending(self) -> tuple[int, int]:
        """Number and bytes of the files that `flush` would upload."""
        with self._lock:
            return len(self._pending), sum(local.size for local in self._pending.values())

    def waiting(self) -> list[str]:
        """The keys of what `flush` would upload."""
        with self._lock:
            return list(self._pending)

    def flush(self) -> tuple[int, int]:
        """Upload what is pending, in parallel; returns number of files and bytes.

        Raises StorageError; what was uploaded by then is not uploaded again.
        """
        with self._lock:
            count = self.pending()
            if self._pending:
                self._read_record()  # once, before the threads need it
            try:
                in_parallel(self._upload, list(self._pending.values()))
                self._delete_stale()
            finally:
                self._answers = {k: e for k, e in self._answers.items() if e is None}
                self._write_record()
            return count

    def _examine(self, key: str) -> Entry | None:
        if not key.startswith(self._base) or self._inventory.is_ours(key):
            return None
        name = key[len(self._base) :]
        path = self._workdir / name
        # The part after the prefix is a path of the Snakefile; '..' does not lead out of here
        if ".." in path.parts or not path.exists() or (self.producible and self.producible(name)):
            return None
        found = list(self._files(key, path))
        changed = [local for local in found if self._differs(local)]
        if path.is_dir():
            self._stale |= self._gone(key, {local.key for local in found})
            if not self._stale and not changed:
                return None
        elif not changed:
            return None
        self._pending |= {local.key: local for local in changed}
        total = sum(local.size for local in found)
        names = tuple(local.key[len(key) + 1 :] for local in found) if path.is_dir() else None
        return Entry(
            mtime=time.time(), size=0 if path.is_dir() else total, total=total, names=names
        )

    def _files(self, key: str, path: Path) -> Iterator[_Local]:
        for name in sorted(files_below(path)) if path.is_dir() else [""]:
            stat = (path / name).stat()
            full = f"{key}/{name}" if name else key
            yield _Local(full, path / name, stat.st_size, stat.st_mtime_ns)

    def _differs(self, local: _Local) -> bool:
        """Whether the object is missing or of other content; same content is only recorded."""
        entry = self._inventory.find(local.key)
        if entry is None or entry.names is not None or entry.size != local.size:
            return True
        upload = self._read_record().get(local.key)
        same_object = upload is not None and upload.etag == entry.etag
        if upload and same_object and upload.mtime_ns == local.mtime_ns:
            return False
        sha256 = ""
        if upload and same_object and upload.sha256:
            sha256 = _sha256(local.path)
            same = sha256 == upload.sha256
        else:
            same = has_etag(local.path, entry.etag)
        if same:
            self._remember(local, sha256, entry.etag)
        return not same

    def _gone(self, key: str, here: set[str]) -> set[str]:
        """Objects below a folder that came from here, and whose files are no longer here."""
        return {
            name
            for name in self._read_record()
            if name.startswith(f"{key}/") and name not in here and self._inventory.find(name)
        }

    def _upload(self, local: _Local) -> None:
        objects = self._inventory.objects
        self.begun.add(local.key)
        meta: ObjectMeta = objects.put_file(local.key, local.path)
        self.begun.discard(local.key)
        sha256 = ""
        if not (objects.etags_are_md5 and tells_content(meta.etag)):
            sha256 = _sha256(local.path)
            if local.path.stat().st_mtime_ns != local.mtime_ns:
                sha256 = ""  # of another content than was uploaded
        self._inventory.told_stored(local.key, meta.size, meta.mtime, meta.etag)
        self._pending.pop(local.key, None)
        self._remember(local, sha256, meta.etag)

    def _delete_stale(self) -> None:
        self._inventory.objects.delete(sorted(self._stale))
        for key in self._stale:
            self._inventory.told_gone(key)
            self._read_record().pop(key, None)
            self._record_changed = True
        self._stale = set()

    def _remember(self, local: _Local, sha256: str, etag: str) -> None:
        self._read_record()[local.key] = Upload(local.size, local.mtime_ns, sha256, etag)
        self._record_changed = True

    def _read_record(self) -> dict[str, Upload]:
        if self._uploads is None:
            text = self._inventory.objects.get_bytes(self._record_key)
            try:
                rows = json.loads(text) if text else {}
                self._uploads = {self._base + name: Upload(**row) for name, row in rows.items()}
            except (ValueError, TypeError):  # a record is only a short cut: start anew
                self._uploads = {}
        return self._uploads

    def _write_record(self) -> None:
        if self._record_changed and self._uploads is not None:
            rows = {key[len(self._base) :]: asdict(row) for key, row in self._uploads.items()}
            text = json.dumps(rows, indent=0, sort_keys=True)
            self._inventory.objects.put_bytes(self._record_key, text.encode())
            self._record_changed = False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
