"""What ETags tell of content."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from byok8s.worker import checksum

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("size", "parts", "likeliest"),
    [
        (20 * MIB, 3, 8),  # as the AWS tools would
        (20 * MIB, 4, 5),
        (20 * MIB, 2, 16),
        (1000 * MIB, 20, 50),
        (999 * MIB, 15, 67),  # no usual one: the smallest number of MiB
        (3, 1, 8),
    ],
)
def test_the_likeliest_size_of_parts(size: int, parts: int, likeliest: int) -> None:
    assert checksum.part_sizes(size, parts)[0] == likeliest * MIB


@pytest.mark.parametrize(("size", "parts"), [(20 * MIB, 0), (20 * MIB, 5), (0, 1), (10, 11)])
def test_no_size_of_parts_is_possible(size: int, parts: int) -> None:
    assert checksum.part_sizes(size, parts) == []  # S3 takes no parts of less than 5 MiB


@pytest.mark.parametrize("size", [1, 5 * MIB, 5 * MIB + 1, 11 * MIB])
def test_the_etag_of_a_file_in_parts(tmp_path: Path, size: int) -> None:
    path, data, part = tmp_path / "file", os.urandom(size), 5 * MIB
    path.write_bytes(data)
    digests = [hashlib.md5(data[i : i + part]).digest() for i in range(0, size, part)]
    etag = f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"
    assert checksum.parts_etag(path, part) == etag == checksum.joined(digests)
    assert checksum.parts_of(etag) == len(digests) and not checksum.is_plain(etag)


@pytest.mark.parametrize("etag", ["", "0", "x" * 32, "0" * 31, "0" * 32 + "-", "0" * 32 + "-1-2"])
def test_what_is_no_md5(tmp_path: Path, etag: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert not checksum.tells_content(etag) and not checksum.has_etag(path, etag)


@pytest.mark.parametrize("from_disk", [True, False])
def test_the_crc32_of_parts(tmp_path: Path, *, from_disk: bool) -> None:
    path, data, part = tmp_path / "file", os.urandom(3 * MIB + 7), MIB
    path.write_bytes(data)
    crcs = [zlib.crc32(data[i : i + part]).to_bytes(4, "big") for i in range(0, len(data), part)]
    whole = f"crc32:{zlib.crc32(b''.join(crcs)):08x}-4"
    assert checksum.parts_crc32(path, part, from_disk=from_disk) == whole


@pytest.mark.parametrize(("missing", "found"), [(3, True), (30, False)])
def test_a_file_that_is_not_in_memory_is_not_read_for_its_crc32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int, found: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(10 * MIB))
    read, calls = os.preadv, []

    def preadv(descriptor: int, buffers: Any, start: int, flags: int = 0) -> int:
        calls.append(flags)
        if flags == os.RWF_NOWAIT and start < missing * 256 * 1024:
            raise BlockingIOError
        return read(descriptor, buffers, start)

    monkeypatch.setattr(os, "preadv", preadv)
    assert bool(checksum.parts_crc32(path, MIB, from_disk=False)) == found
    assert calls.count(0) == (missing if found else 16)
