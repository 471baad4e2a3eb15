"""Uploads that nobody ends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from byok8s.cluster import S3Server
from byok8s.exceptions import StorageError
from byok8s.settings import S3Location, S3Settings
from byok8s.storage.account import Account, Credentials
from byok8s.storage.uploads import end_uploads
from support.s3proxy import Fault, S3Proxy


def settings(endpoint: str, bucket: str) -> S3Settings:
    return S3Settings(S3Location(bucket, "run"), endpoint, "us-east-1")


@pytest.fixture
def account(server: S3Server) -> Account:
    return Account.fixed("the test", Credentials(server.access_key, server.secret_key))


def begin(client: Any, bucket: str, key: str) -> str:
    begun: str = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    client.upload_part(Bucket=bucket, Key=key, UploadId=begun, PartNumber=1, Body=b"half")
    return begun


def begun(client: Any, bucket: str) -> set[str]:
    first = client.list_multipart_uploads(Bucket=bucket)
    rest = client.list_multipart_uploads(Bucket=bucket, KeyMarker=first.get("NextKeyMarker", ""))
    return {upload["Key"] for page in (first, rest) for upload in page.get("Uploads", [])}


def test_only_those_of_the_named_objects_and_folders_are_ended(
    client: Any, bucket: str, server: S3Server, account: Account
) -> None:
    ours = ["run/out.bin", "run/out.bin", "run/folder/a", "run/folder/b/c"]
    others = ["run/out.bin.bak", "run/folderish/a", "run/else", "out.bin", "other/run/out.bin"]
    for key in ours + others:
        begin(client, bucket, key)
    client.put_object(Bucket=bucket, Key="run/out.bin", Body=b"whole")
    keys = {"run/out.bin", "run/folder", "run/never"}
    assert end_uploads(settings(server.endpoint_url, bucket), account, keys) == len(ours)
    assert begun(client, bucket) == set(others)
    assert client.get_object(Bucket=bucket, Key="run/out.bin")["Body"].read() == b"whole"
    assert end_uploads(settings(server.endpoint_url, bucket), account, keys) == 0


def test_more_than_a_page_of_them(
    client: Any, bucket: str, server: S3Server, account: Account
) -> None:
    others = [f"run/{i:04}" for i in range(1010)]
    keys = ["run/0990", *["run/0995"] * 20, "run/1009", "run/2"]
    with ThreadPoolExecutor(8) as pool:
        every = others + keys
        list(pool.map(lambda key: client.create_multipart_upload(Bucket=bucket, Key=key), every))
    wanted = {"run/0990", "run/0995", "run/1009", "run/2"}
    assert end_uploads(settings(server.endpoint_url, bucket), account, wanted) == len(keys) + 3
    assert begun(client, bucket) == set(others) - wanted


def test_keys_that_may_not_look_for_them_are_told_which_permission_is_missing(
    proxy: S3Proxy, bucket: str, account: Account, tmp_path: Path
) -> None:
    proxy.faults.append(Fault("GET", "403"))
    with pytest.raises(StorageError, match="they need s3:ListBucketMultipartUploads there"):
        end_uploads(settings(proxy.endpoint_url, bucket), account, {"run/x"})
