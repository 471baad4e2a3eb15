"""Objects to files: verified, in parallel ranges, within a bounded memory."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from byok8s.worker import checksum
from byok8s.worker.s3 import TransferError, sentences

if TYPE_CHECKING:
    from obstore.store import S3Store

# Objects up to this size travel in one request, larger ones in parts of it
PART = 8 * 1024 * 1024
PARALLEL = 8  # requests of one large file
# User metadata: the size of the parts that the ETag is made of, and what the ETag would be where
# the store's own is no MD5
PART_SIZE = "byok8s-part-size"
CONTENT = "byok8s-etag"
# A body is written and hashed in pieces that the processor's cache can hold
_PIECE = 256 * 1024
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """What a store tells of an object: bytes, epoch seconds, ETag without quotes."""

    size: int
    mtime: float
    etag: str = ""


@dataclass(frozen=True, slots=True)
class _Proof:
    """What shows that a download is complete and unchanged."""

    etag: str  # that the content must have; '' when nothing is known
    part: int = PART  # bytes of a range
    in_parts: bool = False  # whether these ranges are what the ETag is made of
    source: str = "store"  # "ours": certain; "store": unless its ETags are no MD5; "guess"


class Downloads:
    """Fetches from one bucket."""

    def __init__(self, store: S3Store, *, md5_etags: bool = True) -> None:
        self.bucket: str = store.config["bucket"]
        # False also once a store has shown that its ETags are no MD5 (SSE-KMS, some servers)
        self.etags_are_md5 = md5_etags
        self.one_large = threading.Lock()
        self._store = store

    def fetch(self, key: str, path: Path) -> ObjectMeta:
        """Fetch an object and verify it; on failure, what the path has is of no use.

        Raises ObjectMissing, or TransferError when it cannot be read or verified.
        """
        seen = ""
        for _ in range(_ATTEMPTS):
            try:
                meta, proof, etag = self._once(key, path)
            except _Broken as error:
                problem = str(error)
                continue
            if etag == proof.etag:
                return meta
            if proof.source == "guess" and checksum.has_etag(path, proof.etag):
                return meta
            # twice the same bytes, and all of them: the ETag is something else here
            if etag == seen and proof.source != "ours" and self._size(key) == meta.size:
                self.etags_are_md5 &= proof.source == "guess"
                return meta
            seen, problem = etag, "its content does not match its checksum"
        raise TransferError(
            f"Could not read s3://{self.bucket}/{key}: {problem}, {_ATTEMPTS} times; "
            "run again, and check the network if it stays."
        )

    def _size(self, key: str) -> int:
        with sentences("read", self.bucket, key):
            return self._store.head(key)["size"]

    def _once(self, key: str, path: Path) -> tuple[ObjectMeta, _Proof, str]:
        """Fetch once; returns also the proof, and the ETag that the bytes have ('' if unknown)."""
        with sentences("read", self.bucket, key):
            result = self._store.get(key)
            meta = to_meta(result.meta)
            proof = self._proof(key, result.attributes, meta)
            with open(path, "w+b", buffering=0) as file:
                if meta.size <= proof.part:
                    digest = _save(result, file, 0, meta.size, hashing=proof.etag != "")
                    etag = checksum.joined([digest]) if proof.in_parts else digest.hex()
                else:
                    file.truncate(meta.size)
                    with self.one_large:
                        etag = self._ranges(key, file, result, meta, proof)
        return meta, proof, etag

    def _proof(self, key: str, attributes: Any, meta: ObjectMeta) -> _Proof:
        """How the object is to be read and what its content must come to."""
        told = str(attributes.get(CONTENT, ""))
        source = "ours" if told else "store"
        etag = told or (meta.etag if self.etags_are_md5 else "")
        parts = checksum.parts_of(etag)
        if not parts:
            return _Proof(etag if checksum.is_plain(etag) else "", source=source)
        size = str(attributes.get(PART_SIZE, ""))
        if size.isdigit() and int(size) and -(-meta.size // int(size)) == parts:
            return _Proof(etag, int(size), in_parts=True, source=source)
        if sizes := checksum.part_sizes(meta.size, parts):
            return _Proof(etag, sizes[0], in_parts=True, source="guess")
        if self._size(key) != meta.size:
            raise _Broken(f"{meta.size} bytes are announced, which is not all")
        return _Proof("")

    def _ranges(self, key: str, file: BinaryIO, first: Any, meta: ObjectMeta, proof: _Proof) -> str:
        """Fetch in parallel ranges of one version; the first one is already under way.

        An MD5 of the whole is made in order, of what is written, while more is fetched.
        """
        starts = range(0, meta.size, proof.part)

        def fetch(start: int) -> bytes:
            end = min(start + proof.part, meta.size)
            body = first if start == 0 else self._range(key, meta.etag, start, end)
            return _save(body, file, start, end, hashing=proof.in_parts)

        digests, whole = [], checksum.md5()
        with ThreadPoolExecutor(PARALLEL, "s3") as pool:
            for start, digest in zip(starts, pool.map(fetch, starts), strict=True):
                digests.append(digest)
                if proof.etag and not proof.in_parts:
                    whole.update(os.pread(file.fileno(), proof.part, start))
        if not proof.etag:
            return ""
        return checksum.joined(digests) if proof.in_parts else str(whole.hexdigest())

    def _range(self, key: str, etag: str, start: int, end: int) -> Any:
        from obstore.exceptions import PreconditionError

        options: Any = {"range": (start, end)}
        if etag:  # 412 when the object was replaced meanwhile
            options["if_match"] = f'"{etag}"'
        try:
            return self._store.get(key, options=options)
        except PreconditionError:
            raise _Broken("it was replaced while it was read") from None


class _Broken(Exception):
    """A body of another length than announced."""


def to_meta(meta: Any) -> ObjectMeta:
    """obstore's description of an object in ours."""
    etag = (meta["e_tag"] or "").strip('"')
    return ObjectMeta(meta["size"], meta["last_modified"].timestamp(), etag)


def _save(body: Any, file: BinaryIO, start: int, end: int, *, hashing: bool) -> bytes:
    """Write a body to its place in a file, as it comes; returns its MD5 (b'' without hashing).

    What a body has beyond the end is left, and its connection given up.
    """
    total, at, descriptor = checksum.md5(), start, file.fileno()
    for piece in body.stream(min_chunk_size=_PIECE):
        data = memoryview(piece)[: end - at]
        if hashing:
            total.update(data)
        while data:
            written = os.pwrite(descriptor, data, at)
            at, data = at + written, data[written:]
        if at == end:
            break
    if at != end:
        raise _Broken(f"{at - start} bytes came of {end - start}")
    digest: bytes = total.digest() if hashing else b""
    return digest
