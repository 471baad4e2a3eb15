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
from support.project import Project, client_of, own_bucket

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
    assert cluster.s3 is not None
    return client_of(cluster.s3)


@pytest.fixture
def bucket(s3: Any) -> Iterator[str]:
    """A bucket of the test's own, removed afterwards."""
    with own_bucket(s3, f"test-{uuid.uuid4().hex[:12]}") as name:
        yield name


@pytest.fixture
def project(tmp_path: Path, bucket: str, s3: Any, cluster: ClusterInfo) -> Project:
    """An empty project whose `flow` names the default target and whose `params` are empty."""
    made = Project(tmp_path / "project", bucket, s3, cluster.context)
    made.write({"flow.json": "{}", "params.json": "{}"})
    return made
