"""The real cluster and S3 server of the end-to-end tests, and a way to run byok8s on them."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from byok8s.cluster import ClusterInfo, find_by_context
from support.project import Project, bucket_keys

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


@pytest.fixture
def project(tmp_path: Path, bucket: str, s3: Any, cluster: ClusterInfo) -> Project:
    """An empty project whose `flow` names the default target and whose `params` are empty."""
    made = Project(tmp_path / "project", bucket, s3, cluster.context)
    made.write({"flow.json": "{}", "params.json": "{}"})
    return made
