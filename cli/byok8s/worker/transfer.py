"""Objects to files and back: verified, atomic, parallel, within a bounded memory."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from byok8s.worker.s3 import TransferError, sentences

if TYPE_CHECKING:
    from obstore.store import S3Store

T = TypeVar("T")
R = TypeVar("R")

# Objects up to this size travel in one request, larger ones in parts of it. Memory is at most
# _PARALLEL parts of the one large file and _PARALLEL small files: 128 MiB.
PART = 8 * 1024 * 1024
_PARALLEL = 8
_MOST_PARTS = 9_000  # S3 takes 10,000
_PART_SIZE = "byok8s-part-size"  # user metadata: what the ETag of a multipart object is made of
_ATTEMPTS = 3
_MD5 = re.compile(r"[0-9a-f]{32}")
_MULTIPART = re.compile(r"([0-9a-f]{32})-(\d+)")
# Snakemake's own marker in directory outputs; here it also makes an empty directory exist
MARKER = ".snakemake_timestamp"


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """What a store tells of an object: bytes, epoch seconds, ETag without quotes."""

    size: int
    mtime: float
    etag: str = ""


class Transfers:
    """Moves files between one bucket and the disk."""

    def __init__(self, store: S3Store) -> None:
        self.store = store
        self.bucket: str = store.config["bucket"]
        # False once a store has shown that its ETags are no MD5 (SSE-KMS, some servers)
        self.etags_are_md5 = True
        self._one_large = threading.Lock()

    def get_file(self, key: str, path: Path) -> ObjectMeta:
        """Download an object; the file appears complete or not at all.

        Raises ObjectMissing, or TransferError when it cannot be read or verified.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        try:
            meta = self._get_verified(key, temporary)
            moment = min(meta.mtime, time.time())  # an output must not look older than its input
            os.utime(temporary, (moment, moment))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return meta

    def _get_verified(self, key: str, path: Path) -> ObjectMeta:
        seen = ""
        for _ in range(_ATTEMPTS):
            try:
                meta, digest = self._get(key, path)
            except _Broken as error:
                problem = str(error)
                continue
            if not digest or digest == meta.etag or not self.etags_are_md5:
                return meta
            # twice the same bytes, and all of them: the ETag is no MD5 here
            if digest == seen and self._size(key) == meta.size:
                self.etags_are_md5 = False
                return meta
            seen, problem = digest, "its content does not match its checksum"
        raise TransferError(
            f"Could not read s3://{self.bucket}/{key}: {problem}, {_ATTEMPTS} times; "
            "run again, and check the network if it stays."
        )

    def _size(self, key: str) -> int:
        with sentences("read", self.bucket, key):
            return self.store.head(key)["size"]

    def _get(self, key: str, path: Path) -> tuple[ObjectMeta, str]:
        """Fetch once; returns also the ETag that the bytes should have, '' when unknown."""
        with sentences("read", self.bucket, key):
            result = self.store.get(key)
            meta = to_meta(result.meta)
            if meta.size > PART:
                with self._one_large:
                    return meta, self._get_parts(key, path, result, meta)
            data = _whole(result, meta.size)
        path.write_bytes(data)
        return meta, _md5(data).hexdigest() if _MD5.fullmatch(meta.etag) else ""

    def _get_parts(self, key: str, path: Path, result: Any, meta: ObjectMeta) -> str:
        """Fetch in parallel ranges of one version; the first one is already under way."""
        part, multipart = _part_size(result.attributes, meta)
        starts = range(0, meta.size, part)
        check = multipart and self.etags_are_md5
        with open(path, "wb", buffering=0) as file:
            file.truncate(meta.size)

            def fetch(start: int) -> bytes:
                end = min(start + part, meta.size)
                if start == 0:
                    data: Any = _start(result, end)
                else:
                    options: Any = {"range": (start, end)}
                    if meta.etag:  # 412 when the object was replaced meanwhile
                        options["if_match"] = f'"{meta.etag}"'
                    data = _whole(self._get_range(key, options), end - start)
                os.pwrite(file.fileno(), data, start)
                return _md5(data).digest() if check else b""

            digests = in_parallel(fetch, starts, workers=max(1, _PARALLEL * PART // part))
        if check:
            return f"{_md5(b''.join(digests)).hexdigest()}-{len(digests)}"
        if self.etags_are_md5 and _MD5.fullmatch(meta.etag):
            with open(path, "rb") as whole:
                return hashlib.file_digest(whole, _md5).hexdigest()
        return ""

    def _get_range(self, key: str, options: Any) -> Any:
        from obstore.exceptions import PreconditionError

        try:
            return self.store.get(key, options=options)
        except PreconditionError:
            raise _Broken("it was replaced while it was read") from None

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
                etag = _etag(self.store.put(key, data, use_multipart=False))
            else:
                size = before.st_size
                with self._one_large:
                    etag = self._put_parts(key, path, size)
        after = path.stat()
        if (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
            raise TransferError(
                f"{path} changed while it was written to s3://{self.bucket}/{key}; "
                "do not change a file that a job still works on."
            )
        return ObjectMeta(size, time.time(), etag)

    def _put_parts(self, key: str, path: Path, size: int) -> str:
        part = max(PART, -(-size // _MOST_PARTS))
        etag = _etag(
            self.store.put(
                key,
                path,
                attributes={_PART_SIZE: str(part)},
                chunk_size=part,
                max_concurrency=max(1, _PARALLEL * PART // part),
            )
        )
        parts = -(-size // part)
        if (found := _MULTIPART.fullmatch(etag)) and int(found[2]) != parts:
            raise TransferError(
                f"s3://{self.bucket}/{key} has {found[2]} parts where {parts} were sent; run again."
            )
        return etag

    def touch(self, key: str) -> ObjectMeta:
        """Write an object again as it is, since S3 has no other way to a new mtime.

        Copying an object onto itself is refused where nothing else changes.
        """
        with tempfile.TemporaryDirectory(prefix="byok8s-") as folder:
            path = Path(folder, "object")
            self.get_file(key, path)
            return self.put_file(key, path)

    def get_folder(self, key: str, path: Path, names: Iterable[str]) -> None:
        """Download the objects KEY/NAME into a folder, which appears complete or not at all."""
        temporary = _beside(path)
        try:
            temporary.mkdir(parents=True)
            in_parallel(lambda name: self.get_file(f"{key}/{name}", temporary / name), names)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def put_folder(
        self, key: str, path: Path, old: Iterable[str] | None = None
    ) -> dict[str, ObjectMeta]:
        """Upload a folder's files as KEY/NAME; afterwards no other object is below KEY/.

        old are the names that are there now; without them, they are listed. On failure nothing
        is left below KEY/, as half a folder would look like a whole one.
        """
        names = sorted(files_below(path))
        stored: dict[str, ObjectMeta] = {}

        def put(name: str) -> None:
            stored[name] = self.put_file(f"{key}/{name}", path / name)

        try:
            in_parallel(put, (name for name in names if name != MARKER))
            old = self.list(f"{key}/") if old is None else old
            self.delete(f"{key}/{name}" for name in {*old} - {*names, MARKER})
            with sentences("write", self.bucket, f"{key}/{MARKER}"):
                etag = _etag(self.store.put(f"{key}/{MARKER}", b"", use_multipart=False))
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


class _Broken(Exception):
    """A body of another length than announced."""


def in_parallel(work: Callable[[T], R], items: Iterable[T], workers: int = _PARALLEL) -> list[R]:
    """Results in order; the first failure is raised and what has not begun is left out."""
    items = list(items)
    if len(items) < 2 or workers == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(workers, len(items)), "s3") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def files_below(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder, relative to it; links are read through.

    Raises TransferError for a broken link, and for a link to a folder above itself.
    """
    for parent, folders, names in os.walk(folder, followlinks=True):
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


def to_meta(meta: Any) -> ObjectMeta:
    """obstore's description of an object in ours."""
    etag = (meta["e_tag"] or "").strip('"')
    return ObjectMeta(meta["size"], meta["last_modified"].timestamp(), etag)


def _etag(result: Any) -> str:
    return (result["e_tag"] or "").strip('"')


def _md5(data: Any = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def _part_size(attributes: Any, meta: ObjectMeta) -> tuple[int, bool]:
    """The size of ranges, and whether they are the parts that the ETag is made of."""
    found = _MULTIPART.fullmatch(meta.etag)
    told = str(attributes.get(_PART_SIZE, ""))
    if found and told.isdigit() and int(told):
        if -(-meta.size // int(told)) != int(found[2]):
            raise _Broken(f"{meta.size} bytes are announced, not {found[2]} parts of {told}")
        return int(told), True
    return PART, False


def _whole(result: Any, size: int) -> Any:
    """The body, as something with the buffer protocol."""
    data = result.bytes()
    if len(data) != size:
        raise _Broken(f"{len(data)} bytes came of {size}")
    return data


def _start(result: Any, size: int) -> Any:
    """The first bytes of an open download, which is then given up."""
    data = bytearray()
    for chunk in result.stream(min_chunk_size=1024 * 1024):
        data += chunk
        if len(data) >= size:
            return memoryview(data)[:size]
    raise _Broken(f"{len(data)} bytes came of {size}")


def _beside(path: Path) -> Path:
    """A temporary name in the same folder; the original may already be as long as names can be."""
    return path.with_name(f".byok8s-{secrets.token_hex(8)}")
