"""Objects to files: verified, in parallel ranges, within a bounded memory."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from byok8s.worker import checksum
from byok8s.worker.light import LARGEST
from byok8s.worker.s3 import TransferError, sentences

if TYPE_CHECKING:
    from obstore.store import S3Store

# Objects up to this size travel in one request, larger ones in parts of it
PART = LARGEST
# Requests of one large file. More than two for each core only take turns: on two cores a get with
# eight took 1.2 times as long as with four.
PARALLEL = max(4, min(8, 2 * (os.cpu_count() or 4)))
# User metadata: the size of the parts, and "md5:…" or "crc32:…-N" (see checksum)
PART_SIZE = "byok8s-part-size"
CHECKSUM = "byok8s-checksum"
UPLOAD = "byok8s-upload"  # which upload in parts has made the object
# A body is written and hashed in pieces that the processor's cache can hold
_PIECE = 256 * 1024
_ATTEMPTS = 3


class ObjectMeta(NamedTuple):
    """What a store tells of an object: bytes, epoch seconds, ETag without quotes."""

    size: int
    mtime: float
    etag: str = ""


class _Proof(NamedTuple):
    """What shows that a download is complete and unchanged."""

    expected: str = ""  # of the content
    kind: str = ""  # "md5" of the whole, "md5s" or "crc32s" of the ranges; '' nothing is known
    part: int = PART  # bytes of a range
    source: str = "store"  # "ours": certain; "store": unless its ETags are no MD5; "guess"

    def of_range(self) -> Any:
        """A new hash object for a range; None where ranges have none."""
        if self.kind == "crc32s":
            return checksum.Crc32()
        return checksum.md5() if self.kind == "md5s" else None

    def found(self, digests: list[bytes]) -> str:
        """What is to be compared with what is expected, from the digests of what came."""
        match self.kind:
            case "md5":
                return digests[0].hex()
            case "md5s":
                return checksum.joined(digests)
            case "crc32s":
                return checksum.joined_crc32(digests)
        return ""


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
                meta, proof, found = self._once(key, path)
            except _Broken as error:
                problem = str(error)
                continue
            if found == proof.expected:
                return meta
            if proof.source == "guess" and checksum.has_etag(path, proof.expected):
                return meta
            # twice the same bytes, and all of them: the ETag is something else here
            if found == seen and proof.source != "ours" and self._size(key) == meta.size:
                self.etags_are_md5 &= proof.source == "guess"
                return meta
            seen, problem = found, "its content does not match its checksum"
        raise TransferError(
            f"Could not read s3://{self.bucket}/{key}: {problem}, {_ATTEMPTS} times; "
            "run again, and check the network if it stays."
        )

    def _size(self, key: str) -> int:
        with sentences("read", self.bucket, key):
            return self._store.head(key)["size"]

    def _once(self, key: str, path: Path) -> tuple[ObjectMeta, _Proof, str]:
        """Fetch once; returns also the proof, and what the bytes came to."""
        with sentences("read", self.bucket, key):
            result = self._store.get(key)
            meta = to_meta(result.meta)
            proof = self._proof(key, result.attributes, meta)
            with open(path, "w+b", buffering=0) as file:
                if meta.size <= proof.part:
                    total = proof.of_range() or checksum.md5()
                    digests = [_save(result, file, 0, meta.size, total)]
                else:
                    file.truncate(meta.size)
                    with self.one_large:
                        digests = self._ranges(key, file, result, meta, proof)
        return meta, proof, proof.found(digests)

    def _proof(self, key: str, attributes: Any, meta: ObjectMeta) -> _Proof:
        """How the object is to be read and what its content must come to."""
        told = str(attributes.get(CHECKSUM, ""))
        if told.startswith("md5:"):
            return _Proof(told.removeprefix("md5:"), "md5", source="ours")
        size = str(attributes.get(PART_SIZE, ""))
        part = int(size) if size.isdigit() else 0
        told_parts = -(-meta.size // part) if part else 0
        if told_parts and told.endswith(f"-{told_parts}"):
            return _Proof(told, "crc32s", part, "ours")
        etag = meta.etag if self.etags_are_md5 else ""
        if parts := checksum.parts_of(etag):
            if told_parts == parts:
                return _Proof(etag, "md5s", part)
            return self._guess(key, etag, parts, meta)
        return _Proof(etag, "md5") if checksum.is_plain(etag) else _Proof()

    def _guess(self, key: str, etag: str, parts: int, meta: ObjectMeta) -> _Proof:
        """For an object that another program has stored in parts."""
        if sizes := checksum.part_sizes(meta.size, parts):
            return _Proof(etag, "md5s", sizes[0], "guess")
        if self._size(key) != meta.size:
            raise _Broken(f"{meta.size} bytes are announced, which is not all")
        return _Proof()

    def _ranges(
        self, key: str, file: BinaryIO, first: Any, meta: ObjectMeta, proof: _Proof
    ) -> list[bytes]:
        """Fetch in parallel ranges of one version; the first one is already under way.

        An MD5 of the whole is made in order, of what is written, while more is fetched.
        """
        from concurrent.futures import ThreadPoolExecutor  # few jobs have large files

        starts = range(0, meta.size, proof.part)

        def fetch(start: int) -> bytes:
            end = min(start + proof.part, meta.size)
            body = first if start == 0 else self._range(key, meta.etag, start, end)
            return _save(body, file, start, end, proof.of_range())

        digests, whole = [], checksum.md5()
        with ThreadPoolExecutor(PARALLEL, "s3") as pool:
            for start, digest in zip(starts, pool.map(fetch, starts), strict=True):
                digests.append(digest)
                if proof.kind == "md5":
                    whole.update(os.pread(file.fileno(), proof.part, start))
        return [whole.digest()] if proof.kind == "md5" else digests

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


def _save(body: Any, file: BinaryIO, start: int, end: int, total: Any) -> bytes:
    """Write a body to its place in a file, as it comes; returns its digest (b'' without total).

    What a body has beyond the end is left, and its connection given up.
    """
    at, descriptor = start, file.fileno()
    for piece in body.stream(min_chunk_size=_PIECE):
        data = memoryview(piece)[: end - at]
        if total is not None:
            total.update(data)
        while data:
            written = os.pwrite(descriptor, data, at)
            at, data = at + written, data[written:]
        if at == end:
            break
    if at != end:
        raise _Broken(f"{at - start} bytes came of {end - start}")
    digest: bytes = b"" if total is None else total.digest()
    return digest
