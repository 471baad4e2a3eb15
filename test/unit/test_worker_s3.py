"""Opening buckets: where credentials and the endpoint come from, and what is never shown."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from byok8s.worker.s3 import (
    FileCredentials,
    StorageAway,
    TransferError,
    open_store,
    outlast,
    sentences,
)
from byok8s.worker.transfer import part_size

INI = """
[default]
aws_access_key_id = AK
aws_secret_access_key = S%(x)s+/=
aws_session_token = T

[lab]
aws_access_key_id = LAB
aws_secret_access_key = LABSECRET
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.write_text(INI)
    return path


def test_the_file_is_read_again_when_it_is_refreshed(file: Path) -> None:
    credentials = FileCredentials(file)
    first = credentials()
    assert first["access_key_id"] == "AK" and first["token"] == "T"
    assert first["secret_access_key"] == "S%(x)s+/="
    # obstore asks again five minutes before the end
    assert 300 < (first["expires_at"] - datetime.now(UTC)).total_seconds() < 600
    file.write_text(INI.replace("AK", "NEW"))
    assert credentials()["access_key_id"] == "NEW"


def test_profiles(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert FileCredentials(file)() | {"expires_at": None} == {
        "access_key_id": "LAB",
        "secret_access_key": "LABSECRET",
        "token": None,
        "expires_at": None,
    }


@pytest.mark.parametrize("text", [None, "", "aws_secret_access_key = MARKER", "[default]\nMARKER"])
def test_a_bad_file_is_one_sentence_without_its_content(file: Path, text: str | None) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(TransferError, match="no complete profile 'default'") as caught:
        FileCredentials(file)()
    assert caught.value.__cause__ is None and "MARKER" not in str(caught.value)


def test_settings_outdo_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all:1")
    assert endpoint() == "http://all:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3:2/")
    assert endpoint() == "http://s3:2"
    assert endpoint("http://given:3") == "http://given:3"
    assert endpoint("given.example.org:4") == "https://given.example.org:4"
    store = open_store("b-1", "https://s3.example.org", path_style=False)
    assert store.config["endpoint_url_s3"] == "https://b-1.s3.example.org"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-1")
    assert open_store("bucket").config["region"] == "eu-1"
    assert open_store("bucket", region="eu-2").config["region"] == "eu-2"


def endpoint(given: str | None = None) -> str:
    config = open_store("bucket", given).config
    return str(config["endpoint_url_s3"])


def test_a_stores_repr_has_no_keys(file: Path) -> None:
    store = open_store("bucket", "http://localhost:1", credentials_file=file)
    shown = f"{store!r} {store.config} {store.credential_provider!r}"
    assert "AK" not in shown and "S%" not in shown


def test_credentials_in_order(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_store("bucket").credential_provider is None
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert isinstance(open_store("bucket").credential_provider, FileCredentials)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    with pytest.raises(TransferError, match=r"Could not open s3://bucket: .*SecretAccessKey"):
        open_store("bucket")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    assert open_store("bucket").credential_provider is None
    assert open_store("bucket", credentials_file=file).credential_provider is not None
    assert open_store("bucket", unsigned=True).credential_provider is None


@pytest.mark.parametrize(
    ("status", "page", "away"),
    [
        (503, "<Error><Code>SlowDown</Code></Error>", True),
        (500, "", True),
        (502, "<html>Bad Gateway</html>", True),
        (429, "", True),
        (400, "<Error><Code>RequestTimeout</Code></Error>", True),
        (400, "<Error><Code>InvalidRequest</Code></Error>", False),
        (403, "<Error><Code>AccessDenied</Code></Error>", False),
        (501, "<Error><Code>NotImplemented</Code></Error>", False),
    ],
)
def test_a_store_that_is_away_is_told_from_one_that_refuses(
    loopback: Any, monkeypatch: pytest.MonkeyPatch, status: int, page: str, away: bool
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    loopback.answer = lambda _: (status, page, {})
    store = open_store("bucket", loopback.url, retries=0)
    with pytest.raises(TransferError) as caught, sentences("read", "bucket", "k"):
        store.get("k")
    assert isinstance(caught.value, StorageAway) is away
    with pytest.raises(StorageAway), sentences("read", "bucket", "k"):
        open_store("bucket", "http://127.0.0.1:1", retries=0).get("k")


def test_what_is_away_is_asked_again_for_a_time() -> None:
    asked: list[str] = []
    told: list[bytes] = []

    def work() -> int:
        asked.append("x")
        if len(asked) < 2:
            raise StorageAway("Away.")
        return len(asked)

    assert outlast(work, 0.5, told.append) == 2
    assert told and told[0].startswith(b"Away. It is tried again for ")
    del asked[:]
    with pytest.raises(StorageAway):
        outlast(work, 0.0)
    assert asked == ["x"]


@pytest.mark.parametrize(
    ("gigabytes", "mebibytes", "parts"),
    [(0.01, 8, 2), (5, 8, 597), (5.1, 9, 541), (20, 32, 597), (100, 40, 2385), (5000, 530, 8997)],
)
def test_a_file_has_few_parts_and_no_large_ones_as_long_as_both_can_be(
    gigabytes: float, mebibytes: int, parts: int
) -> None:
    size = int(gigabytes * 1e9)
    part = part_size(size)
    assert (part, -(-size // part)) == (mebibytes * 2**20, parts)
