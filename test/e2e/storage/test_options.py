"""How the S3 server is spoken to, and what is asked of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from byok8s.cluster import S3Server
from byok8s.worker.names import S3_VARIABLE
from byok8s.worker.s3 import open_bucket, open_store
from byok8s.worker.spec import Bucket
from byok8s.worker.transfer import PART, Transfers
from byok8s.workflow.storage import StorageProvider, StorageProviderSettings
from snakemake_interface_common.exceptions import WorkflowError
from support.objects import obj, write
from support.s3proxy import S3Proxy
from support.s3server import find_versitygw, s3_server


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
        monkeypatch.setenv(S3_VARIABLE, where.changed(storage_class="X").dumps())
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
