"""Objects over plain HTTP without obstore: as with it, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from byok8s.cluster import S3Server
from byok8s.worker import light
from byok8s.worker.light import LightBucket
from byok8s.worker.transfer import Transfers
from support.s3proxy import Fault, S3Proxy

CONTENT = b"content\0\xff\r\n\r\n"


@pytest.fixture
def plainly(proxy: S3Proxy, server: S3Server, bucket: str) -> LightBucket:
    keys = server.access_key, server.secret_key
    return LightBucket(proxy.endpoint_url, bucket, server.region, *keys)


@pytest.mark.parametrize(
    "key", ["plain", "a/deep/er one", "ü+%20&=?#~", "a'b(c)*!,;:@$", "x" * 200]
)
def test_an_object_is_what_obstore_would_make_of_it(
    plainly: LightBucket,
    transfers: Transfers,
    proxy: S3Proxy,
    client: Any,
    bucket: str,
    tmp_path: Path,
    key: str,
) -> None:
    etag = plainly.put(key, CONTENT)
    assert proxy.requests == [("PUT", key)]
    told = client.get_object(Bucket=bucket, Key=key)
    assert told["Body"].read() == CONTENT
    assert etag == told["ETag"].strip('"')
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert transfers.put_file("other", path).etag == etag
    other = client.head_object(Bucket=bucket, Key="other")
    assert (told["ContentType"], told["Metadata"]) == (other["ContentType"], other["Metadata"])


def test_an_empty_object_and_one_that_is_replaced(
    plainly: LightBucket, client: Any, bucket: str
) -> None:
    for data in (b"", b"x", b"y" * 3_000_000):
        plainly.put("key", data)
        assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == data


@pytest.mark.parametrize("action", ["503", "403", "cut", "lose", "damage", "hang", "late"])
def test_what_goes_wrong_is_an_error_soon(
    plainly: LightBucket, proxy: S3Proxy, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light, "_SILENCE_SECONDS", 0.3)
    proxy.faults.append(Fault("PUT", action, seconds=1.0))
    with pytest.raises((OSError, ValueError)):
        plainly.put("key", CONTENT)
    assert proxy.requests == [("PUT", "key")]


def test_so_are_wrong_keys_and_no_bucket_and_no_server(
    proxy: S3Proxy, server: S3Server, bucket: str
) -> None:
    secret = "MARKER-SECRET"
    for endpoint, name, key in (
        (proxy.endpoint_url, bucket, secret),
        (proxy.endpoint_url, "no-such-bucket", server.secret_key),
        ("http://127.0.0.1:1", bucket, server.secret_key),
        ("http://no-such-host.invalid:1", bucket, server.secret_key),
    ):
        refused = LightBucket(endpoint, name, server.region, server.access_key, key)
        with pytest.raises((OSError, ValueError)) as error:
            refused.put("key", CONTENT)
        assert key not in f"{error.value!r} {error.value}"
    assert secret not in str(proxy.headers)
