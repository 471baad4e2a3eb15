"""What settings accept, and the sentence for what they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from byok8s.exceptions import SettingsError
from byok8s.settings import (
    WORKER_IMAGE,
    KubeSettings,
    RunSettings,
    S3Location,
    S3Options,
    cache_folder,
    endpoint_url,
    is_loopback,
    state_folder,
)

BUCKET = S3Location("mybucket")


def run_settings(**changes: Any) -> RunSettings:
    return RunSettings(**{"workflow": "w", "params": "p", "location": BUCKET} | changes)


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [
        ("mybucket", "mybucket", ""),
        ("mybucket/", "mybucket", ""),
        ("mybucket/a/b/", "mybucket", "a/b"),
        ("s3://mybucket", "mybucket", ""),
        ("s3://my.bucket-1/a b/c", "my.bucket-1", "a b/c"),
        (" mybucket ", "mybucket", ""),
    ],
)
def test_a_location(text: str, bucket: str, prefix: str) -> None:
    assert S3Location.parse(text) == S3Location(bucket, prefix)


@pytest.mark.parametrize(
    "text",
    ["", "s3://", "ab", "My-Bucket", "my_bucket", "-bucket", "bucket-", "a" * 64, "/bucket",
     "http://x/y", "bucket/a//b", "bucket/./a", "bucket/../a"],
)  # fmt: skip
def test_what_is_no_location(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--s3-bucket"):
        S3Location.parse(text)


def test_keys_and_text_of_a_location() -> None:
    assert S3Location("b").key("x/y") == "x/y"
    assert S3Location("b", "p/q").key("x") == "p/q/x"
    assert str(S3Location("b")) == "s3://b"
    assert str(S3Location("b", "p")) == "s3://b/p"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://minio.example.org", "https://minio.example.org"),
        ("https://minio.example.org:9000/", "https://minio.example.org:9000"),
        ("https://example.org/storage/s3/", "https://example.org/storage/s3"),
        ("minio.example.org", "https://minio.example.org"),
        ("minio.example.org:9000", "https://minio.example.org:9000"),
        ("minio:9000", "http://minio:9000"),
        ("localhost:9000", "http://localhost:9000"),
        ("10.88.0.1:7070", "http://10.88.0.1:7070"),
        ("10.88.0.1", "http://10.88.0.1"),
        ("[fd00::1]:7070", "http://[fd00::1]:7070"),
    ],
)
def test_an_endpoint_gets_a_scheme(text: str, url: str) -> None:
    assert endpoint_url(text) == url


@pytest.mark.parametrize(
    "text",
    ["", "https://", "ftp://host", "host:port", "host:99999", "host:0", "http://ho st",
     "https://host?x=1", "https://host/#x", "[::1", "/path"],
)  # fmt: skip
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(SettingsError, match=r"S3 endpoint.*--s3-endpoint-url"):
        endpoint_url(text)


def test_a_password_in_an_endpoint_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        endpoint_url("https://key:marker-secret@host")
    assert "marker-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("http://localhost:1", True),
        ("http://127.0.0.53", True),
        ("http://[::1]:1", True),
        ("http://0.0.0.0:9000", True),
        ("http://minio.localhost", True),
        ("http://10.88.0.1:7070", False),
        ("https://localhost.example.org", False),
    ],
)
def test_loopback(url: str, answer: bool) -> None:
    assert is_loopback(url) is answer


@pytest.mark.parametrize("name", ["lab", "a", "lab-1", "0", "x" * 63])
def test_a_namespace(name: str) -> None:
    assert KubeSettings(namespace=name).namespace == name


@pytest.mark.parametrize("name", ["", "Lab", "lab_1", "-lab", "lab-", "a.b", "x" * 64, "lab\n"])
def test_what_is_no_namespace(name: str) -> None:
    with pytest.raises(SettingsError, match="cannot be a namespace"):
        KubeSettings(namespace=name)


@pytest.mark.parametrize(
    "image",
    ["busybox", "localhost/byok8s-worker:1.0.0-0123456789ab", WORKER_IMAGE, "host:5000/a/b_c:T.1",
     "ghcr.io/lab/x@sha256:" + "0" * 64],
)  # fmt: skip
def test_an_image(image: str) -> None:
    assert run_settings(image=image).image == image


@pytest.mark.parametrize("image", ["a b", "UPPER", "x:", "x:-", "https://x/y", "x@sha256:1", "x/"])
def test_what_is_no_image(image: str) -> None:
    with pytest.raises(SettingsError, match="not an image reference"):
        run_settings(image=image)


def test_numbers_have_limits() -> None:
    with pytest.raises(SettingsError, match="--jobs is 0"):
        run_settings(jobs=0)
    with pytest.raises(SettingsError, match="--retries is -1"):
        run_settings(retries=-1)
    with pytest.raises(SettingsError, match="--max-disruptions is -1"):
        run_settings(max_disruptions=-1)


def test_a_bucket_is_needed_unless_local() -> None:
    with pytest.raises(SettingsError, match=r"--s3-bucket \(-b\) or BYOK8S_S3_BUCKET"):
        run_settings(location=None)
    assert run_settings(location=None, local=True).location is None


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ("--k8s-namespace", {"kube": KubeSettings(namespace="lab")}),
        ("--context", {"kube": KubeSettings(context="lab")}),
        ("--kubeconfig", {"kube": KubeSettings(kubeconfig=Path("x"))}),
        ("--image", {"image": "x"}),
    ],
)
def test_local_and_a_cluster_exclude_each_other(option: str, changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"so {option} cannot apply"):
        run_settings(local=True, **changes)


def test_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == Path.home() / ".cache/byok8s"
    assert state_folder() == Path.home() / ".local/state/byok8s"
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert cache_folder() == Path("/c/byok8s")
    assert state_folder() == Path("/s/byok8s")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sse_kms_key_id": "k"}, "add --s3-sse=aws:kms"),
        ({"sse": "AES256", "sse_kms_key_id": "k"}, "add --s3-sse=aws:kms"),
        ({"storage_class": "standard"}, "'standard' is not a storage class"),
        ({"storage_class": "GLACIER"}, "GLACIER cannot be read at once"),
        ({"storage_class": "DEEP_ARCHIVE"}, "DEEP_ARCHIVE cannot be read at once"),
    ],
)
def test_options_of_s3_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        S3Options(**options)


def test_options_of_s3_in_words_of_obstore() -> None:
    assert S3Options(addressing="virtual", storage_class="GLACIER_IR").for_obstore() == {}
    assert S3Options(sse="aws:kms", sse_kms_key_id="k", requester_pays=True).for_obstore() == {
        "server_side_encryption": "aws:kms",
        "sse_kms_key_id": "k",
        "request_payer": True,
    }
