"""A run's credentials are renewed in the cluster while it lasts; nothing secret is shown."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from byok8s.settings import S3Location, S3Options, S3Settings
from byok8s.worker.names import CREDENTIALS_FILE, FILES_VARIABLE, S3_VARIABLE
from byok8s.worker.spec import Bucket
from byok8s.workflow import session as module
from byok8s.workflow.secret import RunSecret
from byok8s.workflow.session import Session
from byok8s.workflow.sources import SourceArchive

NAME = Path(CREDENTIALS_FILE).name


class Batch:
    def __init__(self) -> None:
        self.secrets: list[Mapping[str, str | bytes]] = []
        self.renewed = threading.Event()

    def refresh_secret(self, files: Mapping[str, str | bytes]) -> None:
        self.secrets.append(dict(files))
        self.renewed.set()


class Listener:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def make(credentials: Any, listener: Any) -> Session:
    made = Session(
        client=None,  # type: ignore[arg-type]
        lease=SimpleNamespace(held=False, before=None),  # type: ignore[arg-type]
        s3=S3Settings(S3Location("bucket", "pre"), "http://s3:7070", "eu-west-1"),
        objects=None,  # type: ignore[arg-type]
        credentials=credentials,
        image="image",
        listener=listener,
        workdir=Path(),
        configfile=Path(),
        inputs=None,  # type: ignore[arg-type]
        leader=None,  # type: ignore[arg-type]
    )
    made.batch = Batch()  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("small", [True, False])
def test_the_secret_has_the_sources_where_they_are_small(small: bool, tmp_path: Path) -> None:
    session = make(lambda: "keys", Listener())
    data = b"\0\xff" * (module._SMALL_SOURCES // 2) + (b"" if small else b"x")
    session.sources = SourceArchive(data, "sha", ".", ())
    authority = tmp_path / "ca.pem"
    authority.write_text("certificate")
    session.s3 = replace(session.s3, ca_file=authority)
    expected = {"credentials": "keys", "ca.pem": "certificate", "environment": '{"TOKEN": "t"}'}
    entries = session._make_secret({"TOKEN": "t"}).entries
    assert ("all" in entries) is not small, "with these sources they are too long for a variable"
    entries.pop("all", None)
    assert entries == {name: text.encode() for name, text in expected.items()} | (
        {"sources": data} if small else {}
    )
    assert "environment" not in session._make_secret({}).entries


def test_new_keys_replace_the_old_ones_in_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REFRESH_SECONDS", 0.01)
    keys = iter(["old", "old", "new"])
    last = ["new"]
    session = make(lambda: next(keys, last[0]), Listener())
    session.secret = RunSecret({NAME: "old", "environment": "{}"})
    thread = threading.Thread(target=session._refresh_credentials)
    thread.start()
    assert session.batch.renewed.wait(5)  # type: ignore[attr-defined]
    session.close()
    thread.join(5)
    (entries,) = session.batch.secrets  # type: ignore[attr-defined]
    told = json.loads(entries.pop("all"))
    assert entries == {NAME: b"new", "environment": b"{}"}
    assert {name: b64decode(data) for name, data in told.items()} == entries


def test_a_refresh_that_fails_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REFRESH_SECONDS", 0.01)
    answers: list[Any] = [OSError("login expired"), "new"]
    listener = Listener()

    def credentials() -> str:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    session = make(credentials, listener)
    session.secret = RunSecret({NAME: "old"})
    thread = threading.Thread(target=session._refresh_credentials)
    thread.start()
    assert session.batch.renewed.wait(5)  # type: ignore[attr-defined]
    session.close()
    thread.join(5)
    assert listener.warnings == ["The credentials could not be refreshed: login expired"]


def test_pods_learn_where_the_bucket_is_and_no_secret() -> None:
    session = make(lambda: "aws_secret_access_key = marker", Listener())
    session.sources = SourceArchive(b"", "sha", ".", ())
    session.secret = session._make_secret({"TOKEN": "marker"})
    assert session.pod_env == {S3_VARIABLE: session.bucket.dumps()}
    assert session.bucket.variables == {
        "AWS_ENDPOINT_URL_S3": "http://s3:7070",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }
    assert "marker" not in repr(session) + repr(session.secret)


@pytest.mark.parametrize(
    ("files", "by_variable"),
    [
        ({"credentials": "aws_access_key_id = A"}, True),
        ({"credentials": "aws_session_token = T"}, False),  # expires: a file alone can be renewed
        ({"credentials": "", "sources": b"x" * 70_000}, True),
        ({"credentials": "", "sources": b"x" * 80_000}, False),  # as base64, too long
    ],
)
def test_pods_get_the_secrets_files_as_a_variable_if_they_stay_and_fit(
    files: dict[str, str | bytes], by_variable: bool
) -> None:
    secret = RunSecret(files)
    assert secret.variable == ({FILES_VARIABLE: "all"} if by_variable else {})
    if by_variable:
        assert len(secret.entries["all"]) < 128 * 1024  # what Linux takes


def test_what_pods_were_promised_stays_when_keys_begin_to_expire() -> None:
    secret = RunSecret({"credentials": "aws_access_key_id = A"})
    assert not secret.renew("aws_access_key_id = A")
    assert secret.renew("aws_access_key_id = A\naws_session_token = T")
    assert secret.variable == {} and b"T" in b64decode(
        json.loads(secret.entries["all"])["credentials"]
    )


def test_pods_learn_how_objects_are_kept() -> None:
    session = make(lambda: "", Listener())
    assert session.bucket == Bucket("bucket", "http://s3:7070", "eu-west-1")
    session = make(lambda: "", Listener())
    options = S3Options("virtual", "aws:kms", "key", "STANDARD_IA", requester_pays=True)
    session.s3 = replace(session.s3, options=options, md5_etags=False)
    told = Bucket.loads(session.bucket.dumps())
    assert told == session.bucket and (told.path_style, told.md5_etags) == (False, False)
    assert told.storage_class == "STANDARD_IA" and told.options == options.for_obstore()


class Known:
    leader = object()


class File:
    """A file of a job, of a provider with or without the leader's knowledge."""

    is_storage = True

    def __init__(self, query: str, provider: Any) -> None:
        self.storage_object = SimpleNamespace(query=query, provider=provider)


def test_files_of_other_providers_are_left_to_them() -> None:
    ours, other = File("s3://bucket/pre/a", Known()), File("https://example.org/x", object())
    plain = SimpleNamespace(is_storage=False)
    assert module._queries([ours, other, plain]) == ["s3://bucket/pre/a"]


@pytest.mark.parametrize(("rate", "burst"), [(20.0, 20), (0.5, 1), (0.0, 1)])
def test_the_batch_system_creates_pods_as_fast_as_told(
    monkeypatch: pytest.MonkeyPatch, rate: float, burst: int
) -> None:
    told: dict[str, Any] = {}

    class Recorder:
        def __init__(self, client: Any, run: Any, **options: Any) -> None:
            told.update(options)

        def start(self, **_: Any) -> None:
            pass

    monkeypatch.setattr("byok8s.batch.BatchSystem", Recorder)
    monkeypatch.setattr(module, "rehearse_rules", lambda *_: None)
    monkeypatch.setattr(module, "refuse_what_never_fits", lambda *_: None)
    monkeypatch.setattr(Session, "_pack_sources", lambda *_: None)
    monkeypatch.setattr(Session, "_upload_sources", lambda *_: None)
    session = make(lambda: "keys", Listener())
    session.sources = SourceArchive(b"packed", "sha", ".", ())
    session.lease.run = None  # type: ignore[misc]
    session.pods_per_second = rate
    session.open(None, {})
    session._closed.set()
    assert (told["rate"], told["burst"]) == (rate, burst)
    every = json.dumps({"credentials": "a2V5cw==", "sources": "cGFja2Vk"})
    assert told["secret_files"] == {"credentials": b"keys", "sources": b"packed", "all": every}
