"""Objects over plain HTTP: which endpoints it takes, and how its requests are signed."""

from __future__ import annotations

import time

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from byok8s.worker.light import LightBucket, quoted

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def bucket(endpoint: str = "http://s3.lab:7070", secret: str = SECRET) -> LightBucket:
    return LightBucket(endpoint, "lab", "eu-west-1", "AKIA", secret)


@pytest.mark.parametrize(
    "endpoint", ["", "https://s3.lab", "s3.lab:7070", "http://me:pass@s3.lab", "http://[::1]:7070"]
)
def test_other_endpoints_are_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="not to be reached plainly"):
        bucket(endpoint)


@pytest.mark.parametrize(
    ("endpoint", "address", "path"),
    [
        ("http://s3.lab", ("s3.lab", 80), "/lab/"),
        ("http://10.0.0.1:7070/", ("10.0.0.1", 7070), "/lab/"),
        ("http://s3.lab:7070/base/", ("s3.lab", 7070), "/base/lab/"),
    ],
)
def test_where_an_endpoint_is(endpoint: str, address: tuple[str, int], path: str) -> None:
    made = bucket(endpoint)
    assert (made._address, made._path) == (address, path)


@pytest.mark.parametrize("key", ["key", "a b/ü+%", "a'(c)*!~"])
@pytest.mark.parametrize("data", [b"", b"content\0"])
@pytest.mark.parametrize("secret", [SECRET, "s" * 65])
def test_a_request_is_signed_as_botocore_signs_it(key: str, data: bytes, secret: str) -> None:
    path = quoted(f"/lab/{key}")
    request = AWSRequest("PUT", f"http://s3.lab:7070{path}", data=data)
    request.context["payload_signing_enabled"] = True
    S3SigV4Auth(Credentials("AKIA", secret), "s3", "eu-west-1").add_auth(request)
    theirs = dict(request.headers.items())
    moment = time.strptime(theirs["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
    ours = bucket(secret=secret).signed("PUT", path, data, moment)
    assert ours["authorization"] == theirs["Authorization"]
    assert ours["x-amz-content-sha256"] == theirs["X-Amz-Content-SHA256"]


def test_the_secret_is_in_no_repr() -> None:
    assert SECRET not in repr(bucket())
