"""What an ETag tells of an object's content.

It is the MD5 of the content, or "MD5-N": the MD5 of the MD5s of N parts. It is neither under
encryption with a key of KMS, and on a few servers.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_MULTIPART = re.compile(r"[0-9a-f]{32}-(\d+)")
_PLAIN = re.compile(r"[0-9a-f]{32}")
_MIB = 1024 * 1024
# What clients take, the usual first: byok8s and the AWS tools, obstore and rclone, older SDKs,
# s5cmd, and further round numbers
_USUAL = tuple(size * _MIB for size in (8, 5, 16, 64, 50, 10, 15, 32, 100, 128, 256, 512))
_THREADS = 8  # hashing lets go of the interpreter's lock


def md5(data: Any = b"") -> Any:
    """A hash object; the MD5 is S3's choice, against accidents and not against attacks."""
    return hashlib.md5(data, usedforsecurity=False)


def is_plain(etag: str) -> bool:
    """Whether an ETag has the form of an MD5 of the whole content."""
    return _PLAIN.fullmatch(etag) is not None


def parts_of(etag: str) -> int:
    """The number of an object's parts; 0 when it was stored in one piece."""
    found = _MULTIPART.fullmatch(etag)
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
    rounded = max(-(-size // (parts * _MIB)), 5) * _MIB  # S3 takes no smaller ones
    return [part for part in dict.fromkeys((*_USUAL, rounded)) if -(-size // part) == parts]


def joined(digests: Iterable[bytes]) -> str:
    """The ETag of an object in parts, from the MD5s of the parts."""
    digests = list(digests)
    return f"{md5(b''.join(digests)).hexdigest()}-{len(digests)}"


def parts_etag(path: Path, part: int) -> str:
    """The ETag of a file that is stored in parts of this many bytes."""
    with open(path, "rb") as file, ThreadPoolExecutor(_THREADS) as pool:
        descriptor, size = file.fileno(), os.fstat(file.fileno()).st_size
        return joined(
            pool.map(lambda start: _digest(descriptor, start, part), range(0, size, part))
        )


def has_etag(path: Path, etag: str) -> bool:
    """Whether a file's content is what an ETag stands for; False also when that cannot be told."""
    if is_plain(etag):
        with open(path, "rb") as file:
            return bool(hashlib.file_digest(file, md5).hexdigest() == etag)
    sizes = part_sizes(path.stat().st_size, parts_of(etag))
    return any(parts_etag(path, part) == etag for part in sizes)


def _digest(descriptor: int, start: int, length: int) -> bytes:
    total, end = md5(), start + length
    while start < end and (data := os.pread(descriptor, min(_MIB, end - start), start)):
        total.update(data)
        start += len(data)
    digest: bytes = total.digest()
    return digest
