"""Files to objects and back: verified, atomic, parallel, within a bounded memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from byok8s.worker import checksum
from byok8s.worker.download import (
    CHECKSUM,
    PARALLEL,
    PART,
    PART_SIZE,
    UPLOAD,
    Downloads,
    ObjectMeta,
    to_meta,
)
from byok8s.worker.s3 import READ_SECONDS, ObjectMissing, TransferError, patient, sentences

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["MARKER", "PART", "ObjectMeta", "Transfers", "files_below", "in_parallel", "to_meta"]

T = TypeVar("T")
R = TypeVar("R")

# Files at once. Uploads need the most memory: PARALLEL + 2 parts of one large file, and the
# others, of up to a part each: 180 MiB.
_FILES = 12
_MOST_PARTS = 9_000  # S3 takes 10,000
# versitygw keeps the sizes of the parts with the object, and ext4 has room for some 700 of them
_USUAL_PARTS = 600
_LARGEST_PART = 40 * checksum.MIB  # unless there would be too many: two of them are in memory
# Bytes per second. At the end of an upload a server may say nothing while it writes the object
# anew: versitygw took more than two minutes for 20 GB.
_SLOWEST_END = 50e6
# Snakemake's own marker in directory outputs; here it also makes an empty directory exist
MARKER = ".snakemake_timestamp"


class Transfers:
    """Moves files between one bucket and the disk."""

    def __init__(self, store: S3Store, storage_class: str = "", *, md5_etags: bool = True) -> None:
        """storage_class is S3's word for it, '' for the bucket's own.

        Without md5_etags every object gets a checksum in its metadata.
        """
        self.store = store
        self.bucket: str = store.config["bucket"]
        self._downloads = Downloads(store, md5_etags=md5_etags)
        self._attributes = {"Storage-Class": storage_class} if storage_class else {}

    @property
    def etags_are_md5(self) -> bool:
        """Whether a plain ETag is the MD5 of the content, as far as is known."""
        return self._downloads.etags_are_md5

    def get_file(self, key: str, path: Path, known: ObjectMeta | None = None) -> ObjectMeta:
        """Download an object; the file appears complete or not at all.

        A file that is what is known of the object already is left as it is.
        Raises ObjectMissing, or TransferError when it cannot be read or verified.
        """
        if known and self._is_here(path, known):
            return known
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        try:
            meta = self._downloads.fetch(key, temporary)
            moment = min(meta.mtime, time.time())  # an output must not look older than its input
            os.utime(temporary, (moment, moment))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return meta

    def _is_here(self, path: Path, known: ObjectMeta) -> bool:
        if not (self.etags_are_md5 and path.is_file() and path.stat().st_size == known.size):
            return False
        return checksum.has_etag(path, known.etag)

    def put_file(self, key: str, path: Path) -> ObjectMeta:
        """Upload a file; the object appears complete or not at all.

        The server checks every request against the SHA-256 in its signature. The returned mtime
        is this machine's clock, as S3 does not tell its own.
        Raises TransferError, also when the file changes meanwhile.
        """
        before = path.stat()
        with sentences("write", self.bucket, key):
            if before.st_size <= PART:
                data = path.read_bytes()
                size = len(data)
                etag = self._put_bytes(key, data)
            else:
                size = before.st_size
                with self._downloads.one_large:
                    etag = self._put_parts(key, path, size)
        after = path.stat()
        if (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
            raise TransferError(
                f"{path} changed while it was written to s3://{self.bucket}/{key}; "
                "do not change a file that a job still works on."
            )
        return ObjectMeta(size, time.time(), etag)

    def _put_bytes(self, key: str, data: bytes) -> str:
        attributes = dict(self._attributes)
        if not self.etags_are_md5:
            attributes[CHECKSUM] = f"md5:{checksum.md5(data).hexdigest()}"
        return _etag(self.store.put(key, data, attributes=attributes, use_multipart=False))

    def _put_parts(self, key: str, path: Path, size: int) -> str:
        part = part_size(size)
        attributes = {**self._attributes, PART_SIZE: str(part)}
        # as a rule the file was just written and is still in memory; it is not read twice from disk
        if found := checksum.parts_crc32(path, part, from_disk=not self.etags_are_md5):
            attributes[CHECKSUM] = found
        attributes[UPLOAD] = upload = os.urandom(8).hex()
        silence = size / _SLOWEST_END
        store = patient(self.store, silence) if silence > READ_SECONDS else self.store
        try:
            etag = _etag(
                store.put(
                    key,
                    _parts(path, part, size),
                    attributes=attributes,
                    use_multipart=True,
                    chunk_size=part,
                    max_concurrency=max(2, PARALLEL * PART // part),
                )
            )
        except Exception:
            # The last answer may be lost: asked again, some servers do not know the upload any more
            if not (etag := self._stored_by(key, upload)):
                raise
        parts = -(-size // part)
        if (stored := checksum.parts_of(etag)) and stored != parts:
            raise TransferError(
                f"s3://{self.bucket}/{key} has {stored} parts where {parts} were sent; run again."
            )
        return etag

    def _stored_by(self, key: str, upload: str) -> str:
        """The ETag of an object, if this upload has made it."""
        with contextlib.suppress(Exception):
            found = self.store.get(key, options={"head": True})
            if found.attributes.get(UPLOAD) == upload:
                return to_meta(found.meta).etag
        return ""

    def touch(self, key: str) -> ObjectMeta:
        """Write an object again as it is, since S3 has no other way to a new mtime.

        Copying an object onto itself is refused where nothing else changes.
        """
        import tempfile

        with tempfile.TemporaryDirectory(prefix="byok8s-") as folder:
            path = Path(folder, "object")
            self.get_file(key, path)
            return self.put_file(key, path)

    def get_folder(self, key: str, path: Path, names: Iterable[str]) -> int:
        """Download the objects KEY/NAME into a folder, which appears complete or not at all.

        Returns how many bytes they have.
        """
        temporary, names = _beside(path), set(names)
        above = {name[:i] for name in names for i, letter in enumerate(name) if letter == "/"}
        try:
            temporary.mkdir(parents=True)
            for name in above:
                (temporary / name).mkdir(parents=True, exist_ok=True)
            found = in_parallel(lambda name: self._get_below(key, name, temporary), names)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return sum(found)

    def _get_below(self, key: str, name: str, folder: Path) -> int:
        """Download KEY/NAME, of which obstore's listing does not tell whether it is NAME or NAME/,
        as a console makes of a folder that is still empty.
        """
        path = folder / name
        if not path.is_dir():
            try:
                return self.get_file(f"{key}/{name}", path).size
            except ObjectMissing:
                if not self._is_placeholder(f"{key}/{name}"):
                    raise
            path.mkdir(parents=True, exist_ok=True)
        elif not self._is_placeholder(f"{key}/{name}"):
            raise TransferError(
                f"s3://{self.bucket}/{key}/{name} is an object, and there are others below it, "
                "which no disk can hold both; delete or rename the one or the others."
            )
        return 0

    def _is_placeholder(self, key: str) -> bool:
        """Whether there is an object KEY/, and none KEY."""
        with sentences("list", self.bucket, key):
            listed = any(m["path"] == key for page in self.store.list(key) for m in page)
            try:
                self.store.head(key)
            except FileNotFoundError:
                return listed
        return False

    def put_folder(
        self, key: str, path: Path, old: Iterable[str] | None = None
    ) -> dict[str, ObjectMeta]:
        """Upload a folder's files as KEY/NAME; afterwards no other object is below KEY/.

        old are the names that are there now; without them, they are listed. The marker goes first
        and comes last: a folder without it is not whole. On failure nothing is left below KEY/.
        """
        names = sorted(files_below(path))
        stored: dict[str, ObjectMeta] = {}
        old = set(self.list(f"{key}/") if old is None else old)

        def put(name: str) -> None:
            stored[name] = self.put_file(f"{key}/{name}", path / name)

        try:
            self.delete(f"{key}/{name}" for name in old & {MARKER})
            in_parallel(put, (name for name in names if name != MARKER))
            self.delete(f"{key}/{name}" for name in old - {*names, MARKER})
            with sentences("write", self.bucket, f"{key}/{MARKER}"):
                etag = self._put_bytes(f"{key}/{MARKER}", b"")
            stored[MARKER] = ObjectMeta(0, time.time(), etag)
        except BaseException:
            self.delete(f"{key}/{name}" for name in self.list(f"{key}/"))
            raise
        return stored

    def list(self, prefix: str) -> dict[str, ObjectMeta]:
        """The objects whose keys begin with PREFIX, which is '' or ends with '/'; names are
        relative to it."""
        with sentences("list", self.bucket, prefix):
            chunks = self.store.list(prefix.rstrip("/") or None, chunk_size=1000)
            return {
                meta["path"][len(prefix) :]: to_meta(meta)
                for chunk in chunks
                for meta in chunk
                if meta["path"].startswith(prefix)
            }

    def delete(self, keys: Iterable[str]) -> None:
        """Delete exactly these objects; those that are not there do not matter."""
        keys = list(keys)
        if "" in keys:
            raise ValueError("an empty key names no object")
        with sentences("delete", self.bucket, keys[0] if keys else ""):
            if keys:
                self.store.delete(keys)


def part_size(size: int) -> int:
    """The bytes of each part in which a file of this size is stored: whole MiB."""
    usual = min(_LARGEST_PART, -(-size // _USUAL_PARTS))
    return -(-max(PART, usual, -(-size // _MOST_PARTS)) // checksum.MIB) * checksum.MIB


def in_parallel(work: Callable[[T], R], items: Iterable[T], workers: int = _FILES) -> list[R]:
    """Results in order; the first failure is raised and what has not begun is left out."""
    items = list(items)
    if len(items) < 2 or workers == 1:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor  # imports logging, for nothing with one file

    with ThreadPoolExecutor(min(workers, len(items)), "s3") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def files_below(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder, relative to it; links are read through.

    Raises TransferError for a broken link, and for a link to a folder above itself, and OSError
    for a folder that cannot be read.
    """
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        for name in folders:
            path = Path(parent, name)
            if path.is_symlink() and Path(parent).resolve().is_relative_to(path.resolve()):
                raise TransferError(f"{path} links to a folder above itself; remove the link.")
        for name in names:
            path = Path(parent, name)
            if path.is_file():
                yield path.relative_to(folder).as_posix()
            elif not path.exists():
                raise TransferError(f"{path} is a broken link; remove it, or mend it.")


def _raise(error: OSError) -> None:
    raise error


def _etag(result: Any) -> str:
    return (result["e_tag"] or "").strip('"')


def _parts(path: Path, part: int, size: int) -> Iterator[bytes]:
    """A file in pieces, for an upload."""
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        for start in range(0, size, part):
            data = os.pread(file.fileno(), part, start)
            if len(data) != min(part, size - start):
                raise TransferError(f"{path} became shorter while it was read; run again.")
            yield data


def _beside(path: Path) -> Path:
    """A temporary name in the same folder; the original may already be as long as names can be."""
    return path.with_name(f".byok8s-{os.urandom(8).hex()}")
