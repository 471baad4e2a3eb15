"""The storage provider against a real S3 server, with a proxy between that counts and harms."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from byok8s.cluster import S3Server
from byok8s.storage.objects import Objects
from byok8s.worker import lean
from byok8s.worker.s3 import ObjectMissing, TransferError, open_bucket, open_store
from byok8s.worker.spec import (
    FACTS_VARIABLE,
    S3_VARIABLE,
    STORED_VARIABLE,
    Bucket,
    Command,
    File,
)
from byok8s.worker.transfer import MARKER, PART, Transfers
from byok8s.workflow.inputs import LocalInputs
from byok8s.workflow.storage import (
    Lead,
    StorageObject,
    StorageProvider,
    StorageProviderSettings,
    lead,
)
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_storage_plugins.tests import TestStorageBase
from support.project import BYOK8S
from support.s3proxy import Fault, S3Proxy
from support.s3server import find_versitygw, s3_server

NAMES = [
    ".zetaA1",
    "plain.txt",
    "with space.txt",
    "ünïcödé-日本.txt",
    "100%.txt",
    "%41+b.txt",
    'it\'s "quoted".txt',
    "a&b=c?d#e;f,g!h~i.txt",
    "[x](y){z}<w>|v^u`t\\s.txt",
    "deep/er/and/deeper.txt",
]


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[S3Server]:
    if find_versitygw() is None:
        request.getfixturevalue("cluster")  # builds it
    program = find_versitygw()
    assert program is not None
    with s3_server(program, tmp_path_factory.mktemp("buckets")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: S3Server) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=server.region,
    )


@pytest.fixture
def bucket(client: Any, request: pytest.FixtureRequest) -> str:
    name = "b" + hashlib.md5(request.node.nodeid.encode()).hexdigest()[:20]
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def proxy(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """In front of the server; the environment names it, and the keys."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with S3Proxy(server.endpoint_url) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", running.endpoint_url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        monkeypatch.setenv("AWS_REGION", server.region)
        yield running


@pytest.fixture
def transfers(proxy: S3Proxy, bucket: str) -> Transfers:
    return Transfers(open_store(bucket))


@pytest.fixture
def provider(proxy: S3Proxy, tmp_path: Path) -> StorageProvider:
    return StorageProvider(tmp_path / "local", logging.getLogger("test"))


@pytest.fixture
def leading(proxy: S3Proxy, bucket: str, tmp_path: Path) -> Iterator[StorageProvider]:
    """A provider in a process that leads a run below s3://BUCKET/run."""
    lead(Lead(bucket, "run", lambda name: Objects(open_store(name))))
    yield StorageProvider(tmp_path / "local", logging.getLogger("test"))
    lead(None)


def keys(client: Any, bucket: str, prefix: str = "") -> list[str]:
    found = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return [entry["Key"] for entry in found]


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def obj(provider: StorageProvider, bucket: str, key: str) -> StorageObject:
    found: StorageObject = provider.object(f"s3://{bucket}/{key}")
    return found


@pytest.mark.usefixtures("proxy")
class TestInterface(TestStorageBase):
    """The tests that Snakemake's interface package ships."""

    __test__ = True
    files_only = False
    touch = True

    @pytest.fixture(autouse=True)
    def _bucket(self, bucket: str) -> None:
        self.bucket = bucket

    def get_storage_provider_cls(self) -> type[StorageProvider]:
        return StorageProvider

    def get_query(self, tmp_path: Path) -> str:
        return f"s3://{self.bucket}/some folder/test.txt"

    def get_query_not_existing(self, tmp_path: Path) -> str:
        return f"s3://{self.bucket}/not/there.txt"


class TestTransfers:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_name_comes_back_under_its_own_key(
        self, transfers: Transfers, client: Any, bucket: str, tmp_path: Path, name: str
    ) -> None:
        transfers.put_file(f"p/{name}", write(tmp_path / "a", name.encode()))
        assert keys(client, bucket) == [f"p/{name}"]
        assert list(transfers.list("p/")) == [name]
        transfers.get_file(f"p/{name}", tmp_path / "out" / name)
        assert (tmp_path / "out" / name).read_bytes() == name.encode()
        transfers.delete([f"p/{name}"])
        assert keys(client, bucket) == []

    @pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 3 * PART + 17])
    def test_sizes_in_few_requests(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path, size: int
    ) -> None:
        source = write(tmp_path / "a", os.urandom(size))
        stored = transfers.put_file("k", source)
        put = proxy.counts()
        proxy.reset()
        got = transfers.get_file("k", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == source.read_bytes()
        assert (got.size, got.etag) == (size, stored.etag) and transfers.etags_are_md5
        assert (tmp_path / "b").stat().st_mtime == pytest.approx(got.mtime)
        parts = -(-size // PART)
        assert put == ({"PUT": 1} if size <= PART else {"POST": 2, "PUT": parts})
        assert proxy.counts() == {"GET": max(1, parts)}

    @pytest.mark.parametrize("action", ["503", "cut", "truncate", "short", "corrupt"])
    @pytest.mark.parametrize("size", [1000, 2 * PART + 5])
    def test_a_fault_on_the_way_is_mended(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path, action: str, size: int
    ) -> None:
        source = write(tmp_path / "a", os.urandom(size))
        transfers.put_file("k", source)
        proxy.faults.append(Fault("GET", action))
        transfers.get_file("k", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == source.read_bytes()
        if action in ("503", "cut"):
            proxy.faults.append(Fault("PUT", action))
            transfers.put_file("k2", source)
            transfers.get_file("k2", tmp_path / "b")
            assert (tmp_path / "b").read_bytes() == source.read_bytes()

    def test_an_outage_is_outlasted_by_everyone_it_meets(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path
    ) -> None:
        """How long retries last is left to chance, so that one transfer alone shows little."""
        source = write(tmp_path / "a", os.urandom(1000))
        transfers.put_file("k", source)
        proxy.go_away(4.0)
        with ThreadPoolExecutor(24) as pool:
            puts = [pool.submit(transfers.put_file, f"k{i}", source) for i in range(12)]
            gets = [pool.submit(transfers.get_file, "k", tmp_path / f"b{i}") for i in range(12)]
            for transfer in (*puts, *gets):
                transfer.result()
        assert all((tmp_path / f"b{i}").read_bytes() == source.read_bytes() for i in range(12))

    @pytest.mark.parametrize("action", ["short", "truncate"])
    def test_a_lasting_fault_is_an_error_and_never_a_short_file(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path, action: str
    ) -> None:
        transfers.put_file("k", write(tmp_path / "a", os.urandom(1000)))
        write(tmp_path / "b", b"before")
        proxy.faults.append(Fault("GET", action, times=1000))
        store = open_store(transfers.bucket, retries=2)
        with pytest.raises(TransferError, match=rf"s3://{transfers.bucket}/k"):
            Transfers(store).get_file("k", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == b"before"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]

    def test_a_silent_server_is_given_up(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path
    ) -> None:
        source = write(tmp_path / "a", b"x")
        transfers.put_file("k", source)
        impatient = Transfers(open_store(transfers.bucket, read_timeout=0.3))
        proxy.faults += [Fault("GET", "hang"), Fault("PUT", "hang")]
        impatient.get_file("k", tmp_path / "b")
        impatient.put_file("k", source)
        assert proxy.counts() == {"PUT": 3, "GET": 2}

    def test_etags_that_are_no_md5_are_found_out_once(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path
    ) -> None:
        transfers.put_file("k", write(tmp_path / "a", b"data"))
        proxy.faults.append(Fault("GET", "corrupt", times=2))  # as if it were meant
        transfers.get_file("k", tmp_path / "b")
        assert not transfers.etags_are_md5
        proxy.reset()
        transfers.get_file("k", tmp_path / "b")
        assert proxy.counts() == {"GET": 1}

    def test_an_object_replaced_while_it_is_read_is_no_mixture(
        self, transfers: Transfers, proxy: S3Proxy, tmp_path: Path
    ) -> None:
        first, second = os.urandom(3 * PART), os.urandom(3 * PART)
        transfers.put_file("k", write(tmp_path / "a", first))
        write(tmp_path / "a", second)
        original, done = transfers._downloads._ranges, []

        def replaced_meanwhile(*args: Any) -> str:
            if not done:
                done.append(True)
                Transfers(open_store(transfers.bucket)).put_file("k", tmp_path / "a")
            return original(*args)

        transfers._downloads._ranges = replaced_meanwhile  # type: ignore[method-assign]
        transfers.get_file("k", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == second

    def test_sentences_without_secrets(self, proxy: S3Proxy, bucket: str, tmp_path: Path) -> None:
        with pytest.raises(ObjectMissing, match=rf"no object s3://{bucket}/nope"):
            Transfers(open_store(bucket)).get_file("nope", tmp_path / "b")
        with pytest.raises(ObjectMissing, match="bucket 'not-there' does not exist"):
            Transfers(open_store("not-there")).list("")
        os.environ["AWS_SECRET_ACCESS_KEY"] = "wrong-secret-marker"
        with pytest.raises(TransferError) as caught:
            Transfers(open_store(bucket)).put_file("k", write(tmp_path / "a", b"x"))
        shown = f"{caught.value!r} {caught.value.__cause__} {open_store(bucket)!r}"
        assert "does not accept the credentials (SignatureDoesNotMatch)" in shown
        assert "marker" not in shown and "access-key" not in shown and "\n" not in shown
        with pytest.raises(TransferError, match=r"at http://127\.0\.0\.1:1 cannot be reached"):
            Transfers(open_store("b-1", "http://127.0.0.1:1", retries=1)).list("")

    def test_tls_with_an_authority_of_ones_own(
        self, proxy: S3Proxy, server: S3Server, bucket: str, tmp_path: Path
    ) -> None:
        pem = tmp_path / "server.pem"
        subprocess.run(
            f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=test -days 1 -keyout {pem} "
            f"-out {pem}.crt -addext subjectAltName=IP:127.0.0.1 "
            f"-addext basicConstraints=critical,CA:FALSE && cat {pem}.crt >> {pem}",
            shell=True,
            check=True,
            capture_output=True,
        )
        with S3Proxy(server.endpoint_url, certificate=pem) as tls:
            trusting = open_store(bucket, tls.endpoint_url, ca_file=f"{pem}.crt", retries=1)
            Transfers(trusting).put_file("k", write(tmp_path / "a", b"x"))
            assert tls.counts() == {"PUT": 1}
            with pytest.raises(TransferError, match=r"is not trusted \(UnknownIssuer\)"):
                Transfers(open_store(bucket, tls.endpoint_url, retries=0)).list("")

    def test_a_file_that_changes_meanwhile_is_an_error(
        self, transfers: Transfers, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "a", b"x" * 10)
        put = transfers.store.put

        class Slow:
            config = transfers.store.config

            def put(self, *args: Any, **kwargs: Any) -> Any:
                path.write_bytes(b"y" * 11)
                return put(*args, **kwargs)

        transfers.store = Slow()  # type: ignore[assignment]
        with pytest.raises(TransferError, match=r"changed while it was written"):
            transfers.put_file("k", path)


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


class TestOptions:
    """How the server is spoken to and what is asked of it."""

    OPTIONS = {  # noqa: RUF012
        "server_side_encryption": "aws:kms",
        "sse_kms_key_id": "key-1",
        "request_payer": True,
    }

    @pytest.mark.parametrize("size", [10, PART + 1])
    def test_encryption_storage_class_and_payment(
        self, proxy: S3Proxy, bucket: str, tmp_path: Path, size: int
    ) -> None:
        transfers = Transfers(open_store(bucket, options=self.OPTIONS), "STANDARD_IA")
        transfers.put_file("k", write(tmp_path / "a", b"x" * size))
        first = proxy.headers[0]  # of the PUT, or of the beginning of an upload in parts
        assert first["x-amz-server-side-encryption"] == "aws:kms"
        assert first["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
        assert first["x-amz-storage-class"] == "STANDARD_IA"
        transfers.get_file("k", tmp_path / "b")
        transfers.list("")
        transfers.delete(["k"])
        assert {h.get("x-amz-request-payer") for h in proxy.headers} == {"requester"}

    def test_a_public_bucket_needs_no_keys(
        self, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        client.put_object(Bucket=bucket, Key="data/in.txt", Body=b"public")
        settings = StorageProviderSettings(signing="off", endpoint_url=proxy.endpoint_url)
        public = StorageProvider(tmp_path / "p", logging.getLogger("test"), settings=settings)
        thing = obj(public, bucket, "data/in.txt")
        with pytest.raises(WorkflowError, match="access denied"):
            thing.retrieve_object()
        statement = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": ["s3:GetObject", "s3:ListBucket"],
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        }
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
        proxy.reset()
        assert thing.exists() and thing.size() == 6
        thing.retrieve_object()
        assert thing.local_path().read_bytes() == b"public"
        assert proxy.headers and not any("authorization" in h for h in proxy.headers)

    def test_virtual_addressing(
        self, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = find_versitygw()
        assert program is not None
        (tmp_path / "buckets/virtual").mkdir(parents=True)
        with (
            s3_server(program, tmp_path / "buckets", "--virtual-domain", "s3.test") as virtual,
            S3Proxy(virtual.endpoint_url) as names,  # there is no name server for s3.test
        ):
            monkeypatch.setenv("HTTP_PROXY", names.endpoint_url)
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", virtual.access_key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", virtual.secret_key)
            where = Bucket("virtual", "http://s3.test", virtual.region, path_style=False)
            transfers = Transfers(open_bucket(where))
            transfers.put_file("folder/k", write(tmp_path / "a", b"x"))
            transfers.get_file("folder/k", tmp_path / "b")
            assert list(transfers.list("folder/")) == ["k"]
            assert {h["host"] for h in names.headers} == {"virtual.s3.test"}
            assert (tmp_path / "buckets/virtual/folder/k").read_bytes() == b"x"

    def test_the_run_says_how_to_pods(
        self,
        proxy: S3Proxy,
        server: S3Server,
        client: Any,
        bucket: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
        where = Bucket(bucket, proxy.endpoint_url, server.region, options=self.OPTIONS)
        monkeypatch.setenv(S3_VARIABLE, replace(where, storage_class="X").dumps())
        client.create_bucket(Bucket=f"{bucket}-2")
        provider = StorageProvider(tmp_path / "local", logging.getLogger("test"))
        for name in (bucket, f"{bucket}-2"):
            thing = obj(provider, name, "k")
            write(thing.local_path(), b"x")
            thing.store_object()
        puts = [
            h for (kind, _), h in zip(proxy.requests, proxy.headers, strict=True) if kind == "PUT"
        ]
        assert [h["x-amz-storage-class"] for h in puts] == ["X", "X"]
        assert [h["x-amz-server-side-encryption"] for h in puts] == ["aws:kms", "aws:kms"]


class TestConnections:
    def test_a_lost_connection_is_tried_again_soon(
        self, server: S3Server, proxy: S3Proxy, bucket: str
    ) -> None:
        """A full queue of connections loses SYNs, as a network may that is only just there."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
            address = deaf.getsockname()
            fill = [socket.socket() for _ in range(4)]
            for one in fill:
                one.setblocking(False)
                one.connect_ex(address)
            store = open_store(bucket, f"http://127.0.0.1:{address[1]}", retries=0)
            began = time.monotonic()
            with pytest.raises(TransferError, match="cannot be reached or does not answer"):
                Transfers(store).list("")
            assert time.monotonic() - began < 4
            for one in fill:
                one.close()


class TestContent:
    SNAKEFILE = (
        "rule one:\n    input: 'in.txt'\n    output: 'out.txt'\n    shell: 'cp {input} {output}'\n"
    )

    def test_a_newer_input_with_the_same_content_runs_nothing_again(
        self, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        write(tmp_path / "Snakefile", self.SNAKEFILE.encode())
        write(tmp_path / "flow.json", b"{}")
        write(tmp_path / "params.json", b"{}")

        def run(content: bytes) -> str:
            client.put_object(Bucket=bucket, Key="in.txt", Body=content)
            done = subprocess.run(
                [BYOK8S, "flow", "params", "--local", "-b", bucket],
                check=True,
                cwd=tmp_path,
                capture_output=True,
                text=True,
            )
            return done.stdout + done.stderr

        assert "Done: 1 job" in run(b"same")
        time.sleep(1.1)  # the server keeps whole seconds
        assert "Nothing to be done" in run(b"same")
        assert "Done: 1 job" in run(b"other")


class TestFolders:
    def test_there_and_back_and_in_the_place_of_the_old_one(
        self, leading: StorageProvider, client: Any, bucket: str
    ) -> None:
        folder = obj(leading, bucket, "run/dir")
        for name in ("x", "sub/y", "sub/ z%.txt"):
            write(folder.local_path() / name, name.encode())
        folder.store_object()
        client.put_object(Bucket=bucket, Key="run/dir-not-in-it", Body=b"")
        assert set(folder._entry().names or ()) == {"x", "sub/y", "sub/ z%.txt", MARKER}
        assert folder.size() == 0 and folder.local_footprint() == len("xsub/ysub/ z%.txt")
        (folder.local_path() / "sub/y").unlink()
        write(folder.local_path() / "new", b"n")
        folder.store_object()
        assert keys(client, bucket) == [
            "run/dir-not-in-it",
            f"run/dir/{MARKER}",
            "run/dir/new",
            "run/dir/sub/ z%.txt",
            "run/dir/x",
        ]
        write(folder.local_path() / "only-here", b"")
        folder.retrieve_object()
        files = [p for p in folder.local_path().rglob("*") if p.is_file()]
        assert sorted(p.name for p in files) == [" z%.txt", MARKER, "new", "x"]
        folder.remove()
        assert keys(client, bucket) == ["run/dir-not-in-it"] and not folder.exists()

    def test_an_empty_folder_exists(self, provider: StorageProvider, bucket: str) -> None:
        folder = obj(provider, bucket, "run/empty")
        folder.local_path().mkdir(parents=True)
        folder.store_object()
        assert folder.exists() and folder.mtime() > 0
        folder.local_path().rmdir()
        folder.retrieve_object()
        assert folder.local_path().is_dir()

    def test_half_a_folder_does_not_appear_on_either_side(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str
    ) -> None:
        folder = obj(leading, bucket, "run/dir")
        for name in "abcdefgh":
            write(folder.local_path() / name, b"x")
        proxy.faults.append(Fault("PUT", "403", key="/e"))
        with pytest.raises(WorkflowError, match=r"run/dir/e: access denied"):
            folder.store_object()
        assert keys(client, bucket) == [] and not folder.exists()
        folder.store_object()
        write(folder.local_path() / "old", b"")
        proxy.faults.append(Fault("GET", "403", key="/e"))
        with pytest.raises(WorkflowError, match=r"run/dir/e: access denied"):
            folder.retrieve_object()
        assert (folder.local_path() / "old").exists()  # as it was
        assert [p.name for p in folder.local_path().parent.iterdir()] == ["dir"]

    def test_a_file_in_the_place_of_a_folder_and_back(
        self, leading: StorageProvider, client: Any, bucket: str
    ) -> None:
        thing = obj(leading, bucket, "run/thing")
        write(thing.local_path() / "child", b"x")
        thing.store_object()
        (thing.local_path() / "child").unlink()
        thing.local_path().rmdir()
        write(thing.local_path(), b"file")
        thing.store_object()
        assert keys(client, bucket) == ["run/thing"] and thing.size() == 4
        thing.local_path().unlink()
        write(thing.local_path() / "child", b"x")
        thing.store_object()
        assert keys(client, bucket) == [f"run/thing/{MARKER}", "run/thing/child"]

    def test_links_are_read_through_and_loops_refused(
        self, leading: StorageProvider, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        folder = obj(leading, bucket, "run/dir")
        write(tmp_path / "elsewhere/f", b"content")
        folder.local_path().mkdir(parents=True)
        (folder.local_path() / "link").symlink_to(tmp_path / "elsewhere")
        folder.store_object()
        assert "run/dir/link/f" in keys(client, bucket)
        (folder.local_path() / "loop").symlink_to(folder.local_path())
        with pytest.raises(WorkflowError, match="links to a folder above itself"):
            folder.store_object()


class TestTouching:
    @pytest.mark.parametrize("size", [0, 10, 2 * PART + 3])
    def test_content_stays_and_mtime_moves(
        self, leading: StorageProvider, client: Any, bucket: str, size: int
    ) -> None:
        thing = obj(leading, bucket, "run/thing")
        data = os.urandom(size)
        write(thing.local_path(), data)
        thing.store_object()
        before = client.head_object(Bucket=bucket, Key="run/thing")["LastModified"]
        time.sleep(1.1)  # the server keeps whole seconds
        thing.touch()
        assert client.head_object(Bucket=bucket, Key="run/thing")["LastModified"] > before
        assert client.get_object(Bucket=bucket, Key="run/thing")["Body"].read() == data
        thing.retrieve_object()  # the new checksum is right
        assert thing.local_path().read_bytes() == data and thing.mtime() > before.timestamp()

    def test_a_folder(self, leading: StorageProvider, client: Any, bucket: str) -> None:
        client.put_object(Bucket=bucket, Key="run/dir/x", Body=b"1")
        folder = obj(leading, bucket, "run/dir")
        before = folder.mtime()
        time.sleep(1.1)
        folder.touch()
        assert folder.mtime() > before and f"run/dir/{MARKER}" in keys(client, bucket)


class TestDeleting:
    def test_exactly_this_object(self, provider: StorageProvider, client: Any, bucket: str) -> None:
        for key in ("a", "ab", "a/b", "dir/x", "dirs/x", "dir.txt"):
            if key != "a/b":  # this server cannot hold both; S3 could
                client.put_object(Bucket=bucket, Key=key, Body=b"1")
        obj(provider, bucket, "a").remove()
        obj(provider, bucket, "dir").remove()
        obj(provider, bucket, "not-there").remove()
        assert keys(client, bucket) == ["ab", "dir.txt", "dirs/x"]

    def test_the_bucket_stays_when_its_last_object_goes(
        self, provider: StorageProvider, client: Any, bucket: str
    ) -> None:
        client.put_object(Bucket=bucket, Key="last", Body=b"")
        obj(provider, bucket, "last").remove()
        client.head_bucket(Bucket=bucket)

    def test_a_missing_bucket_is_not_made(
        self, provider: StorageProvider, proxy: S3Proxy, client: Any
    ) -> None:
        thing = obj(provider, "no-such-bucket", "k")
        write(thing.local_path(), b"")
        with pytest.raises(WorkflowError, match="bucket 'no-such-bucket' does not exist"):
            thing.store_object()
        with pytest.raises(client.exceptions.ClientError):
            client.head_bucket(Bucket="no-such-bucket")


class TestLeader:
    def test_one_listing_answers_all(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str
    ) -> None:
        from snakemake.io import IOCache

        for i in range(30):
            client.put_object(Bucket=bucket, Key=f"run/in/{i}.txt", Body=b"x" * i)
        client.put_object(Bucket=bucket, Key="run/.byok8s/runs/1/log", Body=b"")
        for i in range(100):
            thing = obj(leading, bucket, f"run/in/{i}.txt")
            asyncio.run(thing.inventory(IOCache(max_wait_time=10)))
            assert thing.exists() == (i < 30)
            if i < 30:
                assert thing.size() == i and thing.mtime() > 1e9
                assert thing.checksum() == f"md5:{hashlib.md5(b'x' * i).hexdigest()}"
        assert leading.leader is not None
        assert "runs/1/log" not in str(leading.leader.keys_below(""))
        assert proxy.counts() == {"LIST": 1}

    def test_our_own_pages_are_not_fetched(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str, server: Any
    ) -> None:
        with_many = Transfers(open_store(bucket, server.endpoint_url))
        for i in range(2300):
            with_many.store.put(f"run/.byok8s/m/{i:05}", b"")
        for key in ("run/!first", "run/.byok8s.txt", "run/.c", "run/z/last"):
            client.put_object(Bucket=bucket, Key=key, Body=b"")
        assert leading.leader is not None
        assert leading.leader.keys_below("") == ["!first", ".byok8s.txt", ".c", "z/last"]
        assert proxy.counts() == {"LIST": 2}

    def test_results_are_told_and_doubts_looked_up_once(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str
    ) -> None:
        leader = leading.leader
        assert leader is not None
        told, untold, folder = (obj(leading, bucket, f"run/{k}") for k in ("t", "u", "d"))
        assert leader.keys_below("") == [] and not told.exists()
        client.put_object(Bucket=bucket, Key="run/t", Body=b"abc")
        client.put_object(Bucket=bucket, Key="run/u", Body=b"abcd")
        client.put_object(Bucket=bucket, Key="run/d/x", Body=b"")
        proxy.reset()
        from byok8s.worker.transfer import ObjectMeta

        leader.told_stored("run/t", ObjectMeta(3, 5.0, "etag"))
        leader.told_finished([told.query, untold.query, folder.query], ["run/t"])
        assert (told.size(), told.mtime(), untold.size()) == (3, 5.0, 4)
        assert folder.exists() and folder._entry().names == ("x",)
        assert untold.exists() and folder.exists() and told.exists()
        assert proxy.counts() == {"HEAD": 2, "LIST": 1}

    def test_glob_over_the_bucket(self, leading: StorageProvider, client: Any, bucket: str) -> None:
        import snakemake.api  # noqa: F401 (its modules import each other in this order only)
        from snakemake.io import glob_wildcards
        from snakemake.storage import flag_with_storage_object

        for key in ("data/a.txt", "data/b c.txt", "data/sub/d.txt", "data/x.csv", "other/e.txt"):
            client.put_object(Bucket=bucket, Key=f"run/{key}", Body=b"")
        pattern = obj(leading, bucket, "run/data/{s}.txt")
        found = glob_wildcards(flag_with_storage_object("x", pattern))
        assert found.s == ["a", "b c", "sub/d"]
        folders = obj(leading, bucket, "run/{folder,[^/]+}")
        assert glob_wildcards(flag_with_storage_object("x", folders)).folder == ["data", "other"]


class TestManyJobs:
    SNAKEFILE = (
        "N = range(500)\n"
        "rule all:\n    input: 'all.txt'\n"
        "rule one:\n    input: 'in/{n}.txt'\n    output: 'out/{n}.txt'\n    shell: ''\n"
        "rule gather:\n    input: expand('out/{n}.txt', n=N)\n    output: 'all.txt'\n"
        "    shell: ''\n"
    )

    def test_the_leader_asks_nothing_per_job(
        self, proxy: S3Proxy, server: S3Server, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        direct = Transfers(open_store(bucket, server.endpoint_url))
        for n in range(500):
            direct.store.put(f"run/in/{n}.txt", b"")
        (tmp_path / "Snakefile").write_text(self.SNAKEFILE)
        script = Path(__file__).parents[1] / "support" / "nullrun.py"
        done = subprocess.run(
            [sys.executable, str(script), bucket, server.endpoint_url],
            check=False,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(direct.list("run/out/")) == 500 and "all.txt" in direct.list("run/")
        assert proxy.counts() == {"LIST": 1}


class TestLocalInputs:
    def test_requests_of_the_first_and_of_the_next_run(
        self, proxy: S3Proxy, bucket: str, tmp_path: Path
    ) -> None:
        for i in range(20):
            write(tmp_path / f"data/{i}.txt", b"x" * i)

        def run() -> tuple[tuple[int, int], dict[str, int]]:
            proxy.reset()
            leader = Lead(bucket, "run", lambda name: Objects(open_store(name)))
            inputs = LocalInputs(leader.inventory(), "run", tmp_path)
            inputs.producible = lambda path: False
            leader.keys_below("")
            for i in range(20):
                inputs.look(f"run/data/{i}.txt")
            return inputs.flush(), dict(proxy.counts())

        assert run() == ((20, 190), {"LIST": 1, "GET": 1, "PUT": 21})
        assert run() == ((0, 0), {"LIST": 1, "GET": 1})
        write(tmp_path / "data/7.txt", b"changed")
        assert run() == ((1, 7), {"LIST": 1, "GET": 1, "PUT": 2})

    def test_a_pending_file_is_uploaded_before_a_local_rule_fetches_it(
        self, proxy: S3Proxy, bucket: str, tmp_path: Path
    ) -> None:
        leader = Lead(bucket, "run", lambda name: Objects(open_store(name)))
        inputs = LocalInputs(leader.inventory(), "run", tmp_path / "work")
        inputs.producible = lambda path: False
        leader.look_local, leader.before_retrieval = inputs.look, inputs.flush
        write(tmp_path / "work/in.txt", b"content")
        lead(leader)
        try:
            thing = obj(
                StorageProvider(tmp_path / "local", logging.getLogger("test")), bucket, "run/in.txt"
            )
            assert thing.exists() and thing.size() == 7
            thing.retrieve_object()
            assert thing.local_path().read_bytes() == b"content"
        finally:
            lead(None)


class TestPod:
    """Snakemake in a pod, with the leader's facts: one GET per input, one PUT per output."""

    SNAKEFILE = (
        "rule make:\n"
        "    input: 'in/{n}.txt', folder='folder'\n"
        "    output: 'out/{n}.txt', touch('.flag{n}'), directory('made{n}')\n"
        "    shell: 'cat {input[0]:q} {input.folder}/f > {output[0]:q}; mkdir -p {output[2]}; '\n"
        "        'echo 1 > {output[2]}/one'\n"
    )

    def test_inputs_travel_side_by_side(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str
    ) -> None:
        for i in range(20):
            client.put_object(Bucket=bucket, Key=f"run/{i}", Body=b"x" * 1024)
        things = [obj(leading, bucket, f"run/{i}") for i in range(20)]
        assert leading.leader is not None and leading.leader.keys_below("")
        proxy.reset()
        proxy.latency = 0.05

        async def retrieve() -> None:
            await asyncio.gather(*(thing.managed_retrieve() for thing in things))

        began = time.monotonic()
        asyncio.run(retrieve())
        assert time.monotonic() - began < 0.5
        assert proxy.counts() == {"GET": 20}
        assert all(thing.local_path().stat().st_size == 1024 for thing in things)

    def test_inputs_of_a_lean_job_travel_side_by_side(
        self, transfers: Transfers, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        for i in range(20):
            client.put_object(Bucket=bucket, Key=f"run/{i}", Body=b"x" * 1024)
        files = tuple(File(f"run/{i}", f"in/{i}") for i in range(20))
        proxy.latency = 0.05
        began = time.monotonic()
        lean.prepare(Command("", 1, files, (), ()), tmp_path, transfers)
        assert time.monotonic() - began < 0.5
        assert proxy.counts() == {"GET": 20}
        assert all((tmp_path / file.path).stat().st_size == 1024 for file in files)

    def test_requests(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        client.put_object(Bucket=bucket, Key="run/in/1.txt", Body=b"one\n")
        client.put_object(Bucket=bucket, Key="run/folder/f", Body=b"two\n")
        files = ["in/1.txt", "folder", "out/1.txt", ".flag1", "made1"]
        assert leading.leader is not None
        facts = leading.leader.facts(f"s3://{bucket}/run/{name}" for name in files)
        proxy.reset()
        stored = self.run(tmp_path, bucket, facts)
        assert sorted(proxy.requests) == [
            ("GET", "run/folder/f"),
            ("GET", "run/in/1.txt"),
            ("PUT", "run/.flag1"),
            ("PUT", "run/made1/.snakemake_timestamp"),
            ("PUT", "run/made1/one"),
            ("PUT", "run/out/1.txt"),
        ]
        assert client.get_object(Bucket=bucket, Key="run/out/1.txt")["Body"].read() == (
            b"one\ntwo\n"
        )
        assert {row[0]: row[1] for row in stored} == {
            "run/.flag1": 0,
            "run/made1/.snakemake_timestamp": 0,
            "run/made1/one": 2,
            "run/out/1.txt": 8,
        }

    def run(self, folder: Path, bucket: str, facts: dict[str, Any]) -> list[list[Any]]:
        work = folder / "pod"
        work.mkdir()
        (work / "Snakefile").write_text(self.SNAKEFILE)
        (folder / "facts").write_text(json.dumps(facts))
        environment = {
            **os.environ,
            FACTS_VARIABLE: str(folder / "facts"),
            STORED_VARIABLE: str(folder / "stored"),
            S3_VARIABLE: json.dumps({"bucket": bucket}),
        }
        options = """--target-jobs make:n=1 --allowed-rules make --cores 1 --force --nolock
            --ignore-incomplete --rerun-triggers code input mtime params software-env
            --mode remote --max-inventory-time 0 --shared-fs-usage none
            --default-storage-provider byok8s --default-storage-prefix"""
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *options.split(), f"s3://{bucket}/run"],
            check=False,
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in (folder / "stored").read_text().splitlines()]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("data/a.txt", "of the form"),
        ("s3://bucket/", "of the form"),
        ("s3://B/key", "no bucket name"),
        ("s3://bucket/a//b", "absolute path"),
        ("s3://bucket/../b", "'..' part"),
        ("s3://bucket/a\nb", "control character"),
    ],
)
def test_queries_that_are_refused(query: str, reason: str) -> None:
    result = StorageProvider.is_valid_query(query)
    assert not result and reason in str(result)


@pytest.mark.parametrize("query", ["s3://bucket/{a}/b", "s3://my.bucket-1/x y%", "s3://{b}/k"])
def test_queries_that_are_accepted(query: str) -> None:
    assert StorageProvider.is_valid_query(query)
