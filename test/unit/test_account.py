"""Credentials, endpoint and region as the AWS tools find them, and what a bucket may answer."""

from __future__ import annotations

import configparser
import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from byok8s.exceptions import SettingsError, StorageError
from byok8s.settings import S3Location, S3Options, S3Settings
from byok8s.storage import bucket as bucket_module
from byok8s.storage.account import Account, Credentials, find_account, find_server
from byok8s.storage.bucket import check_bucket

MARKER = "marker-secret-7f3a"
KEYS = Credentials("AKIAEXAMPLE", MARKER, "marker-token-7f3a")
ACCOUNT = Account.fixed("the environment", KEYS)
BUCKET = S3Location("mybucket", "p")


def aws_file(name: str, text: str) -> Path:
    path = Path.home() / ".aws" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def refusal(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(StorageError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in message and message.endswith(".")
    assert MARKER not in message and "marker-token" not in message
    return message


# --- credentials


def test_no_key_is_in_a_repr() -> None:
    shown = repr(KEYS) + repr(ACCOUNT) + str(KEYS)
    assert "AKIA" not in shown and "marker" not in shown


def test_the_ini_for_pods_reads_back() -> None:
    ini = configparser.RawConfigParser()
    ini.read_string(Credentials("AKIA", "a%b=c/d+e;f#g", "t" * 1000).as_ini())
    assert dict(ini["default"]) == {
        "aws_access_key_id": "AKIA",
        "aws_secret_access_key": "a%b=c/d+e;f#g",
        "aws_session_token": "t" * 1000,
    }
    assert "token" not in Credentials("AKIA", "s").as_ini()


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", MARKER)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    account = find_account()
    assert account.source == "the environment"
    assert account.current() == Credentials("AKIA", MARKER, "token")
    assert MARKER not in repr(account)


def test_keys_from_the_default_and_from_another_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    aws_file(
        "credentials",
        "[default]\naws_access_key_id=A\naws_secret_access_key=a\n"
        "[lab]\naws_access_key_id=B\naws_secret_access_key=b\naws_session_token=t\n",
    )
    assert find_account().current() == Credentials("A", "a")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    account = find_account()
    assert account.current() == Credentials("B", "b", "t")
    assert account.source == "profile 'lab' (shared-credentials-file)"


def test_keys_that_expire_are_renewed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "keys"
    count = tmp_path / "count"
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()  # within botocore's margin
    script.write_text(
        f"#!/bin/sh\necho >> {count}\n"
        f'printf \'%s\' \'{{"Version": 1, "AccessKeyId": "A\'$(wc -l < {count})\'",'
        f' "SecretAccessKey": "s", "SessionToken": "t", "Expiration": "{soon}"}}\'\n'
    )
    script.chmod(0o755)
    aws_file("config", f"[default]\ncredential_process = {script}\n")
    account = find_account()
    first, second = account.current(), account.current()
    assert first.access_key != second.access_key
    assert second.expires is not None and second.expires > datetime.now(UTC)


def test_no_credentials_tells_where_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(find_account)
    assert "AWS_ACCESS_KEY_ID is not set, AWS_SECRET_ACCESS_KEY is not set" in message
    assert "profile 'default' of ~/.aws/credentials and ~/.aws/config" in message
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", MARKER)
    message = refusal(find_account)
    assert "AWS_ACCESS_KEY_ID is empty, AWS_SECRET_ACCESS_KEY is set" in message


def test_half_a_pair_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    assert refusal(find_account) == (
        "AWS_ACCESS_KEY_ID is set but AWS_SECRET_ACCESS_KEY is not; "
        "set both, or neither to use a profile."
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    aws_file("credentials", "[default]\naws_access_key_id=A\n")
    assert "are incomplete: there is no aws_secret_access_key" in refusal(find_account)


@pytest.mark.parametrize("secret", [MARKER + "\n", MARKER + " x"])
def test_a_key_with_a_line_break_is_told(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    assert "holds a space or a line break" in refusal(find_account)


def test_an_unknown_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert refusal(find_account) == (
        "The AWS credentials of profile 'nobody' do not exist; see: aws configure list-profiles."
    )
    assert "profile 'nobody' do not exist" in refusal(find_server, BUCKET, None, None)


def test_an_expired_sso_login(monkeypatch: pytest.MonkeyPatch) -> None:
    aws_file(
        "config",
        "[profile lab]\nsso_session=s\nsso_account_id=1\nsso_role_name=r\nregion=us-east-1\n"
        "[sso-session s]\nsso_region=us-east-1\nsso_start_url=https://example.org/start\n",
    )
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert refusal(find_account) == (
        "The AWS credentials of profile 'lab' have expired; run: aws sso login --profile lab."
    )


def test_a_refused_role(monkeypatch: pytest.MonkeyPatch, loopback: Any) -> None:
    error = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
    loopback.answer = lambda _: (403, error, {})
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", loopback.url)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    aws_file(
        "config",
        "[default]\nregion=us-east-1\naws_access_key_id=A\naws_secret_access_key=a\n"
        "[profile lab]\nregion=us-east-1\nrole_arn=arn:aws:iam::1:role/x\nsource_profile=default\n",
    )
    assert "profile 'lab' are refused by AWS (AccessDenied)" in refusal(find_account)


def test_a_broken_config_file() -> None:
    path = aws_file("config", "not an ini file\n")
    assert f"cannot be read: {path} is not valid" in refusal(find_account)


# --- endpoint and region


def test_what_was_told_comes_first() -> None:
    aws_file("config", "[default]\nregion=r\nendpoint_url=http://file:1\n")
    assert find_server(BUCKET, "minio:9000", "x") == S3Settings(BUCKET, "http://minio:9000", "x")


@pytest.mark.parametrize(
    ("config", "endpoint", "region"),
    [
        ("", None, None),
        ("[default]\nregion=eu-west-1", None, "eu-west-1"),
        ("[default]\nendpoint_url=http://file:1", "http://file:1", "us-east-1"),
        (
            "[default]\nendpoint_url=http://file:1\nservices=s\n"
            "[services s]\ns3 =\n  endpoint_url = http://s3:2",
            "http://s3:2",
            "us-east-1",
        ),
        (
            "[default]\nendpoint_url=http://file:1\nignore_configured_endpoint_urls=true",
            None,
            None,
        ),
    ],
)
def test_the_aws_config_file_is_read(config: str, endpoint: str | None, region: str | None) -> None:
    aws_file("config", config)
    assert find_server(BUCKET, None, None) == S3Settings(BUCKET, endpoint, region)


def test_the_profile_decides_which_section(monkeypatch: pytest.MonkeyPatch) -> None:
    aws_file("config", "[default]\nregion=a\n[profile lab]\nregion=b\nendpoint_url=http://lab:1")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert find_server(BUCKET, None, None) == S3Settings(BUCKET, "http://lab:1", "b")


def test_an_endpoint_that_is_none_is_bad_usage() -> None:
    with pytest.raises(SettingsError, match="'ftp://x' is not an http"):
        find_server(BUCKET, "ftp://x", None)


@pytest.mark.parametrize(
    ("style", "told", "found"),
    [("virtual", None, "virtual"), ("auto", None, None), ("virtual", "path", "path")],
)
def test_addressing(style: str, told: str | None, found: str | None) -> None:
    aws_file("config", f"[default]\ns3 =\n  addressing_style = {style}")
    options = S3Options(told, storage_class="STANDARD_IA")
    assert find_server(BUCKET, None, None, options).options == S3Options(
        found, storage_class="STANDARD_IA"
    )


AUTHORITY = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("by", ["variable", "file"])
def test_an_authority_of_ones_own(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = aws_file("ca.pem", AUTHORITY)
    if by == "file":
        aws_file("config", f"[default]\nca_bundle = {path}")
    else:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    assert find_server(BUCKET, "https://lab", None).ca_file == path
    assert find_server(BUCKET, None, None).ca_file == path
    assert find_server(BUCKET, "http://lab", None).ca_file is None  # not needed without TLS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read (FileNotFoundError)"),
        ("no certificate", "does not hold certificates"),
        (AUTHORITY * 10_000, "at most 512 KiB"),
    ],
)
def test_an_authority_that_is_none(
    text: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = aws_file("ca.pem", text or "")
    if text is None:
        path.unlink()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    message = refusal(find_server, BUCKET, "https://lab", None)
    assert words in message and str(path) in message and "AWS_CA_BUNDLE" in message


# --- the bucket, as a server on this machine answers

LIST = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></ListBucketResult>'
MD5 = hashlib.md5(b"byok8s\n").hexdigest()  # of the test object


def error_body(code: str, message: str = "", more: str = "") -> str:
    return f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"


def server(loopback: Any, **answers: tuple[int, str, dict[str, str]]) -> S3Settings:
    """A server that answers well but for the methods named in `answers`."""
    made = {
        "ETag": f'"{MD5}"',
        "Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT",
    }
    good = {
        "GET": (200, LIST, {}),
        "PUT": (200, "", made),
        "HEAD": (200, "", made),
        "DELETE": (204, "", {}),
    }
    loopback.answer = lambda request: (good | answers)[request.method]
    return S3Settings(BUCKET, loopback.url, "us-east-1")


def test_a_good_bucket_is_asked_four_things_and_left_clean(loopback: Any) -> None:
    assert check_bucket(server(loopback), ACCOUNT) == server(loopback)
    listed, put, head, delete = loopback.requests
    assert [r.method for r in (listed, put, head, delete)] == ["GET", "PUT", "HEAD", "DELETE"]
    assert listed.path.startswith("/mybucket?") and "prefix=p%2F" in listed.path
    assert put.path.startswith("/mybucket/p/.byok8s/.write-test-")
    assert put.path == head.path == delete.path
    assert put.headers["x-amz-security-token"] == KEYS.session_token


def test_in_a_good_bucket_the_run_itself_would_find_its_way(loopback: Any) -> None:
    s3 = server(loopback)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("byok8s.storage.bucket._client", None)  # botocore's is not needed
        assert check_bucket(s3, ACCOUNT) == s3


def test_where_something_is_wrong_it_is_looked_at_closely_and_left_clean(loopback: Any) -> None:
    s3 = server(loopback, HEAD=(403, "", {}))
    assert "s3:GetObject" in refusal(check_bucket, s3, ACCOUNT)
    asked = [request.method for request in loopback.requests]
    assert asked == ["GET", "PUT", "HEAD", "DELETE"] * 2


def test_encryption_and_payment_are_asked_for_as_in_the_run(loopback: Any) -> None:
    options = S3Options(sse="aws:kms", sse_kms_key_id="key", requester_pays=True)
    s3 = replace(server(loopback), options=options)
    assert check_bucket(s3, ACCOUNT) == s3
    assert {r.headers["x-amz-request-payer"] for r in loopback.requests} == {"requester"}
    asked = {r.method: r.headers.get("x-amz-server-side-encryption") for r in loopback.requests}
    assert asked == {"GET": None, "PUT": "aws:kms", "HEAD": None, "DELETE": None}
    (put,) = (r for r in loopback.requests if r.method == "PUT")
    assert put.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key"


@pytest.mark.parametrize(("etag", "md5"), [(MD5, True), ("0" * 32, False)])
def test_whether_etags_are_md5s_is_seen(loopback: Any, etag: str, md5: bool) -> None:
    s3 = server(loopback, PUT=(200, "", {"ETag": f'"{etag}"'}))
    assert check_bucket(s3, ACCOUNT).md5_etags is md5


def test_the_buckets_own_region_is_taken_over(loopback: Any) -> None:
    s3 = server(loopback, GET=(200, LIST, {"x-amz-bucket-region": "eu-west-1"}))
    assert check_bucket(replace(s3, region=None), ACCOUNT).region == "eu-west-1"


def test_a_redirect_to_the_buckets_region_is_followed(loopback: Any) -> None:
    def answer(request: Any) -> tuple[int, str, dict[str, str]]:
        region = {"x-amz-bucket-region": "eu-west-1"}
        if "/us-east-1/" in request.headers["Authorization"]:
            return (
                400,
                error_body("AuthorizationHeaderMalformed", "", "<Region>eu-west-1</Region>"),
                {},
            )
        return (200, LIST, region) if request.method == "GET" else (200, "", region)

    loopback.answer = answer
    assert check_bucket(S3Settings(BUCKET, loopback.url), ACCOUNT).region == "eu-west-1"


MISSING = "Bucket 'mybucket' does not exist at {url}; create it with: aws s3 mb s3://mybucket"


@pytest.mark.parametrize(
    ("method", "status", "code", "words"),
    [
        ("GET", 404, "NoSuchBucket", MISSING + " --endpoint-url {url}."),
        ("GET", 403, "AccessDenied", "refused to the keys from the environment: they need "
         "s3:ListBucket there"),
        ("PUT", 403, "AccessDenied", "they need s3:PutObject there"),
        ("HEAD", 403, "", "they need s3:GetObject there"),
        ("DELETE", 403, "AccessDenied", "they need s3:DeleteObject there"),
        ("GET", 403, "InvalidAccessKeyId", "does not accept the keys from the environment, since"),
        ("GET", 403, "SignatureDoesNotMatch", "; check the secret key."),
        ("GET", 400, "ExpiredToken", "session of the keys from the environment has expired"),
        ("GET", 403, "RequestTimeTooSkewed", "another time than this machine"),
        ("GET", 301, "PermanentRedirect", "is not in us-east-1; name its region with --s3-region."),
        ("GET", 503, "SlowDown", "answers 'SlowDown: please' to list_objects_v2 in 'mybucket'"),
        ("PUT", 507, "QuotaExceeded", "answers 'QuotaExceeded: please' to put_object"),
    ],
)  # fmt: skip
def test_what_a_bucket_refuses(
    loopback: Any, method: str, status: int, code: str, words: str
) -> None:
    s3 = server(loopback, **{method: (status, error_body(code, "please"), {})})
    assert words.format(url=loopback.url) in refusal(check_bucket, s3, ACCOUNT)


def test_the_error_of_the_client_library_is_the_cause(loopback: Any) -> None:
    from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError

    s3 = server(loopback, GET=(403, error_body("AccessDenied"), {}))
    with pytest.raises(StorageError) as caught:
        check_bucket(s3, ACCOUNT)
    assert isinstance(caught.value.__cause__, ClientError)
    with pytest.raises(StorageError) as caught:
        check_bucket(S3Settings(BUCKET, "http://127.0.0.1:1"), ACCOUNT)
    assert isinstance(caught.value.__cause__, EndpointConnectionError | ConnectTimeoutError)


def test_the_test_object_is_removed_also_when_it_cannot_be_read(loopback: Any) -> None:
    s3 = server(loopback, HEAD=(403, "", {}))
    refusal(check_bucket, s3, ACCOUNT)
    assert loopback.requests[-1].method == "DELETE"


def test_a_server_that_echoes_the_keys_does_not_get_them_printed(loopback: Any) -> None:
    echo = error_body("Strange", f"{KEYS.secret_key} {KEYS.session_token} {KEYS.access_key}")
    message = refusal(check_bucket, server(loopback, GET=(400, echo, {})), ACCOUNT)
    assert "Strange: *** *** ***" in message


@pytest.mark.parametrize("status", [200, 404, 405, 500])
def test_a_web_server_that_is_no_s3(loopback: Any, status: int) -> None:
    s3 = server(loopback, GET=(status, "<html><body>Hello<br></body></html>", {}))
    assert "does not answer as S3 does" in refusal(check_bucket, s3, ACCOUNT)


def test_a_server_that_is_not_there() -> None:
    s3 = S3Settings(BUCKET, "http://127.0.0.1:1", "us-east-1")
    assert refusal(check_bucket, s3, ACCOUNT) == (
        "The S3 server http://127.0.0.1:1 cannot be reached; "
        "check --s3-endpoint-url and the network."
    )


def test_a_server_that_hangs(loopback: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "READ_SECONDS", 0.2)
    release = threading.Event()

    def hang(_: Any) -> tuple[int, str, dict[str, str]]:
        release.wait(10)
        return 500, "", {}

    loopback.answer = hang
    s3 = S3Settings(BUCKET, loopback.url, "us-east-1")
    assert "did not answer in 0.2 s" in refusal(check_bucket, s3, ACCOUNT)
    release.set()


def test_https_to_a_server_without_tls(loopback: Any) -> None:
    s3 = S3Settings(BUCKET, loopback.url.replace("http:", "https:"), "us-east-1")
    assert "makes no TLS connection" in refusal(check_bucket, s3, ACCOUNT)
