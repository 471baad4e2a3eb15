"""A real S3 server on loopback, with a proxy between that counts and harms."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from byok8s.cluster import S3Server
from byok8s.storage.objects import Objects
from byok8s.worker.s3 import open_store
from byok8s.worker.transfer import Transfers
from byok8s.workflow.storage import Lead, StorageProvider, lead
from support.project import client_of
from support.s3proxy import S3Proxy
from support.s3server import find_versitygw, s3_server


@pytest.fixture(scope="package")
def server(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[S3Server]:
    if find_versitygw() is None:
        request.getfixturevalue("cluster")  # builds it
    program = find_versitygw()
    assert program is not None
    with s3_server(program, tmp_path_factory.mktemp("buckets")) as running:
        yield running


@pytest.fixture(scope="package")
def client(server: S3Server) -> Any:
    return client_of(server)


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
