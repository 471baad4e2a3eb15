"""The real cluster and S3 server of the end-to-end tests, and a way to run byok8s on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from byok8s.cluster import ClusterInfo, find_by_context

CLUSTER = os.environ.get("BYOK8S_TEST_CLUSTER", "dev")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs the cluster."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("e2e")


@pytest.fixture(scope="session")
def cluster() -> ClusterInfo:
    """The single-node cluster; made, brought back or found running."""
    subprocess.run(
        [sys.executable, "-m", "byok8s", "cluster", "create", CLUSTER, "--driver", "native"],
        check=True,
        timeout=1500,
    )
    info = find_by_context(f"byok8s-{CLUSTER}")
    assert info is not None and info.s3 is not None
    return info


@pytest.fixture(scope="session")
def s3(cluster: ClusterInfo) -> Any:
    """A boto3 client of the cluster's S3 server."""
    import boto3

    server = cluster.s3
    assert server is not None
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=server.region,
    )


@pytest.fixture
def bucket(s3: Any) -> Iterator[str]:
    """A bucket of the test's own, removed afterwards."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    yield name
    for key in bucket_keys(s3, name, ours=True):
        s3.delete_object(Bucket=name, Key=key)
    s3.delete_bucket(Bucket=name)


def bucket_keys(s3: Any, bucket: str, *, ours: bool = False) -> list[str]:
    """All keys; without ours, those that byok8s keeps for itself are left out."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    return keys if ours else [key for key in keys if ".byok8s/" not in key]


@dataclass
class Done:
    """A finished command."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Project:
    """A user's folder, the bucket of the workflow, and the command line."""

    folder: Path
    bucket: str
    s3: Any
    context: str
    env: dict[str, str] = field(default_factory=dict)

    def write(self, files: Mapping[str, str | bytes]) -> None:
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def byok8s(self, *arguments: str, cwd: Path | None = None, **env: str) -> Done:
        """`byok8s ARGUMENTS`, to its end."""
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "byok8s", *arguments],
            cwd=cwd or self.folder,
            env={**clean_environment(), **self.env, **env},
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def run(self, *arguments: str, prefix: str = "", cwd: Path | None = None, **env: str) -> Done:
        """`byok8s run flow params -b BUCKET ARGUMENTS` on the test cluster."""
        where = f"{self.bucket}/{prefix}" if prefix else self.bucket
        return self.byok8s(
            "run", "flow", "params", "-b", where, f"--context={self.context}", *arguments,
            cwd=cwd, **env,
        )  # fmt: skip

    def put(self, key: str, content: str | bytes) -> None:
        self.s3.put_object(
            Bucket=self.bucket,
            Key=key,
            Body=content.encode() if isinstance(content, str) else content,
        )

    def get(self, key: str) -> str:
        body: bytes = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body.decode()

    def keys(self) -> list[str]:
        return bucket_keys(self.s3, self.bucket)


def clean_environment() -> dict[str, str]:
    """The environment without the developer's own AWS and byok8s settings."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_ACCESS", "AWS_SECRET", "AWS_SESSION", "AWS_PROFILE"))
        and not name.startswith(("AWS_ENDPOINT", "AWS_REGION", "AWS_DEFAULT", "BYOK8S_"))
    }


@pytest.fixture
def project(tmp_path: Path, bucket: str, s3: Any, cluster: ClusterInfo) -> Project:
    """An empty project whose `flow` names the default target and whose `params` are empty."""
    made = Project(tmp_path / "project", bucket, s3, cluster.context)
    made.write({"flow.json": "{}", "params.json": "{}"})
    return made


def kubectl(cluster: ClusterInfo, *arguments: str) -> str:
    """The output of the cluster's own kubectl."""
    done = subprocess.run(
        ["kubectl", f"--context={cluster.context}", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout


def objects_left(cluster: ClusterInfo) -> list[str]:
    """Names of byok8s's pods, Secrets and ConfigMaps in the cluster."""
    selector = "app.kubernetes.io/managed-by=byok8s"
    text = kubectl(cluster, "get", "pods,secrets,configmaps", "-A", "-l", selector, "-o", "json")
    return [item["metadata"]["name"] for item in json.loads(text)["items"]]
