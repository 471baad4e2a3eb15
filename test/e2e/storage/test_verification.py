"""Every object is verified: whoever stored it, and within a bounded memory."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from byok8s.cluster import S3Server
from byok8s.worker.s3 import TransferError, open_store
from byok8s.worker.transfer import PART, Transfers
from support.objects import write
from support.s3proxy import Fault, S3Proxy


class TestVerification:
    """Of objects that others have stored, and where ETags tell nothing."""

    MIB = 1024 * 1024

    def store(self, client: Any, bucket: str, data: bytes, part: int | None) -> None:
        """As another program does: whole, or in parts of this many bytes."""
        if part is None:
            client.put_object(Bucket=bucket, Key="k", Body=data)
            return
        where = {"Bucket": bucket, "Key": "k"}
        upload = client.create_multipart_upload(**where)["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(data), part), 1):
            body = data[start : start + part]
            told = client.upload_part(**where, UploadId=upload, PartNumber=number, Body=body)
            parts.append({"PartNumber": number, "ETag": told["ETag"]})
        client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})

    @pytest.mark.parametrize("part", [None, 5, 8, 16, 7])
    def test_a_damaged_download_is_seen_and_mended(
        self,
        transfers: Transfers,
        proxy: S3Proxy,
        client: Any,
        bucket: str,
        tmp_path: Path,
        part: int | None,
    ) -> None:
        data = os.urandom(18 * self.MIB + 5)
        self.store(client, bucket, data, part and part * self.MIB)
        proxy.faults.append(Fault("GET", "corrupt"))
        transfers.get_file("k", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == data and transfers.etags_are_md5
        whole = {None: 3, 5: 4, 8: 3, 16: 2, 7: 3}[part]
        assert proxy.counts() == {"GET": 2 * whole}

    def test_few_parts_of_another_size_are_compared_afterwards(
        self, transfers: Transfers, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        data = os.urandom(18 * self.MIB)
        self.store(client, bucket, data, 15 * self.MIB)  # two, which 16 or 10 MiB would give too
        transfers.get_file("k", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == data and proxy.counts() == {"GET": 2}

    def test_a_part_size_that_cannot_be_guessed(
        self, transfers: Transfers, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        data = os.urandom(18 * self.MIB)
        self.store(client, bucket, data, 10_000_000)
        transfers.get_file("k", tmp_path / "b")
        # read twice with the same bytes, and of the announced size: so it is meant
        assert (tmp_path / "b").read_bytes() == data and transfers.etags_are_md5
        assert proxy.counts() == {"GET": 4, "HEAD": 1}

    def test_a_copied_object_has_another_etag_than_its_metadata_tells(
        self, transfers: Transfers, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        data = os.urandom(18 * self.MIB)
        transfers.put_file("k", write(tmp_path / "a", data))
        client.copy_object(
            Bucket=bucket, Key="copy", CopySource=f"{bucket}/k", MetadataDirective="COPY"
        )
        transfers.get_file("copy", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == data

    @pytest.mark.parametrize("size", [0, 1000, 2 * PART + 5])
    def test_the_checksum_travels_with_the_object_where_etags_are_no_md5s(
        self, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path, size: int
    ) -> None:
        source = write(tmp_path / "a", os.urandom(size))
        transfers = Transfers(open_store(bucket), md5_etags=False)
        transfers.put_file("k", source)
        found = client.head_object(Bucket=bucket, Key="k")
        told = found["Metadata"]["byok8s-checksum"]
        md5 = found["ETag"].strip('"')
        assert told.startswith("crc32:") if size > PART else told == f"md5:{md5}"
        if size:
            proxy.faults.append(Fault("GET", "corrupt"))
        proxy.reset()
        transfers.get_file("k", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == source.read_bytes()
        assert proxy.counts() == {"GET": 2 * -(-size // PART) or 1}
        client.copy_object(  # a wrong checksum of ours is never a matter of opinion
            Bucket=bucket,
            Key="k",
            CopySource=f"{bucket}/k",
            Metadata={"byok8s-checksum": "md5:" + "0" * 32},
            MetadataDirective="REPLACE",
        )
        with pytest.raises(TransferError, match="does not match its checksum"):
            transfers.get_file("k", tmp_path / "b")

    @pytest.mark.parametrize("checksum", [None, "crc32:00000000-3", "crc32:00000000-4", "odd"])
    def test_large_files_have_a_checksum_of_ours_unless_they_are_on_disk_only(
        self,
        transfers: Transfers,
        client: Any,
        bucket: str,
        tmp_path: Path,
        checksum: str | None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        source = write(tmp_path / "a", os.urandom(2 * PART + 5))
        if checksum is None:
            monkeypatch.setattr("byok8s.worker.checksum._Cached.MISSES", 0)
            with open(source, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        transfers.put_file("k", source)
        told = client.head_object(Bucket=bucket, Key="k")["Metadata"]
        assert told.pop("byok8s-part-size") == str(PART)
        assert re.fullmatch("[0-9a-f]{16}", told.pop("byok8s-upload"))
        if checksum is None:
            assert told == {}
        else:
            assert re.fullmatch(r"crc32:[0-9a-f]{8}-3", told["byok8s-checksum"])
            client.copy_object(
                Bucket=bucket,
                Key="k",
                CopySource=f"{bucket}/k",
                Metadata={"byok8s-checksum": checksum, "byok8s-part-size": str(PART)},
                MetadataDirective="REPLACE",
            )
        if checksum == "crc32:00000000-3":  # never a matter of opinion
            with pytest.raises(TransferError, match="does not match its checksum"):
                transfers.get_file("k", tmp_path / "b")
        else:  # by the ETag
            transfers.get_file("k", tmp_path / "b")
            assert (tmp_path / "b").read_bytes() == source.read_bytes()

    @pytest.mark.parametrize("size", [1000, 2 * PART + 5])
    def test_what_is_here_already_is_not_fetched(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path, size: int
    ) -> None:
        source = write(tmp_path / "a", os.urandom(size))
        known = transfers.put_file("k", source)
        proxy.reset()
        assert transfers.get_file("k", source, known) == known and proxy.requests == []
        write(source, os.urandom(size))
        transfers.get_file("k", source, known)
        assert hashlib.md5(source.read_bytes()).digest() and proxy.counts()["GET"] >= 1

    def test_a_large_file_needs_little_memory(
        self, proxy: S3Proxy, server: S3Server, bucket: str, tmp_path: Path
    ) -> None:
        size = 250 * 1000 * 1000
        with open(tmp_path / "a", "wb") as file:
            file.truncate(size)
        script = (
            "import sys; from pathlib import Path\n"
            "from byok8s.worker.s3 import open_store\n"
            "from byok8s.worker.transfer import Transfers\n"
            "transfers = Transfers(open_store(sys.argv[1], sys.argv[2]))\n"
            "transfers.put_file('k', Path(sys.argv[3]))\n"
            "transfers.get_file('k', Path(sys.argv[3] + '-back'))\n"
            "print(Path('/proc/self/status').read_text())\n"
        )
        command = [sys.executable, "-c", script, bucket, server.endpoint_url, tmp_path / "a"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
        assert int(peak) * 1024 < 200 * 1000 * 1000
        assert (tmp_path / "a-back").stat().st_size == size
        (tmp_path / "a-back").unlink()
