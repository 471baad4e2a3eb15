"""What tells of an object's content.

Its ETag is the MD5 of the content, or "MD5-N": the MD5 of the MD5s of N parts. It is neither under
encryption with a key of KMS, and on a few servers. What byok8s stores in parts has in its metadata
"crc32:CRC-N", too: the CRC-32 of the CRC-32s of N parts, which takes a third of the time.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_MULTIPART = r"[0-9a-f]{32}-(\d+)"
_PLAIN = r"[0-9a-f]{32}"
MIB = 1024 * 1024
# What clients take, the usual first: byok8s and the AWS tools, obstore and rclone, older SDKs,
# s5cmd, and further round numbers
_USUAL = tuple(size * MIB for size in (8, 5, 16, 64, 50, 10, 15, 32, 100, 128, 256, 512))
_PIECE = 256 * 1024  # what the processor's cache can hold
_THREADS = 8  # hashing lets go of the interpreter's lock


def md5(data: Any = b"") -> Any:
    """A hash object; the MD5 is S3's choice, against accidents and not against attacks."""
    return hashlib.md5(data, usedforsecurity=False)


class Crc32:
    """zlib's CRC-32 with the methods of hashlib."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Any) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def is_plain(etag: str) -> bool:
    """Whether an ETag has the form of an MD5 of the whole content."""
    return re.fullmatch(_PLAIN, etag) is not None


def parts_of(etag: str) -> int:
    """The number of an object's parts; 0 when it was stored in one piece."""
    found = re.fullmatch(_MULTIPART, etag)
    return int(found[1]) if found else 0


def tells_content(etag: str) -> bool:
    """Whether an ETag has the form of an MD5, of the whole or of parts."""
    return is_plain(etag) or parts_of(etag) > 0


def part_sizes(size: int, parts: int) -> list[int]:
    """Sizes of the parts, in bytes, that can have given this number of them; the likeliest first.

    Several are possible where the parts are few; none of them may be right.
    """
    if not 0 < parts <= size:
        return []
    rounded = max(-(-size // (parts * MIB)), 5) * MIB  # S3 takes no smaller ones
    return [part for part in dict.fromkeys((*_USUAL, rounded)) if -(-size // part) == parts]


def joined(digests: Iterable[bytes]) -> str:
    """The ETag of an object in parts, from the MD5s of the parts."""
    digests = list(digests)
    return f"{md5(b''.join(digests)).hexdigest()}-{len(digests)}"


def joined_crc32(digests: Iterable[bytes]) -> str:
    """The checksum of an object in parts, from the CRC-32s of the parts."""
    digests = list(digests)
    return f"crc32:{zlib.crc32(b''.join(digests)):08x}-{len(digests)}"


def parts_etag(path: Path, part: int) -> str:
    """The ETag of a file that is stored in parts of this many bytes."""
    return joined(_digests(path, part, md5))


def parts_crc32(path: Path, part: int, *, from_disk: bool = True) -> str:
    """The checksum of a file that is stored in parts of this many bytes.

    '' when it is not in memory, as far as the file system tells, and must not be read from disk.
    """
    try:
        return joined_crc32(_digests(path, part, Crc32, os.preadv if from_disk else _Cached().read))
    except _NotInMemoryError:
        return ""


def has_etag(path: Path, etag: str) -> bool:
    """Whether a file's content is what an ETag stands for; False also when that cannot be told."""
    if is_plain(etag):
        with open(path, "rb") as file:
            return bool(hashlib.file_digest(file, md5).hexdigest() == etag)
    sizes = part_sizes(path.stat().st_size, parts_of(etag))
    return any(parts_etag(path, part) == etag for part in sizes)


class _NotInMemoryError(Exception):
    """A file is not in the page cache."""


class _Cached:
    """Reads what is in the page cache, and a few other pieces, such as are just being written."""

    MISSES = 16

    def __init__(self) -> None:
        self._missed: list[int] = []

    def read(self, descriptor: int, buffers: list[memoryview], start: int) -> int:
        try:
            return os.preadv(descriptor, buffers, start, os.RWF_NOWAIT)
        except OSError:  # EAGAIN: not in memory; EOPNOTSUPP: this file system cannot tell
            self._missed.append(start)
            if len(self._missed) > self.MISSES:
                raise _NotInMemoryError from None
            return os.preadv(descriptor, buffers, start)


def _digests(
    path: Path,
    part: int,
    new: Callable[[], Any],
    read: Callable[[int, list[memoryview], int], int] = os.preadv,
) -> list[bytes]:
    """The digests of a file's parts."""
    from concurrent.futures import ThreadPoolExecutor  # few jobs have large files

    with open(path, "rb") as file, ThreadPoolExecutor(_THREADS) as pool:
        descriptor, size = file.fileno(), os.fstat(file.fileno()).st_size

        def digest(start: int) -> bytes:
            total, end, buffer = new(), min(start + part, size), bytearray(_PIECE)
            while start < end:
                view = memoryview(buffer)[: end - start]
                if not (count := read(descriptor, [view], start)):
                    break
                total.update(view[:count])
                start += count
            found: bytes = total.digest()
            return found

        return list(pool.map(digest, range(0, size, part)))
